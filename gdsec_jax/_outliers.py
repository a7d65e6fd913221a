"""Workers whose gradients are out of all proportion to the others'."""

import jax
import jax.numpy as jnp

from gdsec_jax._attendance import energies


def nothing_known(num_workers: int) -> jax.Array:
    """The norms before the first round: float32 [M], NaN."""
    return jnp.full(num_workers, jnp.nan, jnp.float32)


def within(gradients, known: jax.Array, computes: jax.Array, ratio):
    """Whose gradients have a norm of at most so many times the running median.

    The running median is that over all workers of the last norm that is known of each:
    this round's, or of a worker that does not compute that of the last round in which
    it was accepted. So a few workers cannot move it, a round of one worker can be
    judged, and where most of the norms grow at once they are accepted. A median of 0
    judges nobody.

    Args:
      gradients: leaves [M, *param].
      known: float32 [M], of earlier rounds.
      computes: bool [M].
      ratio: the most that a norm may be of the median.

    Returns:
      bool [M]; and the norms that are known now, float32 [M].
    """
    norms = jnp.sqrt(energies(gradients)).astype(jnp.float32)
    latest = jnp.where(computes & jnp.isfinite(norms), norms, known)
    median = jnp.nanmedian(latest)
    excessive = (norms > jnp.asarray(ratio, jnp.float32) * median) & (median > 0)
    return ~excessive, latest
