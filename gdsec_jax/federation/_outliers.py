"""Workers whose gradients are out of all proportion to the others'."""

import jax
import jax.numpy as jnp

from gdsec_jax.federation._attendance import energies

GROWTH = 10.0  # of a norm from one round to the next, in what is known of it


def nothing_known(num_workers: int) -> jax.Array:
    """The norms before the first round: float32 [M], NaN."""
    return jnp.full(num_workers, jnp.nan, jnp.float32)


def within(gradients, known: jax.Array, computes: jax.Array, ratio):
    """Whose gradients have a norm of at most so many times the running median.

    The running median is that over all workers of what is known of their norms: this
    round's, or that of the last round in which a worker computed, but no more than
    `GROWTH` times what was known of it before. So a few workers cannot move it, nor
    many of them in a single round; a round of one worker can be judged; and where the
    norms of most grow for good they are accepted some rounds later. Of a norm that was
    0 nothing is known: ten times it would be 0 for ever. A median of 0 judges nobody.

    Args:
      gradients: leaves [M, *param].
      known: float32 [M], of earlier rounds.
      computes: bool [M].
      ratio: the most that a norm may be of the median.

    Returns:
      bool [M]; and the norms that are known now, float32 [M].
    """
    norms = jnp.sqrt(energies(gradients)).astype(jnp.float32)
    tempered = jnp.where(known > 0, jnp.minimum(norms, GROWTH * known), norms)
    known = jnp.where(computes & jnp.isfinite(norms), tempered, known)
    median = jnp.nanmedian(known)
    excessive = (norms > jnp.asarray(ratio, jnp.float32) * median) & (median > 0)
    return ~excessive, known
