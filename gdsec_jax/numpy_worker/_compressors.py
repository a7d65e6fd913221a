"""Compressors of one array."""

from typing import Any

import numpy as np


def censor(v: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """The entries of v whose size exceeds their threshold, and 0 for the others.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> numpy_worker.censor(np.array([1.0, -2.0]), np.array([1.0, 1.0]))
      array([ 0., -2.])
    """
    return np.where(np.abs(v) <= threshold, v.dtype.type(0), v)


def top_k(v: np.ndarray, k: int) -> np.ndarray:
    """The k entries of v of largest magnitude, and 0 for the others.

    Of equal magnitudes the lower index wins; NaN is larger than infinity.

    Args:
      v: [D], floats.
      k: from 0 to D.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> numpy_worker.top_k(np.array([1.0, -3.0, 3.0]), 1)
      array([ 0., -3.,  0.])
    """
    if k == 0:
        return np.zeros_like(v)
    # The bits of magnitudes, as integers, grow with them.
    sizes = np.abs(v).view(f"u{v.dtype.itemsize}")
    least = np.partition(sizes, v.size - k)[v.size - k]
    kept = sizes > least
    ties = np.flatnonzero(sizes == least)
    kept[ties[: k - np.count_nonzero(kept)]] = True
    return np.where(kept, v, v.dtype.type(0))


def qsgd(
    v: np.ndarray, levels: int, uniforms: np.ndarray
) -> tuple[np.ndarray, np.float32]:
    r"""Round to s levels of the norm, up or down at random: unbiased.

    .. math:: C(v)_i = \text{sign}(v_i) \, c \, l_i, \quad c = \|v\|_2 / s, \quad
       l_i = \lfloor |v_i| / c + u_i \rfloor, \quad u_i \sim U[0, 1)

    Args:
      v: [D], float32 or float64.
      levels: s.
      uniforms: u, [D].

    Returns:
      C(v), and c, a float32 that is rounded up, so that no level exceeds s. The last
      bit of a norm depends on the order of its sum, and so may that of c.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> numpy_worker.qsgd(np.array([3.0, 0.0, -4.0]), 2, np.array([0.9, 0.0, 0.1]))
      (array([ 2.5,  0. , -5. ]), np.float32(2.5))

    References: Alistarh et al., QSGD, 2017, https://arxiv.org/abs/1610.02132
    """
    scale = _rounded_up(norm(v) / v.dtype.type(levels))
    step = v.dtype.type(scale)
    x = np.abs(v) / (step if step > 0 else v.dtype.type(1))
    low = np.floor(x)
    # The norm is rounded: it may lie below the largest entry by as much.
    level = np.minimum(low + (uniforms < x - low), v.dtype.type(levels))
    return step * (np.sign(v) * level).astype(v.dtype), scale


def norm(v: np.ndarray) -> Any:
    """The Euclidean norm of a vector; no square overflows, or vanishes."""
    largest = np.abs(v).max(initial=0)
    if not 0 < largest < np.inf:
        return largest
    unit = np.ldexp(v.dtype.type(1), np.frexp(largest)[1] - 1)
    return unit * np.linalg.norm(v / unit)


def _rounded_up(x: Any) -> np.float32:
    """The least normal float32 of at least x; 0 of 0."""
    with np.errstate(over="ignore", under="ignore"):
        nearest = np.float32(x)
    if nearest < x:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return max(nearest, np.finfo(np.float32).tiny) if x > 0 else nearest
