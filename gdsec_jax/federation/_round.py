"""A round as functions of its arrays; it is taken at once, or part by part."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Columns(NamedTuple):
    """The arrays of a round; most of them have an entry for each component of theta."""

    gradients: Any  # leaves [M, *param]
    params: Any  # leaves [*param], or None
    change: Any  # what counts as theta^k - theta^{k-1}, if not that; or None
    previous: Any  # theta^{k-1}
    workers: Any  # the pipelines' states, leaves [M, ...]
    server: Any
    own: dict[str, Any]  # what else is each worker's, leaves [M, ...]


class Results(NamedTuple):
    """What a round makes of them."""

    aggregate: Any  # leaves [*param]
    previous: Any  # theta^{k-1} of the next round
    workers: Any
    server: Any


class Steps(NamedTuple):
    """A round as functions of its columns.

    All but `serve` may be handed some of the workers, and, if components go their own
    ways, all may be handed some of these.
    """

    init: Callable[[Any], tuple[Any, Any]]  # params to the states of workers and server
    work: Callable[..., tuple[Any, Any]]  # columns, active: to messages, states
    sound: Callable[[Columns, Any, Any], jax.Array] | None  # those, to bool [M]
    # Those and who takes part, to messages, what the server adds up of all, states.
    gather: Callable[[Columns, Any, Any, jax.Array], tuple[Any, Any, Any]]
    # That sum and who takes part, to the update and the server's state.
    serve: Callable[[Columns, Any, jax.Array], tuple[Any, Any]]
    count: Callable[[Any], Any]  # messages to what adds up over components
    tally: Callable[[Any, Any, Any, Columns], Any]  # that, messages, states: to uploads


class Gathered(NamedTuple):
    """What a round makes of the workers' arrays, of all workers or of some."""

    total: Any  # the sum of what the server adds up, leaves [*param]
    workers: Any  # their next states
    present: jax.Array  # bool [M], those that do take part
    uploads: Any  # what was counted, leaves [M, ...]


def gather(
    columns: Columns, chosen: jax.Array, steps: Steps, *, alone: bool = False
) -> Gathered:
    """The workers' part of a round.

    Args:
      columns: of the round; of some workers, if they are `alone`.
      chosen: bool [M], the workers that may take part.
      steps: of the round.
      alone: whether others are elsewhere: then a pipeline that sums over all workers
        raises NameError.
    """
    present = chosen
    if steps.sound is not None:
        present = present & steps.sound(columns, (), ())
    messages, workers = steps.work(columns, present, alone=alone)
    if steps.sound is not None:
        present = present & steps.sound(columns, messages, workers)
    messages, total, workers = steps.gather(columns, messages, workers, present)
    uploads = steps.tally(steps.count(messages), messages, workers, columns)
    return Gathered(total, workers, present, uploads)


def close(columns: Columns, gathered: Gathered, steps: Steps) -> Results:
    """The server's part of a round."""
    aggregate, server = steps.serve(columns, gathered.total, gathered.present)
    return Results(
        aggregate=aggregate,
        previous=columns.previous if columns.params is None else columns.params,
        workers=gathered.workers,
        server=server,
    )


def at_once(
    columns: Columns, chosen: jax.Array, steps: Steps
) -> tuple[jax.Array, Results, Any]:
    """A round of all workers and components.

    Returns:
      The workers that do take part; the results; what was counted.
    """
    gathered = gather(columns, chosen, steps)
    return gathered.present, close(columns, gathered, steps), gathered.uploads
