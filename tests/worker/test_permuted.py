"""Perm-K: what its messages add up to, its variances, and what travels of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import round_trip

import gdsec_jax
from gdsec_jax import wire, worker


def messages_of(piece, v, key):
    """Of each worker's vector, [M, D]."""

    def one(v, m):
        known = {"round_key": key, "worker_index": m}
        return piece.update(v, piece.init(v), v, **known)

    return jax.vmap(one)(v, jnp.arange(len(v)))


@pytest.mark.parametrize("length", [12, 14])
def test_each_entry_is_sent_by_one_worker(length):
    v = jnp.asarray(np.random.default_rng(0).normal(size=(4, length)), jnp.float32)
    piece = worker.perm_k(4)
    one = jax.jit(functools.partial(messages_of, piece, v))
    seen = set()
    for seed in range(6):
        messages, packing = one(jax.random.key(seed))
        sent = np.asarray(messages != 0)
        assert (sent.sum(0) == 1).all()
        assert sorted(sent.sum(1)) == sorted(-(-(length - r) // 4) for r in range(4))
        np.testing.assert_array_equal(messages, np.where(sent, 4 * v, 0))
        for m in range(4):
            (values,) = packing.payload
            assert values.shape == (4, -(-length // 4))
            own = np.asarray(messages[m])
            np.testing.assert_array_equal(values[m][: sent[m].sum()], own[own != 0])
            assert not values[m][sent[m].sum() :].any()
        seen.add(sent.tobytes())
    assert len(seen) == 6
    equal, _ = messages_of(piece, jnp.tile(v[:1], (4, 1)), jax.random.key(0))
    np.testing.assert_array_equal(equal.sum(0), 4 * v[0])


@pytest.mark.parametrize("length", [8, 10])
def test_it_is_unbiased_with_its_variances(length):
    """Also where blocks differ in length; the joint one is reached by a sum of 0."""
    rng = np.random.default_rng(1)
    v = rng.normal(size=(4, length))
    v -= v.mean(0)
    piece, keys = worker.perm_k(4), jax.random.split(jax.random.key(2), 20_000)
    each = jax.jit(jax.vmap(lambda key: messages_of(piece, jnp.float32(v), key)[0]))
    messages = np.asarray(each(keys), np.float64)
    deviation = 4 * np.abs(v) / np.sqrt(len(keys))
    assert (np.abs(messages.mean(0) - v) <= 6 * deviation).all()
    total = (v**2).sum()
    own = ((messages - v) ** 2).sum((1, 2)).mean()
    assert own == pytest.approx(worker.variance_of(piece, v[0]) * total, rel=0.02)
    joint = ((messages - v).sum(1) ** 2).sum(1).mean()
    bound = worker.joint_variance_of(piece, v[0]) * total
    assert joint == pytest.approx(bound, rel=0.02)
    assert worker.joint_variance_of(worker.perm_k(1), v[0]) == 0
    assert worker.joint_variance_of(worker.random_k(2), v[0]) == length / 2 - 1


@pytest.mark.parametrize(("owners", "cohort"), [(2, 4), (2, 3), (4, 4)])
def test_several_own_an_entry(owners, cohort):
    """Each has s owners of the cohort; unbiased, with the variances that it says."""
    rng = np.random.default_rng(1)
    v = rng.normal(size=(4, 6))
    v -= v.mean(0)
    piece = worker.perm_k(4, owners, cohort)
    keys = jax.random.split(jax.random.key(2), 20_000)
    each = jax.jit(jax.vmap(lambda key: messages_of(piece, jnp.float32(v), key)[0]))
    messages = np.asarray(each(keys), np.float64)
    assert ((messages != 0).sum(1) == owners).all()
    assert ((messages != 0).any(2).sum(1) == cohort).all()
    np.testing.assert_allclose(messages.mean(0), v, atol=0.12)
    total = (v**2).sum()
    own = ((messages - v) ** 2).sum((1, 2)).mean()
    joint = ((messages - v).sum(1) ** 2).sum(1).mean()
    for found, known in (
        (own, worker.variance_of(piece, v[0])),
        (joint, worker.joint_variance_of(piece, v[0])),
    ):
        assert found == pytest.approx(known * total, rel=0.03, abs=1e-9)


def test_its_values_are_all_that_travels():
    piece, params = worker.perm_k(4), {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    algorithm = gdsec_jax.federate(piece, 4, key=0)
    grads = jax.tree.map(lambda p: jnp.ones((4, *p.shape)), params)
    update, state = algorithm.update(grads, algorithm.init(params), params)
    assert all((x == 4).all() for x in jax.tree.leaves(update))
    sent = gdsec_jax.last_round(state)
    assert sent.entries.tolist() == [3] * 4 and sent.bits.tolist() == [96] * 4
    packing = jax.tree.map(lambda x: x[0], state.workers)
    message = wire.message_of(jax.tree.map(jnp.ones_like, params), packing)
    assert len(round_trip(message, "rle")) == 12


def test_bad_input():
    with pytest.raises(ValueError, match="num_workers is 0"):
        worker.perm_k(0)
    piece, v = worker.perm_k(2), jnp.ones(3)
    with pytest.raises(ValueError, match="key is None, .*: perm_k draws, so hand"):
        piece.update(v, piece.init(v))
    with pytest.raises(ValueError, match="worker_index is None, expected .*perm_k"):
        piece.update(v, piece.init(v), round_key=jax.random.key(0))
    other = gdsec_jax.federate(worker.perm_k(4), 5, key=0)
    with pytest.raises(ValueError, match="to 4 workers, expected the federation's 5"):
        other.update(jnp.ones((5, 3)), other.init(v), v)
