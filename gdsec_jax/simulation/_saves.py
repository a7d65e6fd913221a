"""The files of one save: the state, which orbax writes, and its rounds' records.

What rounds left behind since the save before is a part, a file that is named after the
last of its rounds and a checksum of what it holds, as in
0000000200-5f70bf18a086007016e948b04aed3b82.npz: what is not as it was written is never
parsed.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax.files import _whole

KEPT = 2  # states: the newest, and another should it be damaged


class Part(NamedTuple):
    """Some rounds of a run, and what is known of the run after them."""

    begin: int  # the rounds before these
    end: int  # the last of these
    seconds: float  # that the run took until then
    fingerprint: dict[str, str]  # of the run, by what is in it
    files: dict[str, str]  # the SHA-256 of each file of the state, by its name
    records: list[np.ndarray]  # [rounds, ...] each


def write_part(folder: Path, part: Part) -> None:
    """Write a part into a folder, whole or not at all."""
    about, buffer = part._replace(records=[])._asdict(), io.BytesIO()
    np.savez(buffer, *part.records, about=json.dumps(about))
    path = folder / f"{part.end:010}-{_sum(buffer.getvalue())}.npz"
    with _whole.whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_part(path: Path) -> Part | None:
    """The part that was written; None if the file holds anything else."""
    data = path.read_bytes()
    if path.stem.partition("-")[2] != _sum(data):
        return None
    with np.load(io.BytesIO(data)) as file:  # which gives bfloat16, say, as mere bytes
        records = [file[f"arr_{i}"] for i in range(len(file.files) - 1)]
        return Part(**json.loads(str(file["about"])))._replace(records=records)


def sums_of_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its name there."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.relative_to(folder).as_posix()] = digest
    return sums


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def manager(folder: Path) -> Any:
    """Orbax's manager of the states in a folder, which works in this thread alone.

    Of those that are there it reads the numbers alone: one may be damaged.
    """
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT,
        enable_async_checkpointing=False,
        lightweight_initialize=True,
        num_deletion_threads=1,  # with more each removal takes at least 0.1 s
    )
    return ocp.CheckpointManager(folder, options=options)


def write_state(states: Any, number: int, tree: Any) -> None:
    """Write a tree of arrays as the newest state, after a round, and remove old ones.

    Without its empty arrays, which orbax refuses.
    """
    import orbax.checkpoint as ocp

    arrays = {str(i): x for i, x in enumerate(jax.tree.leaves(tree)) if x.size}
    states.save(number, args=ocp.args.PyTreeSave(arrays), force=True)


def read_state(states: Any, number: int, like: Any) -> Any:
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


def _placed(array: np.ndarray, like: jax.Array) -> jax.Array:
    """The array where another one is, and free to follow others if that is.

    What is bound to a device compiles anew what was compiled for arrays that are not.
    """
    placed = jnp.array(array)
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        placed = jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like))
    return jax.device_put(placed, like.sharding) if like.committed else placed
