"""Memories of past gradients: their average, and the last one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _packing

import gdsec_jax
from gdsec_jax import worker

nothing = worker.Piece(
    optax.init_empty_state,
    lambda u, state, params=None, **extra: (jax.tree.map(jnp.zeros_like, u), state),
    variance=lambda params: 1.0,
)


def gradients(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("eta", [0.0, 0.25, 1.0])
def test_momentum_follows_its_recursion(eta):
    piece = worker.momentum(eta)
    update, state = jax.jit(piece.update), piece.init(jnp.zeros(3))
    average = None
    for g in gradients((8, 3)):
        ours, state = update(jnp.asarray(g), state)
        average = g if average is None else (1 - eta) * average + eta * g
        np.testing.assert_allclose(ours, average, rtol=1e-5, atol=1e-6)
    if eta == 1:
        np.testing.assert_allclose(ours, g, rtol=1e-6)


def test_momentum_keeps_its_average_wide_and_takes_a_traced_eta():
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros((), jnp.float32)}
    state = worker.momentum(0.5).init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state.average)} == {"float32"}
    narrow = worker.momentum(0.5, state_dtype="bfloat16").init(params)
    assert {x.dtype.name for x in jax.tree.leaves(narrow.average)} == {"bfloat16"}

    def second(eta):
        piece = worker.momentum(eta)
        _, state = piece.update(jnp.ones(1), piece.init(jnp.zeros(1)))
        return piece.update(jnp.full(1, 3.0), state)[0]

    with jax.numpy_dtype_promotion("strict"):
        worker.momentum(0.5).update(params, state)
        assert jax.vmap(second)(jnp.asarray([0.0, 0.5])).tolist() == [[1.0], [2.0]]


def test_momentum_of_a_worker_that_comes_late_starts_at_its_first_gradient():
    algorithm = gdsec_jax.ef21_sgdm(2, k=2, eta=0.25)
    params, g = jnp.zeros(2), jnp.asarray([[4.0, 0.0], [8.0, 0.0]])
    state, update = algorithm.init(params), jax.jit(algorithm.update)
    _, state = update(g, state, params, active=jnp.asarray([True, False]))
    total, _ = update(g * 2, state, params, active=jnp.asarray([True, True]))
    assert total.tolist() == [0.75 * 4 + 0.25 * 8 + 16, 0]


def run_change(piece, rounds, num_workers=4, key=0):
    """Messages, and the flags of whole ones, of every round and worker."""
    algorithm = gdsec_jax.federate(
        worker.gradient_difference(piece),
        num_workers,
        server=gdsec_jax.server.Server(prepare=gdsec_jax.gradient_estimate),
        key=key,
        wire="bitmap",
    )
    params = jnp.zeros(5)
    grads = jnp.asarray(gradients((rounds, num_workers, 5), seed=1))

    @jax.jit
    def all_rounds(state):
        def one(state, g):
            update, state = algorithm.update(g, state, params)
            sent = gdsec_jax.last_round(state)
            return state, (update, _packing.whole_of(state.workers), sent)

        return jax.lax.scan(one, state, grads)[1]

    return grads, *all_rounds(algorithm.init(params))


def test_the_coin_is_common_to_all_workers_and_as_likely_as_it_should_be():
    _, _, whole, sent = run_change(worker.gradient_change(nothing, 0.3), 2000)
    whole = np.asarray(whole)
    assert (whole == whole[:, :1]).all()
    assert whole[0].all()
    slack = np.sqrt(np.log(2 / 1e-9) / (2 * 1999))  # Hoeffding's inequality
    assert abs(whole[1:, 0].mean() - 0.3) <= slack
    np.testing.assert_array_equal(sent.bits, np.where(whole, 160, 0))


@pytest.mark.parametrize(
    ("probability", "expected"), [(None, 0.5), (lambda params: 0.9, 0.9)]
)
def test_the_probability_is_of_the_compressor_or_a_function(probability, expected):
    piece = worker.gradient_change(nothing, probability)
    _, _, whole, _ = run_change(piece, 1000, num_workers=1)
    slack = np.sqrt(np.log(2 / 1e-9) / (2 * 999))
    assert abs(np.asarray(whole)[1:].mean() - expected) <= slack


def test_between_full_rounds_only_the_change_is_compressed():
    twice = worker.Piece(  # not what its name says: to tell it apart
        optax.init_empty_state,
        lambda u, state, params=None, **extra: (
            jax.tree.map(lambda x: 2 * x, u),
            state,
        ),
        variance=lambda params: 1.0,
    )
    grads, updates, whole, _ = run_change(worker.gradient_change(twice, 0.4), 20)
    whole = np.asarray(whole)[:, 0]
    assert 3 < whole.sum() < 15
    memory, previous = np.zeros((4, 5)), np.zeros((4, 5))
    for g, update, full in zip(np.asarray(grads), updates, whole, strict=True):
        memory = g if full else memory + 2 * (g - previous)
        previous = g
        np.testing.assert_allclose(update, memory.sum(0), rtol=1e-4, atol=1e-4)


def test_a_lost_worker_keeps_its_previous_gradient():
    algorithm = gdsec_jax.marina(2, worker.random_k(5), probability=1e-9, key=0)
    params = jnp.zeros(5)
    state, update = algorithm.init(params), jax.jit(algorithm.update)
    g = gradients((3, 2, 5))
    _, state = update(g[0], state, params)
    broken = g[1].copy()
    broken[1, 2] = np.nan
    _, state = update(broken, state, params)
    previous = state.workers.compressor.gradient
    np.testing.assert_array_equal(previous, np.stack([g[1, 0], g[0, 1]]))
    total, _ = update(g[2], state, params)
    np.testing.assert_allclose(total, g[2].sum(0), rtol=1e-5, atol=1e-6)


def test_dtypes_of_the_previous_gradient():
    params = jnp.zeros(2, jnp.bfloat16)
    piece = worker.gradient_change(worker.random_k(1), 0.5)
    assert piece.init(params).gradient.dtype == jnp.float32
    piece = worker.gradient_change(worker.random_k(1), 0.5, state_dtype="float16")
    assert piece.init(params).gradient.dtype == jnp.float16


def test_bad_input():
    for eta in (-0.1, 1.1, float("nan"), None):
        with pytest.raises(ValueError, match=r"eta is .*, expected .*number in \[0, 1"):
            worker.momentum(eta)
    for probability in (-0.1, 1.1):
        message = r"probability is .*, expected a number in \[1e-09, 1\]"
        with pytest.raises(ValueError, match=message):
            worker.gradient_change(worker.random_k(1), probability)
    for make in (
        lambda: worker.momentum(0.5, state_dtype="int8"),
        lambda: worker.gradient_change(worker.random_k(1), state_dtype="int8"),
        lambda: worker.clag(worker.top_k(1), 0.5, state_dtype="int8"),
    ):
        with pytest.raises(
            ValueError, match="state_dtype is 'int8', expected a floati"
        ):
            make()
    params, g = jnp.zeros(3), jnp.ones((1, 3))
    piece = worker.gradient_change(worker.random_k(1))
    algorithm = gdsec_jax.federate(worker.gradient_difference(piece), 1)
    message = "key is None, .*: gradient_change draws, so hand federate a key"
    with pytest.raises(ValueError, match=message):
        algorithm.update(g, algorithm.init(params), params)
    with pytest.raises(ValueError, match="expected a worker.Piece that declares its"):
        gdsec_jax.marina(1, worker.top_k(1), probability=0.5)
