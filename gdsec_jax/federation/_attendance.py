"""Who computes in a round, who sends, and whose message arrives."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees

Absent = Literal["hold", "accumulate"]
# The extra arguments of an update that say what befalls the workers and their uploads.
UPLOADS = ("active", "absent", "grant", "delivered", "delay")


class Offers(NamedTuple):
    """What the workers would send in a round, known before they are let to."""

    energy: jax.Array  # float [M], the squared norm of each one's message
    bits: jax.Array  # float [M], what it costs


Grant = Callable[[Offers], jax.Array]
Rule = Callable[[jax.Array, jax.Array], jax.Array]  # a round's key, number: bool [M]


class Attendance(NamedTuple):
    """Of a round; all bool [M]."""

    computes: jax.Array  # of the others the state is frozen
    sends: jax.Array  # of those that compute; the others accumulate
    arrives: jax.Array  # of what is sent; the rest is lost

    def only(self, chosen: jax.Array, absent: Absent) -> "Attendance":
        """With these workers alone; the others hold, or accumulate."""
        computes = self.computes
        if absent == "hold":
            computes &= chosen
        return Attendance(computes, self.sends & chosen, self.arrives & chosen)


def attendance(num_workers: int, active, absent: Absent, delivered) -> Attendance:
    """What the caller says of a round's workers.

    Args:
      num_workers: M.
      active: bool [M], or None: all.
      absent: what those do that are not active.
      delivered: bool [M], or None: all.

    Raises:
      ValueError: a mask is none of M workers, or absent is unknown.
    """
    _checks.one_of("absent", absent, get_args(Absent))
    everyone = jnp.ones(num_workers, bool)
    arrives = everyone
    if delivered is not None:
        arrives = _checks.mask("delivered", delivered, num_workers)
    given = Attendance(everyone, everyone, arrives)
    if active is None:
        return given
    return given.only(_checks.mask("active", active, num_workers), absent)


def delays(value: Any, num_workers: int, max_delay: int | None) -> jax.Array | None:
    """By how many rounds each message is late, int32 [M]; what is traced is clipped.

    None of an algorithm that does not wait.

    Raises:
      ValueError: the algorithm does not wait, or value is no such array.
    """
    if max_delay is None:
        if value is None:
            return None
        raise ValueError(
            "delay is given, expected None for an algorithm without max_delay."
        )
    if value is None:
        return jnp.zeros(num_workers, jnp.int32)
    result = jnp.asarray(value)
    if result.shape != (num_workers,) or not jnp.issubdtype(result.dtype, jnp.integer):
        raise ValueError(
            f"delay is {result.dtype}{list(result.shape)}, expected int[{num_workers}]."
        )
    _checks.in_range("delay", value, 0, max_delay)
    return jnp.clip(result, 0, max_delay).astype(jnp.int32)


def energies(messages: Any) -> jax.Array:
    """float [M], the squared norms of leaves [M, ...], in float32 at least."""
    leaves = jax.tree.leaves(messages)
    dtype = _trees.widest(jnp.float32, *(leaf.dtype for leaf in leaves))

    def one(leaf):
        rows = leaf.reshape(leaf.shape[0], -1).astype(dtype)
        exact = jax.lax.Precision.HIGHEST  # or GPUs take fewer digits
        return jnp.einsum("md,md->m", rows, rows, precision=exact)

    return jnp.asarray(sum(map(one, leaves)))
