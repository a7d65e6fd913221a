"""Trees of arrays in folders, which orbax writes and reads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def save(path: Path, tree: Any) -> None:
    """Write the arrays of a tree, by orbax."""
    import orbax.checkpoint as ocp

    # Without empty ones, which orbax refuses.
    arrays = {str(i): x for i, x in enumerate(jax.tree.leaves(tree)) if x.size}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, arrays)


def load(path: Path, like: Any) -> Any:
    """The tree that `save` wrote, onto other devices if need be.

    Args:
      path: of the folder.
      like: the tree's arrays, or jax.ShapeDtypeStructs with the shardings that they are
        to have, whatever those were that they had.
    """
    import orbax.checkpoint as ocp

    leaves, structure = jax.tree.flatten(like)
    target = {
        str(i): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for i, x in enumerate(leaves)
        if x.size
    }
    where = ocp.checkpoint_utils.construct_restore_args(target)
    with ocp.PyTreeCheckpointer() as checkpointer:
        arrays = checkpointer.restore(path, item=target, restore_args=where)
    return structure.unflatten(
        _as_bound(x, arrays[str(i)]) if x.size else _empty(x)
        for i, x in enumerate(leaves)
    )


def _as_bound(like: Any, array: jax.Array) -> jax.Array:
    """The array, free to follow others to their devices if `like` is.

    What is bound to a device compiles anew what was compiled for arrays that are not.
    """
    if getattr(like, "committed", True):
        return array
    if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jnp.array(np.asarray(array))
    data = jnp.array(np.asarray(jax.random.key_data(array)))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))


def _empty(like: Any) -> jax.Array:
    array = jnp.zeros(like.shape, like.dtype)
    bound = getattr(like, "committed", True)
    return jax.device_put(array, like.sharding) if bound else array
