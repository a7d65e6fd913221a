"""Problems of one's own, and problems as pytrees."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import gdsec_jax
from gdsec_jax import data, problems

gradients_of = jax.jit(problems.Problem.gradients)
error_of = jax.jit(problems.Problem.error)
POINTS = np.array([[1.0, 2.0], [3.0, -2.0], [5.0, 3.0]])


def pull(params, points):
    """Half of the squared distance of w + b to the worker's point."""
    return 0.5 * jnp.sum((params["w"] + params["b"] - points) ** 2)


def start():
    return {"w": np.zeros(2), "b": np.zeros(())}


OPTIMUM = 0.5 * ((POINTS - POINTS.mean(0)) ** 2).sum()


def test_a_loss_of_a_tree_of_parameters(x64):
    problem = problems.from_loss(pull, POINTS, start(), name="pull", smoothness=9.0)
    assert (problem.name, problem.num_workers, problem.smoothness) == ("pull", 3, 9.0)
    assert problem.error_name == "objective"
    params = {"w": np.array([1.0, -1.0]), "b": np.array(0.5)}
    residual = np.array([1.5, -0.5]) - POINTS
    chex.assert_trees_all_close(
        gradients_of(problem, params), {"w": residual, "b": residual.sum(1)}, rtol=1e-15
    )
    value = (residual**2).sum() / 2
    assert float(error_of(problem, params)) == pytest.approx(value)
    known = problems.from_loss(pull, POINTS, start(), optimum=OPTIMUM)
    assert known.error_name == "objective error"
    assert float(error_of(known, params)) == pytest.approx(value - OPTIMUM)
    by_gradient = problems.from_loss(pull, POINTS, start(), measure="gradient")
    assert by_gradient.error_name == "squared gradient norm"
    total = residual.sum(0)
    expected = (total**2).sum() + total.sum() ** 2  # of all leaves
    assert float(error_of(by_gradient, params)) == pytest.approx(expected)


@pytest.mark.slow
def test_a_tree_of_parameters_is_trained(x64):
    problem = problems.from_loss(pull, POINTS, start(), optimum=OPTIMUM)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.1))
    history = gdsec_jax.simulate(problem, optimizer, 300)
    assert abs(history.objective_error[-1]) < 1e-12
    chex.assert_trees_all_close(
        history.params["w"] + history.params["b"], POINTS.mean(0), atol=1e-6
    )


def test_worker_data_may_be_a_tree():
    worker_data = {"x": np.ones((4, 5, 2)), "y": (np.ones((4, 5)),)}

    def loss(params, own):
        return jnp.sum((own["x"] @ params - own["y"][0]) ** 2)

    problem = problems.from_loss(loss, worker_data, np.zeros(2, np.float32))
    assert problem.num_workers == 4
    gradients = gradients_of(problem, problem.init_params)
    np.testing.assert_array_equal(gradients, np.full((4, 2), -10.0))


@pytest.mark.parametrize(
    ("worker_data", "shapes"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, r"\[\(3, 2\), \(4,\)\]"),
        ({"x": np.ones((3, 2)), "y": 1.0}, ""),
        (1.0, ""),
        ({}, ""),
    ],
    ids=["mismatch", "a scalar among arrays", "a scalar", "nothing"],
)
def test_worker_data_need_one_leading_axis(worker_data, shapes):
    with pytest.raises(
        ValueError,
        match=f"worker_data has .*{shapes}.*expected arrays with the same leading axis",
    ):
        problems.from_loss(lambda p, d: p.sum(), worker_data, np.zeros(2))


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (np.arange(2), "int"),
        (np.ones(2, complex), "complex"),
        (np.ones(2, jnp.float8_e5m2), "float8_e5m"),
        (np.ones(2, jnp.float8_e4m3), "float8_e4m"),
    ],
)
def test_parameters_must_be_real_floating_point(leaf, dtype):
    message = rf"params\['w'\] has dtype {dtype}\d+, expected a real floating-point"
    with pytest.raises(ValueError, match=message):
        problems.from_loss(pull, POINTS, {"w": leaf, "b": 0.0})


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda p, d: p * d, r"float32\[2\]"),
        (lambda p, d: jnp.sum(p * d)[None], r"float32\[1\]"),
        (lambda p, d: jnp.sum(p * d) > 0, ""),
        (lambda p, d: jnp.int32(1), "int32"),
        (lambda p, d: jnp.sum(p * d) * jnp.complex64(1j), "complex64"),
        (lambda p, d: (p.sum(), d), r"\("),
    ],
    ids=["vector", "one entry", "bool", "integer", "complex", "several values"],
)
def test_the_loss_must_be_a_real_scalar(loss, got):
    message = f"worker_loss returns .*{got}.*, expected a real scalar"
    with pytest.raises(ValueError, match=message):
        problems.from_loss(loss, np.float32(POINTS), jnp.zeros(2))


def test_the_measure_is_checked():
    with pytest.raises(ValueError, match="measure is 'norm', expected one of objectiv"):
        problems.from_loss(pull, POINTS, start(), measure="norm")  # pyright: ignore


def test_a_problem_is_a_pytree_that_jit_and_vmap_take():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    problem = problems.ridge(x, y, 3)
    leaves, structure = jax.tree.flatten(problem)
    chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), problem)
    params = np.ones(3, np.float32)
    own = problem.worker_objective
    by_hand = jax.jit(jax.vmap(jax.grad(own), (None, 0)))(params, problem.worker_data)
    np.testing.assert_allclose(gradients_of(problem, params), by_hand, rtol=1e-5)

    @jax.jit
    @jax.vmap
    def error(optimum):
        return dataclasses.replace(problem, optimum=optimum).error(params)

    zero, one = np.asarray(error(np.float32([0.0, 1.0])))
    assert zero - one == pytest.approx(1.0)


def test_a_problem_cannot_be_changed():
    problem = problems.from_loss(pull, POINTS, start())
    with pytest.raises(AttributeError, match="cannot assign"):
        problem.num_workers = 4  # pyright: ignore


def test_evaluations_are_samples_or_batches_or_gradients():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    parts = data.split(y, 3, sizes=(2, 3, 7))
    dense = problems.ridge(x, y, 3, split=parts)
    sparse = problems.ridge(scipy.sparse.eye_array(12, 4000), y, 3, split=parts)
    for problem in (dense, sparse):
        assert problem.evaluations.dtype == np.int64
        assert problem.evaluations.tolist() == [2, 3, 7]
    drawn = problems.minibatch(dense, 5)
    assert drawn.evaluations.tolist() == [5, 5, 5]
    own = problems.from_loss(pull, POINTS, start())
    assert own.evaluations.tolist() == [1, 1, 1]
