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
    Federation,
    Round,
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


def run(federation: Federation, counting: Layout, now: Round) -> Outcome:
    """A round, by the way that is asked for, or that is the fastest.

    Args:
      federation: whose round it is.
      counting: the layout of what is counted.
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
        return _in_batches(federation, counting, number, now)
    whole = functools.partial(_at_once, federation, counting, now)
    large = _parts.num_bytes(gradients) >= _parts.LEAST_BYTES
    # Without jit nothing is changed in place, and over several devices nothing is cut.
    traced = _checks.is_traced(jax.tree.leaves(gradients)[0]) if large else False
    if not traced or num_devices() > 1:
        return whole()
    after = jax.eval_shape(whole)
    states = now.workers.states, now.server
    if _parts.kinds((after.states, after.server)) != _parts.kinds(states):
        return whole()  # a state that changes its dtype cannot be changed in place
    ways = {}
    plan = _blocks.plan(federation, now)
    for platform in () if plan is None else plan.numbers:
        ways[platform] = functools.partial(
            _in_blocks, federation, counting, plan, platform, now
        )
    adds_up = federation.server.batches and federation.worker.sums_over_workers is False
    number = _batches.number_of_batches(now.workers) if adds_up else None
    if number is not None:
        ways["cpu"] = functools.partial(_in_batches, federation, counting, number, now)
    if not ways:
        return whole()
    return jax.lax.platform_dependent(default=whole, **ways)


def _at_once(federation: Federation, counting: Layout, now: Round) -> Outcome:
    now = now._replace(workers=sound(federation, now.workers))
    said = respond(federation, now.common, now.workers)
    uploads = uploads_of(
        counting,
        said.messages,
        said.states,
        now.workers.gradients,
        now.common.previous,
    )
    return _stepped(federation, now, said, uploads)


def _in_batches(
    federation: Federation, counting: Layout, number: int, now: Round
) -> Outcome:
    said = _batches.in_batches(federation, now, counting, number)
    return _stepped(federation, now, said, said.uploads)


def _in_blocks(
    federation: Federation, counting: Layout, plan, platform: str, now: Round
) -> Outcome:
    moved, present, counted = _blocks.in_blocks(
        federation, now, plan, platform, bool(counting.run_coded)
    )
    uploads = uploads_of(
        counting,
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
    direction, previous, server = step(federation, now, said.total, said.present)
    return Outcome(
        direction,
        previous,
        said.states,
        server,
        said.present,
        said.overflowed,
        uploads,
    )
