"""What a worker computes in a round: minibatches, and several local steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
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


@pytest.mark.parametrize("num_steps", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_key_decides_a_run_with_draws(num_steps):
    problem = problems.local_steps(problems.minibatch(make(), 2), num_steps, 0.02)
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


# Local steps


def averaging(gradient, theta, step, num_steps, num_workers):
    """One round of FedAvg with equal weights, and each worker's sum of gradients."""
    ends, sums = [], []
    for m in range(num_workers):
        own, total = theta.copy(), np.zeros_like(theta)
        for _ in range(num_steps):
            slope = gradient(m, own)
            own = own - step * num_workers * slope
            total = total + slope
        ends.append(own)
        sums.append(total)
    return np.mean(ends, axis=0), np.array(sums)


@pytest.mark.parametrize("num_steps", [2, 5])
def test_it_is_federated_averaging(x64, num_steps):
    gradient = oracle.ridge_gradient(*samples(), parts(), LAMBDA)
    step = 0.1
    problem = problems.local_steps(make(), num_steps, step)
    theta, ours, key = np.zeros(4), np.zeros(4), jax.random.key(0)
    for _ in range(30):
        after, sums = averaging(gradient, theta, step, num_steps, 3)
        got = np.asarray(gradients_of(problem, ours, key))
        np.testing.assert_allclose(got, sums, rtol=0, atol=1e-13)
        theta, ours = after, ours - step * got.sum(0)
    np.testing.assert_allclose(ours, theta, rtol=0, atol=1e-13)


def test_one_step_is_the_gradient_bit_for_bit():
    problem, key = make(), jax.random.key(1)
    one = problems.local_steps(problem, 1, 0.1)
    expected = gradients_of(problem, PARAMS)
    np.testing.assert_array_equal(gradients_of(problem, PARAMS, key), expected)
    np.testing.assert_array_equal(gradients_of(one, PARAMS, key), expected)
    drawn = problems.minibatch(problem, 5)
    of_batches = jax.jit(jax.vmap(jax.grad(drawn.worker_loss), (None, 0)))
    expected = of_batches(PARAMS, batches_of(drawn, key))
    np.testing.assert_array_equal(gradients_of(drawn, PARAMS, key), expected)
    one = problems.local_steps(drawn, 1, 0.1)
    np.testing.assert_array_equal(gradients_of(one, PARAMS, key), expected)


@pytest.mark.slow
def test_each_local_step_draws_for_itself(x64):
    params, key, step = PARAMS.astype(float), jax.random.key(2), 0.05
    problem = problems.minibatch(problems.local_steps(make(), 3, step), 2)
    other_way = problems.local_steps(problems.minibatch(make(), 2), 3, step)
    got = gradients_of(problem, params, key)
    np.testing.assert_array_equal(got, gradients_of(other_way, params, key))
    assert problem.draw is not None
    for m in range(3):
        own_data = jax.tree.map(lambda x: x[m], problem.worker_data)  # noqa: B023
        theta, total, seen = params, np.zeros(4), []
        for t in range(3):
            own_key = jax.random.fold_in(jax.random.fold_in(key, m), t)
            x, y, weight = map(np.asarray, problem.draw(own_key, own_data).shards)
            slope = x.T @ (weight * (x @ theta - y)) + LAMBDA / 3 * theta
            theta, total = theta - step * 3 * slope, total + slope
            seen.append(tuple(y))
        np.testing.assert_allclose(got[m], total, rtol=0, atol=1e-13)
        assert len(set(seen)) > 1


def test_the_error_is_that_of_all_samples_without_local_steps():
    x, y = samples()
    problem = make()
    not_convex = problems.nonlinear_least_squares(x, 1.0 * (y > 0), 3)
    assert (problem.measure, not_convex.measure) == ("objective", "gradient")
    local, drawn = problems.local_steps(problem, 4, 0.1), problems.minibatch(problem, 1)
    gradients, error = gradients_of(problem, PARAMS), error_of(problem, PARAMS)
    for other in (local, drawn):
        assert error_of(other, PARAMS) == error
        np.testing.assert_array_equal(gradients_of(other, PARAMS), gradients)
        in_a_round = gradients_of(other, PARAMS, jax.random.key(0))
        assert not np.allclose(in_a_round, gradients)
    local = problems.local_steps(not_convex, 4, 0.1)
    assert error_of(local, PARAMS) == error_of(not_convex, PARAMS)


@pytest.mark.slow
def test_local_steps_drift_where_workers_differ(x64):
    def last_error(problem, num_steps, step):
        local = problems.local_steps(problem, num_steps, step)
        optimizer = optax.chain(gdsec_jax.gd(3), optax.sgd(step))
        return gdsec_jax.simulate(local, optimizer, 2000).objective_error[-1]

    step = float(1 / (3 * make().worker_smoothness.max()))
    few = last_error(make(), 2, step)
    assert abs(last_error(make(), 1, step)) < 1e-14
    assert few > 1e-6
    assert last_error(make(), 5, step) > 2 * few > 4 * last_error(make(), 2, step / 2)
    x, y = samples()
    same = problems.ridge(
        np.tile(x, (3, 1)), np.tile(y, 3), 3, split="contiguous", regularization=LAMBDA
    )
    assert abs(last_error(same, 5, 1 / same.smoothness)) < 1e-14


def test_the_learning_rate_may_be_traced_and_compiles_nothing_anew():
    traces = []

    @jax.jit
    def run(problem):
        traces.append(None)
        return problem.gradients(PARAMS, jax.random.key(0))

    steps = np.float32([0.01, 0.1])
    alone = [run(problems.local_steps(make(), 3, float(step))) for step in steps]
    assert len(traces) == 1
    assert not np.allclose(*alone)
    together = jax.vmap(lambda step: run(problems.local_steps(make(), 3, step)))
    np.testing.assert_allclose(together(steps), alone, rtol=1e-5)


def test_a_tree_of_parameters_in_half_precision():
    def loss(params, point):
        return 0.5 * jnp.sum((params["w"] + params["b"] - point) ** 2)

    params = {"w": np.zeros(2, jnp.bfloat16), "b": np.zeros((), np.float32)}
    points = np.float32([[1.0, 2.0], [3.0, 4.0]])
    problem = problems.local_steps(problems.from_loss(loss, points, params), 2, 0.125)
    got = gradients_of(problem, problem.init_params, jax.random.key(0))
    assert (got["w"].dtype, got["b"].dtype) == (jnp.bfloat16, jnp.float32)
    # -g: [1, 2] and 3; then w = [1, 2]/4, b = 3/4 leave [0, 3/4] and 3/4.
    assert got["w"][0].tolist() == [-1.0, -2.75]
    assert float(got["b"][0]) == -3.75


def test_what_is_refused():
    problem = make()
    for num_steps in (0, -1, 1.5, True, None):
        message = f"num_steps is {num_steps!r}, expected an integer at least 1"
        with pytest.raises(ValueError, match=message):
            problems.local_steps(problem, num_steps, 0.1)
    for step in (0.0, -1.0, np.nan, np.inf, None):
        message = "learning_rate is .*, expected a finite number above 0"
        with pytest.raises(ValueError, match=message):
            problems.local_steps(problem, 2, step)
    with pytest.raises(ValueError, match="batch_size is 0, expected an integer"):
        problems.minibatch(problem, 0)
    own = problems.from_loss(lambda p, d: jnp.sum(p * d), np.ones((3, 4)), PARAMS)
    with pytest.raises(ValueError, match=r"custom has no data.Shards with dense feat"):
        problems.minibatch(own, 2)
