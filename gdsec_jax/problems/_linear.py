"""Problems whose loss sees a sample's features through x . theta alone."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from gdsec_jax import _checks, _native, _trees, data
from gdsec_jax.data._dataset import canonical, complete, is_real, real
from gdsec_jax.data._splits import indices
from gdsec_jax.problems import _compiled, _constants
from gdsec_jax.problems._optima import Optimum
from gdsec_jax.problems._problem import ErrorMeasure, Problem
from gdsec_jax.problems._sparse import SparseFeatures, sparse_features, weighted_loss

# Sparse features with fewer columns and a higher density are faster as dense ones.
DENSE_COLUMNS = 10_000
DENSE_DENSITY = 0.02


class Gram(NamedTuple):
    r"""A quadratic, :math:`\theta^T H \theta / 2 - b \cdot \theta` and a constant.

    Around a center c, with d = theta - c, it is
    :math:`v + s \cdot d + d^T H d / 2`: values are computed so, for near a solution
    they lose no digits; gradients are H theta - b, for a feature that all of a worker's
    samples lack then leaves an exact zero.
    """

    hessian: jax.Array  # H, [D, D]
    linear: jax.Array  # b, [D]
    center: jax.Array  # c, [D]
    slope: jax.Array  # s, [D]
    value: jax.Array  # v, []


def gram_of(features, targets, parts, regularization, center: Any, dtype) -> Gram:
    """The f_m of ridge regression, stacked over workers; computed in float64."""
    num_samples, length = features.shape
    # As the device will have it: the slope is taken at the rounded center.
    center = np.asarray(center, dtype).astype(np.float64)
    convexity = regularization / len(parts)

    def of_worker(part) -> Gram:
        rows, y = features[part], targets[part]
        residual = rows @ center - y
        square = residual @ residual / num_samples + convexity * center @ center
        return Gram(
            hessian=rows.T @ rows / num_samples + convexity * np.eye(length),
            linear=rows.T @ y / num_samples,
            center=center,
            slope=rows.T @ residual / num_samples + convexity * center,
            value=square / 2,
        )

    workers = map(of_worker, parts)
    return jax.tree.map(lambda *own: jnp.asarray(np.stack(own), dtype), *workers)


@jax.custom_jvp
def quadratic(params, gram: Gram, samples):
    """The value at params.

    It does not read the samples that the Gram matrix is of: they are here because a
    derivative by them would be 0, and is refused.
    """
    del samples
    d = params.astype(gram.center.dtype) - gram.center
    return gram.value + _trees.dot(gram.slope + _trees.times(gram.hessian, d) / 2, d)


@functools.partial(quadratic.defjvp, symbolic_zeros=True)
def _quadratic_jvp(primals, tangents):
    (params, gram, _), (change, *of_data) = primals, tangents
    _checks.derivatives_by_params_alone(of_data)
    wide = gram.linear.dtype
    gradient = _trees.times(gram.hessian, params.astype(wide)) - gram.linear
    return quadratic(*primals), _trees.dot(gradient, change.astype(wide))


class LinearData(NamedTuple):
    """A worker's data; of all workers, each leaf has the axis M in front.

    All but the features is in float32 at least, and so is what is computed of them:
    float16 has no place for a weight of 1/N, nor for the sum of N losses.
    """

    shards: data.Shards  # features [n, D], targets [n], weight [n]
    regularization: jax.Array  # lambda / M
    gram: Gram | None = None  # of f_m, where it is quadratic and that is shorter
    rows: _compiled.Rows | None = None  # the features once more, as a kernel reads them


def linear_loss(
    phi: Callable, penalty: Callable | None, compiled: str | None = None
) -> Callable:
    """The f_m of a sample's loss phi(x . theta, y) and a penalty(theta).

    phi takes n samples: x . theta [n], or [n, C] for params [D, C], and y [n]. Where a
    kernel has it, `compiled` is its name.
    """
    sparse_loss = weighted_loss(phi)

    def dense_loss(params, shards):
        features = shards.features.astype(params.dtype)
        z = _trees.times(features, params)
        return jnp.sum(shards.weight * phi(z, shards.targets))

    def data_loss(params, worker: LinearData):
        sparse = isinstance(worker.shards.features, SparseFeatures)
        return (sparse_loss if sparse else dense_loss)(params, worker.shards)

    def with_penalty(loss, params, worker: LinearData):
        if penalty is None:
            return loss(params, worker)
        return loss(params, worker) + worker.regularization * penalty(params)

    folds = penalty is half_square  # whose gradient the kernel adds

    def model_of(worker: LinearData) -> _compiled.Model:
        shards, regularization = worker.shards, worker.regularization
        if not folds:
            regularization = jnp.zeros_like(regularization)
        features = shards.features if worker.rows is None else worker.rows
        return _compiled.Model(features, shards.targets, shards.weight, regularization)

    by_xla = functools.partial(with_penalty, data_loss)
    by_kernel: Any = None
    if compiled is not None:
        inside = by_xla if folds else data_loss
        by_kernel = _compiled.with_kernel(inside, compiled, model_of)
        if not folds:
            by_kernel = functools.partial(with_penalty, by_kernel)

    def worker_loss(params, worker: LinearData):
        if worker.gram is not None:
            return quadratic(params, worker.gram, worker.shards)
        params = params.astype(_trees.widest(params.dtype, jnp.float32))
        if by_kernel is not None and _fits_kernel(params, worker):
            return by_kernel(params, worker)
        return by_xla(params, worker)

    return worker_loss


def _fits_kernel(params, worker: LinearData) -> bool:
    if not _native.used() or params.dtype.name not in _native.STATES:
        return False
    features: Any = worker.shards.features
    if worker.rows is None:  # that are of another dtype, or cost more
        dense = not isinstance(features, SparseFeatures)
        return dense and features.dtype == params.dtype
    return worker.shards.targets.dtype == params.dtype


def half_square(params):
    """|theta|^2 / 2."""
    return _trees.dot(params, params) / 2


class Samples(NamedTuple):
    """Checked features and targets on the host, in float64, and their split."""

    features: Any  # [N, D], an array or scipy.sparse.csr_array
    targets: np.ndarray  # [N]
    parts: Sequence[np.ndarray]
    regularization: float
    dtype: np.dtype  # of the arrays on the device

    @property
    def numbers(self) -> np.ndarray:
        """The targets as the device will have them, in float64."""
        return _stored(self.targets, _trees.widest(self.dtype, jnp.float32))


def samples(
    features: Any, targets, num_workers, regularization, split, seed, dtype
) -> Samples:
    """Check what the user gave, and split it over the workers."""
    _checks.number_of_workers(num_workers)
    features = real("features", features)
    if dtype is None:
        dtype = np.float64 if features.dtype.kind in "biu" else features.dtype
    _checks.dtype("dtype", dtype, "a floating-point dtype")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if scipy.sparse.issparse(features):
        features = canonical(features)
        given = features.data
    else:
        given = features
    values = _stored(given, dtype)
    targets = complete("targets", targets)
    if features.ndim != 2 or min(features.shape) == 0:
        raise ValueError(f"features has shape {features.shape}, expected [N, D].")
    if targets.shape != features.shape[:1]:
        raise ValueError(
            f"targets has shape {targets.shape}, expected ({features.shape[0]},): one "
            "for each row of features."
        )
    numbers = [("features", given, values)]
    if is_real(targets.dtype):  # labels may be words
        numbers.append(("targets", targets, targets))
    for name, array, stored in numbers:
        bad = np.argwhere(~np.isfinite(stored))
        if bad.size:
            where, value = bad[0], array[tuple(bad[0])]
            if array is given and scipy.sparse.issparse(features):
                coordinates = features.tocoo()
                where = coordinates.row[where[0]], coordinates.col[where[0]]
            of = f" of {dtype}" if np.isfinite(value) else ""
            raise ValueError(
                f"{name} holds {value} at [{', '.join(map(str, where))}], expected "
                f"finite numbers{of}."
            )
    if scipy.sparse.issparse(features):
        kept = (values, features.indices, features.indptr)
        features = scipy.sparse.csr_array(kept, features.shape)
    else:
        features = values
    if regularization is None:
        regularization = 1.0 / targets.shape[0]
    _checks.number_in_range("regularization", regularization, 0.0, _checks.LARGEST)
    parts = parts_of(split, targets, num_workers, seed)
    return Samples(features, targets, parts, float(regularization), dtype)


def _held(solution: np.ndarray | None, dtype) -> Any:
    """The solution on the device; None if it is beyond what its dtype holds."""
    if solution is None or not np.isfinite(_stored(solution, dtype)).all():
        return None
    return jnp.asarray(solution, dtype)


def _stored(array: np.ndarray, dtype) -> np.ndarray:
    """The numbers that the device will have, in float64: f is of them."""
    with np.errstate(over="ignore"):  # an infinity is told of
        return array.astype(dtype).astype(np.float64, copy=False)


def parts_of(split, targets: np.ndarray, num_workers: int, seed: int):
    """Each worker's samples, by a word that data.split knows or as they are given."""
    if isinstance(split, str):
        return data.split(targets, num_workers, split, seed=seed)
    num_samples, words = (
        len(targets),
        "a word that data.split knows, or what it returns",
    )
    parts = indices("split", split, num_samples, words)
    if len(parts) != num_workers:
        raise ValueError(
            f"split has {len(parts)} parts, expected num_workers={num_workers}."
        )
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_samples)):
        raise ValueError(
            f"split must name each of the {num_samples} samples exactly once; make it "
            "with data.split."
        )
    return parts


def linear_problem(
    name: str,
    samples: Samples,
    *,
    worker_loss: Callable,
    worker_objective: Callable | None = None,
    curvature: float,  # c of L = c lambda_max(X^T X) / N + lambda
    coordinate_curvature: float | None = None,  # along one coordinate, if it differs
    smooth_penalty: bool = True,  # whether lambda is part of L
    init_shape: tuple[int, ...],  # of the parameters, [D] or [D, C]
    found: Optimum,
    measure: ErrorMeasure = "objective",
    quadratic: bool = False,  # as ridge regression
    compiled: bool = False,  # whether a kernel has the loss
) -> Problem:
    """Put a problem together: its arrays on the device, and the constants of theory."""
    features, targets, parts = samples.features, samples.targets, samples.parts
    regularization, dtype = samples.regularization, samples.dtype
    wide = _trees.widest(dtype, jnp.float32)
    num_samples, num_workers = targets.size, len(parts)
    gram: Any = None
    solution: Any = found.solution
    if solution is not None:
        solution = solution.reshape(init_shape)
    if note := found.note(name):
        warnings.warn(note, RuntimeWarning, stacklevel=3)
    convexity = regularization if smooth_penalty else 0.0

    def smoothness(rows, share):
        norm = _constants.gram_norm(rows)
        return curvature * norm / num_samples + convexity * share

    whole = smoothness(features, 1.0)
    # A gradient reads the samples twice, and H once.
    shorter = max(len(part) for part in parts) > features.shape[1]
    if quadratic and shorter and isinstance(features, np.ndarray):
        # Not where the rounding of H is much of what f is at zero.
        length = np.linalg.norm(found.solution)
        small = whole * length**2 <= 1e4 * np.mean(targets**2)
        given = (features, targets, parts, regularization, solution, wide)
        gram = gram_of(*given) if small else None

    rounding = None
    if gram is None and found.rounding is not None:  # it measures from the solution on
        rounding = found.rounding(float(jnp.finfo(wide).eps))
    columns = _constants.squared_columns(features) / num_samples
    columns = (coordinate_curvature or curvature) * columns + convexity
    columns = columns.reshape(-1, *(1,) * (len(init_shape) - 1))
    rows: Any = None
    if compiled and len(init_shape) == 1 and gram is None and wide == dtype:
        rows = _compiled.rows_of(features, parts, dtype)
    if scipy.sparse.issparse(features) and _stays_sparse(features):
        shards = data.stack(features[:, :0], targets, parts)
        shards = shards._replace(features=sparse_features(features, parts))
    else:
        shards = data.stack(_constants.dense(features), targets, parts)
    return Problem(
        name=name,
        num_workers=num_workers,
        worker_loss=worker_loss,
        worker_objective=worker_objective or worker_loss,
        measure=measure,
        worker_data=LinearData(
            shards=data.Shards(
                jax.tree.map(lambda x: _to_device(x, dtype), shards.features),
                _to_device(shards.targets, wide),  # pyright: ignore
                _to_device(shards.weight, wide),  # pyright: ignore
            ),
            regularization=jnp.full(num_workers, regularization / num_workers, wide),
            gram=gram,
            rows=jax.tree.map(lambda x: _to_device(x, dtype), rows),
        ),
        init_params=jnp.zeros(init_shape, dtype),
        optimum=found.value,
        optimum_gap=found.gap,
        rounding=rounding,
        note=note,
        solution=_held(solution, dtype),
        smoothness=whole,
        strong_convexity=convexity if measure == "objective" else None,
        worker_smoothness=np.array(
            [smoothness(features[part], 1 / num_workers) for part in parts]
        ),
        coordinate_smoothness=np.broadcast_to(columns, init_shape),
        regularization=regularization,
    )


def _stays_sparse(features) -> bool:
    rows, columns = features.shape
    return columns > DENSE_COLUMNS or features.nnz < DENSE_DENSITY * rows * columns


def _to_device(array: np.ndarray, dtype) -> jax.Array:
    return jnp.asarray(array, dtype if array.dtype.kind == "f" else None)
