"""A round of all workers, by the way that is asked for, or that is the fastest."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gdsec_jax import _checks
from gdsec_jax._devices import BY_DEVICE, DEVICE_AXIS, num_devices
from gdsec_jax.federation import _batches, _blocks, _columns
from gdsec_jax.federation._batches import Grouped
from gdsec_jax.federation._round import Columns, Results, Steps, at_once
from gdsec_jax.worker import WORKER_AXIS


def run(
    columns: Columns,
    chosen: jax.Array,
    steps: Steps,
    always: jax.Array,
    *,
    keep_messages: bool,
    may_cut: bool,
    may_group: bool,
) -> tuple[jax.Array, Results, Any]:
    """A round: at once, or in blocks of components or groups of workers.

    Args:
      columns: of the round.
      chosen: bool [M], the workers that may take part.
      steps: of the round.
      always: as of `_blocks.in_blocks`.
      keep_messages: whether messages must be there whole to be counted.
      may_cut: whether messages may be cut into blocks.
      may_group: whether workers may be taken in groups.

    Returns:
      The workers that do take part; the results; what was counted.

    Raises:
      ValueError: gradients are Grouped, and the pipeline sums over all workers.
    """
    groups = functools.partial(_batches.in_groups, steps=steps, always=always)
    gradients = columns.gradients
    if isinstance(gradients, Grouped):
        try:
            each = chosen.size // num_devices()
            number = _batches.number_of_size(gradients.size, each)
            return groups(columns, chosen, number=number)
        except NameError as error:
            if not _sums_over_workers(error):
                raise
            raise ValueError(
                "gradients are Grouped, expected those of all workers at once: the "
                "pipeline sums over all workers."
            ) from error
    whole = functools.partial(at_once, steps=steps)
    large = _blocks.num_bytes(gradients) >= _blocks.LEAST_BYTES
    if not large or not _checks.is_traced(jax.tree.leaves(gradients)[0]):
        return whole(columns, chosen)  # without jit nothing is changed in place
    if num_devices() > 1:
        return whole(columns, chosen)  # nothing is cut that others hold parts of
    ways = {}
    plan = _columns.plan(columns, steps) if may_cut else None
    if plan is not None:
        for platform in plan.numbers:
            ways[platform] = functools.partial(
                _columns.in_blocks,
                steps=steps,
                plan=plan,
                platform=platform,
                always=always,
                keep_messages=keep_messages,
            )
    number = _batches.number_of_groups(columns) if may_group else None
    if number is not None:
        in_groups = functools.partial(groups, number=number)
        try:
            jax.eval_shape(in_groups, columns, chosen)
            ways["cpu"] = in_groups
        except NameError as error:
            if not _sums_over_workers(error):
                raise
    if not ways:
        return whole(columns, chosen)
    return jax.lax.platform_dependent(columns, chosen, default=whole, **ways)


def for_workers(function: Callable, each: tuple, alone: bool) -> Any:
    """A function of one worker's arguments, for all, or some that are `alone`.

    With a mesh in effect every device does its own workers', and nothing moves, where
    the function does not sum over all of them.
    """
    together = functools.partial(jax.vmap, function, axis_name=WORKER_AXIS)
    if num_devices() == 1:
        return (jax.vmap(function) if alone else together())(*each)
    by_device = jax.shard_map(
        jax.vmap(function),
        in_specs=BY_DEVICE,
        out_specs=BY_DEVICE,
        axis_names={DEVICE_AXIS},
        check_vma=False,
    )
    try:
        return by_device(*each)
    except NameError as error:
        if alone or not _sums_over_workers(error):
            raise
        return together()(*each)


def _sums_over_workers(error: NameError) -> bool:
    """Whether a pipeline failed since it knows of no other workers."""
    return f"axis name: {WORKER_AXIS}" in str(error)
