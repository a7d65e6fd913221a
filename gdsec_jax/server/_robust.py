"""Sums over workers that a few of them cannot bend."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks


def median(summands: Any) -> Any:
    r"""M times the median over the workers, entry by entry.

    .. math:: M \, \text{median}_m (h_m + u_m)_i

    A rule for `server.robust`. Entries of fewer than half of the workers cannot move
    it beyond those of the others. It is not the mean: where the workers' gradients
    differ it leads elsewhere, and nothing is conserved. Of a worker that is absent, or
    lost, h_m stands in; a method without such a memory has 0 in its place, and with
    half of the workers absent the median is 0.

    Args:
      summands: leaves [M, *param].

    Returns:
      Leaves [*param].

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> server = gdsec_jax.server.robust(gdsec_jax.robust.median)
      >>> algorithm = gdsec_jax.gdsec(3, xi=0.0, server=server)
      >>> params, grads = jnp.zeros(1), jnp.array([[1.0], [2.0], [1e9]])
      >>> algorithm.update(grads, algorithm.init(params), params)[0]
      Array([6.], dtype=float32)

    References:
      Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning, 2018,
      https://arxiv.org/abs/1803.01498
    """
    return jax.tree.map(lambda x: x.shape[0] * jnp.median(x, axis=0), summands)


def trimmed_mean(share: float):
    r"""M times the mean over the workers, entry by entry, without the extreme ones.

    .. math:: \frac{M}{M - 2 b} \sum_{m = b + 1}^{M - b} (h + u)_{(m), i}, \quad
       b = \lfloor \text{share} \cdot M \rfloor

    with the workers' entries in ascending order. As `median` otherwise, which is its
    limit for a share of a half.

    Args:
      share: of the workers that are left out on each side, in [0, 1/2).

    Returns:
      A rule for `server.robust`, from leaves [M, *param] to leaves [*param].

    Raises:
      ValueError: share lies outside [0, 1/2).

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> rule = gdsec_jax.robust.trimmed_mean(0.25)
      >>> rule(jnp.array([[1.0], [2.0], [4.0], [1e9]]))
      Array([12.], dtype=float32)

    References:
      Yin, Chen, Ramchandran, Bartlett, 2018, https://arxiv.org/abs/1803.01498
    """
    _checks.number_in_range("share", share, 0.0, 0.5)
    if share == 0.5:
        raise ValueError("share is 0.5, expected less than 0.5: use robust.median.")

    def one(x):
        num_workers = x.shape[0]
        trimmed = math.floor(share * num_workers + 1e-9)  # 0.29 * 100 is 28.99…
        kept = jnp.sort(x, axis=0)[trimmed : num_workers - trimmed]
        return num_workers * kept.mean(axis=0)

    return lambda summands: jax.tree.map(one, summands)
