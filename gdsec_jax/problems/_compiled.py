"""Gradients of linear problems in one pass over the features, by a compiled kernel.

The loss that XLA compiles defines them. A kernel reads each row once, for x . theta and
for its part of the gradient; of features with many zeros it reads a copy without them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from gdsec_jax import _native

LOSSES = {"square": 0, "logistic": 1, "sigmoid_square": 2}
BLOCK = 8  # columns
# Beyond so many settings side by side XLA's products of matrices are faster.
MOST_SETTINGS = 8
# What a number costs to read, in nanoseconds: of dense features, a non-zero by its
# column, one without a value, a block, one of codes. Measured; ratios matter alone.
COSTS = {"dense": 0.6, "entries": 1.5, "ones": 1.0, "blocks": 5.0, "codes": 2.2}


class Rows(NamedTuple):
    """A worker's features without most zeros, as entries or as blocks of columns."""

    starts: Any  # int32 [n + 1], of each row
    columns: Any  # uint16 or int32 [Z], of entries; uint16 of blocks
    values: Any  # [Z]; [0] if all are one; of blocks [Z, 8], or uint8 codes
    scale: Any  # [], of codes


def rows_of(features: Any, parts: Sequence[np.ndarray], dtype: Any) -> Rows | None:
    """NumPy arrays with a leading axis of workers; None if dense ones cost less.

    Args:
      features: [N, D], an array or a scipy.sparse.csr_array.
      parts: the rows of each worker.
      dtype: of the values, float32 or float64.
    """
    if not _native.used() or jnp.dtype(dtype).name not in _native.STATES:
        return None
    sparse = scipy.sparse.csr_array(features)
    sparse.eliminate_zeros()
    num_rows, length = features.shape
    values = sparse.data.astype(dtype)
    ones, unit = bool(np.all(values == 1)), _unit_of(values)
    rows = np.repeat(np.arange(num_rows), np.diff(sparse.indptr))
    per_row = -(-length // BLOCK)
    costs = {
        "dense": COSTS["dense"] * num_rows * length,
        "entries": COSTS["ones" if ones else "entries"] * sparse.nnz,
    }
    if per_row < 2**16:
        keys = np.unique(rows * per_row + sparse.indices // BLOCK)
        costs["blocks"] = COSTS["codes" if unit else "blocks"] * keys.size
    kind = min(costs, key=lambda name: costs[name])
    if kind == "dense":
        return None
    if kind == "entries":
        index = np.uint16 if length <= 2**16 else np.int32
        numbers = values[:0] if ones else values
        return _stacked(
            sparse.indptr, sparse.indices.astype(index), numbers, 1.0, parts
        )
    at = np.searchsorted(keys, rows * per_row + sparse.indices // BLOCK)
    eights = np.zeros((keys.size, BLOCK), np.uint8 if unit else dtype)
    eights[at, sparse.indices % BLOCK] = np.round(values / unit) if unit else values
    starts = np.searchsorted(keys, np.arange(num_rows + 1) * per_row)
    columns = (keys % per_row).astype(np.uint16)
    return _stacked(starts, columns, eights, unit or 1.0, parts)


def bare(tree: Any) -> Any:
    """A problem, say, without what kernels read beside its data."""
    return jax.tree.map(
        lambda x: None if isinstance(x, Rows) else x,
        tree,
        is_leaf=lambda x: isinstance(x, Rows),
    )


def _unit_of(values: np.ndarray) -> float | None:
    """Of which all values are multiples, up to 255 times, to a rounding."""
    if values.size == 0 or values.min() <= 0:
        return None
    unit = values.min()
    codes = np.round(values / unit)
    fits = np.abs(codes * unit - values) <= np.finfo(values.dtype).eps * values
    return float(unit) if codes.max() <= 255 and fits.all() else None


def _stacked(starts, columns, values, scale, parts: Sequence[np.ndarray]) -> Rows:
    """Each worker's rows, padded to the same numbers."""
    most = max(len(part) for part in parts)
    own = []
    for part in parts:
        lengths = np.diff(starts)[part]
        first = np.concatenate([[0], np.cumsum(lengths)])
        index = np.repeat(starts[:-1][part] - first[:-1], lengths)
        index = index + np.arange(first[-1])
        first = np.pad(first, (0, most - len(part)), mode="edge")
        own.append((first.astype(np.int32), index))
    longest = max(1, *(index.size for _, index in own))

    def padded(array, index):
        taken = array[index] if array.size else array
        if not array.size:
            return taken
        return np.concatenate(
            [taken, np.zeros((longest - index.size, *array.shape[1:]), array.dtype)]
        )

    return Rows(
        starts=np.stack([first for first, _ in own]),
        columns=np.stack([padded(columns, index) for _, index in own]),
        values=np.stack([padded(values, index) for _, index in own]),
        scale=np.full(len(parts), scale),
    )


class Model(NamedTuple):
    """What a kernel is handed of a worker, or of all, [M, ...]."""

    features: Any  # dense, [n, D], or `Rows`
    targets: Any  # [n]
    weight: Any  # [n]
    regularization: jax.Array  # []


def with_kernel(loss: Callable, name: str, model_of: Callable) -> Callable:
    """The loss, whose gradient a kernel computes on CPUs; XLA its other derivatives.

    Args:
      loss: (params [D], worker) to a scalar, as XLA compiles it.
      name: of `LOSSES`, what a sample's is; beside them there is lambda |theta|^2 / 2.
      model_of: from worker to `Model`, lambda 0 if there is no penalty.
    """
    slope = jax.grad(loss)

    def kernel(params, worker):
        return _gradient(LOSSES[name], slope, params, worker, model_of)

    # Jitted, or what is called without jit would compile in every call.
    gradient = jax.jit(_native.on_cpu(kernel, slope))

    @jax.custom_jvp
    def value(params, worker):
        return loss(params, worker)

    @functools.partial(value.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
        if _zero(tangents[1]):
            out = loss(*primals)
            return out, jnp.vdot(gradient(*primals), _instantiated(tangents[0]))
        return jax.jvp(loss, primals, jax.tree.map(_instantiated, tangents))

    return value


def _gradient(code: int, slope: Callable, params: Any, worker: Any, model_of: Callable):
    """[D] of one worker; of all workers in one call, of settings in one or by XLA."""
    custom_vmap = jax.custom_batching.custom_vmap

    def by_xla(function, batched, *arguments):
        axes = jax.tree.map(lambda each: 0 if each else None, tuple(batched))
        return jax.vmap(function, axes)(*arguments), True

    @custom_vmap
    def one(params, worker):
        model = jax.tree.map(lambda x: x[None], model_of(worker))
        return _call(code, params, model)[0]

    @one.def_vmap
    def _(size, batched, params, worker):
        if batched[0] or not all(jax.tree.leaves(batched[1])):
            return by_xla(slope, batched, params, worker)
        return of_all(params, worker), True

    @custom_vmap
    def of_all(params, workers):
        return _call(code, params, jax.vmap(model_of)(workers))

    @of_all.def_vmap
    def _(size, batched, params, workers):
        dense = isinstance(workers.shards.features, jax.Array)
        if any(jax.tree.leaves(batched[1])) or (dense and size > MOST_SETTINGS):
            return by_xla(jax.vmap(slope, (None, 0)), batched, params, workers)
        return _call(code, params, jax.vmap(model_of)(workers)), True

    return one(params, worker)


def _call(code: int, params: jax.Array, model: Model) -> jax.Array:
    """[M, D], or [S, M, D] for params [S, D]."""
    features, *rest = model
    num_workers = model.regularization.shape[0]
    lead, length = params.shape[:-1], params.shape[-1]
    out = jax.ShapeDtypeStruct((*lead, num_workers, length), params.dtype)
    name, given = "gdsec_dense", (features,)
    if isinstance(features, Rows):
        name, given = "gdsec_entries", features[:-1]
        if features.values.ndim == 3:
            name, given = "gdsec_blocks", features
    call = jax.ffi.ffi_call(name, out, vmap_method="sequential")
    targets, weight, regularization = rest
    return call(*given, targets, weight, params, regularization, loss=np.int64(code))


def _zero(tangents: Any) -> bool:
    """Whether all tangents are symbolic zeros."""
    kind = jax.custom_derivatives.SymbolicZero
    return all(isinstance(x, kind) for x in jax.tree.leaves(tangents))


def _instantiated(tangent: Any) -> Any:
    """Zeros for a symbolic zero."""
    if not _zero(tangent):
        return tangent
    zeros: Any = np.zeros if tangent.dtype == jax.dtypes.float0 else jnp.zeros
    return zeros(tangent.shape, tangent.dtype)
