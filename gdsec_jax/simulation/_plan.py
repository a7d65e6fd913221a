"""What a sweep runs: checked settings, side by side in batches that fit into memory."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._check import check
from gdsec_jax.problems import Problem
from gdsec_jax.problems._problem import check_problem
from gdsec_jax.simulation import _chunks, _grid, _mesh, _records, _run
from gdsec_jax.simulation._history import outcome_of
from gdsec_jax.uplink import Uplink
from gdsec_jax.uplink._channel import Channel

if TYPE_CHECKING:
    import xarray as xr


class Common(NamedTuple):
    """What all settings share."""

    num_rounds: int
    options: _run.Options
    stop: _run.Stop
    key: Any
    uplink: Uplink | Callable[..., Uplink]
    mesh: jax.sharding.Mesh | None = None  # that settings are spread over


class Plan(NamedTuple):
    """How the settings of a group are run."""

    group: _grid.Group
    problem: Problem
    program: _chunks.ManySettings  # of a batch
    inputs: _run.Inputs  # but for what each setting has of its own
    stop: _run.Stop
    uplink: Uplink  # of a setting, of which the host needs the kind alone
    initial_error: float
    marks: Sequence[str] = ()  # of what each setting computes, if the result is kept
    needed: int = 0  # bytes, for the settings of one device

    @property
    def count(self) -> int:
        return len(self.group.traced)

    @property
    def num_rounds(self) -> int:
        """K."""
        return int(self.inputs.limits.rounds)

    def of_size(self, size: int, mesh: jax.sharding.Mesh | None = None) -> "Plan":
        """The same with so many settings in a batch."""
        return self._replace(program=self.program._replace(size=size, mesh=mesh))

    def inputs_of(self, settings: list[_grid.Setting]) -> _run.Inputs:
        """What the settings of one batch are run from."""
        params = jax.tree.leaves(self.problem.init_params)
        dtype = _trees.widest(*map(jnp.result_type, params))
        values, key = _grid.stack(settings, dtype), self.inputs.key
        mesh = self.program.mesh
        if self.program.own_keys:
            key = _mesh.spread(jax.vmap(_trees.as_key)(values[_grid.SEED]), mesh)
        return self.inputs._replace(key=key, values=_mesh.spread(values, mesh))

    def begin(self, inputs: _run.Inputs) -> tuple[_run.Run, Any]:
        """A batch before its first round, and buffers for some rounds' records."""
        capacity = _chunks.capacity_for(self.program.size * self.problem.num_workers)
        return _chunks.begin(self.program, inputs, self.problem.init_params, capacity)


def plan_of(
    group: _grid.Group,
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable,
    common: Common,
) -> Plan:
    """The plan of a group, all settings in one batch, once they are checked."""
    handed, named = dict(group.static), inspect.signature(make_optimizer).parameters
    if callable(problem):
        own = _grid.those_it_takes(problem, group.static)
        handed = {n: v for n, v in handed.items() if n in named or n not in own}
        problem = problem(**own)
    check_problem(problem)
    if "problem" in named:
        handed |= {"problem": problem}
    make = _grid.Maker.of(make_optimizer, handed)
    for setting in group.traced:  # their values are checked here: traced, they are not
        optimizer = make(values=setting)
        if not hasattr(optimizer, "update"):
            raise ValueError(
                f"make_optimizer returns {optimizer!r}, expected an optax chain."
            )
    check(optimizer, problem.init_params, problem.num_workers)
    uplink = _uplink_of(group, problem, common)
    key = _key_of(group, problem, uplink, common)
    functions, channel = common.uplink, None
    if isinstance(functions, Uplink) and isinstance(functions.channel, Channel):
        channel = functions.channel  # which all settings have
        functions = dataclasses.replace(functions, channel=None)
    from_values = _grid.UplinkOf(functions)
    static = {n: v for n, v in group.static.items() if from_values.takes(n)}
    error = _run.initial_error(problem)
    devices = 1 if common.mesh is None else common.mesh.size
    limits = _run.limits(problem, common.num_rounds, common.stop, error)
    program = _chunks.ManySettings(
        make,
        _grid.Maker.of(from_values, static),
        common.options,
        own_keys=_grid.SEED in group.traced[0],
        # Perhaps a few more, that all devices have the same number.
        size=-(-len(group.traced) // devices) * devices,
        mesh=common.mesh,
    )
    return Plan(
        group=group,
        problem=problem,
        program=program,
        inputs=_run.Inputs(
            _run.for_loop(problem), limits, Uplink(channel=channel), key
        ),
        stop=common.stop,
        uplink=uplink,
        initial_error=error,
    )


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


def fit(plan: Plan, limit: int | None) -> Plan:
    """The plan with batches that fit into memory."""
    mesh = plan.program.mesh
    devices = 1 if mesh is None else mesh.size
    if limit is None:  # that of the first process: all must take the same batches
        limit = _mesh.agreed(_free_memory() // 2, mesh)
    _checks.integer("memory_limit", limit, 1)
    arrays = jax.tree.leaves(plan.inputs.problem)
    shared = sum(jnp.asarray(array).nbytes for array in arrays)
    size = plan.program.size // devices  # of each device
    while True:
        needed = _memory(plan.of_size(size))
        if needed <= limit:
            return plan.of_size(size * devices, mesh)._replace(needed=needed)
        if size == 1:
            raise ValueError(
                f"memory_limit is {limit:,} bytes, expected at least {needed:,}, what "
                f"one setting of {plan.problem.name} needs."
            )
        each = max(1, (needed - shared) // size)
        size = max(1, min((limit - shared) // each, size - 1))


@contextlib.contextmanager
def values_are_traced(plan: Plan) -> Iterator[None]:
    """A sentence for who asks for the value of a setting while its loop is traced."""
    try:
        yield
    except jax.errors.ConcretizationTypeError as error:
        reason = str(error).strip().splitlines()[0]
        traced = ", ".join(plan.group.traced[0])
        raise ValueError(
            f"make_optimizer needs the value of a traced parameter, one of {traced}: "
            f"wrap its values in gdsec_jax.Static. {reason}"
        ) from error


def _memory(plan: Plan) -> int:
    """Bytes that the loop of one device's settings holds at its peak.

    It is compiled for their shapes alone; 0 where a compiler does not say.
    """

    def begin():
        inputs = plan.inputs_of(plan.group.traced[: plan.program.size])
        return inputs, *plan.begin(inputs)

    number = jax.ShapeDtypeStruct((), jnp.int32)
    with values_are_traced(plan):
        inputs, run, buffers = jax.eval_shape(begin)
        for name in plan.group.static | plan.group.traced[0]:
            if name in buffers.record.observed:
                raise ValueError(f"observe returns {name!r}, which the grid names too.")
        lower = _chunks.chunk.lower
        lowered = lower(plan.program, inputs, run, buffers, number, number)
    analysis = lowered.compile().memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def _free_memory() -> int:
    import psutil

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return psutil.virtual_memory().available


def run_batch(
    plan: Plan,
    settings: list[_grid.Setting],
    advance: Callable[[int], None],
    log: Callable[..., None] | None,
) -> "xr.Dataset":
    """At most `plan.program.size` settings, flat, to their end."""
    count, program, mesh = len(settings), plan.program, plan.program.mesh
    # A last batch of fewer runs in the same loop.
    inputs = plan.inputs_of(settings + settings[-1:] * (program.size - count))
    run, buffers = plan.begin(inputs)
    # Not each round is kept, or long sweeps would not fit.
    kept, last, numbers = [], {}, np.arange(0)
    for chunk in _chunks.run_chunks(program, inputs, run, buffers):
        run, numbers = chunk.run, chunk.numbers
        # bool [K, S], whether a setting had not ended before a round.
        running = numbers[:, None] <= np.asarray(_mesh.on_host(run.rounds, mesh))
        columns = _columns(plan, chunk.record, running)
        if log is not None:
            _tell(log, columns, plan, settings, running, numbers)
        for name, x in columns.items():
            if _records.adds_up(name):  # the totals, behind those of the rounds before
                columns[name] = last.get(name, 0) + np.cumsum(x, axis=0)
        last = {name: x[-1] for name, x in columns.items()}
        every = program.options.eval_every
        evaluated = _run.evaluates(numbers, every, plan.num_rounds)
        kept.append({name: x[evaluated] for name, x in columns.items()})
        advance(count * numbers.size)
    advance(count * (plan.num_rounds - int(numbers[-1])))  # over before its last round
    rounds, outcome = map(np.asarray, _mesh.on_host((run.rounds, run.outcome), mesh))
    return _dataset(plan, kept, rounds[:count], outcome[:count])


def _columns(plan: Plan, record: Any, running: np.ndarray) -> dict[str, np.ndarray]:
    """The columns [K, S] of a chunk, without what a setting computed after its end."""

    def one(name, x):
        shown = running.reshape(running.shape + (1,) * (x.ndim - 2))
        return np.where(shown, x, 0 if _records.adds_up(name) else np.nan)

    rounds = _records.Rounds.of(record, plan.problem, plan.uplink)
    return {name: one(name, x) for name, x in _records.columns(rounds).items()}


def _tell(log, columns, plan: Plan, settings, running, numbers) -> None:
    """Each setting's rounds, until it ended."""
    for s, setting in enumerate(settings):
        own = running[:, s]
        if own.any():
            told = {name: x[own, s] for name, x in columns.items()}
            told = _records.log_columns(
                told, numbers[own], plan.program.options.observe
            )
            log(told, setting=plan.group.static | setting)


def _dataset(plan: Plan, kept, rounds_run, outcome) -> "xr.Dataset":
    """What is kept of a batch, chunk after chunk, as a labelled dataset."""
    import xarray as xr

    rounds, every = np.arange(1, plan.num_rounds + 1), plan.program.options.eval_every
    rounds = rounds[_run.evaluates(rounds, every, plan.num_rounds)]
    variables: dict[str, Any] = {}
    for name in kept[0]:
        values = np.concatenate([part[name] for part in kept])[:, : outcome.size]
        total = _records.adds_up(name)
        # Where all settings ended early the last rounds are missing.
        missing = [(0, rounds.size - len(values)), *[(0, 0)] * (values.ndim - 1)]
        as_before: Any = {"mode": "edge"} if total else {"constant_values": np.nan}
        values = np.pad(values, missing, **as_before).swapaxes(0, 1)
        more = (f"{name}:{axis}" for axis in range(values.ndim - 2))
        label = f"{_records.TOTAL}{name}" if total else name
        variables[label] = (("setting", "eval_round", *more), values)
    start, resolution = plan.initial_error, plan.problem.resolution
    outcomes = [
        outcome_of(number, last, start, resolution)
        for number, last in zip(outcome, kept[-1]["objective_error"][-1], strict=False)
    ]
    variables |= {
        "outcome": ("setting", np.array(outcomes, dtype="U9")),
        "rounds": ("setting", rounds_run.astype(np.int64)),
        "initial_error": ("setting", np.full(outcome.size, plan.initial_error)),
    }
    return xr.Dataset(variables, coords={"eval_round": rounds})
