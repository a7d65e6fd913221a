"""What a sweep will run: checked settings, in batches that fit into memory."""

import dataclasses
import hashlib
import inspect
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._check import check
from gdsec_jax.files import _environment
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _grid, _loop, _mesh
from gdsec_jax.simulation._batch import (
    Plan,
    Program,
    inputs_of,
    lower,
    maker,
    num_devices,
)
from gdsec_jax.uplink import Uplink
from gdsec_jax.uplink._channel import Channel


class Common(NamedTuple):
    """What all settings share."""

    num_rounds: int
    eval_every: int
    target_error: float | None
    divergence_factor: float
    key: Any
    norms: bool
    mesh: jax.sharding.Mesh | None = None


def plan_of(group, problem, make_optimizer, uplink, common: Common) -> Plan:
    """The checked plan of a group, all settings in one batch."""
    static, key = group.static, common.key
    handed = dict(static)
    if not isinstance(problem, Problem):
        own = _grid.those_it_takes(problem, static)
        named = inspect.signature(make_optimizer).parameters
        handed = {n: v for n, v in static.items() if n in named or n not in own}
        problem = problem(**own)
    if "problem" in inspect.signature(make_optimizer).parameters:
        handed |= {"problem": problem}
    make = maker(make_optimizer, handed)
    for setting in group.traced:  # their values are checked here: traced, they are not
        optimizer = make(values=setting)
        if not hasattr(optimizer, "update"):
            raise ValueError(
                f"make_optimizer returns {optimizer!r}, expected an optax chain."
            )
    check(optimizer, problem.init_params, problem.num_workers)
    seeded = _grid.SEED in group.traced[0]
    for setting in group.traced if seeded else ():
        _checks.integer(_grid.SEED, setting[_grid.SEED], 0, 2**31 - 1)
    if seeded and key is not None:
        raise ValueError(
            "key is given beside the grid's seed, expected one of the two."
        )
    for setting in group.traced:
        met = _grid.UplinkOf(uplink)(**static | setting)
        met.check(problem.num_workers)
    key = None if seeded else _loop.key_for(problem, key, met.draws)
    channel = None
    if isinstance(uplink, Uplink) and isinstance(uplink.channel, Channel):
        channel, uplink = uplink.channel, dataclasses.replace(uplink, channel=None)
    error = _loop.initial_error(problem)
    return Plan(
        group=group,
        problem=problem,
        program=Program(
            make,
            maker(_grid.UplinkOf(uplink), group.static),
            _checks.integer("eval_every", common.eval_every, 1, 2**31 - 1),
            seeded,
            common.norms,
            common.mesh,
        ),
        limits=_loop.limits(
            problem,
            common.num_rounds,
            common.target_error,
            common.divergence_factor,
            error,
        ),
        uplink=met,
        channel=channel,
        key=key,
        initial_error=error,
        size=math.ceil(len(group.traced) / num_devices(common.mesh)),
        needed=0,
    )


def fit(plan: Plan, limit: int | None) -> Plan:
    """The plan with batches that fit into memory."""
    if limit is None:  # that of the first process: all must take the same batches
        limit = _mesh.agreed(_free_memory() // 2, plan.program.mesh)
    _checks.integer("memory_limit", limit, 1)
    arrays = jax.tree.leaves(_loop.for_loop(plan.problem))
    shared = sum(jnp.asarray(array).nbytes for array in arrays)
    while True:
        needed = _memory(_lower(plan).compile())
        if needed <= limit:
            return plan._replace(needed=needed)
        if plan.size == 1:
            raise ValueError(
                f"memory_limit is {limit:,} bytes, expected at least {needed:,}, what "
                f"one setting of {plan.problem.name} needs."
            )
        each = max(1, (needed - shared) // plan.size)
        fits = int((limit - shared) // each)
        plan = plan._replace(size=max(1, min(fits, plan.size - 1)))


def _lower(plan: Plan):
    try:
        return lower(plan)
    except jax.errors.ConcretizationTypeError as error:
        reason = str(error).strip().splitlines()[0]
        traced = ", ".join(plan.group.traced[0])
        raise ValueError(
            f"make_optimizer needs the value of a traced parameter, one of {traced}: "
            f"name it in static. {reason}"
        ) from error


def _free_memory() -> int:
    import psutil

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return psutil.virtual_memory().available


def _memory(compiled) -> int:
    """Bytes that a compiled program holds at its peak, as its compiler says."""
    analysis = compiled.memory_analysis()
    if analysis is None:  # a backend that does not say
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def marks_of(plan: Plan) -> list[str]:
    """What each setting computes: its program, and all that is handed to it.

    Of the setting alone: in which batch it is run depends on the memory that is free.
    """
    common = hashlib.sha256(lower(plan._replace(size=1)).as_text().encode())
    common.update(json.dumps(_environment.versions()).encode())
    for leaf in jax.tree.leaves(_loop.for_loop(plan.problem)):
        common.update(_trees.bytes_of(leaf))

    def mark(setting):
        inputs, digest = inputs_of(plan, [setting]), common.copy()
        # The wire formats: what is counted is the same, what it costs is not.
        digest.update(repr(jax.tree.structure(inputs.buffers)).encode())
        for leaf in jax.tree.leaves(inputs._replace(buffers=None)):
            digest.update(_trees.bytes_of(leaf))
        return digest.hexdigest()

    return [mark(setting) for setting in plan.group.traced]
