"""How a round is laid out: at once, in parts of workers or components, in one pass."""

import functools

import jax

from gdsec_jax import _checks
from gdsec_jax._devices import num_devices
from gdsec_jax.federation import _batches, _blocks, _one_pass, _parts
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._counts import uploads_of
from gdsec_jax.federation._round import Federation, Outcome, Round, respond, sound, step
from gdsec_jax.wire._uploads import Layout


def run(federation: Federation, counting: Layout, now: Round) -> Outcome:
    """A round, by the way that is asked for, or that is the fastest."""
    gradients = now.workers.gradients
    if isinstance(gradients, WorkerBatches):
        if federation.worker.sums_over_workers:
            raise ValueError(
                "gradients are WorkerBatches, expected those of all workers at once: "
                "the pipeline sums over all workers."
            )
        each = federation.num_workers // num_devices()
        number = _batches.number_of_size(gradients.size, each)
        return _batches.in_batches(federation, now, counting, number)
    whole = functools.partial(_at_once, federation, counting, now)
    # Without jit nothing is changed in place, and over several devices nothing is cut.
    traced = _checks.is_traced(jax.tree.leaves(gradients))
    if not traced or num_devices() > 1:
        return whole()
    ways = _ways(federation, counting, now, whole)
    numbers = _one_pass.numbers_of(federation, counting, now)
    if numbers is not None:
        ways["cpu"] = functools.partial(
            _one_pass.in_one_pass, federation, counting, now, numbers
        )
    return jax.lax.platform_dependent(default=whole, **ways) if ways else whole()


def _ways(federation: Federation, counting: Layout, now: Round, whole) -> dict:
    """By platform, the way to take large arrays in parts."""
    gradients, ways = now.workers.gradients, {}
    if _parts.num_bytes(gradients) < _parts.LEAST_BYTES:
        return ways
    plan = _blocks.plan(federation, now)
    if plan is not None:
        for platform in plan.numbers:
            ways[platform] = functools.partial(
                _blocks.in_blocks, federation, now, counting, plan, platform
            )
    elif _blocks.may_measure(federation, now):
        ways["tpu"] = functools.partial(
            _at_once, federation, counting, now, measures=True
        )
    adds_up = federation.server.batches and federation.worker.sums_over_workers is False
    number = _batches.number_of_batches(now.workers) if adds_up else None
    if number is not None:
        batched = _batches.in_batches
        ways["cpu"] = functools.partial(batched, federation, now, counting, number)
    if not ways:
        return ways
    after = jax.eval_shape(whole)
    states = now.workers.states, now.server
    if _parts.kinds((after.said.states, after.server)) != _parts.kinds(states):
        return {}  # a state that changes its dtype cannot be changed in place
    return ways


def _at_once(
    federation: Federation, counting: Layout, now: Round, *, measures: bool = False
) -> Outcome:
    if measures:
        now = _blocks.measured_at_once(federation, now)
    else:
        now = now._replace(workers=sound(federation, now.workers))
    said = respond(federation, now.common, now.workers)
    uploads = uploads_of(counting, said, now.workers.gradients, now.common.previous)
    return step(federation, now, said.counted(uploads))
