"""Problems in which no sample is worth more than a clip, and Poisson's draws."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy
from cases import slow_but
from flax import nnx

import gdsec_jax
from gdsec_jax import data, problems
from gdsec_jax.problems import Problem

gradients_of = jax.jit(Problem.gradients)
ALARM = 1e-6  # how often a test of draws fails by chance, were the key another one


def samples(seed=0, number=24, length=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((number, length)) * rng.uniform(0.1, 5, (number, 1))
    return x, rng.standard_normal(number)


def kinds():
    x, y = samples()
    labels = (y > 0).astype(int) + (x[:, 0] > 0)
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.relu)
    loss = optax.softmax_cross_entropy_with_integer_labels
    return {
        "ridge": problems.ridge(x, y, 3, regularization=0.5),
        "logistic": problems.logistic(x, y > 0, 3, regularization=0.5),
        "softmax": problems.softmax(x, labels, 3, regularization=0.5),
        "lasso": problems.lasso(x, y, 3, regularization=0.5),
        "network": problems.flax_problem(model, loss, (x, labels), 3),
        "of one's own": problems.from_loss(
            lambda p, s: (s.weight * (s.features @ p - s.targets) ** 2).sum(),
            data.stack(*map(np.float32, (x, y)), data.split(y, 3)),
            jnp.ones(3),
        ),
    }


@pytest.mark.parametrize("name", slow_but(("ridge", "network"), list(kinds())))
def test_each_kind_is_clipped_sample_by_sample(name):
    plain = kinds()[name]
    clip, at = 0.3, jax.tree.map(lambda p: p + 0.2, plain.init_params)
    private = problems.private(plain, clip, delta=1e-2, microbatch=3)
    ours = gradients_of(private, at)
    (shards,) = (
        x
        for x in jax.tree.leaves(
            plain.worker_data, is_leaf=lambda x: isinstance(x, data.Shards)
        )
        if isinstance(x, data.Shards)
    )
    # Each sample's part of a gradient is what it changes when its weight does.
    weight = np.asarray(shards.weight)

    def at_weights(w):
        def put(node):
            return node._replace(weight=w) if isinstance(node, data.Shards) else node

        is_shards = lambda x: isinstance(x, data.Shards)  # noqa: E731
        own = jax.tree.map(put, plain.worker_data, is_leaf=is_shards)
        if hasattr(own, "gram"):
            own = own._replace(gram=None)
        return jax.vmap(jax.grad(plain.worker_loss), (None, 0))(at, own)

    of_none = at_weights(jnp.zeros_like(shards.weight))
    for m in range(3):
        total = [np.float64(x[m]) for x in jax.tree.leaves(of_none)]
        for n in np.flatnonzero(weight[m]):
            one = jnp.zeros_like(shards.weight).at[m, n].set(1.0)
            g = [
                np.float64(a[m]) - np.float64(b[m])
                for a, b in zip(
                    jax.tree.leaves(at_weights(one)),
                    jax.tree.leaves(of_none),
                    strict=True,
                )
            ]
            norm = np.sqrt(sum(np.square(x).sum() for x in g))
            factor = weight[m, n] * min(1, clip / norm)
            total = [t + factor * x for t, x in zip(total, g, strict=True)]
        for x, y in zip(jax.tree.leaves(ours), total, strict=True):
            np.testing.assert_allclose(x[m], y, rtol=1e-4, atol=1e-5)


def test_no_sample_changes_a_gradient_by_more_than_the_sensitivity():
    """Brute force: every sample taken away, of every worker, at several points."""
    x, y = samples(1, 12)
    problem = problems.private(problems.ridge(x, y, 2), 0.5, delta=1e-2)
    shards, most = problem.worker_data.shards, 0.0
    for at in (np.zeros(3), np.ones(3), 50 * np.ones(3)):
        whole = gradients_of(problem, jnp.float32(at))
        for m, n in itertools.product(range(2), range(6)):
            without = shards._replace(weight=shards.weight.at[m, n].set(0.0))
            others = problem.worker_data._replace(shards=without)
            less = jax.jit(
                lambda at, others: problem.gradients_of(at, None, jnp.arange(2), others)
            )(jnp.float32(at), others)
            changed = np.linalg.norm(np.asarray(whole - less), axis=1)
            assert changed[1 - m] == 0
            most = max(most, changed[m])
    bound = problem.private.sensitivity
    assert bound == pytest.approx(0.5 / 12)
    assert 0.99 * bound < most <= 1.00001 * bound  # and it is reached


@pytest.mark.parametrize("sampling", ["all", "poisson"])
def test_an_infinite_clip_is_the_problem_bit_for_bit(sampling):
    x, y = samples(2, 30)
    plain = problems.ridge(x, y, 3)  # by Gram matrices
    if sampling == "poisson":
        plain = problems.poisson(plain, 0.4)
    private = problems.private(plain, np.inf, delta=1e-2)
    step = optax.sgd(0.5 / plain.smoothness)
    one, other = (
        gdsec_jax.simulate(p, optax.chain(gdsec_jax.gdsec(3, 1.0), step), 20, key=0)
        for p in (plain, private)
    )
    assert (one.params == other.params).all()
    assert (one.bits == other.bits).all()
    assert one.epsilon is None
    assert (other.epsilon == np.inf).all()
    assert "nothing is private" in other.summary()


def test_poisson_draws_each_sample_by_itself_and_is_unbiased():
    x, y = samples(3, 24)
    problem = problems.poisson(problems.ridge(x, y, 3), 0.25)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    def weights(key):
        own = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
        drawn = jax.vmap(problem.draw)(own, problem.worker_data).shards
        return drawn.weight, drawn.features

    weight, features = jax.vmap(weights)(keys)
    drawn = np.asarray(weight) > 0
    assert np.allclose(np.asarray(weight)[drawn], 1 / 24 / 0.25)
    assert (np.diff(drawn.astype(int), axis=-1) <= 0).all()  # those drawn come first
    far = scipy.stats.norm.isf(ALARM / 2)
    number = drawn.sum(-1)  # of 8 samples of each worker
    assert abs(number.mean() - 2) < far * np.sqrt(8 * 0.25 * 0.75 / number.size)
    assert abs(number.var() / 1.5 - 1) < far * np.sqrt(3 / number.size)
    assert abs(np.corrcoef(number.T)[0, 1]) * np.sqrt(len(keys)) < far
    assert features.shape == (4000, 3, 8, 3)
    mean = jax.vmap(lambda key: problem.gradients(jnp.ones(3), key))(keys)
    error = np.std(mean, axis=0) / np.sqrt(len(keys))
    assert (np.abs(mean.mean(0) - problem.gradients(jnp.ones(3))) < 6 * error).all()
    assert problem.evaluations.tolist() == [2, 2, 2]


@pytest.mark.parametrize("rate", [0.1, 0.3, 2.0**-23, 0.7 * 2**-22, 1.0])
def test_a_rate_is_accounted_as_it_is_drawn(rate):
    problem = problems.private(problems.poisson(ridge(), rate), 1.0, delta=1e-2)
    drawn = problem.private.sampling_rate
    assert drawn == np.ceil(rate * 2**23) / 2**23 == problem.draw.rate
    # Of the multiples of 2^-23 in [0, 1) so many are below it, in float32 as it is.
    assert float(np.float32(drawn)) == drawn
    near = np.round(drawn * 2**23) + np.arange(-2, 3)
    below = np.asarray(jnp.float32(near * 2.0**-23) < drawn)
    assert below.tolist() == [True, True, False, False, False]
    assert problem.private.sensitivity == pytest.approx(1 / 24 / drawn)


@pytest.mark.parametrize("kind", ["ridge", "network"])
def test_microbatches_of_what_is_drawn_change_nothing(kind):
    plain = problems.poisson(kinds()[kind], 0.5)
    key, at = jax.random.key(1), jax.tree.map(lambda p: p + 0.1, plain.init_params)
    found = [
        gradients_of(problems.private(plain, 0.2, delta=1e-2, microbatch=size), at, key)
        for size in (None, 1, 3)
    ]
    for other in found[1:]:
        for one, two in zip(
            jax.tree.leaves(found[0]), jax.tree.leaves(other), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def test_dropout_of_each_sample_is_its_own():
    x, y = samples()
    model = nnx.Sequential(
        nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))
    )
    labels = (y > 0).astype(int)
    loss = optax.softmax_cross_entropy_with_integer_labels
    same = np.ones_like(x)  # which is said
    problem = problems.flax_problem(model, loss, (same, 0 * labels), 3)
    with pytest.warns(UserWarning, match="of one at another worker"):
        private = problems.private(problem, 1e6, delta=1e-2)
    one = gradients_of(private, problem.init_params, jax.random.key(0))
    plain = gradients_of(problem, problem.init_params, jax.random.key(0))
    assert any(
        not np.allclose(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(plain), strict=True)
    )


def normalised():
    x, y = samples()
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    )
    return problems.flax_problem(
        model, optax.squared_error, (x, np.tile(y, (4, 1)).T), 3
    )


def with_a_penalty():
    x, y = samples()
    return problems.from_loss(
        lambda p, s: (s.weight * (s.features @ p - s.targets) ** 2).sum() + p @ p,
        data.stack(*map(np.float32, (x, y)), data.split(y, 3)),
        jnp.ones(3),
    )


def in_16_bits(dtype):
    return problems.private(problems.ridge(*samples(), 3, dtype=dtype), 1.0, delta=0.01)


def test_a_negative_weight_weighs_as_much():
    x, y = samples(0, 6)
    weight = np.full((1, 6), 0.1)
    weight[0, 2] = -0.9
    shards = data.Shards(*map(np.float32, (x[None], y[None], weight)))
    plain = problems.from_loss(
        lambda p, s: (s.weight * (s.features @ p - s.targets) ** 2).sum(),
        shards,
        jnp.ones(3),
    )
    problem = problems.private(plain, 2.0, delta=0.1)
    assert problem.private.sensitivity == pytest.approx(1.8)


def ridge():
    return problems.ridge(*samples(), 3)


def shuffled():
    """One's own way to draw: nobody knows how often a sample comes."""

    def draw(key, own):
        order = jax.random.permutation(key, 8)[:4]
        shards = jax.tree.map(lambda x: x[order], own.shards)
        return own._replace(gram=None, shards=shards)

    return dataclasses.replace(ridge(), draw=draw)


def of_uneven(batch_size=4):
    """Three workers with 6, 8 and 10 samples, of which each draws so many."""
    x, y = samples()
    parts = np.split(np.arange(24), [6, 14])
    plain = problems.from_loss(
        lambda p, s: (s.weight * (s.features @ p - s.targets) ** 2).sum(),
        data.stack(*map(np.float32, (x, y)), parts),
        jnp.ones(3),
    )
    return problems.minibatch(plain, batch_size, replacement=False)


def test_batches_without_replacement_have_every_sample_as_often_and_none_twice():
    problem, number = of_uneven(), 3000
    keys = jax.random.split(jax.random.key(0), number)
    shards = problem.worker_data

    @jax.jit
    @jax.vmap
    def drawn(key):
        own = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
        return jax.vmap(problem.draw)(own, shards)

    found = drawn(keys)
    assert np.allclose(found.weight.sum(-1), np.array([6, 8, 10]) / 24)
    far = scipy.stats.norm.isf(ALARM / 2)
    for m, size in enumerate((6, 8, 10)):
        numbers = np.asarray(found.features[:, m, :, 0])[..., None]
        which = numbers == np.asarray(shards.features[m, :size, 0])  # [K, 4, size]
        assert (which.sum(-1) == 1).all()
        in_it = which.any(1)
        assert (in_it.sum(-1) == 4).all()
        rate = 4 / size
        deviation = np.sqrt(rate * (1 - rate) / number)
        assert (np.abs(in_it.mean(0) - rate) < far * deviation).all()


def test_a_replaced_sample_changes_a_batch_by_no_more_than_the_sensitivity():
    problem = problems.private(of_uneven(), 0.5, delta=1e-2)
    known, shards = problem.private, problem.worker_data
    assert (known.sampling, known.sampling_rate) == ("fixed", pytest.approx(4 / 6))
    assert known.sensitivity == pytest.approx(2 * 0.5 * 10 / 24 / 4)
    at, key, most = jnp.full(3, 20.0), jax.random.key(3), 0.0
    gradients = jax.jit(lambda own: problem.gradients_of(at, key, jnp.arange(3), own))
    whole = gradients(shards)
    for n in range(10):
        for way in (1.0, -1.0):  # of the features, and so of the gradient
            x = shards.features.at[2, n].multiply(way * 30.0)
            y = shards.targets.at[2, n].set(-way * 1e4)
            changed = whole - gradients(shards._replace(features=x, targets=y))
            assert not np.any(changed[:2])
            most = max(most, float(jnp.linalg.norm(changed[2])))
    assert 0.8 * known.sensitivity < most <= 1.00001 * known.sensitivity


def test_samples_that_two_workers_have_are_counted():
    x, y = samples()
    parts = [np.arange(8), np.arange(8, 16), np.r_[3, 9, np.arange(16, 24)]]
    plain = problems.from_loss(
        lambda p, s: (s.weight * (s.features @ p - s.targets) ** 2).sum(),
        data.stack(*map(np.float32, (x, y)), parts),
        jnp.ones(3),
    )
    with pytest.warns(UserWarning, match="2 samples of custom have the features and"):
        problems.private(plain, 1.0, delta=0.01)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: problems.private(ridge(), 0.0, delta=0.01), "clip is 0.0"),
        (lambda: problems.private(ridge(), 1.0, delta=1 / 24), "delta is 0.041.*1/N"),
        (lambda: problems.private(ridge(), 1.0, delta=0.0), "delta is 0"),
        (
            lambda: problems.private(problems.minibatch(ridge(), 4), 1.0, delta=0.01),
            "draws its samples 4 a round with replacement, which the accountant does",
        ),
        (
            lambda: problems.minibatch(problems.private(ridge(), 1.0, delta=0.01), 4),
            "expected problems.private to stand last",
        ),
        (
            lambda: problems.private(
                problems.private(ridge(), 1.0, delta=0.01), 1.0, delta=0.01
            ),
            "private already",
        ),
        (lambda: problems.private(normalised(), 1.0, delta=0.01), "normalises by"),
        (lambda: problems.private(with_a_penalty(), 1.0, delta=0.01), "is no sum of"),
        (
            lambda: problems.private(
                problems.from_loss(lambda p, x: ((p - x) ** 2).sum(), jnp.ones(3), 1.0),
                1.0,
                delta=0.01,
            ),
            "no data.Shards",
        ),
        (
            lambda: problems.private(shuffled(), 1.0, delta=0.01),
            "in a way of its own, which the accountant does not cover",
        ),
        (
            lambda: problems.minibatch(ridge(), 9, replacement=False),
            "batch_size is 9 without replacement, expected at most 8",
        ),
        (lambda: problems.poisson(ridge(), 0.0), "rate is 0.0"),
        (lambda: problems.poisson(ridge(), 1.5), "rate is 1.5"),
        (lambda: problems.poisson(ridge(), 2.0**-24), "expected at least 2.-23"),
        (lambda: in_16_bits("float16"), "parameters in float16, expected float32"),
        (lambda: in_16_bits("bfloat16"), "parameters in bfloat16, expected float32"),
        (
            lambda: problems.private(ridge(), 1.0, delta=0.01, microbatch=0),
            "microbatch is 0",
        ),
    ],
)
def test_what_is_not_covered_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_workers_that_train_are_refused():
    problem = problems.private(ridge(), 1.0, delta=0.01)
    optimizer = optax.chain(
        gdsec_jax.local(3, optax.sgd(0.1), 2), gdsec_jax.gd(3), optax.sgd(1.0)
    )
    with pytest.raises(
        ValueError, match="^the problem is private and the opt.* trains"
    ):
        gdsec_jax.simulate(problem, optimizer, 2)


def test_no_stage_is_told_the_loss_of_a_private_problem():
    problem = problems.private(ridge(), 1.0, delta=0.01)
    optimizer = optax.chain(gdsec_jax.gd(3), optax.polyak_sgd(1.0))
    with pytest.raises(
        ValueError, match="^the problem is private and the opt.* asks for val"
    ):
        gdsec_jax.simulate(problem, optimizer, 2)
