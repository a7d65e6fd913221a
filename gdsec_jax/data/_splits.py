"""Which samples each worker holds, and the arrays [M, ...] that hold them."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy
from numpy.typing import ArrayLike

from gdsec_jax import _checks
from gdsec_jax._devices import BY_DEVICE, mesh_of
from gdsec_jax.data._dataset import canonical, complete, real

_HOW = ("shuffled", "contiguous", "sorted", "dirichlet")


def split(
    targets: ArrayLike,
    num_workers: int,
    how: str = "shuffled",
    *,
    seed: int = 0,
    sizes: Sequence[int] | None = None,
    concentration: float = 0.5,
) -> list[np.ndarray]:
    r"""Share N samples among M workers, each sample with exactly one of them.

    ``shuffled`` deals a random permutation, ``contiguous`` keeps the order,
    ``sorted`` orders by target first, ties in place. ``dirichlet`` draws for each
    label :math:`k` the shares of the workers and gives each of its samples to a
    worker of that law,

    .. math:: p_k \sim \mathrm{Dir}(a, \dots, a), \quad
       \mathrm{owner}(n) \sim p_{y_n},

    after which a worker without a sample takes one from the worker with the most.

    Args:
      targets: :math:`y`, [N]; labels for ``sorted`` and ``dirichlet``.
      num_workers: :math:`M`, at most N.
      how: ``shuffled``, ``contiguous``, ``sorted`` or ``dirichlet``.
      seed: of ``shuffled`` and ``dirichlet``.
      sizes: samples of each worker, for every ``how`` but ``dirichlet``; by default
        they differ by at most one.
      concentration: :math:`a` of ``dirichlet``; small means few labels a worker.

    Returns:
      M integer arrays of sample indices, none empty.

    Raises:
      ValueError: an argument is out of its range, there are more workers than
        samples, or ``sizes`` do not sum to N.

    Examples:
      >>> from gdsec_jax.data import split
      >>> split([1, 0, 1, 0, 1], 2, "sorted")
      [array([1, 3, 0]), array([2, 4])]

    References:
      Yurochkin et al., https://arxiv.org/abs/1905.12022, 2019 (dirichlet).
    """
    labels = complete("targets", targets)
    if labels.ndim != 1:
        raise ValueError(f"targets have shape {labels.shape}, expected [N]")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError("targets hold a NaN, expected no missing label")
    num_samples = len(labels)
    num_workers = _checks.integer("num_workers", num_workers, 1)
    if num_workers > num_samples:
        raise ValueError(
            f"num_workers is {num_workers}, expected at most the number of samples, "
            f"{num_samples}"
        )
    _checks.one_of("how", how, _HOW)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    if how == "dirichlet":
        if sizes is not None:
            raise ValueError(
                f"sizes is {sizes!r} with how='dirichlet', expected None: the draw "
                "decides the sizes"
            )
        concentration = _checks.positive("concentration", concentration)
        return _dirichlet(labels, num_workers, concentration, rng)
    if how == "shuffled":
        order = rng.permutation(num_samples)
    elif how == "contiguous":
        order = np.arange(num_samples)
    else:
        order = np.argsort(labels, kind="stable")
    if sizes is not None and not np.iterable(sizes):
        raise ValueError(f"sizes is {sizes!r}, expected an int for each worker")
    if sizes is None:
        return np.array_split(order, num_workers)
    counts = [_checks.integer("an entry of sizes", size, 1) for size in sizes]
    if len(counts) != num_workers or sum(counts) != num_samples:
        raise ValueError(
            f"sizes has {len(counts)} entries that sum to {sum(counts)}, expected "
            f"{num_workers} that sum to {num_samples}"
        )
    return np.split(order, np.cumsum(counts)[:-1])


def _dirichlet(
    labels: np.ndarray, num_workers: int, concentration: float, rng: np.random.Generator
) -> list[np.ndarray]:
    kinds, kind = np.unique(labels, return_inverse=True)
    owner = np.empty(len(labels), dtype=np.intp)
    for k in range(len(kinds)):
        samples = np.flatnonzero(kind == k)
        shares = rng.dirichlet(np.full(num_workers, concentration))
        owner[samples] = rng.choice(num_workers, size=len(samples), p=shares)
    counts = np.bincount(owner, minlength=num_workers)
    for worker in np.flatnonzero(counts == 0):
        donor = counts.argmax()
        owner[rng.choice(np.flatnonzero(owner == donor))] = worker
        counts[donor] -= 1
        counts[worker] += 1
    return [np.flatnonzero(owner == worker) for worker in range(num_workers)]


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
      features: [N, D], an array, a table or a scipy.sparse matrix; sparse stays sparse.
      targets: [N].
      parts: of `split`: the indices of each worker's samples.

    Returns:
      NumPy arrays with a leading axis of M workers.

    Raises:
      ValueError: features and targets differ in their number, or parts are no indices.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import data
      >>> parts = [np.array([2, 0]), np.array([1])]
      >>> shards = data.stack(np.eye(3), np.arange(3), parts)
      >>> shards.targets, shards.weight[1].round(2)
      (array([[2, 0],
             [1, 0]]), array([0.33, 0.  ]))
    """
    features, targets = real("features", features), complete("targets", targets)
    if not features.shape or targets.shape[:1] != features.shape[:1]:
        raise ValueError(
            f"features has shape {features.shape} and targets {targets.shape}, "
            "expected as many of one as of the other."
        )
    parts = indices("parts", parts, len(targets), "what data.split returns")
    num_samples = sum(len(part) for part in parts)
    rows = max(len(part) for part in parts)
    dtype = np.promote_types(features.dtype, np.float32)
    ones = np.ones(features.shape[0], dtype)
    if scipy.sparse.issparse(features):
        stacked = _stack_sparse(canonical(features), parts)
    else:
        stacked = _pad(features, parts, rows)
    return Shards(
        features=stacked,
        targets=_pad(targets, parts, rows),
        weight=_pad(ones, parts, rows) / dtype.type(num_samples),
    )


def indices(name: str, parts: Any, size: int, expected: str) -> list[np.ndarray]:
    """The indices of each worker's samples, of so many."""
    try:
        arrays = [np.asarray(part) for part in parts]
        # An empty list is an array of floats.
        kinds = {part.dtype.kind for part in arrays if part.size}
        every = np.concatenate(arrays)
    except (TypeError, ValueError):
        kinds, arrays, every = set(), [], np.zeros(0)
    if not kinds or not kinds <= set("iu") or every.min() < 0 or every.max() >= size:
        raise ValueError(
            f"{name} is {reprlib.repr(parts)}, expected {expected}: integer indices "
            f"for each worker, from 0 to {size - 1}."
        )
    return [part.astype(np.int64) for part in arrays]


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
    _checks.number_of_workers(num_workers)
    if not callable(load):
        raise ValueError(f"load is {load!r}, expected a function of a worker's number.")
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
