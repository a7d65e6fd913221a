"""What the server makes of all workers' summands in a round."""

from collections.abc import Callable
from typing import Any

import jax

from gdsec_jax import _checks, _trees
from gdsec_jax.server import _sum

Aggregation = Callable[[Any], Any]


def total_by(
    summand: Callable | None,
    aggregation: Aggregation | None,
    capacity: int | None,
    max_delay: int | None,
) -> Callable[[Any, jax.Array | None], Any]:
    """A function of the summands, leaves [M, *param], and by how much each is late.

    Its value has leaves [*param]; with a max_delay, [max_delay + 1, *param], what is on
    time first.

    Args:
      summand, aggregation, capacity, max_delay: as of `federate`.

    Raises:
      ValueError: one is out of range, or two exclude each other.
    """
    if capacity is not None:
        _checks.integer("capacity", capacity, 1, 2**31 - 1)
        because = "messages alone are sparse. Use server_memory"
        _alone("capacity", because, summand=summand)
        _alone("capacity", "capacity is of a sum", aggregation=aggregation)
    if max_delay is not None:
        _checks.integer("max_delay", max_delay, 1, 10_000)
        because = "what is late is a sum of messages. Use server_memory"
        others = {"aggregation": aggregation, "capacity": capacity}
        _alone("max_delay", because, summand=summand, **others)

    def total(summands, late):
        if aggregation is not None:
            return aggregation(summands)
        if max_delay is not None:
            return _trees.over_workers_by(late, summands, max_delay + 1)
        if capacity is not None:
            return _sum.sparse_sum(summands, capacity)
        return _trees.over_workers(summands)

    return total


def _alone(name: str, because: str, **others) -> None:
    for other, value in others.items():
        if value is not None:
            raise ValueError(
                f"{other} is given beside {name}, expected None: {because}."
            )
