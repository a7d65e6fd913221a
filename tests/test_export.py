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


@methods()
def test_exports_for_every_platform(method):
    pytest.importorskip("flatbuffers", reason="extra test: bytes of exported programs")
    algorithm = method.make(NUM_WORKERS)
    state = jax.eval_shape(algorithm.init, PARAMS)
    update = export.export(jax.jit(algorithm.update), platforms=PLATFORMS)
    exported = update(random_gradients(PARAMS, NUM_WORKERS, seed=0), state, PARAMS)
    back = export.deserialize(exported.serialize())
    assert back.platforms == exported.platforms == PLATFORMS
    assert back.in_tree == exported.in_tree and back.out_tree == exported.out_tree
    assert back.in_avals == exported.in_avals
    assert back.out_avals == exported.out_avals
    assert bytes(back.mlir_module_serialized) == bytes(exported.mlir_module_serialized)


@methods(dear=True)
def test_an_exported_update_is_the_update(method):
    pytest.importorskip("flatbuffers", reason="extra test: bytes of exported programs")
    algorithm = method.make(NUM_WORKERS)
    update, state = jax.jit(algorithm.update), algorithm.init(PARAMS)
    gradients = random_gradients(PARAMS, NUM_WORKERS, seed=0)
    exported = export.export(update, platforms=PLATFORMS)(gradients, state, PARAMS)
    call = export.deserialize(exported.serialize()).call
    first, state = update(gradients, state, PARAMS)
    same = call(gradients, algorithm.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(same, (first, state), rtol=1e-6)
    # Into a second round, where memories hold something and parameters have moved.
    gradients = jax.tree.map(lambda g: 2.0 * g + 1.0, gradients)
    params = jax.tree.map(lambda p: p + 0.1, PARAMS)
    ours, theirs = update(gradients, state, params), call(gradients, state, params)
    assert any(np.any(ours[0][name] != first[name]) for name in PARAMS)
    chex.assert_trees_all_close(theirs, ours, rtol=1e-6)
