"""The compiled loop of a sweep: settings of one group, side by side."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _grid, _loop, _mesh, _norms
from gdsec_jax.uplink import Uplink
from gdsec_jax.uplink._channel import Channel
from gdsec_jax.uplink._uplink import Costs

if TYPE_CHECKING:
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Maker:
    """A function with its static arguments; equal for equal ones: compiled once."""

    function: Callable
    identity: Any  # of the arguments
    static: _grid.Setting = dataclasses.field(compare=False)

    def __call__(self, *arguments, values: Mapping[str, Any]):
        given = self.static | dict(values)
        return self.function(*arguments, **_grid.those_it_takes(self.function, given))


def maker(function: Callable, static: _grid.Setting) -> Maker:
    return Maker(function, _grid.identity(static), static)


def num_devices(mesh: jax.sharding.Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


class Program(NamedTuple):
    """What the loop is compiled for."""

    make: Maker
    uplink: Maker  # without the channel, if all settings have the same
    eval_every: int
    own_keys: bool
    norms: bool
    mesh: jax.sharding.Mesh | None = None


class Plan(NamedTuple):
    """How the settings of a group are run."""

    group: _grid.Group
    problem: Problem
    program: Program
    limits: _loop.Limits
    uplink: Uplink  # of a setting, of which the host needs the kind alone
    channel: Channel | None  # of all settings; None if each has its own, or none has
    key: jax.Array | None  # None: each setting has its own, of its seed
    initial_error: float
    size: int  # settings at once, of each device
    needed: int  # bytes, for `size` settings

    @property
    def count(self) -> int:
        """Of its settings."""
        return len(self.group.traced)

    @property
    def at_once(self) -> int:
        """The settings of a batch."""
        return self.size * num_devices(self.program.mesh)


class _Inputs(NamedTuple):
    """Of the compiled loop, in the order of its arguments; settings come first."""

    limits: _loop.Limits
    channel: Channel | None
    values: dict[str, Any]
    key: jax.Array
    run: _loop.Run
    buffers: _loop.Record


def inputs_of(plan: Plan, settings: list[_grid.Setting]) -> _Inputs:
    """What the loop starts with, for the settings of one batch."""
    params = plan.problem.init_params
    dtype = _trees.widest(*map(jnp.result_type, jax.tree.leaves(params)))
    values = _grid.stack(settings, dtype)
    own, key = plan.program.own_keys, plan.key
    if key is None:
        key = jax.vmap(_trees.as_key)(values[_grid.SEED])
    run = _start(plan.program.make, params, values, len(settings))
    problem, rounds = _loop.for_loop(plan.problem), run.rounds[0]
    one = _one_round(problem, plan.program, plan.limits, plan.channel, rounds)
    axes = (0, 0 if own else None, 0)
    _, record = jax.eval_shape(jax.vmap(one, axes), values, key, run)
    records = len(settings) * plan.problem.num_workers
    capacity = max(1, min(_loop.MOST_ROUNDS, _loop.MOST_RECORDS // records))
    capacity = min(capacity, max(_loop.FIRST_CHUNK, int(plan.limits.rounds)))
    buffers = _loop.buffers_like(record, capacity)
    return _Inputs(plan.limits, plan.channel, values, key, run, buffers)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _start(make: Maker, params, values, size: int) -> _loop.Run:
    def one(values):
        return _loop.start(make(values=values), params)

    return jax.vmap(one, axis_size=size)(values)


def _one_round(problem: Problem, program: Program, limits, channel, number):
    """A setting's round, from its values, key and run."""

    def one(values, key, run):
        options = _loop.Options(program.eval_every, program.norms)
        uplink = program.uplink(values=values)
        if channel is not None:
            uplink = dataclasses.replace(uplink, channel=channel)
        given = _loop.Given(limits, uplink, key)
        optimizer = program.make(values=values)
        return _loop.one_round(problem, optimizer, options, given, number, run)

    return one


@functools.partial(
    jax.jit, static_argnames=("program",), donate_argnames=("run", "buffers")
)
def _sweep_chunk(
    problem, program, limits, channel, values, key, run, buffers, number, length
):
    """At most `length` rounds of all settings, from round `number` on."""

    def goes_on(carry):
        i, run, _ = carry
        return (i < length) & (run.outcome == _loop.RUNNING).any()

    def body(carry):
        i, run, buffers = carry
        one = _one_round(problem, program, limits, channel, number + i)
        axes = (0, 0 if program.own_keys else None, 0)
        new, record = jax.vmap(one, axes)(values, key, run)
        buffers = jax.tree.map(lambda all, one: all.at[i].set(one), buffers, record)
        run = _mesh.spread(_hold(run, new), program.mesh)
        return i + 1, run, _mesh.spread(buffers, program.mesh, axis=1)

    return jax.lax.while_loop(goes_on, body, (0, run, buffers))


def _hold(run: _loop.Run, new: _loop.Run) -> _loop.Run:
    """A setting that has ended stays there; what it computes on is not looked at."""
    ended = run.outcome != _loop.RUNNING

    def keep(old, new):
        return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - 1)), old, new)

    return _loop.Run(
        params=jax.tree.map(keep, run.params, new.params),
        state=new.state,
        rounds=keep(run.rounds, jnp.broadcast_to(new.rounds, run.rounds.shape)),
        outcome=keep(run.outcome, new.outcome),
    )


def lower(plan: Plan):
    """The loop of one device's settings, of their shapes alone."""
    shapes = jax.eval_shape(lambda: inputs_of(plan, plan.group.traced[: plan.size]))
    return _sweep_chunk.lower(
        _loop.for_loop(plan.problem),
        plan.program._replace(mesh=None),
        *shapes,
        *(jax.ShapeDtypeStruct((), jnp.int32),) * 2,
    )


def run_batch(plan: Plan, settings: list[_grid.Setting], advance, log) -> "xr.Dataset":
    """At most `plan.at_once` settings, flat, to their end."""
    count = len(settings)
    # A last batch of fewer runs in the same loop.
    padded = settings + settings[-1:] * (plan.at_once - count)
    limits, channel, values, key, run, buffers = _spread(inputs_of(plan, padded), plan)
    problem, rounds = _loop.for_loop(plan.problem), int(limits.rounds)
    capacity = buffers.error.shape[0]
    courses, done, length = [_Course([], {}, {}, {})], 0, _loop.FIRST_CHUNK
    shown = 0
    while True:
        begin = time.perf_counter()
        length = min(length, capacity, rounds - done)
        i, run, buffers = _sweep_chunk(
            problem, plan.program, limits, channel, values, key, run, buffers,
            np.int32(done), np.int32(length),
        )  # fmt: skip
        i = int(i)
        records, ended, outcome = _mesh.on_host(
            (buffers, run.rounds, run.outcome), plan.program.mesh
        )
        ended = np.asarray(ended)
        chunk = jax.tree.map(_loop.first(i), records)
        chunk = _loop.columns(plan.problem, chunk, plan.uplink)
        chunk = _until(chunk, ended, done)
        courses.append(_go_on(plan, courses[-1], chunk, done))
        if log is not None:
            _log(log, chunk, plan, settings, ended, done)
        done += i
        advance(count * done - shown)
        shown = count * done
        if done == rounds or not (np.asarray(outcome) == _loop.RUNNING).any():
            break
        if len(courses) > 2:  # the first chunk's time is mostly the compiler's
            length = _loop.next_length(length, time.perf_counter() - begin, capacity)
            length = _mesh.agreed(length, plan.program.mesh)
    advance(count * rounds - shown)
    rounds_run, outcome = _mesh.on_host((run.rounds, run.outcome), plan.program.mesh)
    return _dataset(plan, courses[1:], rounds_run, outcome, count)


def _spread(inputs: _Inputs, plan: Plan) -> _Inputs:
    """The inputs, settings over the devices of the plan's mesh."""
    own = plan.program.own_keys
    return inputs._replace(
        values=_mesh.spread(inputs.values, plan.program.mesh),
        key=_mesh.spread(inputs.key, plan.program.mesh) if own else inputs.key,
        run=_mesh.spread(inputs.run, plan.program.mesh),
        buffers=_mesh.spread(inputs.buffers, plan.program.mesh, axis=1),
    )


class _Course(NamedTuple):
    """What is kept of some rounds: columns [J, S] at their evaluations."""

    rounds: Any  # [J], the evaluations
    measured: dict[str, np.ndarray]  # error and norms
    totals: dict[str, np.ndarray]  # running, of the counts
    last: dict[str, Any]  # [S], the totals behind the rounds


def _go_on(plan: Plan, course: _Course, chunk, done: int) -> _Course:
    """The next rounds' course: not each round is kept, or long sweeps would not fit."""
    number = done + np.arange(1, chunk["bits"].shape[0] + 1)
    num_rounds = int(plan.limits.rounds)
    kept = _loop.evaluates(number, plan.program.eval_every, num_rounds)
    counts = {name: x for name, x in chunk.items() if _adds_up(name, x)}
    totals = {
        name: course.last.get(name, 0) + np.cumsum(x, axis=0)
        for name, x in counts.items()
    }
    return _Course(
        number[kept],
        {name: x[kept] for name, x in chunk.items() if name not in counts},
        {name: x[kept] for name, x in totals.items()},
        {name: x[-1] for name, x in totals.items()},
    )


def _until(chunk, ended, done: int):
    """The columns [K, S] of a chunk, without what a setting computed behind its end."""
    number = done + np.arange(1, chunk["bits"].shape[0] + 1)
    running = number[:, None] <= ended
    return {
        name: np.where(running, x, 0 if _adds_up(name, x) else np.nan)
        for name, x in chunk.items()
    }


def _adds_up(name: str, column: np.ndarray) -> bool:
    return column.dtype.kind != "f" or name in Costs._fields


def _log(log, chunk, plan: Plan, settings: list[_grid.Setting], ended, done: int):
    # The same columns whatever memories an algorithm keeps.
    names = _norms.NAMES if plan.program.norms else ()
    for s, setting in enumerate(settings):
        rounds = min(int(ended[s]) - done, chunk["bits"].shape[0])
        if rounds > 0:
            columns = {name: x[:rounds, s] for name, x in chunk.items()}
            number = np.arange(done + 1, done + rounds + 1)
            unknown = {name: np.full(rounds, np.nan) for name in names}
            columns = {"round": number} | unknown | columns
            log(columns, setting=plan.group.static | setting)


def _dataset(plan: Plan, courses: list[_Course], rounds_run, outcome, count: int):
    """The courses of a batch, one behind the other, as a labelled dataset."""
    import xarray as xr

    num_rounds = int(plan.limits.rounds)
    rounds = np.arange(1, num_rounds + 1)
    rounds = rounds[_loop.evaluates(rounds, plan.program.eval_every, num_rounds)]
    missing = rounds.size - sum(course.rounds.size for course in courses)
    dims = ("setting", "eval_round")

    # Where all settings ended early the last rounds are missing.
    def measured(name):
        columns = [course.measured[name] for course in courses]
        unknown = np.full((missing, plan.at_once), np.nan)
        return dims, np.concatenate([*columns, unknown])[:, :count].T

    def total(name):
        columns = [course.totals[name] for course in courses]
        columns.append(np.tile(courses[-1].last[name], (missing, 1)))
        return dims, np.concatenate(columns)[:, :count].T

    outcomes = [_loop.OUTCOMES[int(o)] for o in np.asarray(outcome)[:count]]
    return xr.Dataset(
        {name: measured(name) for name in courses[0].measured}
        | {f"total_{name}": total(name) for name in courses[0].totals}
        | {
            "outcome": ("setting", np.array(outcomes, dtype="U9")),
            "rounds": ("setting", np.asarray(rounds_run)[:count].astype(np.int64)),
            "initial_error": ("setting", np.full(count, plan.initial_error)),
        },
        coords={"eval_round": rounds},
    )
