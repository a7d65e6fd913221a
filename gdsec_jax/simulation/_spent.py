"""What the noise of a round protects, as the loop can record it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax.federation._counts import LastRound
from gdsec_jax.problems import Problem
from gdsec_jax.worker import GaussianNoiseState


class Spent(NamedTuple):
    """Of the workers' noise so far, what an epsilon is made of."""

    deviation: jax.Array  # float []: of the least noise that stood before a sample
    rounds: jax.Array  # int32 []: the most in which a worker has noised a gradient


def nothing(state: Any) -> Spent | tuple[()]:
    """Before the first round; () without noise."""
    if not _trees.of_type(state, GaussianNoiseState):
        return ()
    return Spent(jnp.full((), jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))


def spent(before: Spent | tuple[()], state: Any, sent: LastRound) -> Spent | tuple[()]:
    """After a round of which this was sent; () without noise."""
    if not before:
        return ()
    found = _trees.of_type(state, GaussianNoiseState)
    if len(found) > 1:
        raise ValueError(
            f"the optimizer adds noise in {len(found)} places, expected one: what a "
            "sample gives away in one part of a gradient, it does in the others."
        )
    if len(sent.parts) > 1:
        raise ValueError(
            f"the optimizer has {len(sent.parts)} algorithms and one adds noise, "
            "expected it alone: what the others send of a gradient nothing hides."
        )
    noise = found[0]
    # Of noise that all add up, there is as much as there are who do. Of nobody's sum
    # nothing is seen; of what was seen once, later noise hides nothing.
    heard = sent.participants & ~sent.lost
    share = jnp.sqrt(heard.mean(dtype=noise.deviation.dtype))
    deviation = jnp.where(noise.central, share, 1) * noise.deviation
    seen = jnp.where(noise.central & ~heard.any(), jnp.inf, deviation).min()
    return Spent(jnp.minimum(before.deviation, seen), noise.rounds.max())


def check(problem: Problem, trains: bool) -> None:
    """A ValueError where workers look at their samples oftener than is counted."""
    if problem.private is not None and trains:
        raise ValueError(
            "the problem is private and the optimizer trains the workers, expected "
            "a method that takes one gradient a round: each look at a sample gives "
            "away more, which no accountant here counts."
        )


def tells(problem: Problem) -> None:
    """A ValueError where a stage would be told a loss, of which nobody counts."""
    if problem.private is not None:
        raise ValueError(
            "the problem is private and the optimizer asks for value, grad or "
            "value_fn, expected one that goes by the update alone: the loss is that of "
            "the data, without noise."
        )
