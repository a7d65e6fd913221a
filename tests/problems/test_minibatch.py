"""Minibatches: unbiased, of one's own samples only, the same for the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import data, problems

SIZES = (3, 10, 27)


def make(**options):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)), rng.standard_normal(40)
    parts = data.split(y, 3, sizes=SIZES)
    return problems.ridge(x, y, 3, split=parts, regularization=0.5, **options)


def test_unbiased_with_uneven_sizes():
    """5 standard errors: 12 numbers, so a false alarm once in about 100,000 runs."""
    problem = make()
    params = jnp.asarray([0.3, -0.2, 0.9, 0.0])
    drawn = problems.minibatch(problem, 6)
    keys = jax.random.split(jax.random.key(1), 4000)
    batches = jax.jit(jax.vmap(lambda key: drawn.gradients(params, key)))(keys)
    mean, spread = batches.mean(0), batches.std(0) / np.sqrt(keys.size)
    assert (spread > 1e-4).all()
    assert (jnp.abs(mean - problem.gradients(params)) < 5 * spread).all()


@pytest.mark.slow
def test_a_worker_draws_all_of_its_samples_and_no_padding():
    drawn = problems.minibatch(make(), 5)
    seen = [set() for _ in SIZES]
    for key in jax.random.split(jax.random.key(2), 150):
        own = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
        assert drawn.draw is not None
        batch = jax.vmap(drawn.draw)(own, drawn.worker_data)
        for worker, targets in enumerate(np.asarray(batch.shards.targets)):
            seen[worker] |= set(targets.tolist())
        weights = np.asarray(batch.shards.weight).sum(1)
        np.testing.assert_allclose(weights, np.array(SIZES) / 40, rtol=1e-6)
    assert [len(values) for values in seen] == list(SIZES)
    assert not any(0.0 in values for values in seen)  # the targets of padding


def test_the_key_decides_the_run():
    problem = problems.minibatch(make(), 2)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.1))
    first = gdsec_jax.simulate(problem, optimizer, 30, key=0)
    again = gdsec_jax.simulate(problem, optimizer, 30, key=jax.random.key(0))
    other = gdsec_jax.simulate(problem, optimizer, 30, key=1)
    np.testing.assert_array_equal(first.objective_error, again.objective_error)
    np.testing.assert_array_equal(first.bits, again.bits)
    assert not np.array_equal(first.objective_error, other.objective_error)
    assert np.unique(first.objective_error).size == 30


def test_the_error_is_that_of_all_samples():
    problem = make()
    drawn = problems.minibatch(problem, 1)
    params = jnp.ones(4)
    assert drawn.error(params) == problem.error(params)
    np.testing.assert_array_equal(drawn.gradients(params), problem.gradients(params))


def test_what_is_refused():
    problem = make()
    optimizer = optax.chain(gdsec_jax.gd(3), optax.sgd(0.1))
    with pytest.raises(
        ValueError, match="key is None, expected an int or a random key"
    ):
        gdsec_jax.simulate(problems.minibatch(problem, 2), optimizer, 3)
    with pytest.raises(ValueError, match="batch_size is 0, expected an integer"):
        problems.minibatch(problem, 0)
    own = problems.from_loss(lambda p, d: jnp.sum(p * d), jnp.ones((3, 4)), jnp.ones(4))
    with pytest.raises(ValueError, match=r"custom has no data.Shards with dense feat"):
        problems.minibatch(own, 2)
