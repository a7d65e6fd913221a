"""What a sweep will run: checked settings, in batches that fit into memory."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks
from gdsec_jax.federation._check import check
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _chunks, _grid, _mesh, _run
from gdsec_jax.simulation._batch import Maker, Plan, inputs_of
from gdsec_jax.uplink import Uplink
from gdsec_jax.uplink._channel import Channel


class Common(NamedTuple):
    """What all settings share."""

    num_rounds: int
    options: _run.Options
    stop: _run.Stop
    key: Any
    uplink: Uplink | Callable[..., Uplink]
    mesh: jax.sharding.Mesh | None = None


def plan_of(
    group: _grid.Group,
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable,
    common: Common,
) -> Plan:
    """The plan of a group, all settings in one batch, once they are checked."""
    handed = dict(group.static)
    if not isinstance(problem, Problem):
        own = _grid.those_it_takes(problem, group.static)
        named = inspect.signature(make_optimizer).parameters
        handed = {n: v for n, v in handed.items() if n in named or n not in own}
        problem = problem(**own)
    if "problem" in inspect.signature(make_optimizer).parameters:
        handed |= {"problem": problem}
    make = Maker.of(make_optimizer, handed)
    for setting in group.traced:  # their values are checked here: traced, they are not
        optimizer = make(values=setting)
        if not hasattr(optimizer, "update"):
            raise ValueError(
                f"make_optimizer returns {optimizer!r}, expected an optax chain."
            )
    check(optimizer, problem.init_params, problem.num_workers)
    seeded, uplink = _grid.SEED in group.traced[0], _uplink_of(group, problem, common)
    key = _key_of(group, problem, uplink, common)
    functions, channel = common.uplink, None
    if isinstance(functions, Uplink) and isinstance(functions.channel, Channel):
        channel = functions.channel  # which all settings have
        functions = dataclasses.replace(functions, channel=None)
    error = _run.initial_error(problem)
    limits = _run.limits(problem, common.num_rounds, common.stop, error)
    program = _chunks.ManySettings(
        make,
        Maker.of(_grid.UplinkOf(functions), _named(functions, group.static)),
        common.options,
        own_keys=seeded,
        size=_rounded_up(len(group.traced), common.mesh),
        mesh=common.mesh,
    )
    return Plan(
        group=group,
        problem=problem,
        program=program,
        given=_run.Given(limits, Uplink(channel=channel), key),
        stop=common.stop,
        uplink=uplink,
        initial_error=error,
    )


def _named(uplink: Uplink | Callable, static: _grid.Setting) -> _grid.Setting:
    """Of the static parameters those that the uplink's functions take."""
    functions = _grid.functions_of(uplink)
    return {
        n: v for n, v in static.items() if any(_grid.takes(f, n) for f in functions)
    }


def _uplink_of(group: _grid.Group, problem: Problem, common: Common) -> Uplink:
    """A setting's uplink, after those of all settings were checked."""
    for setting in group.traced:
        uplink = _grid.UplinkOf(common.uplink)(**group.static | setting)
        uplink.check(problem.num_workers)
        if uplink.channel is getattr(common.uplink, "channel", None):
            break  # the others have the same
    return uplink  # pyright: ignore


def _key_of(
    group: _grid.Group, problem: Problem, uplink: Uplink, common: Common
) -> Any:
    """The key of all settings; None if each has its own, of its seed."""
    if _grid.SEED not in group.traced[0]:
        return _run.key_for(problem, common.key, uplink)
    for setting in group.traced:
        _checks.integer(_grid.SEED, setting[_grid.SEED], 0, 2**31 - 1)
    if common.key is not None:
        raise ValueError(
            "key is given beside the grid's seed, expected one of the two."
        )
    return None


def _devices(mesh: jax.sharding.Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def _rounded_up(count: int, mesh: jax.sharding.Mesh | None) -> int:
    """So many settings, or a few more, that all devices have the same number."""
    return -(-count // _devices(mesh)) * _devices(mesh)


def fit(plan: Plan, limit: int | None) -> Plan:
    """The plan with batches that fit into memory."""
    mesh = plan.program.mesh
    devices = _devices(mesh)
    if limit is None:  # that of the first process: all must take the same batches
        limit = _mesh.agreed(_free_memory() // 2, mesh)
    _checks.integer("memory_limit", limit, 1)
    arrays = jax.tree.leaves(_run.for_loop(plan.problem))
    shared = sum(jnp.asarray(array).nbytes for array in arrays)
    size = plan.program.size // devices  # of each device
    while True:
        needed = _memory(_lower(plan.of_size(size)).compile())
        if needed <= limit:
            return plan.of_size(size * devices, mesh)._replace(needed=needed)
        if size == 1:
            raise ValueError(
                f"memory_limit is {limit:,} bytes, expected at least {needed:,}, what "
                f"one setting of {plan.problem.name} needs."
            )
        each = max(1, (needed - shared) // size)
        fits = int((limit - shared) // each)
        size = max(1, min(fits, size - 1))


def _lower(plan: Plan):
    """The loop of one device's settings, of their shapes alone."""
    params, settings = plan.problem.init_params, plan.group.traced[: plan.program.size]

    def begin():
        inputs = inputs_of(plan, settings)
        return inputs, *_chunks.begin(plan.program, inputs, params, plan.capacity())

    number = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        inputs, run, buffers = jax.eval_shape(begin)
        for name in plan.group.static | plan.group.traced[0]:
            if name in buffers.observed:
                raise ValueError(f"observe returns {name!r}, which the grid names too.")
        return _chunks.chunk.lower(plan.program, inputs, run, buffers, number, number)
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
