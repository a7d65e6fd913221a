"""What a worker computes in a round: minibatches of its samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import data, problems
from gdsec_jax.problems import Problem

SIZES = (3, 10, 27)
LAMBDA = 0.5
PARAMS = np.float32([0.3, -0.2, 0.9, 0.0])
gradients_of = jax.jit(Problem.gradients)
error_of = jax.jit(Problem.error)


def samples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 4)), rng.standard_normal(40)


def parts():
    return data.split(samples()[1], 3, sizes=SIZES)


def make():
    return problems.ridge(*samples(), 3, split=parts(), regularization=LAMBDA)


@jax.jit
def batches_of(problem, key):
    """What each worker draws in the round of this key."""
    own = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    return jax.vmap(problem.draw)(own, problem.worker_data)


# Minibatches


def test_batches_are_unbiased_with_uneven_sizes():
    """5 standard errors: 12 numbers, so a false alarm once in about 100,000 runs."""
    drawn = problems.minibatch(make(), 6)
    keys = jax.random.split(jax.random.key(1), 4000)
    of_keys = jax.jit(jax.vmap(Problem.gradients, (None, None, 0)))
    batches = np.asarray(of_keys(drawn, PARAMS, keys))
    mean, spread = batches.mean(0), batches.std(0) / np.sqrt(keys.size)
    assert (spread > 1e-4).all()
    assert (np.abs(mean - gradients_of(make(), PARAMS)) < 5 * spread).all()


def test_a_worker_draws_all_of_its_samples_and_no_padding():
    drawn = problems.minibatch(make(), 5)
    keys = jax.random.split(jax.random.key(2), 150)
    shards = jax.vmap(batches_of, (None, 0))(drawn, keys).shards
    weights = np.asarray(shards.weight).sum(2)
    shares = np.broadcast_to(np.array(SIZES) / 40, weights.shape)
    np.testing.assert_allclose(weights, shares, rtol=1e-6)
    seen = [np.unique(own) for own in np.moveaxis(np.asarray(shards.targets), 1, 0)]
    assert [len(values) for values in seen] == list(SIZES)
    assert not any(0.0 in values for values in seen)  # the targets of padding


def test_the_key_decides_a_run_with_draws():
    problem = problems.minibatch(make(), 2)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.1))
    first = gdsec_jax.simulate(problem, optimizer, 30, key=0)
    again = gdsec_jax.simulate(problem, optimizer, 30, key=jax.random.key(0))
    other = gdsec_jax.simulate(problem, optimizer, 30, key=1)
    np.testing.assert_array_equal(first.objective_error, again.objective_error)
    np.testing.assert_array_equal(first.bits, again.bits)
    assert not np.array_equal(first.objective_error, other.objective_error)
    assert np.unique(first.objective_error).size == 30
    with pytest.raises(ValueError, match="key is None, expected an int or a random k"):
        gdsec_jax.simulate(problem, optimizer, 3)


def test_a_batch_is_what_its_key_draws():
    problem, key = make(), jax.random.key(1)
    expected = gradients_of(problem, PARAMS)
    np.testing.assert_array_equal(gradients_of(problem, PARAMS, key), expected)
    drawn = problems.minibatch(problem, 5)
    of_batches = jax.jit(jax.vmap(jax.grad(drawn.worker_loss), (None, 0)))
    expected = of_batches(PARAMS, batches_of(drawn, key))
    np.testing.assert_array_equal(gradients_of(drawn, PARAMS, key), expected)


def test_the_error_is_that_of_all_samples():
    problem = make()
    drawn = problems.minibatch(problem, 1)
    gradients = gradients_of(problem, PARAMS)
    assert error_of(drawn, PARAMS) == error_of(problem, PARAMS)
    np.testing.assert_array_equal(gradients_of(drawn, PARAMS), gradients)
    in_a_round = gradients_of(drawn, PARAMS, jax.random.key(0))
    assert not np.allclose(in_a_round, gradients)


def test_what_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0, expected an integer"):
        problems.minibatch(make(), 0)
    own = problems.from_loss(lambda p, d: jnp.sum(p * d), np.ones((3, 4)), PARAMS)
    with pytest.raises(ValueError, match=r"custom has no data.Shards with dense feat"):
        problems.minibatch(own, 2)
