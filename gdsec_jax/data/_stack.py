"""Each worker's samples side by side in arrays with a leading axis of workers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy


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
