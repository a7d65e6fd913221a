"""Who computes in a round, who sends, whose message arrives, and who is left out."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees

Absent = Literal["hold", "accumulate"]
Rule = Callable[[jax.Array, jax.Array], jax.Array]  # a round's key, number: bool [M]
GROWTH = 10.0  # at most, of what is known of a norm, from one round to the next


class Offers(NamedTuple):
    """What the workers would send in a round, known before they are let to."""

    energy: jax.Array  # float [M], the squared norm of each one's message
    bits: jax.Array  # float [M], what it costs
    norm: jax.Array | None = None  # float [M], whose square may overflow or vanish


Grant = Callable[[Offers], jax.Array]


class Said(NamedTuple):
    """What the caller of an update says of a round; see `federate`."""

    active: Any = None
    absent: Absent = "hold"
    grant: Grant | None = None
    delivered: Any = None
    delay: Any = None

    @property
    def complete(self) -> bool:
        """Whether all who compute send, and all that is sent arrives."""
        everything = self.grant is None and self.delivered is None
        return everything and self.absent == "hold"


class Attendance(NamedTuple):
    """Masks of a round's workers, bool [M] each."""

    computes: jax.Array  # the state of the others is frozen
    sends: jax.Array  # of those that compute; the others accumulate
    arrives: jax.Array  # of what is sent; the rest is lost

    def only(self, chosen: jax.Array, absent: Absent) -> "Attendance":
        """With these workers alone; the others hold, or accumulate."""
        computes = self.computes
        if absent == "hold":
            computes &= chosen
        return Attendance(computes, self.sends & chosen, self.arrives & chosen)


def attendance(num_workers: int, said: Said, asked=None) -> Attendance:
    """Who computes, sends, and is heard; whom the server does not ask, holds."""
    _checks.one_of("absent", said.absent, get_args(Absent))
    everyone = jnp.ones(num_workers, bool)
    arrives = everyone
    if said.delivered is not None:
        arrives = _checks.mask("delivered", said.delivered, num_workers)
    result = Attendance(everyone, everyone, arrives)
    if said.active is not None:
        active = _checks.mask("active", said.active, num_workers)
        result = result.only(active, said.absent)
    if asked is not None:
        asked = _checks.mask("participation's mask", asked, num_workers)
        result = result.only(asked, "hold")
    return result


def delays(value: Any, num_workers: int, max_delay: int) -> jax.Array | None:
    """How late each message is, int32 [M], clipped; None if the server never waits."""
    if not max_delay:
        if value is None:
            return None
        raise ValueError(
            "delay is given, expected None without a server.late(max_delay)."
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


def norms_of(messages: Any) -> jax.Array:
    """float [M], the norms of leaves [M, ...], in float32 at least."""
    dtype = _trees.norm_dtype(messages)
    return jax.vmap(lambda message: _trees.norm(message, dtype))(messages)


def no_norms(num_workers: int) -> jax.Array:
    """What is known of the norms before the first round: float32 [M], -1."""
    return jnp.full(num_workers, -1, jnp.float32)


def of_usual_norm(norms: jax.Array, known: jax.Array, computes: jax.Array, ratio):
    """Whose gradients have a norm of at most so many times the running median.

    The running median is that over all workers of what is known of their norms: this
    round's, or that of the last round in which a worker computed, but no more than
    `GROWTH` times what was known of it before. So a few workers cannot move it, nor
    many of them in a single round; a round of one worker can be judged; and where the
    norms of most grow for good they are accepted some rounds later. Of a norm that was
    0 nothing is known: ten times it would be 0 for ever. A median of 0 judges nobody.

    Returns bool [M], and the norms that are known now, float32 [M].
    """
    norms = norms.astype(jnp.float32)
    tempered = jnp.where(known > 0, jnp.minimum(norms, GROWTH * known), norms)
    known = jnp.where(computes & jnp.isfinite(norms), tempered, known)
    median = _median(known)
    excessive = (norms > jnp.asarray(ratio, jnp.float32) * median) & (median > 0)
    return ~excessive, known


def _median(known: jax.Array) -> jax.Array:
    """Of those that are not negative; infinite if all are."""
    number = (known >= 0).sum()
    ascending = jnp.sort(jnp.where(known >= 0, known, jnp.inf))
    return ascending[(number - 1) // 2] / 2 + ascending[number // 2] / 2
