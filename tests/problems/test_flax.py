"""Flax models as problems: what is differentiated, drawn, normalised and evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pandas as pd
import pytest
from flax import nnx
from inside import batch_of
from scipy import sparse

import gdsec_jax
from gdsec_jax import History, data, problems, simulate
from gdsec_jax.problems import Problem, flax_model, flax_problem

cross_entropy = optax.softmax_cross_entropy_with_integer_labels
gradients = jax.jit(Problem.gradients)
measured = jax.jit(Problem.measured, static_argnames="worker_batch")


def accuracy(logits, labels):
    return logits.argmax(-1) == labels


def samples(number, size=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((number, size))
    return x, (x @ rng.standard_normal((size, classes))).argmax(1)


def linear(**options):
    return nnx.Linear(6, 3, rngs=nnx.Rngs(0), **options)


class Normalised(nnx.Module):
    """Two layers, each behind a batch norm, with dropout at will."""

    def __init__(self, seed, rate=0.0, dtype=jnp.float64):
        rngs, own = nnx.Rngs(seed), {"dtype": dtype, "param_dtype": dtype}
        self.first = nnx.Linear(6, 5, rngs=rngs, **own)
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs, **own) for n in (5, 3)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.second = nnx.Linear(5, 3, rngs=rngs, **own)

    def __call__(self, x):
        x = self.dropout(jnp.tanh(self.norms[0](self.first(x))))
        return self.norms[1](self.second(x))


def normalised(params, x, sample, xp=np):
    """The same by hand, with the statistics of a sample."""

    def dense(layer, h):
        return h @ layer["kernel"] + layer["bias"]

    def norm(layer, h, of):
        mean, var = of.mean(0), ((of - of.mean(0)) ** 2).mean(0)
        return layer["scale"] * (h - mean) / xp.sqrt(var + 1e-5) + layer["bias"]

    h, s = dense(params["first"], x), dense(params["first"], sample)
    own = params["norms"][0]
    h, s = xp.tanh(norm(own, h, s)), xp.tanh(norm(own, s, s))
    h, s = dense(params["second"], h), dense(params["second"], s)
    return norm(params["norms"][1], h, s)


def shifted(params, by=0.3):
    """Parameters that are not the initial ones, where many are 0 or 1."""
    rng = np.random.default_rng(3)
    shift = lambda p: np.asarray(p) + by * rng.standard_normal(p.shape)  # noqa: E731
    return jax.tree.map(lambda p: shift(p).astype(p.dtype), params)


def test_a_linear_model_is_multinomial_regression(x64):
    x, y = samples(31)
    parts = data.split(y, 4, "sorted")
    model = linear(use_bias=False, param_dtype=jnp.float64)
    problem, at_once = (
        flax_problem(model, cross_entropy, (x, y), 4, split=parts, eval_batch=batch)
        for batch in (3, 100)
    )
    params = shifted(problem.init_params)
    gradient = oracle.softmax_gradient(x, y, parts, 0.0)
    np.testing.assert_allclose(
        gradients(problem, params)["kernel"],
        [gradient(m, params["kernel"]) for m in range(4)],
        rtol=1e-12,
        atol=1e-15,
    )
    value = oracle.softmax_objective(x, y, 0.0)(params["kernel"])
    for each, worker_batch in ((problem, 3), (at_once, None)):
        error = measured(each, params, worker_batch).error
        np.testing.assert_allclose(error, value, rtol=1e-12)
    assert problem.draw is None
    assert problem.error_name == "objective"
    assert problem.evaluations.tolist() == [len(part) for part in parts]


def test_a_worker_normalises_by_its_own_batch(x64):
    x, y = samples(40)
    problem = flax_problem(Normalised(0), cross_entropy, (x, y), 4, batch_size=7)
    params, key = shifted(problem.init_params), jax.random.key(5)

    def own_gradient(params, m, shards):
        batch_key, _ = jax.random.split(jax.random.fold_in(key, m))
        batch = batch_of(batch_key, shards, 7)

        def loss(params):
            logits = normalised(params, batch.features, batch.features, jnp)
            return jnp.vdot(batch.weight, cross_entropy(logits, batch.targets))

        return jax.grad(loss)(params)

    of_each = jax.jit(jax.vmap(own_gradient, (None, 0, 0)))
    want = of_each(params, jnp.arange(4), problem.worker_data)
    got = gradients(problem, params, key)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
    assert problem.evaluations.tolist() == [7] * 4


@pytest.mark.parametrize(
    ("held_out", "eval_batch", "worker_batch"), [(True, 7, None), (False, 4, 2)]
)
def test_what_is_evaluated_is_normalised_by_a_fixed_sample(
    held_out, eval_batch, worker_batch, x64
):
    x, y = samples(50)
    own, others = slice(0, 30), slice(30, 50) if held_out else slice(0, 30)
    problem = flax_problem(
        Normalised(0, rate=0.5),
        cross_entropy,
        (x[own], y[own]),
        3,
        batch_size=4,
        held_out=(x[others], y[others]) if held_out else None,
        metrics={"accuracy": accuracy},
        statistics_size=30,  # all of them
        eval_batch=eval_batch,
    )
    params = shifted(problem.init_params)
    logits = normalised(params, x[others], x[own])
    error, metrics = measured(problem, params, worker_batch)
    one_hot = np.eye(3)[y[others]]
    losses = np.log(np.exp(logits).sum(1)) - (logits * one_hot).sum(1)
    np.testing.assert_allclose(error, losses.mean(), rtol=1e-8)
    hits = logits.argmax(1) == y[others]
    np.testing.assert_allclose(metrics["accuracy"], hits.mean())
    assert problem.error_name == ("held-out loss" if held_out else "objective")
    if held_out:
        model = flax_model(problem, params)
        np.testing.assert_allclose(model(x[others]), logits, rtol=1e-8)


def test_dropout_is_of_the_key_and_differs_among_layers_and_workers():
    class Dropping(nnx.Module):
        """Two dropouts beside each other; the gradient of the scales is their masks."""

        def __init__(self):
            rngs = nnx.Rngs(0)
            self.scales = nnx.Param(jnp.ones((2, 50)))
            self.layers = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            both = [layer(x) for layer in self.layers]
            return (self.scales * jnp.stack(both, 1)).sum((1, 2))

    x = np.ones((2, 50), np.float32)
    problem = flax_problem(Dropping(), lambda outputs, _: outputs, (x, np.zeros(2)), 2)
    first, again, other = (
        np.asarray(gradients(problem, problem.init_params, jax.random.key(k))["scales"])
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {0.0, 1.0}  # 1/N times 1/(1 - rate), or nothing
    every = np.concatenate([first, other]).reshape(-1, 50)  # keys, workers, layers
    assert len({row.tobytes() for row in every}) == 8
    assert abs(every.mean() - 0.5) < 0.15  # 400 draws, 6 standard deviations
    whole = gradients(problem, problem.init_params)["scales"]
    np.testing.assert_array_equal(whole, 0.5)


def batch_problem(seed=0, rate=0.2, batch_size=4):
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(nnx.Dropout(rate, rngs=rngs), nnx.Linear(6, 3, rngs=rngs))
    return flax_problem(model, cross_entropy, samples(30), 5, batch_size=batch_size)


def test_equal_models_share_what_is_compiled():
    one, other = batch_problem(0), batch_problem(1)
    structure = jax.tree.structure(one)
    assert structure == jax.tree.structure(other)
    assert hash(structure) == hash(jax.tree.structure(other))
    first, second = (p.init_params["layers"][1]["kernel"] for p in (one, other))
    assert not np.array_equal(first, second)
    assert structure != jax.tree.structure(batch_problem(0, rate=0.3))
    assert structure != jax.tree.structure(batch_problem(0, batch_size=5))


@pytest.mark.slow
def test_equal_models_share_a_compiled_loop(compiled):
    optimizer = optax.chain(gdsec_jax.gdsec(5, xi=0.1), optax.sgd(0.1))
    first = simulate(batch_problem(0), optimizer, 3, key=0)
    compiled()
    second = simulate(batch_problem(1), optimizer, 3, key=0)
    assert "jit(_run_chunk)" not in compiled()
    assert first.initial_error != second.initial_error


def test_some_workers_compute_what_they_do_among_all():
    problem, key, some = batch_problem(), jax.random.key(0), np.array([1, 4])
    own_data = jax.tree.map(lambda leaf: leaf[some], problem.worker_data)
    alone = jax.jit(Problem.gradients_of)(
        problem, problem.init_params, key, some, own_data
    )
    among = gradients(problem, problem.init_params, key)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(among), strict=True):
        np.testing.assert_allclose(a, b[some], rtol=1e-5, atol=1e-7)
    around = problems.minibatch(batch_problem(batch_size=5), 4)  # dropout is drawn too
    for a, b in zip(
        jax.tree.leaves(gradients(around, problem.init_params, key)),
        jax.tree.leaves(among),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_workers_in_batches_run_the_same():
    optimizer = optax.chain(gdsec_jax.gdsec(5, xi=0.1), optax.sgd(0.1))
    whole = simulate(batch_problem(), optimizer, 4, key=0)
    batched = simulate(batch_problem(), optimizer, 4, key=0, worker_batch=2)
    np.testing.assert_allclose(
        whole.objective_error, batched.objective_error, rtol=1e-4
    )


def mixed(dtype):
    """A model that computes in `dtype`; its parameters are float32."""
    own = {"dtype": dtype, "rngs": nnx.Rngs(0)}
    return nnx.Sequential(nnx.Linear(6, 8, **own), nnx.relu, nnx.Linear(8, 3, **own))


def mixed_problems(*dtypes, batch_size=None):
    """One for each dtype, and the dtypes that their losses have seen."""
    seen = []

    def loss(logits, labels):
        seen.append(logits.dtype)
        return cross_entropy(logits, labels)

    made = [
        flax_problem(mixed(dtype), loss, samples(60), 3, batch_size=batch_size)
        for dtype in dtypes
    ]
    return made, seen


def test_mixed_precision_is_of_the_model_alone():
    both, seen = mixed_problems(jnp.bfloat16, jnp.float32)
    half, full = (gradients(p, p.init_params)["layers"][2]["kernel"] for p in both)
    assert {*seen, half.dtype, full.dtype} == {jnp.dtype(jnp.float32)}
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, rtol=0, atol=0.02 * np.abs(full).max())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_mixed_precision_keeps_the_parameters_in_float32(dtype):
    both, seen = mixed_problems(dtype, jnp.float32, batch_size=8)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=0.1, wire="rle"), optax.adam(0.02))
    histories = [simulate(p, optimizer, 60, key=0) for p in both]
    assert set(seen) == {jnp.dtype(jnp.float32)}
    for history in histories:
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(history.params)}
        assert dtypes == {jnp.dtype(jnp.float32)}
        assert history.objective_error[-1] < 0.5 * history.initial_error
    errors = [history.objective_error for history in histories]
    assert not np.array_equal(*errors)
    np.testing.assert_allclose(*errors, rtol=0.1)


def test_other_variables_are_constants_and_the_model_stays_as_it_is():
    class Shifted(nnx.Module):
        def __init__(self):
            self.shift = nnx.Variable(jnp.array([2.0]))
            self.scale = nnx.Param(jnp.array([1.0]))

        def __call__(self, x):
            return self.scale * x + self.shift[...]

    model = Shifted()
    problem = flax_problem(
        model, optax.squared_error, (np.ones((4, 1)), np.zeros((4, 1))), 2
    )
    assert set(problem.init_params) == {"scale"}
    assert float(measured(problem, problem.init_params).error) == pytest.approx(9.0)
    slopes = gradients(problem, problem.init_params)["scale"]
    np.testing.assert_allclose(slopes, [[3.0], [3.0]])
    assert float(model.scale[0]) == 1.0
    trained = flax_model(problem, {"scale": np.float32([-2.0])})
    assert trained(np.ones((1, 1), np.float32)).tolist() == [[0.0]]


METRICS = {"accuracy": accuracy, "top_norm": lambda z, _: jnp.abs(z).max(-1)}
OPTIONS = {"key": 0, "eval_every": 2}


def optimizer_of(xi):
    return optax.chain(gdsec_jax.gdsec(3, xi), optax.sgd(0.5))


@pytest.fixture(scope="module")
def run_with_metrics():
    """A problem with metrics, five rounds of it, and the rows that were logged."""
    x, y = samples(40)
    train, others = (x[:30], y[:30]), (x[30:], y[30:])
    options = {"batch_size": 5, "held_out": others, "metrics": METRICS}
    problem = flax_problem(linear(), cross_entropy, train, 3, **options)
    rows = []
    history = simulate(problem, optimizer_of(0.1), 5, log=rows.append, **OPTIONS)
    return problem, history, rows


def test_metrics_are_kept_at_each_evaluation_and_saved(run_with_metrics, tmp_path):
    problem, history, rows = run_with_metrics
    assert history.eval_rounds.tolist() == [2, 4, 5]
    assert set(history.metrics) == set(METRICS)
    last = measured(problem, history.params).metrics
    for name, values in history.metrics.items():
        assert values.shape == (3,)
        assert values[-1] == pytest.approx(float(last[name]), rel=1e-6)
    logged = np.concatenate([row["metric_accuracy"] for row in rows])
    np.testing.assert_array_equal(np.isnan(logged), [True, False, True, False, False])
    history.save(tmp_path / "run.nc")
    loaded = History.load(tmp_path / "run.nc", params_like=history.params)
    assert loaded.observed == {}
    for name, values in history.metrics.items():
        np.testing.assert_array_equal(loaded.metrics[name], values)


def test_a_sweep_has_the_metrics_of_a_single_run(run_with_metrics):
    problem, alone, _ = run_with_metrics
    swept = gdsec_jax.sweep(problem, optimizer_of, {"xi": [0.0, 0.1]}, 5, **OPTIONS)
    for name, values in alone.metrics.items():
        got = swept[f"metric_{name}"].sel(xi=0.1)
        np.testing.assert_allclose(got, values, rtol=1e-5)
    assert swept.metric_accuracy.dims == ("xi", "eval_round")


def test_metrics_of_few_digits_are_summed_in_float32():
    def share(logits, labels):
        return jnp.full(labels.shape, 0.3, jnp.bfloat16)

    options = {"metrics": {"share": share}, "eval_batch": 4}
    problem = flax_problem(linear(), cross_entropy, samples(600), 2, **options)
    value = measured(problem, problem.init_params).metrics["share"]
    np.testing.assert_allclose(value, float(jnp.bfloat16(0.3)), rtol=1e-5)


def test_padding_is_no_zeros():
    # Not finite where features are zero.
    model = nnx.Sequential(lambda x: x / jnp.linalg.norm(x, axis=-1)[:, None], linear())
    problem = flax_problem(model, cross_entropy, samples(11), 2)
    assert np.isfinite(measured(problem, problem.init_params).error)
    for leaf in jax.tree.leaves(gradients(problem, problem.init_params)):
        assert np.isfinite(leaf).all()


class Counts(nnx.Module):
    """Beside batch statistics a variable that its call changes."""

    def __init__(self):
        self.norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
        self.head = linear()
        self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.count[...] += 1
        return self.head(self.norm(x)) + 0.0 * self.count[...]


def test_a_pass_for_statistics_leaves_nothing_else():
    x, y = samples(12)
    problem = flax_problem(Counts(), cross_entropy, (x, y), 2)
    assert np.isfinite(measured(problem, problem.init_params).error)
    model = flax_model(problem, problem.init_params)
    assert float(model.count[...]) == 0
    np.testing.assert_allclose(model.norm.mean[...], x.mean(0), rtol=1e-5)


# What is refused


# Labels


def test_classes_in_floats_become_integers():
    x, y = samples(30)
    floats = data.Dataset("toy", x, y.astype(float))
    for given in (floats, (x, y.astype(np.float16)), (x, y.astype(object))):
        problem = flax_problem(linear(), cross_entropy, given, 2, held_out=given)
        integers = flax_problem(linear(), cross_entropy, (x, y), 2, held_out=(x, y))
        for own, other in (
            (problem.worker_data.targets, integers.worker_data.targets),
            (problem.held_out.shards.targets, integers.held_out.shards.targets),
        ):
            assert own.dtype == other.dtype == jnp.int32
            np.testing.assert_array_equal(own, other)
    # For a metric, too; but amounts stay floats, if what is made of them takes them.
    square = {"loss": lambda z, t: (z[:, 0] - t) ** 2, "num_workers": 2}
    top = {"metrics": {"loss": cross_entropy}}
    problem = flax_problem(linear(), data=floats, **square, **top)
    assert problem.worker_data.targets.dtype == jnp.int32
    problem = flax_problem(linear(), data=floats, **square)
    assert problem.worker_data.targets.dtype == jnp.float32


def test_labels_that_a_loss_leaves_out_are_no_error():
    """Which others than classes are padding the loss knows; they count nothing."""
    x, y = samples(30)

    def masked(z, t):
        return jnp.where(t < 0, 0.0, cross_entropy(z, jnp.maximum(t, 0)))

    problem = flax_problem(linear(), masked, (x, np.where(y == 2, -1, y)), 2)
    z = x @ np.asarray(problem.init_params["kernel"])
    own = np.log(np.exp(z).sum(1)) - z[np.arange(30), y]
    np.testing.assert_allclose(
        problem.error(problem.init_params), own[y < 2].sum() / 30, rtol=1e-5
    )


@pytest.mark.parametrize("how", ["table", "bfloat16", "float16"])
def test_features_that_are_no_plain_array(how):
    x, y = samples(20)
    x = np.round(4 * x) / 4  # exact in all of them
    kinds = {"float16": np.float16, "bfloat16": jnp.bfloat16}
    table = pd.DataFrame(x).astype({0: "Float64"})
    given = table if how == "table" else x.astype(kinds[how])
    problem = flax_problem(linear(), cross_entropy, (given, pd.Series(y)), 2)
    plain = flax_problem(linear(), cross_entropy, (x, y), 2)
    np.testing.assert_array_equal(
        problem.error(problem.init_params), plain.error(plain.init_params)
    )


# Which variables are trained


class Adapted(nnx.Module):
    """A layer with a low-rank one beside it, and a head."""

    def __init__(self):
        rngs, own = nnx.Rngs(0), {"param_dtype": jnp.float64, "dtype": jnp.float64}
        base = nnx.Linear(6, 5, rngs=rngs, **own)
        self.body = nnx.LoRA(6, 2, 5, base_module=base, rngs=rngs, **own)
        self.head = nnx.Linear(5, 3, rngs=rngs, **own)

    def __call__(self, x):
        return self.head(jnp.tanh(self.body(x)))


HEAD = nnx.All(nnx.Param, nnx.PathContains("head"))


@pytest.mark.parametrize(
    ("wrt", "size"),
    [(nnx.LoRAParam, 22), (HEAD, 18), (None, 75), (nnx.Any(nnx.LoRAParam, HEAD), 40)],
)
def test_what_is_not_trained_is_constant_and_costs_no_bits(wrt, size, x64):
    model, (x, y) = Adapted(), samples(24)
    problem = flax_problem(model, cross_entropy, (x, y), 3, wrt=wrt, split="contiguous")
    params = shifted(problem.init_params)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size
    whole = nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def merged(tree, some):
        same = isinstance(some, dict)
        return tree | {k: merged(tree[k], v) for k, v in some.items()} if same else some

    def loss(params, part):
        own = merged(whole, params)
        kernel = own["body"]["base_module"]["kernel"]
        kernel = kernel + own["body"]["lora_a"] @ own["body"]["lora_b"]
        h = jnp.tanh(x[part] @ kernel + own["body"]["base_module"]["bias"])
        z = h @ own["head"]["kernel"] + own["head"]["bias"]
        return cross_entropy(z, y[part]).sum() / 24

    found = gradients(problem, params)
    for m, part in enumerate(np.split(np.arange(24), 3)):
        by_hand = jax.grad(loss)(params, part)
        jax.tree.map(
            lambda own, other, m=m: np.testing.assert_allclose(
                own[m], other, rtol=1e-9, atol=1e-12
            ),
            found,
            by_hand,
        )
    optimizer = optax.chain(gdsec_jax.gd(3, wire="dense"), optax.sgd(0.1))
    history = simulate(problem, optimizer, 4)
    assert history.total_bits[-1] == 4 * 3 * 64 * size
    trained = flax_model(problem, history.params)
    found = nnx.to_pure_dict(nnx.state(trained, nnx.Param))
    expected = merged(whole, jax.tree.map(np.asarray, history.params))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Own(nnx.Module):
    """Batch statistics that are not those of nnx.BatchNorm."""

    def __init__(self):
        self.mean = nnx.BatchStat(jnp.zeros(1))
        self.scale = nnx.Param(jnp.ones(1))

    def __call__(self, x):
        return self.scale * (x - self.mean[...])


X, Y = samples(10)
REFUSED = {
    "model is a NoneType, expected a flax.nnx.Module": {"model": None},
    "model Dropout has no nnx.Param": {"model": nnx.Dropout(0.5)},
    "batch_size is 0, expected an integer": {"batch_size": 0},
    "eval_batch is 0, expected an integer": {"eval_batch": 0},
    "statistics_size is 0, expected an integer": {"statistics_size": 0},
    "data is a int, expected a data.Dataset, or a pair": {"data": 3},
    "data is a tuple, expected .* a pair": {"data": (X, Y, Y)},
    "data is a ndarray, expected .* a pair": {"data": X},
    r"data has features of shape \(10, 6\) and targets": {"data": (X, Y[:9])},
    "held_out has features of shape": {"held_out": (X, Y[:9])},
    "held_out holds no samples": {"held_out": (X[:0], Y[:0])},
    "split has 1 parts, expected num_workers=2": {"split": [np.arange(10)]},
    r"loss returns an array of shape \(\) for 5 samples, expected \(5, ...\)": {
        "loss": lambda z, y: 0.0
    },
    r"own returns an array of shape \(\) for 5 s": {
        "metrics": {"own": lambda z, y: 0.0}
    },
    "metrics has the name 'a/b', expected one": {"metrics": {"a/b": accuracy}},
    "split is 'sorted', expected 'shuffled' or 'contiguous' for targets of shape": {
        "data": (X, np.eye(3)[Y]),
        "split": "sorted",
    },
    "batch_size is None, expected an int: the model normalises by the batch": {
        "model": Normalised(0, dtype=jnp.float32),
        "num_workers": 3,
    },
    "data 'a9a' has sparse features, expected dense": {
        "data": data.Dataset("a9a", sparse.csr_array(X), Y)
    },
    "data: features has dtype <U32, expected real": {"data": (X.astype(str), Y)},
    "data: features holds None at": {"data": (np.where(X > 2, X, None), Y)},
    r"data: targets holds None at \[0\], expected no": {"data": (X, [None, *Y[1:]])},
    "data has a NaN among its targets, expected none m": {
        "data": (X, [np.nan, *Y[1:]])
    },
    "data has the target 0.5, expected whole numbers": {"data": (X, [0.5, *Y[1:]])},
    "data has the target 3, expected classes from 0 to 2": {"data": (X, [3.0, *Y[1:]])},
    "data has the target 4294967296, expected": {"data": (X, [2**32, *Y[1:]])},
    "data has the target -1, expected classes from 0 to": {"data": (X, [-1, *Y[1:]])},
    "held_out has the target 3, expected classes from": {"held_out": (X, [3, *Y[1:]])},
    "model fails for data, features .*32.N, 2., expected .*: dot_general requires": {
        "data": (X[:, :2], Y)
    },
    "the model fails for held_out, features .*.N, 5., expected": {
        "held_out": (X[:, :5], Y)
    },
    r"loss fails for data, targets .*32.N, 3. .* labels .*, targets.argmax\(-1\) say": {
        "data": (X, np.eye(3)[Y])
    },
    r"loss fails for held_out, targets .*.N, 1. .* labels \[N\], targets\[:, 0\] say": {
        "held_out": (X, Y[:, None])
    },
    r"own fails for data, targets int.*.N. .*.N, 3., expected others: .*": {
        "metrics": {"own": optax.softmax_cross_entropy}
    },
    "loss fails for data, targets .*, expected others: .* takes 1 positional": {
        "loss": lambda z: z
    },
    r"loss pairs every sample of data with all .*.N. .* .*.N, 1., expected a value": {
        "model": nnx.Linear(6, 1, rngs=nnx.Rngs(0)),
        "loss": lambda z, y: (z - y) ** 2,
    },
    "loss is 3, expected a function of outputs": {"loss": 3},
    "own is 'x', expected a function of outputs": {"metrics": {"own": "x"}},
    "metrics is 'x', expected functions by name": {"metrics": "x"},
    "wrt is 3, expected a filter of nnx": {"wrt": 3},
    "model Linear has no variable that passes wrt, .*LoRA": {"wrt": nnx.LoRAParam},
    "wrt lets the BatchStat norms.0.mean pass, expected f": {
        "model": Normalised(0, dtype=jnp.float32),
        "wrt": nnx.Any(nnx.Param, nnx.BatchStat),
    },
    "wrt lets the RngKey dropout.rngs.key pass, expected": {
        "model": Normalised(0, rate=0.5, dtype=jnp.float32),
        "wrt": nnx.Any(nnx.Param, nnx.RngKey),
    },
    "batch statistics in itself, expected them": {"model": Own()},
    "model has batch statistics in layers.0": {"model": nnx.Sequential(Own())},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_refused(sentence):
    arguments = {"model": linear(), "loss": cross_entropy, "data": (X, Y)}
    arguments |= {"num_workers": 2} | REFUSED[sentence]
    with pytest.raises(ValueError, match=sentence):
        flax_problem(**arguments)


def test_models_of_other_problems_and_parameters_are_refused():
    with pytest.raises(ValueError, match="ridge is none of problems.flax_problem"):
        flax_model(problems.ridge(X, Y * 1.0, 2), np.zeros(6))
    problem = flax_problem(linear(), cross_entropy, (X, Y), 2)
    with pytest.raises(ValueError, match="params is the tree"):
        flax_model(problem, np.zeros(6))
