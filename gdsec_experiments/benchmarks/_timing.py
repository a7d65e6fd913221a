"""Timing side by side, and the speed of the machine's memory."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_experiments.benchmarks._results import Settings

TRIAD_SIZE = 2**26  # float32 numbers, 256 MiB: far beyond any cache


class Times(NamedTuple):
    """Seconds of the repeats of one call."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return float(np.median(self.seconds))

    @property
    def best(self) -> float:
        """The shortest."""
        return min(self.seconds)


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warm_ups: int = 1,
    before: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, Times]:
    """Time calls in turns, A B A B …, so that what slows the machine slows them all.

    A call is timed until all that it returns is there.

    Args:
      calls: by name, without arguments.
      repeats: of each, at least 1.
      warm_ups: calls of each before them, which compile and are not timed.
      before: by name, what is called before each call, and is not timed.

    Returns:
      The times of each, by name; the i-th of all belong to one turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_ups, repeats):
        for name, call in calls.items():
            if before and name in before:
                jax.block_until_ready(before[name]())
            begin = time.perf_counter()
            jax.block_until_ready(call())
            taken = time.perf_counter() - begin
            if turn >= 0:
                seconds[name].append(taken)
    return {name: Times(tuple(taken)) for name, taken in seconds.items()}


def threaded(step: Callable[..., Any], state: Any) -> Callable[[], Any]:
    """A call without arguments of a step that takes its own last result.

    So a jitted step may be given its state's buffers for good (donate_argnums=0), as a
    training loop does it.

    Args:
      step: from a state to the next.
      state: the first, which is given away.
    """

    def call():
        nonlocal state
        state = step(state)
        return state

    return call


def summary(samples: Iterable[float]) -> dict[str, float]:
    """The median and spread of samples, by the names that `Measure` has for them."""
    low, median, high = np.percentile(list(samples), [25, 50, 75])
    spread = (high - low) / abs(median) if median else 0.0
    return {"value": float(median), "spread": float(spread)}


def ratio(numerator: Times, denominator: Times) -> dict[str, float]:
    """The median and spread of the ratios turn by turn, for `Measure`."""
    pairs = zip(numerator.seconds, denominator.seconds, strict=True)
    return summary(a / b for a, b in pairs)


def triad_size(settings: Settings) -> int:
    """Of the arrays whose triad a bench compares with."""
    return 2**16 if settings.small else TRIAD_SIZE


def triad(size: int = TRIAD_SIZE) -> Callable[[], Any]:
    """A call of a += s b over float32 arrays of a size, in place by donation.

    It moves 12 bytes a number: it reads a and b and writes a. What a cache reads beside
    them, as before a write, is not counted.
    """

    def add(a, b, s):
        return a + s * b

    compiled = jax.jit(add, donate_argnums=0)
    b, s = jnp.ones(size, jnp.float32), jnp.float32(1e-3)
    return threaded(lambda a: compiled(a, b, s), jnp.zeros(size, jnp.float32))


def speed(times: Times, size: int = TRIAD_SIZE) -> dict[str, float]:
    """GB/s (1e9 bytes) of a `triad` of that size, by the names that `Measure` has.

    The value is that of the fastest repeat, what the machine can do rather than what it
    did while disturbed; the spread is that of all of them.
    """
    all_of_them = summary(12 * size / taken / 1e9 for taken in times.seconds)
    return all_of_them | {"value": 12 * size / times.best / 1e9}


def roofline(
    call: Callable[[], Any],
    num_bytes: float,
    settings: Settings,
    before: Callable[[], Any] | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """A call's time over that of its bytes at the triad's speed, and this speed.

    Args:
      call: what is timed, in turns with the triad.
      num_bytes: that it must move.
      settings: of the bench.
      before: what is called before each call, and is not timed.

    Returns:
      The median and spread of the ratio, for `Measure`; and the triad's `speed`.
    """
    size = triad_size(settings)
    calls = {"triad": triad(size), "call": call}
    first = {} if before is None else {"call": before}
    times = interleaved(calls, settings.repeats, before=first)
    reached = speed(times["triad"], size)
    least = num_bytes / (reached["value"] * 1e9)
    return summary(taken / least for taken in times["call"].seconds), reached


def exponent(sizes: Sequence[float], times: Sequence[Times]) -> dict[str, float]:
    """The p of time ~ size^p, by least squares of the logarithms, for `Measure`.

    One fit for each repeat; the value is the median, the spread that of the fits.
    """
    by_repeat = np.log([each.seconds for each in times])
    return summary(np.atleast_1d(np.polyfit(np.log(sizes), by_repeat, 1)[0]))
