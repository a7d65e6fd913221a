"""Every method's update, exported for accelerators that this machine need not have."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import methods, random_gradients
from jax import export

NUM_WORKERS = 3
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
PARAMS = {"weight": jnp.ones((3, 2)), "bias": jnp.full(2, 0.5, jnp.float32)}


def _on_leaves(algorithm, state):
    """The update as a function of flat lists, and one for it to start with.

    Of lists an exported program can be written to bytes as it is. Of named tuples, as
    most states are, each type would first have to be registered.
    """
    gradients = random_gradients(PARAMS, NUM_WORKERS, seed=0)
    leaves, structure = jax.tree.flatten((gradients, state, PARAMS))

    def update(leaves):
        return jax.tree.leaves(algorithm.update(*jax.tree.unflatten(structure, leaves)))

    return jax.jit(update), leaves


@methods()
def test_exports_for_every_platform(method):
    pytest.importorskip("flatbuffers", reason="extra test: bytes of exported programs")
    algorithm = method.make(NUM_WORKERS)
    update, leaves = _on_leaves(algorithm, jax.eval_shape(algorithm.init, PARAMS))
    exported = export.export(update, platforms=PLATFORMS)(leaves)
    back = export.deserialize(exported.serialize())
    assert back.platforms == exported.platforms == PLATFORMS
    assert back.in_avals == exported.in_avals
    assert back.out_avals == exported.out_avals
    assert bytes(back.mlir_module_serialized) == bytes(exported.mlir_module_serialized)


@methods(dear=True)
def test_an_exported_update_is_the_update(method):
    pytest.importorskip("flatbuffers", reason="extra test: bytes of exported programs")
    algorithm = method.make(NUM_WORKERS)
    update, leaves = _on_leaves(algorithm, algorithm.init(PARAMS))
    exported = export.export(update, platforms=PLATFORMS)(leaves)
    call = export.deserialize(exported.serialize()).call
    first, same = update(leaves), call(leaves)
    chex.assert_trees_all_close(same, first, rtol=1e-6)
    # Into a second round, where memories hold something and parameters have moved.
    size = len(PARAMS)
    gradients = [2.0 * x + 1.0 for x in leaves[:size]]
    params = [x + 0.1 for x in leaves[-size:]]
    second = [*gradients, *first[size:], *params]
    ours, theirs = update(second), call(second)
    assert any(np.any(x != y) for x, y in zip(ours[:size], first[:size], strict=True))
    chex.assert_trees_all_close(theirs, ours, rtol=1e-6)
