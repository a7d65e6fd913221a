"""Which samples each worker holds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from gdsec_jax import _checks

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
    labels = np.asarray(targets)
    if labels.ndim != 1:
        raise ValueError(f"targets have shape {labels.shape}, expected [N]")
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
    if sizes is None:
        return np.array_split(order, num_workers)
    return np.split(order, _cuts(sizes, num_workers, num_samples))


def _cuts(sizes: Sequence[int], num_workers: int, num_samples: int) -> np.ndarray:
    counts = [_checks.integer("an entry of sizes", size, 1) for size in sizes]
    if len(counts) != num_workers or sum(counts) != num_samples:
        raise ValueError(
            f"sizes has {len(counts)} entries that sum to {sum(counts)}, expected "
            f"{num_workers} that sum to {num_samples}"
        )
    return np.cumsum(counts)[:-1]


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
