"""Factors of matrices, against NumPy's QR from the same start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdsec_jax
from gdsec_jax import worker

SHAPES = {"conv": (3, 2, 4), "matrix": (5, 3), "scalar": (), "vector": (4,)}


def tree_of(dtype="float32", seed=0, lead=()):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal((*lead, *shape)), dtype)
        for name, shape in SHAPES.items()
    }


def matrix(x):
    x = np.asarray(x, np.float64)
    return x.reshape(-1, x.shape[-1])


def projected(v, q):
    """V times the projection that one step of power iteration makes, and V^T P."""
    left = np.linalg.qr(v @ q)[0]
    return left @ left.T @ v, v.T @ left, left


@pytest.mark.parametrize("rank", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_low_rank_iterates_from_its_last_factor(rank):
    piece = worker.low_rank(rank, key=3)
    v = tree_of()
    state = piece.init(v)
    update = jax.jit(piece.update)
    rights = [np.asarray(q, np.float64) for q in (state.right[0], state.right[1])]
    assert [q.shape for q in rights] == [(4, rank), (3, rank)]
    assert state.right[2:] == [(), ()]
    for seed in range(3):
        v = tree_of(seed=seed)
        message, state = update(v, state)
        for i, name in enumerate(("conv", "matrix")):
            expected, rights[i], _ = projected(matrix(v[name]), rights[i])
            np.testing.assert_allclose(matrix(message[name]), expected, atol=1e-4)
            # The sign of a column is the QR's own, in both factors alike.
            np.testing.assert_allclose(
                np.abs(state.right[i]), np.abs(rights[i]), atol=1e-4
            )
        for name in ("scalar", "vector"):
            np.testing.assert_array_equal(message[name], v[name])


def test_a_warm_start_finds_the_best_approximation():
    piece = worker.low_rank(1)
    v = jnp.asarray(matrix(tree_of(seed=5)["matrix"]), jnp.float32)
    state, update = piece.init(v), jax.jit(piece.update)
    left = []
    for _ in range(30):
        message, state = update(v, state)
        left.append(float(jnp.sum((v - message) ** 2)))
    singular = np.linalg.svd(v, compute_uv=False)
    assert left[-1] == pytest.approx((singular[1:] ** 2).sum(), rel=1e-3)
    assert left[0] > left[-1]
    assert all(x <= float(jnp.sum(v**2)) * (1 + 1e-6) for x in left)


@pytest.mark.parametrize("make", [gdsec_jax.low_rank, gdsec_jax.power_sgd])
def test_a_rank_above_the_matrixs_sends_all_of_it(make):
    params, grads = tree_of(seed=1), tree_of(seed=2, lead=(2,))
    algorithm = make(2, rank=100)
    update, state = jax.jit(algorithm.update), algorithm.init(params)
    total, after = update(grads, state, params)
    for name, g in grads.items():
        np.testing.assert_allclose(total[name], np.asarray(g).sum(0), atol=1e-4)
    # Rank 4 of 6 x 4 and rank 3 of 5 x 3.
    entries = 4 * (6 + 4) + 3 * (5 + 3) + 1 + 4
    assert gdsec_jax.last_round(after).entries.tolist() == [entries] * 2
    total, silent = update(jax.tree.map(np.zeros_like, grads), state, params)
    assert not any(np.any(x) for x in jax.tree.leaves(total))
    assert gdsec_jax.last_round(silent).bits.tolist() == [0, 0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "rank"),
    [
        ("bfloat16", 2),
        pytest.param("float64", 2, marks=pytest.mark.slow),
        pytest.param("float16", 1, marks=pytest.mark.slow),
        pytest.param("float32", 1, marks=pytest.mark.slow),
    ],
)
def test_the_payload_is_what_makes_the_message(dtype, rank):
    piece = worker.low_rank(rank)
    v = tree_of(dtype)
    with jax.numpy_dtype_promotion("strict"):
        message, state = jax.jit(piece.update)(v, piece.init(v))
    payload = state.packing.payload
    wide = jnp.promote_types(dtype, jnp.float32)
    for name, factors in zip(("conv", "matrix"), payload[:2], strict=True):
        assert {x.dtype.name for x in factors} == {dtype}
        made = factors.left.astype(wide) @ factors.right.astype(wide).T
        np.testing.assert_allclose(
            matrix(message[name]),
            np.asarray(made, np.float64),
            atol=1e-12 if dtype == "float64" else 1e-5,
        )
    for name, x in zip(("scalar", "vector"), payload[2:], strict=True):
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, v[name])


def power_sgd(grads, q, present):
    total = sum(matrix(grads[m]) for m in present)
    left = np.linalg.qr(total @ q)[0]
    rights = {m: matrix(grads[m]).T @ left for m in present}
    return {m: left @ right.T for m, right in rights.items()}, sum(rights.values())


@functools.cache
def federated():
    """A compiled update of three workers' power_sgd, and the first state."""
    algorithm = gdsec_jax.federate(worker.power_sgd(1, key=2), 3)
    return jax.jit(algorithm.update), algorithm.init(PARAMS)


PARAMS = np.zeros((5, 3), np.float32)
ALL = np.ones(3, bool)


def some_grads(seed):
    return np.asarray(tree_of(seed=seed, lead=(3,))["matrix"])


@pytest.mark.parametrize("how", ["all", "absent", "nan"])
def test_power_sgd_sums_over_the_workers_of_the_round(how):
    update, state = federated()
    q = np.asarray(state.workers.right[0][0], np.float64)
    active = np.asarray([True, how != "absent", True])
    for seed in range(3):
        grads = some_grads(seed)
        present = [0, 1, 2] if how == "all" else [0, 2]
        given = grads.copy()
        if how == "nan":
            given[1, 0, 0] = np.nan
        total, state = update(given, state, PARAMS, active=active)
        messages, q = power_sgd(grads, q, present)
        np.testing.assert_allclose(total, sum(messages.values()), atol=1e-4)
        assert np.linalg.matrix_rank(np.asarray(total), tol=1e-4) == 1
        for m in present:
            right = np.asarray(state.workers.right[0])[m]
            np.testing.assert_allclose(np.abs(right), np.abs(q), atol=1e-4)
        bits = [(5 + 3) * 32 if m in present else 0 for m in range(3)]
        assert gdsec_jax.last_round(state).bits.tolist() == bits


def test_a_worker_that_comes_back_has_the_factor_that_all_have():
    """Its frozen Q differs from the others'; the sum is then of different V_m Q."""
    update, state = federated()
    grads, active = some_grads(0), np.asarray([True, False, True])
    _, state = update(grads, state, PARAMS, active=active)
    right = np.asarray(state.workers.right[0])
    np.testing.assert_array_equal(right[0], right[2])
    assert not np.array_equal(right[0], right[1])
    total, _ = update(grads, state, PARAMS, active=ALL)
    assert np.isfinite(total).all()


def test_power_sgd_keeps_its_factor_where_nothing_arrives():
    """A round of which everything is lost is none to the common Q."""
    update, start = federated()
    grads = some_grads(0)
    _, state = update(grads, start, PARAMS, active=ALL)
    before = np.asarray(state.workers.right[0])
    for mask in (~ALL, np.asarray([True, False, False])):
        _, after = update(grads, state, PARAMS, delivered=jnp.asarray(mask))
        right = np.asarray(after.workers.right[0])
        assert np.array_equal(right, before) == (not mask.any())
        assert np.any(right)


def test_power_sgd_of_a_payload_that_travels():
    update, start = federated()
    grads = some_grads(4)
    total, state = update(grads, start, PARAMS, active=ALL)
    (factors,) = state.workers.packing.payload
    left, right = np.asarray(factors.left), np.asarray(factors.right)
    lefts = np.einsum("mij,jr->mir", grads, start.workers.right[0][0])
    np.testing.assert_allclose(left, lefts, atol=1e-5)
    made = np.linalg.qr(left.sum(0))[0] @ right.sum(0).T
    np.testing.assert_allclose(np.abs(total), np.abs(made), atol=1e-5)


@pytest.mark.parametrize("make", [worker.low_rank, worker.power_sgd])
def test_bad_input_and_leaves_without_entries(make):
    for rank in (0, -1, 1.0, None, True):
        with pytest.raises(
            ValueError, match="rank is .*, expected an integer at least 1"
        ):
            make(rank)
    with pytest.raises(ValueError, match="key is 'x', expected an int or a random key"):
        make(1, key="x").init(jnp.zeros((2, 2)))
    algorithm = gdsec_jax.federate(make(1), 2)
    params = {"none": jnp.zeros((0, 3)), "one": jnp.zeros((1, 1))}
    grads = {"none": jnp.zeros((2, 0, 3)), "one": jnp.ones((2, 1, 1))}
    total, _ = jax.jit(algorithm.update)(grads, algorithm.init(params), params)
    assert total["one"] == pytest.approx(2.0)
    one = make(1).init({})
    assert one.right == []
