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

    deviation: jax.Array  # float []: of the least noise that stands before a sample
    rounds: jax.Array  # int32 []: the most in which a worker has noised a gradient


def spent(state: Any, sent: LastRound) -> Spent | tuple[()]:
    """After a round of which this was sent; () without noise."""
    found = _trees.of_type(state, GaussianNoiseState)
    if not found:
        return ()
    if len(found) > 1:
        raise ValueError(
            f"the optimizer adds noise in {len(found)} places, expected one: what a "
            "sample gives away in one part of a gradient, it does in the others."
        )
    noise = found[0]
    # Of noise that all add up, there is as much as there are who do.
    heard = sent.participants & ~sent.lost
    share = jnp.sqrt(heard.mean(dtype=noise.deviation.dtype))
    deviation = jnp.where(noise.central, share, 1) * noise.deviation
    return Spent(deviation.min(), noise.rounds.max())


def check(problem: Problem, trains: bool) -> None:
    """A ValueError where workers look at their samples oftener than is counted."""
    if problem.private is not None and trains:
        raise ValueError(
            f"{problem.name} is private and the optimizer trains the workers, expected "
            "a method that takes one gradient a round: each look at a sample gives "
            "away more, which no accountant here counts."
        )


def tells(problem: Problem) -> None:
    """A ValueError where a stage would be told a loss, of which nobody counts."""
    if problem.private is not None:
        raise ValueError(
            f"{problem.name} is private and the optimizer asks for value, grad or "
            "value_fn, expected one that goes by the update alone: the loss is that of "
            "the data, without noise."
        )
