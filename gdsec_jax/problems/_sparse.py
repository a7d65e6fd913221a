"""Sparse features: products with them and with their transpose, both by reading."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from gdsec_jax import _checks

# What segments may be wide, beside the length of the longest row.
WIDTHS = tuple(2**k for k in range(2, 10))
# Adding a segment's sum to its row takes as long as reading so many non-zeros.
SEGMENT_COST = 4


class Segments(NamedTuple):
    """A matrix as segments of its rows, W entries each, padded with zeros.

    A long row has several. Sums over a segment are vectorised and its reads run on all
    cores, where a scatter of every non-zero would do neither.
    """

    values: Any  # [T, W]
    columns: Any  # int32 [T, W]
    rows: Any  # int32 [T], ascending; None if every row has just one


class SparseFeatures(NamedTuple):
    """X, and X^T once more: for values read one, for gradients both."""

    by_sample: Segments
    by_feature: Segments


def sparse_features(
    features: "scipy.sparse.csr_array", parts: Sequence[np.ndarray]
) -> SparseFeatures:
    """NumPy arrays with a leading axis of workers."""
    most = max(len(part) for part in parts)
    own = [features[part] for part in parts]
    for rows in own:
        rows.resize(most, features.shape[1])
    return SparseFeatures(
        segments_of(own), segments_of([scipy.sparse.csr_array(x.T) for x in own])
    )


def segments_of(matrices: Sequence["scipy.sparse.csr_array"]) -> Segments:
    """Matrices of one shape as stacked segments, of the width that is the fastest."""
    lengths = [np.diff(matrix.indptr) for matrix in matrices]
    longest = max(1, *(each.max() for each in lengths))
    num_rows = matrices[0].shape[0]

    def number(width):
        if width >= longest:
            return num_rows
        return max(np.sum(-(-each // width)) for each in lengths)

    def cost(width):
        return number(width) * (width + SEGMENT_COST * (width < longest))

    # A row in one segment needs no more than its entries.
    width = min((*(w for w in WIDTHS if w < longest), longest), key=cost)
    count, whole = number(width), width >= longest
    shape = (len(matrices), count)
    values = np.zeros((*shape, width), matrices[0].dtype)
    columns = np.zeros((*shape, width), np.int32)
    rows = np.full(shape, num_rows - 1, np.int32)
    for m, (matrix, length) in enumerate(zip(matrices, lengths, strict=True)):
        segments = np.ones_like(length) if whole else -(-length // width)
        first = np.cumsum(segments) - segments
        place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], length)
        at = m, np.repeat(first, length) + place // width, place % width
        values[at], columns[at] = matrix.data, matrix.indices
        own = np.repeat(np.arange(num_rows), segments)
        rows[m, : own.size] = own
    return Segments(values, columns, None if whole else rows)


def times(matrix: Segments, x, num_rows: int):
    """matrix @ x: [num_rows], or [num_rows, C] for x [columns, C]."""
    read = x.at[matrix.columns].get(mode="promise_in_bounds")
    values = matrix.values.reshape(matrix.values.shape + (1,) * (x.ndim - 1))
    sums = jnp.sum(values.astype(x.dtype) * read, axis=1)
    if matrix.rows is None:
        return sums
    return jax.ops.segment_sum(
        sums, matrix.rows, num_rows, indices_are_sorted=True, mode="promise_in_bounds"
    )


def weighted_loss(phi: Callable) -> Callable:
    """The sum of weight phi(x . theta, y), of phi [n], with its gradient by X^T."""

    def predict(params, shards):
        return times(shards.features.by_sample, params, shards.targets.shape[0])

    @jax.custom_jvp
    def loss(params, shards):
        z = predict(params, shards)
        return jnp.sum(shards.weight * phi(z, shards.targets))

    def of_sample(z, y, weight):
        return weight * phi(z[None], y[None])[0]

    def slope(sample):
        return jax.grad(of_sample)(*sample)

    @functools.partial(loss.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
        (params, shards), (change, of_data) = primals, tangents
        _checks.derivatives_by_params_alone(of_data)
        z = predict(params, shards)
        # In two parts: XLA would compute a slope anew for every entry that reads it.
        slopes = jax.lax.map(
            slope,
            (z, shards.targets, shards.weight),
            batch_size=max(1, -(-z.shape[0] // 2)),
        )
        gradient = times(shards.features.by_feature, slopes, params.shape[0])
        return loss(params, shards), jnp.vdot(gradient, change)

    return loss
