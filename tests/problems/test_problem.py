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

POINTS = np.array([[1.0, 2.0], [3.0, -2.0], [5.0, 3.0]])


def pull(params, points):
    """Half of the squared distance of w + b to the worker's point."""
    return 0.5 * jnp.sum((params["w"] + params["b"] - points) ** 2)


def start():
    return {"w": np.zeros(2), "b": np.zeros(())}


def test_a_loss_of_a_tree_of_parameters(x64):
    problem = problems.from_loss(pull, POINTS, start(), name="pull", smoothness=9.0)
    assert (problem.name, problem.num_workers, problem.smoothness) == ("pull", 3, 9.0)
    assert problem.error_name == "objective"
    params = {"w": jnp.array([1.0, -1.0]), "b": jnp.array(0.5)}
    residual = np.array([1.5, -0.5]) - POINTS
    gradients = jax.jit(problem.gradients)(params)
    chex.assert_trees_all_close(
        gradients, {"w": residual, "b": residual.sum(1)}, rtol=1e-15
    )
    assert float(problem.objective(params)) == pytest.approx((residual**2).sum() / 2)
    assert float(problem.error(params)) == float(problem.objective(params))


def test_a_known_optimum_makes_the_error_a_distance(x64):
    optimum = 0.5 * ((POINTS - POINTS.mean(0)) ** 2).sum()
    problem = problems.from_loss(pull, POINTS, start(), optimum=optimum)
    best = {"w": jnp.asarray(POINTS.mean(0)), "b": jnp.array(0.0)}
    assert problem.error_name == "objective error"
    assert abs(problem.error(best)) < 1e-14
    assert problem.error(problem.init_params) > 1


def test_the_gradient_measure_adds_up_all_leaves(x64):
    problem = problems.from_loss(pull, POINTS, start(), measure="gradient")
    total = -POINTS.sum(0)
    expected = (total**2).sum() + total.sum() ** 2
    assert problem.error_name == "squared gradient norm"
    assert float(problem.error(problem.init_params)) == pytest.approx(expected)


def test_a_tree_of_parameters_is_trained(x64):
    optimum = 0.5 * ((POINTS - POINTS.mean(0)) ** 2).sum()
    problem = problems.from_loss(pull, POINTS, start(), optimum=optimum)
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
    np.testing.assert_array_equal(
        problem.gradients(problem.init_params), np.full((4, 2), -10.0)
    )


@pytest.mark.parametrize(
    "worker_data",
    [
        {"x": np.ones((3, 2)), "y": np.ones(4)},
        {"x": np.ones((3, 2)), "y": 1.0},
        1.0,
        {},
    ],
    ids=["mismatch", "a scalar among arrays", "a scalar", "nothing"],
)
def test_worker_data_need_one_leading_axis(worker_data):
    message = "worker_data must hold arrays with the same leading axis of workers, got"
    with pytest.raises(ValueError, match=message):
        problems.from_loss(lambda p, d: p.sum(), worker_data, jnp.zeros(2))


def test_the_shapes_of_worker_data_are_named():
    worker_data = {"x": np.ones((3, 2)), "y": np.ones(4)}
    with pytest.raises(ValueError, match=r"\[\(3, 2\), \(4,\)\]"):
        problems.from_loss(lambda p, d: p.sum(), worker_data, jnp.zeros(2))


@pytest.mark.parametrize(
    ("leaf", "dtype"), [(np.arange(2), "int"), (np.ones(2, complex), "complex")]
)
def test_parameters_must_be_real_floating_point(leaf, dtype):
    message = (
        rf"params\['w'\] has dtype {dtype}\d+, expected a real floating-point dtype"
    )
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
    ],
    ids=["vector", "one entry", "bool", "integer", "complex"],
)
def test_the_loss_must_be_a_real_scalar(loss, got):
    with pytest.raises(
        ValueError, match=f"worker_loss must return a real scalar, .*{got}"
    ):
        problems.from_loss(loss, np.float32(POINTS), jnp.zeros(2))


def test_a_loss_of_several_values_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="worker_loss must return a real scalar"):
        problems.from_loss(lambda p, d: (p.sum(), d), POINTS, jnp.zeros(2))


def test_the_measure_is_checked():
    with pytest.raises(
        ValueError, match="measure is 'norm', expected one of objective, gradient"
    ):
        problems.from_loss(pull, POINTS, start(), measure="norm")  # pyright: ignore


def test_a_problem_is_a_pytree_that_jit_and_vmap_take():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    problem = problems.ridge(x, y, 3)
    leaves, structure = jax.tree.flatten(problem)
    chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), problem)
    params = jnp.ones(3)
    gradients = jax.jit(problems.Problem.gradients)(problem, params)
    np.testing.assert_allclose(gradients, problem.gradients(params), rtol=1e-5)
    scaled = jax.jit(
        jax.vmap(
            lambda scale: dataclasses.replace(problem, optimum=scale).error(params)
        )
    )(jnp.array([0.0, 1.0]))
    assert scaled[0] - scaled[1] == pytest.approx(1.0)


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
        local = problems.local_steps(problem, 4, 0.1)
        assert local.evaluations.tolist() == [8, 12, 28]
    drawn = problems.minibatch(dense, 5)
    assert drawn.evaluations.tolist() == [5, 5, 5]
    assert problems.local_steps(drawn, 2, 0.1).evaluations.tolist() == [10, 10, 10]
    own = problems.from_loss(pull, POINTS, start())
    assert own.evaluations.tolist() == [1, 1, 1]
    assert problems.local_steps(own, 3, 0.1).evaluations.tolist() == [3, 3, 3]
