"""How a round is laid out: at once, in batches of workers or blocks of components."""

import functools
from typing import Any, NamedTuple

import jax

from gdsec_jax import _checks
from gdsec_jax._devices import num_devices
from gdsec_jax.federation import _batches, _blocks, _parts
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._counts import uploads_of
from gdsec_jax.federation._round import (
    Common,
    Federation,
    Workers,
    respond,
    sound,
    step,
)
from gdsec_jax.wire._uploads import Layout, Uploads


class Outcome(NamedTuple):
    """What a round leaves behind."""

    direction: Any  # leaves [*param]
    previous: Any  # theta^{k-1} of the next round
    states: Any  # of the pipelines
    server: Any  # state of the server's step
    present: jax.Array  # bool [M], who took part
    overflowed: jax.Array  # bool [M], whose message lost entries that were not finite
    uploads: Uploads


class Round(NamedTuple):
    """The values of a round; they may be traced."""

    common: Common
    workers: Workers
    server: Any  # state of the server's step
    always: jax.Array  # see `_parts.in_parts`


def run(federation: Federation, layout: Layout, now: Round) -> Outcome:
    """A round, by the way that is asked for, or that is the fastest.

    Args:
      federation: whose round it is.
      layout: of what is counted.
      now: the round.

    Raises:
      ValueError: gradients are WorkerBatches, and the pipeline sums over all workers.
    """
    gradients = now.workers.gradients
    if isinstance(gradients, WorkerBatches):
        if federation.worker.sums_over_workers:
            raise ValueError(
                "gradients are WorkerBatches, expected those of all workers at once: "
                "the pipeline sums over all workers."
            )
        each = federation.num_workers // num_devices()
        number = _batches.number_of_size(gradients.size, each)
        return in_batches(federation, layout, number, now)
    whole = functools.partial(at_once, federation, layout)
    large = _parts.num_bytes(gradients) >= _parts.LEAST_BYTES
    # Without jit nothing is changed in place; nothing is cut that others hold parts of.
    traced = _checks.is_traced(jax.tree.leaves(gradients)[0]) if large else False
    if not traced or num_devices() > 1:
        return whole(now)
    ways = _ways(federation, layout, now)
    if not ways:
        return whole(now)
    return jax.lax.platform_dependent(
        default=functools.partial(whole, now),
        **{platform: functools.partial(way, now) for platform, way in ways.items()},
    )


def _ways(federation: Federation, layout: Layout, now: Round) -> dict[str, Any]:
    """What is faster than all at once, by platform."""
    ways = {}
    plan = _blocks.plan(federation, now.common, now.workers, now.server)
    if plan is not None:
        for platform in plan.numbers:
            ways[platform] = functools.partial(
                in_blocks, federation, layout, plan, platform
            )
    adds_up = federation.server.adds_up and federation.worker.sums_over_workers is False
    number = _batches.number_of_batches(now.workers) if adds_up else None
    if number is not None:
        ways["cpu"] = functools.partial(in_batches, federation, layout, number)
    return ways


def at_once(federation: Federation, layout: Layout, now: Round) -> Outcome:
    """All workers and components."""
    workers = sound(federation, now.workers)
    said = respond(federation, now.common, workers)
    uploads = uploads_of(
        layout, said.messages, said.states, workers.gradients, now.common.previous
    )
    return _stepped(federation, now, said, uploads)


def in_batches(
    federation: Federation, layout: Layout, number: int, now: Round
) -> Outcome:
    """Batch by batch of workers."""
    said = _batches.in_batches(
        federation, now.common, now.workers, layout, number, now.always
    )
    return _stepped(federation, now, said, said.uploads)


def in_blocks(
    federation: Federation, layout: Layout, plan, platform: str, now: Round
) -> Outcome:
    """Block by block of components."""
    moved, present, counted = _blocks.in_blocks(
        federation,
        now.common,
        now.workers,
        now.server,
        plan,
        platform,
        now.always,
        keep_messages=bool(layout.run_coded),
    )
    uploads = uploads_of(
        layout,
        moved.messages,
        moved.states,
        now.workers.gradients,
        now.common.previous,
        counted.nonzeros,
    )
    return Outcome(
        moved.direction,
        moved.previous,
        moved.states,
        moved.server,
        present,
        counted.overflowed > 0,
        uploads,
    )


def _stepped(federation: Federation, now: Round, said: Any, uploads) -> Outcome:
    """The server's half, after the workers' answers."""
    common, sends = now.common, now.workers.sends
    active = said.present if sends is None else said.present & sends
    direction, server = step(federation, common, now.server, said.total, active)
    previous = common.previous if common.params is None else common.params
    return Outcome(
        direction,
        previous,
        said.states,
        server,
        said.present,
        said.overflowed,
        uploads,
    )
