"""Local steps: federated averaging to the last digit, and gradients where T = 1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

import gdsec_jax
from gdsec_jax import data, problems

SIZES = (3, 10, 27)
LAMBDA = 0.5


def samples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 4)), rng.standard_normal(40)


def parts():
    return data.split(samples()[1], 3, sizes=SIZES)


def make():
    return problems.ridge(*samples(), 3, split=parts(), regularization=LAMBDA)


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


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_it_is_federated_averaging(x64, num_steps):
    gradient = oracle.ridge_gradient(*samples(), parts(), LAMBDA)
    step = 0.1
    problem = problems.local_steps(make(), num_steps, step)
    optimizer = optax.chain(gdsec_jax.gd(3), optax.sgd(step))
    history = gdsec_jax.simulate(problem, optimizer, 30)
    theta = np.zeros(4)
    key, gradients = jax.random.key(0), jax.jit(problem.gradients)
    for _ in range(30):
        after, sums = averaging(gradient, theta, step, num_steps, 3)
        got = gradients(jnp.asarray(theta), key)
        np.testing.assert_allclose(got, sums, rtol=0, atol=1e-13)
        theta = after
    np.testing.assert_allclose(history.params, theta, rtol=0, atol=1e-13)


def test_one_step_is_the_gradient_bit_for_bit():
    problem, params = make(), jnp.asarray([0.3, -0.2, 0.9, 0.0])
    one = problems.local_steps(problem, 1, 0.1)
    key = jax.random.key(1)
    expected = np.asarray(problem.gradients(params))
    np.testing.assert_array_equal(one.gradients(params, key), expected)
    np.testing.assert_array_equal(problem.gradients(params, key), expected)
    drawn = problems.minibatch(problem, 5)
    own = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    assert drawn.draw is not None
    batches = jax.vmap(drawn.draw)(own, drawn.worker_data)
    expected = jax.vmap(jax.grad(drawn.worker_loss), (None, 0))(params, batches)
    np.testing.assert_array_equal(drawn.gradients(params, key), expected)
    np.testing.assert_array_equal(
        problems.local_steps(drawn, 1, 0.1).gradients(params, key), expected
    )


@pytest.mark.slow
def test_each_local_step_draws_for_itself(x64):
    params, key, step = jnp.asarray([0.3, -0.2, 0.9, 0.0]), jax.random.key(2), 0.05
    problem = problems.minibatch(problems.local_steps(make(), 3, step), 2)
    other_way = problems.local_steps(problems.minibatch(make(), 2), 3, step)
    got = problem.gradients(params, key)
    np.testing.assert_array_equal(got, other_way.gradients(params, key))
    assert problem.draw is not None
    for m in range(3):
        own_data = jax.tree.map(lambda x: x[m], problem.worker_data)  # noqa: B023
        theta, total, seen = np.asarray(params), np.zeros(4), []
        for t in range(3):
            own_key = jax.random.fold_in(jax.random.fold_in(key, m), t)
            x, y, weight = map(np.asarray, problem.draw(own_key, own_data).shards)
            slope = x.T @ (weight * (x @ theta - y)) + LAMBDA / 3 * theta
            theta, total = theta - step * 3 * slope, total + slope
            seen.append(tuple(y))
        np.testing.assert_allclose(got[m], total, rtol=0, atol=1e-13)
        assert len(set(seen)) > 1


def test_the_key_decides_a_run_with_draws():
    problem = problems.local_steps(problems.minibatch(make(), 2), 3, 0.02)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.02))
    first = gdsec_jax.simulate(problem, optimizer, 20, key=0)
    again = gdsec_jax.simulate(problem, optimizer, 20, key=0)
    other = gdsec_jax.simulate(problem, optimizer, 20, key=1)
    np.testing.assert_array_equal(first.objective_error, again.objective_error)
    assert not np.array_equal(first.objective_error, other.objective_error)


def test_the_error_is_without_local_steps():
    x, y = samples()
    params = jnp.ones(4)
    for problem in (make(), problems.nonlinear_least_squares(x, 1.0 * (y > 0), 3)):
        local = problems.local_steps(problem, 4, 0.1)
        assert local.error(params) == problem.error(params)
        np.testing.assert_array_equal(
            local.gradients(params), problem.gradients(params)
        )
        assert not np.allclose(
            local.gradients(params, jax.random.key(0)), problem.gradients(params)
        )
    assert problem.measure == "gradient"


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


def test_the_learning_rate_may_be_traced():
    problem, params, key = make(), jnp.ones(4), jax.random.key(0)

    @jax.jit
    @jax.vmap
    def run(step):
        return problems.local_steps(problem, 3, step).gradients(params, key)

    steps = jnp.asarray([0.01, 0.1])
    for got, step in zip(run(steps), steps, strict=True):
        expected = problems.local_steps(problem, 3, step).gradients(params, key)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_another_learning_rate_compiles_nothing_anew():
    traces = []

    @jax.jit
    def gradients(problem):
        traces.append(None)
        return problem.gradients(jnp.ones(4), jax.random.key(0))

    problem = make()
    small = gradients(problems.local_steps(problem, 3, 0.01))
    large = gradients(problems.local_steps(problem, 3, 0.1))
    assert len(traces) == 1
    assert not np.allclose(small, large)


def test_a_tree_of_parameters_in_half_precision():
    def loss(params, point):
        return 0.5 * jnp.sum((params["w"] + params["b"] - point) ** 2)

    params = {"w": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(())}
    points = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    problem = problems.local_steps(problems.from_loss(loss, points, params), 2, 0.125)
    got = problem.gradients(params, jax.random.key(0))
    assert (got["w"].dtype, got["b"].dtype) == (jnp.bfloat16, jnp.float32)
    # -g: [1, 2] and 3; then w = [1, 2]/4, b = 3/4 leave [0, 3/4] and 3/4.
    assert got["w"][0].tolist() == [-1.0, -2.75]
    assert float(got["b"][0]) == -3.75


def test_what_is_refused():
    for num_steps in (0, -1, 1.5, True, None):
        message = f"num_steps is {num_steps!r}, expected an integer at least 1"
        with pytest.raises(ValueError, match=message):
            problems.local_steps(make(), num_steps, 0.1)  # pyright: ignore
    for step in (0.0, -1.0, np.nan, np.inf, None):
        message = "learning_rate is .*, expected a finite number above 0"
        with pytest.raises(ValueError, match=message):
            problems.local_steps(make(), 2, step)
