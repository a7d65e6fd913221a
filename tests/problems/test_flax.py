"""Flax models as problems: what is differentiated, drawn, normalised and evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from inside import batch_of

import gdsec_jax
from gdsec_jax import History, data, problems, simulate
from gdsec_jax.problems import Problem

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def accuracy(logits, labels):
    return logits.argmax(-1) == labels


def samples(number, size=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((number, size))
    return x, (x @ rng.standard_normal((size, classes))).argmax(1)


gradients = jax.jit(Problem.gradients)
measured = jax.jit(Problem.measured, static_argnames="worker_batch")


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


@jax.jit
def normalised(params, x, sample):
    """The same by hand, with the statistics of a sample."""

    def dense(layer, h):
        return h @ layer["kernel"] + layer["bias"]

    def norm(layer, h, of):
        mean, var = of.mean(0), ((of - of.mean(0)) ** 2).mean(0)
        return layer["scale"] * (h - mean) / jnp.sqrt(var + 1e-5) + layer["bias"]

    h, s = dense(params["first"], x), dense(params["first"], sample)
    own = params["norms"][0]
    h, s = jnp.tanh(norm(own, h, s)), jnp.tanh(norm(own, s, s))
    h, s = dense(params["second"], h), dense(params["second"], s)
    return norm(params["norms"][1], h, s)


@jax.jit
def shifted(params, by=0.3):
    """Parameters that are not the initial ones, where many are 0 or 1."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            p + by * jax.random.normal(k, p.shape, p.dtype)
            for p, k in zip(leaves, keys, strict=True)
        ],
    )


def test_a_linear_model_is_multinomial_regression(x64):
    x, y = samples(31)
    parts = data.split(y, 4, "sorted")
    oracle = problems.softmax(x, y, 4, split=parts, regularization=0.0)
    model = nnx.Linear(6, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    problem = problems.flax_problem(
        model, cross_entropy, (x, y), 4, split=parts, eval_batch=3
    )
    params = shifted(problem.init_params)
    np.testing.assert_allclose(
        gradients(problem, params)["kernel"],
        gradients(oracle, params["kernel"]),
        rtol=1e-12,
        atol=1e-15,
    )
    value = jax.jit(Problem.objective)(oracle, params["kernel"])
    for worker_batch in (None, 3):
        error = measured(problem, params, worker_batch).error
        np.testing.assert_allclose(error, value, rtol=1e-12)
    assert problem.draw is None
    assert problem.error_name == "objective"
    assert problem.evaluations.tolist() == [len(part) for part in parts]


def test_a_worker_normalises_by_its_own_batch(x64):
    x, y = samples(40)
    problem = problems.flax_problem(
        Normalised(0), cross_entropy, (x, y), 4, batch_size=7
    )
    params, key = shifted(problem.init_params), jax.random.key(5)

    def loss(params, batch):
        logits = normalised(params, batch.features, batch.features)
        return jnp.vdot(batch.weight, cross_entropy(logits, batch.targets))

    got = gradients(problem, params, key)
    for m in range(4):
        batch_key, _ = jax.random.split(jax.random.fold_in(key, m))
        own = jax.tree.map(lambda leaf, m=m: leaf[m], problem.worker_data)
        batch = batch_of(batch_key, own, 7)
        want = jax.jit(jax.grad(loss))(params, batch)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a[m], b, rtol=1e-8, atol=1e-12)
    assert problem.evaluations.tolist() == [7] * 4


@pytest.mark.parametrize("eval_batch", [7, 100])
def test_the_error_is_normalised_by_a_fixed_sample(eval_batch, x64):
    x, y = samples(50)
    problem = problems.flax_problem(
        Normalised(0, rate=0.5),
        cross_entropy,
        (x[:30], y[:30]),
        3,
        batch_size=4,
        held_out=(x[30:], y[30:]),
        metrics={"accuracy": accuracy},
        statistics_size=30,  # all of them
        eval_batch=eval_batch,
    )
    params = shifted(problem.init_params)
    logits = normalised(params, x[30:], x[:30])
    error, metrics = measured(problem, params)
    np.testing.assert_allclose(error, cross_entropy(logits, y[30:]).mean(), rtol=1e-8)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == y[30:]).mean())
    assert problem.error_name == "held-out loss"
    model = problems.flax_model(problem, params)
    np.testing.assert_allclose(model(x[30:]), logits, rtol=1e-8)


def test_without_held_out_data_the_error_is_that_of_the_workers(x64):
    x, y = samples(25)
    problem = problems.flax_problem(
        Normalised(0),
        cross_entropy,
        (x, y),
        3,
        batch_size=4,
        metrics={"accuracy": accuracy},
        statistics_size=25,
        eval_batch=4,
    )
    params = shifted(problem.init_params)
    logits = normalised(params, x, x)
    for worker_batch in (None, 2):
        error, metrics = measured(problem, params, worker_batch)
        np.testing.assert_allclose(error, cross_entropy(logits, y).mean(), rtol=1e-8)
        np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == y).mean())


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
    problem = problems.flax_problem(
        Dropping(), lambda outputs, _: outputs, (x, np.zeros(2)), 2
    )
    first, again, other = (
        gradients(problem, problem.init_params, jax.random.key(k))["scales"]
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {0.0, 1.0}  # 1/N times 1/(1 - rate), or nothing
    every = np.concatenate([first, other]).reshape(-1, 50)  # keys, workers, layers
    assert len({row.tobytes() for row in every}) == 8
    assert abs(every.mean() - 0.5) < 0.15  # 400 draws, 6 standard deviations
    whole = gradients(problem, problem.init_params)["scales"]
    np.testing.assert_array_equal(whole, 0.5)


def test_equal_models_share_a_compiled_loop(compiled):
    x, y = samples(30)

    def problem(seed):
        return problems.flax_problem(
            Normalised(seed, 0.1, jnp.float32),
            cross_entropy,
            (x[:24], y[:24]),
            2,
            batch_size=4,
            held_out=(x[24:], y[24:]),
            metrics={"accuracy": accuracy},
        )

    optimizer = optax.chain(gdsec_jax.gdsec(2, xi=0.1), optax.sgd(0.1))
    one, other = problem(0), problem(1)
    first = simulate(one, optimizer, 3, key=0)
    compiled()
    second = simulate(other, optimizer, 3, key=0)
    assert "jit(_run_chunk)" not in compiled()
    assert first.initial_error != second.initial_error


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_mixed_precision_keeps_the_parameters_in_float32(dtype):
    class Mixed(nnx.Module):
        def __init__(self, dtype):
            own = {"dtype": dtype, "rngs": nnx.Rngs(0)}
            self.hidden = nnx.Linear(6, 8, **own)
            self.head = nnx.Linear(8, 3, **own)

        def __call__(self, x):
            return self.head(nnx.relu(self.hidden(x)))

    x, y = samples(60)
    seen = []

    def loss(logits, labels):
        seen.append(logits.dtype)
        return cross_entropy(logits, labels)

    mixed, full = (
        problems.flax_problem(Mixed(d), loss, (x, y), 3, batch_size=8)
        for d in (dtype, jnp.float32)
    )
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=0.1, wire="rle"), optax.adam(0.02))
    histories = [simulate(p, optimizer, 60, key=0) for p in (mixed, full)]
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
    problem = problems.flax_problem(
        model, optax.squared_error, (np.ones((4, 1)), np.zeros((4, 1))), 2
    )
    assert set(problem.init_params) == {"scale"}
    assert float(problem.error(problem.init_params)) == pytest.approx(9.0)
    optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(0.5))
    history = simulate(problem, optimizer, 2)
    assert float(history.params["scale"][0]) == pytest.approx(-2.0)
    assert float(model.scale[0]) == 1.0
    trained = problems.flax_model(problem, history.params)
    assert trained(jnp.ones((1, 1))).tolist() == [[0.0]]


def metric_problem():
    x, y = samples(40)
    return problems.flax_problem(
        nnx.Linear(6, 3, rngs=nnx.Rngs(0)),
        cross_entropy,
        (x[:30], y[:30]),
        3,
        batch_size=5,
        held_out=(x[30:], y[30:]),
        metrics={"accuracy": accuracy, "top_norm": lambda z, _: jnp.abs(z).max(-1)},
    )


def test_metrics_are_kept_at_each_evaluation_and_saved(tmp_path):
    problem, rows = metric_problem(), []
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=0.01), optax.sgd(0.5))
    history = simulate(problem, optimizer, 5, key=0, eval_every=2, log=rows.append)
    assert history.eval_rounds.tolist() == [2, 4, 5]
    assert set(history.metrics) == {"accuracy", "top_norm"}
    last = problem.measured(history.params).metrics
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


def test_a_sweep_has_the_metrics_of_the_single_runs():
    problem = metric_problem()

    def optimizer(xi):
        return optax.chain(gdsec_jax.gdsec(3, xi), optax.sgd(0.5))

    options = {"key": 0, "eval_every": 2}
    swept = gdsec_jax.sweep(problem, optimizer, {"xi": [0.0, 0.1]}, 5, **options)
    for xi in (0.0, 0.1):
        alone = simulate(problem, optimizer(xi), 5, **options)
        for name, values in alone.metrics.items():
            got = swept[f"metric_{name}"].sel(xi=xi)
            np.testing.assert_allclose(got, values, rtol=1e-5)
    assert swept.metric_accuracy.dims == ("xi", "eval_round")


def test_a_problem_without_metrics_has_none():
    x, y = samples(12)
    problem = problems.ridge(x, y.astype(float), 3)
    optimizer = optax.chain(gdsec_jax.gd(3), optax.sgd(0.1))
    assert simulate(problem, optimizer, 2).metrics == {}


def test_workers_in_groups_compute_the_same():
    x, y = samples(30)
    problem = problems.flax_problem(
        Normalised(0, 0.2, jnp.float32), cross_entropy, (x, y), 5, batch_size=4
    )
    optimizer = optax.chain(gdsec_jax.gdsec(5, xi=0.1), optax.sgd(0.1))
    whole = simulate(problem, optimizer, 4, key=0)
    grouped = simulate(problem, optimizer, 4, key=0, worker_batch=2)
    np.testing.assert_allclose(
        whole.objective_error, grouped.objective_error, rtol=1e-4
    )


def test_what_is_refused():
    x, y = samples(10)
    model = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def refused(message, model=model, loss=cross_entropy, given=(x, y), m=2, **options):
        with pytest.raises(ValueError, match=message):
            problems.flax_problem(model, loss, given, m, **options)

    refused("model is a NoneType, expected a flax.nnx.Module", model=None)
    refused("model Dropout has no nnx.Param", model=nnx.Dropout(0.5))
    refused("batch_size is 0, expected an integer", batch_size=0)
    refused("eval_batch is 0, expected an integer", eval_batch=0)
    refused("statistics_size is 0, expected an integer", statistics_size=0)
    refused("data is a int, expected a data.Dataset, or a pair", given=3)
    refused(r"data has features of shape \(10, 6\) and targets", given=(x, y[:9]))
    refused("held_out has features of shape", held_out=(x, y[:9]))
    refused("held_out holds no samples", held_out=(x[:0], y[:0]))
    refused("split has 1 parts, expected num_workers=2", split=[np.arange(10)])
    refused(
        r"loss returns an array of shape \(\) for 5 samples, expected \(5, ...\)",
        loss=lambda z, y: cross_entropy(z, y).mean(),
    )
    refused(
        r"accuracy returns an array of shape \(\) for 5 samples",
        metrics={"accuracy": lambda z, y: accuracy(z, y).mean()},
    )
    refused(
        "split is 'sorted', expected 'shuffled' or 'contiguous' for targets of shape",
        given=(x, np.eye(3)[y]),
        split="sorted",
    )
    refused(
        "batch_size is None, expected an int: the model normalises by the batch",
        model=Normalised(0, dtype=jnp.float32),
        m=3,
    )
    with pytest.raises(ValueError, match="ridge is none of problems.flax_problem"):
        problems.flax_model(problems.ridge(x, y * 1.0, 2), np.zeros(6))
    problem = problems.flax_problem(model, cross_entropy, (x, y), 2)
    with pytest.raises(ValueError, match="params is the tree"):
        problems.flax_model(problem, np.zeros(6))


def test_batch_statistics_elsewhere_are_refused():
    class Own(nnx.Module):
        def __init__(self):
            self.mean = nnx.BatchStat(jnp.zeros(1))
            self.scale = nnx.Param(jnp.ones(1))

        def __call__(self, x):
            return self.scale * (x - self.mean[...])

    x = np.ones((4, 1))
    with pytest.raises(ValueError, match="batch statistics in itself, expected them"):
        problems.flax_problem(Own(), optax.squared_error, (x, x), 2)
    nested = nnx.Sequential(Own())
    with pytest.raises(ValueError, match="model has batch statistics in layers.0"):
        problems.flax_problem(nested, optax.squared_error, (x, x), 2)


# Padding, further draws, other variables, wrong data.


class Divides(nnx.Module):
    """Not finite where features are zero."""

    def __init__(self):
        self.head = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(x / jnp.linalg.norm(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("held_out", [None, samples(5, seed=1)])
def test_padding_is_no_zeros(held_out):
    x, y = samples(11)
    problem = problems.flax_problem(
        Divides(), cross_entropy, (x, y), 2, held_out=held_out
    )
    optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(0.1))
    history = simulate(problem, optimizer, 3, key=0)
    assert not history.dropped.any()
    assert np.isfinite(history.objective_error).all()
    assert (history.bits > 0).all()


def test_minibatches_of_a_network_draw_dropout():
    x, y = samples(12)
    model = Normalised(0, rate=0.5, dtype=jnp.float32)
    batched = problems.flax_problem(model, cross_entropy, (x, y), 2, batch_size=4)
    around = problems.minibatch(
        problems.flax_problem(model, cross_entropy, (x, y), 2), 4
    )
    key = jax.random.key(5)
    for a, b in zip(
        *(jax.tree.leaves(gradients(p, p.init_params, key)) for p in (batched, around)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


class Counts(nnx.Module):
    """Beside batch statistics a variable that its call changes."""

    def __init__(self):
        self.norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
        self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.count[...] += 1
        return self.head(self.norm(x)) + 0.0 * self.count[...]


def test_a_pass_for_statistics_leaves_nothing_else():
    x, y = samples(12)
    problem = problems.flax_problem(Counts(), cross_entropy, (x, y), 2)
    assert np.isfinite(problem.error(problem.init_params))
    model = problems.flax_model(problem, problem.init_params)
    assert float(model.count[...]) == 0  # pyright: ignore
    np.testing.assert_allclose(model.norm.mean[...], x.mean(0), rtol=1e-5)  # pyright: ignore


def test_metrics_of_few_digits_are_summed_in_float32():
    x, y = samples(600)

    def share(logits, labels):
        return jnp.full(labels.shape, 0.3, jnp.bfloat16)

    problem = problems.flax_problem(
        Divides(), cross_entropy, (x, y), 2, metrics={"share": share}, eval_batch=4
    )
    value = measured(problem, problem.init_params).metrics["share"]
    np.testing.assert_allclose(value, float(jnp.bfloat16(0.3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((*samples(6), np.ones(6)), "data is a tuple, expected .* a pair"),
        (samples(6)[0], "data is a ndarray, expected .* a pair"),
    ],
)
def test_what_is_no_pair(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        problems.flax_problem(Divides(), cross_entropy, given, 2)


def test_names_of_metrics_are_names_in_files():
    with pytest.raises(ValueError, match="metrics has the name 'a/b', expected one"):
        problems.flax_problem(
            Divides(), cross_entropy, samples(6), 2, metrics={"a/b": accuracy}
        )
