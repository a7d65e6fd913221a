"""Workers' data side by side, in arrays with a leading axis of workers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy

from gdsec_jax._devices import BY_DEVICE, mesh_of


class SparseRows(NamedTuple):
    """The non-zeros of each worker's rows, padded with explicit zeros."""

    values: np.ndarray  # [M, nnz]
    indices: np.ndarray  # int32 [M, nnz, 2]: row among the worker's samples, column


class Shards(NamedTuple):
    """All samples, split over M workers; n is the largest number a worker has."""

    features: np.ndarray | SparseRows  # [M, n, D]
    targets: np.ndarray  # [M, n]
    weight: np.ndarray  # [M, n]: 1/N for a sample, 0 for padding


def stack(features, targets, parts: Sequence[np.ndarray]) -> Shards:
    """Stack each worker's samples, padded to the same number.

    A loss that multiplies each sample's term by its weight and sums them is a summand
    of the mean over all N samples, and padding leaves its gradient untouched.

    Args:
      features: [N, D], an array or a scipy.sparse matrix; sparse stays sparse.
      targets: [N].
      parts: of `split`: the indices of each worker's samples.

    Returns:
      NumPy arrays with a leading axis of M workers.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import data
      >>> parts = [np.array([2, 0]), np.array([1])]
      >>> shards = data.stack(np.eye(3), np.arange(3), parts)
      >>> shards.targets, shards.weight[1].round(2)
      (array([[2, 0],
             [1, 0]]), array([0.33, 0.  ]))
    """
    num_samples = sum(len(part) for part in parts)
    rows = max(len(part) for part in parts)
    dtype = np.promote_types(features.dtype, np.float32)
    ones = np.ones(features.shape[0], dtype)
    if scipy.sparse.issparse(features):
        stacked = _stack_sparse(scipy.sparse.csr_array(features), parts)
    else:
        stacked = _pad(features, parts, rows)
    return Shards(
        features=stacked,
        targets=_pad(np.asarray(targets), parts, rows),
        weight=_pad(ones, parts, rows) / dtype.type(num_samples),
    )


def _pad(array: np.ndarray, parts, rows: int) -> np.ndarray:
    out = np.zeros((len(parts), rows, *array.shape[1:]), array.dtype)
    for worker, part in enumerate(parts):
        out[worker, : len(part)] = array[part]
    return out


def _stack_sparse(features: "scipy.sparse.csr_array", parts) -> SparseRows:
    blocks = [features[part].tocoo() for part in parts]
    most = max(block.nnz for block in blocks)
    values = np.zeros((len(parts), most), features.dtype)
    indices = np.zeros((len(parts), most, 2), np.int32)
    for worker, block in enumerate(blocks):
        values[worker, : block.nnz] = block.data
        indices[worker, : block.nnz, 0] = block.row
        indices[worker, : block.nnz, 1] = block.col
    return SparseRows(values, indices)


def spread(
    load: Callable[[int], Any], num_workers: int, mesh: jax.sharding.Mesh
) -> Any:
    """Arrays of all workers' data, of which each process loads what its devices hold.

    Args:
      load: from a worker's number to its data, a tree of arrays: the same shapes and
        dtypes for all workers; pad what is shorter.
      num_workers: M, a multiple of the mesh's devices.
      mesh: over which workers are spread, as by `simulate(mesh=)`.

    Returns:
      The tree with leaves [M, ...], `worker_data` for `problems.from_loss`.

    Raises:
      ValueError: mesh is no mesh; M is no such multiple; a worker's data has another
        shape or dtype than the first one's of this process.

    Examples:
      >>> import jax, numpy as np
      >>> from gdsec_jax import data
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("workers",))
      >>> def load(m):  # a file of its own, say
      ...     return {"x": np.full(3, float(m)), "y": np.float64(m)}
      >>> data.spread(load, 2, mesh)["y"].tolist()
      [0.0, 1.0]
    """
    sharding = jax.sharding.NamedSharding(mesh_of(mesh, num_workers), BY_DEVICE)
    places = sharding.addressable_devices_indices_map((num_workers,))
    parts, like = [], None
    for device, (index,) in places.items():  # pyright: ignore
        rows = []
        for m in range(num_workers)[index]:
            leaves, structure = jax.tree.flatten(load(m))
            leaves = [np.asarray(leaf) for leaf in leaves]
            own = structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
            like = like or (m, own)
            if own != like[1]:
                raise ValueError(
                    f"worker {m}'s data is {own[1]} in {own[0]}, expected that of "
                    f"worker {like[0]}: {like[1][1]} in {like[1][0]}."
                )
            rows.append(leaves)
        # One device's workers at a time: all of them at once may be too many.
        stacked = [np.stack(column) for column in zip(*rows, strict=True)]
        parts.append([jax.device_put(leaf, device) for leaf in stacked])
    assert like is not None  # each process has a device
    arrays = [
        jax.make_array_from_single_device_arrays(
            (num_workers, *own[0].shape[1:]), sharding, list(own)
        )
        for own in zip(*parts, strict=True)
    ]
    return jax.tree.unflatten(like[1][0], arrays)
