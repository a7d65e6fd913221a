"""Where to look for a method's best setting: a lattice, and the points to try next.

A point is a tuple of places, one on each ladder of the lattice. Nothing here runs
anything: `following` says what to evaluate, whoever asks says which point is the best.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

Point = tuple[int, ...]
RUNGS = 32  # on either side of a start: farther than a search goes
CAP = 3  # times the settings that every method is given


class Ladder(NamedTuple):
    """The values of one parameter, ascending, and where the search begins."""

    values: tuple[Any, ...]
    start: int

    def ends_at(self, place: int) -> bool:
        """Whether there is no value beyond, below or above."""
        return place in (0, len(self.values) - 1)


def ladder(
    start: int | float,
    *,
    doubles: bool = False,
    allowed: Callable[[Any], bool] = lambda value: True,
) -> Ladder:
    """The ladder of a parameter, from the rung that is nearest to its start.

    Args:
      start: an integer has the powers of two; a float 1, 3, 10, 30 and so on, in both
        directions; both nearest by their logarithm.
      doubles: a float has start times the powers of two: of steps.
      allowed: whether a value is one; the ladder ends before the first that is not.

    Raises:
      ValueError: no value of the ladder is allowed near the start.

    Examples:
      >>> ladder(0.2, allowed=lambda beta: 0.01 <= beta <= 1)
      Ladder(values=(0.01, 0.03, 0.1, 0.3, 1.0), start=3)
      >>> ladder(3, allowed=lambda k: 1 <= k <= 20)
      Ladder(values=(1, 2, 4, 8, 16), start=2)
    """
    if not (isinstance(start, int | float) and 0 < start < math.inf):
        raise ValueError(f"start is {start!r}, expected a number above 0")
    if isinstance(start, int):
        first, value = round(math.log2(start)), _power
    elif doubles:
        first, value = 0, lambda rung: start * 2.0**rung
    else:
        first, value = round(2 * math.log10(start)), _one_or_three
    while first >= 0 and isinstance(start, int) and not allowed(value(first)):
        first -= 1  # the nearest power of two may be beyond a bound that is none
    lower = _while_allowed(value, range(first - 1, first - 1 - RUNGS, -1), allowed)
    upper = _while_allowed(value, range(first, first + 1 + RUNGS), allowed)
    if not upper:
        raise ValueError(f"start is {start!r}, expected a value that can be taken")
    return Ladder((*lower[::-1], *upper), len(lower))


def _power(rung: int) -> int:
    return 2**rung if rung >= 0 else 0


def _one_or_three(rung: int) -> float:
    return float(f"{(1, 3)[rung % 2]}e{rung // 2}")


def _while_allowed(value, rungs, allowed) -> list[Any]:
    return list(itertools.takewhile(allowed, map(value, rungs)))


def following(
    best: Point,
    done: Collection[Point],
    sizes: Sequence[int],
    *,
    settings: int,
    batch: int,
) -> list[Point]:
    """The points to evaluate next, none when the search is over.

    Until so many `settings` are evaluated, and then as long as the best has a neighbour
    along an axis that is not, those that are nearest to the best: by the largest
    distance along an axis, then by the sum of the distances, then in order. At `CAP`
    times the settings it is over in any case.

    Args:
      best: of the points that are done; at first the start.
      done: the points that are evaluated.
      sizes: the number of values of each ladder.
      settings: that every method is given.
      batch: how many are evaluated at a time, at most.
    """
    room = settings - len(done)
    if room <= 0:
        open_ends = not surrounded(best, done, sizes)
        room = CAP * settings - len(done) if open_ends else 0
    new = (point for point in nearest(best, sizes) if point not in done)
    return list(itertools.islice(new, max(0, min(batch, room))))


def surrounded(best: Point, done: Collection[Point], sizes: Sequence[int]) -> bool:
    """Whether all neighbours along an axis are evaluated, as far as there are any."""
    for axis, size in enumerate(sizes):
        for place in (best[axis] - 1, best[axis] + 1):
            neighbour = (*best[:axis], place, *best[axis + 1 :])
            if 0 <= place < size and neighbour not in done:
                return False
    return True


def nearest(centre: Point, sizes: Sequence[int]) -> Iterator[Point]:
    """All points of a lattice, those first that are nearest to a centre.

    Examples:
      >>> list(nearest((1, 0), (3, 2)))
      [(1, 0), (0, 0), (1, 1), (2, 0), (0, 1), (2, 1)]
    """

    def far(point):
        return sum(abs(x - c) for x, c in zip(point, centre, strict=True))

    for radius in range(max(sizes)):
        sides = [
            range(max(c - radius, 0), min(c + radius + 1, size))
            for c, size in zip(centre, sizes, strict=True)
        ]
        shell = (
            point
            for point in itertools.product(*sides)
            if max(abs(x - c) for x, c in zip(point, centre, strict=True)) == radius
        )
        yield from sorted(shell, key=far)  # which keeps the order among equals
