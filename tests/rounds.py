"""Rounds of any algorithm, the faults that befall them, and comparing two courses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import gdsec_jax
from gdsec_jax import WorkerBatches

MAX_DELAY = 3


def drawn_faults(seed, late, shape):
    """Arguments of update, [rounds, M]."""
    rng = np.random.default_rng(seed)
    given = {
        "active": jnp.asarray(rng.random(shape) < 0.7),
        "delivered": jnp.asarray(rng.random(shape) < 0.7),
    }
    if late:
        delay = rng.integers(0, MAX_DELAY + 1, shape)
        given["delay"] = jnp.asarray(delay, jnp.int32)
    return given


def rounds_of(optimizer, params, gradients, size=None, said=None, jit=True, **fixed):
    """Updates and counts of all rounds, and the last state.

    Args:
      size: of batches that gradients are handed in; None for all at once.
      said: extra arguments of the update, [rounds, ...].
      fixed: further ones, the same in each round.
    """

    def one(grads, state, params, said):
        if size is not None:
            grads = WorkerBatches(lambda index, own: own, grads, size)
        updates, state = optimizer.update(grads, state, params, **said, **fixed)
        moved = jax.tree.map(
            lambda p, u: (p - 0.1 * u).astype(p.dtype), params, updates
        )
        return updates, state, moved

    one = jax.jit(one) if jit else one
    state, out = optimizer.init(params), []
    for k in range(jax.tree.leaves(gradients)[0].shape[0]):
        now = jax.tree.map(lambda x, k=k: x[k], (gradients, said or {}))
        updates, state, params = one(now[0], state, params, now[1])
        out.append((updates, gdsec_jax.last_round(state)))
    return out, state


def assert_same(a, b, tolerance=1e-12):
    """Equal up to rounding; what is not rounded, exactly."""
    chex.assert_trees_all_equal_structs(a, b)
    chex.assert_trees_all_equal_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if jnp.issubdtype(x.dtype, jnp.floating):
            x, y = (np.asarray(z, np.float64) for z in (x, y))
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(x, y)


def small(dtype=jnp.float32):
    """A matrix, for methods that do nothing to a vector."""
    return {"matrix": jnp.full((4, 2), 0.5, dtype)}


def scanned(algorithm, params, gradients, faults, absent="hold"):
    """The update and the state of every round, theta moving with the update."""

    def one(carry, given):
        params, state = carry
        gradients, faults = given
        update, state = algorithm.update(
            gradients, state, params, absent=absent, **faults
        )
        params = jax.tree.map(lambda p, u: p - 0.05 * u.astype(p.dtype), params, update)
        return (params, state), (update, state)

    @jax.jit
    def all_rounds(params, gradients, faults):
        start = params, algorithm.init(params)
        return jax.lax.scan(one, start, (gradients, faults))[1]

    return all_rounds(params, gradients, faults)
