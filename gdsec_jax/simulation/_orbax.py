"""The last states of a run in a folder, which orbax writes, numbers and removes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KEPT = 2  # states: the newest, and another should it be damaged


def manager(folder: Path) -> Any:
    """Orbax's manager of the states in a folder, which works in this thread alone.

    Of the states that are there it reads the numbers and nothing else, for one may be
    damaged or half removed; its `reload` would read more.
    """
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT,
        enable_async_checkpointing=False,
        lightweight_initialize=True,
        num_deletion_threads=1,  # with more each removal takes at least 0.1 s
    )
    return ocp.CheckpointManager(folder, options=options)


def save(states: Any, number: int, tree: Any) -> None:
    """Write a tree of arrays as the newest state, after a round, and remove old ones.

    Without its empty arrays, which orbax refuses.
    """
    import orbax.checkpoint as ocp

    arrays = enumerate(map(_without_key_type, jax.tree.leaves(tree)))
    kept = ocp.args.PyTreeSave({str(i): x for i, x in arrays if x.size})
    states.save(number, args=kept, force=True)


def load(states: Any, number: int, like: Any) -> Any:
    """The tree that `save` wrote, where the arrays are that it is like."""
    import orbax.checkpoint as ocp

    leaves, structure = jax.tree.flatten(like)
    names = {
        str(i): ocp.RestoreArgs(np.ndarray) for i, x in enumerate(leaves) if x.size
    }
    target = dict.fromkeys(names, 0)
    found = states.restore(number, args=ocp.args.PyTreeRestore(target, names))
    return structure.unflatten(
        _placed(found[str(i)], x) if x.size else x for i, x in enumerate(leaves)
    )


def _without_key_type(array: jax.Array) -> jax.Array:
    typed = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if typed else array


def _placed(array: np.ndarray, like: jax.Array) -> jax.Array:
    """The array where another one is, and free to follow others if that is.

    What is bound to a device compiles anew what was compiled for arrays that are not.
    """
    placed = jnp.array(array)
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        placed = jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like))
    return jax.device_put(placed, like.sharding) if like.committed else placed
