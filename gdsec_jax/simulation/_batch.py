"""A batch of a sweep's settings: what they are run from, and their courses."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _chunks, _grid, _mesh, _records, _run
from gdsec_jax.simulation._history import OUTCOMES
from gdsec_jax.simulation._observe import log_columns
from gdsec_jax.uplink import Uplink

if TYPE_CHECKING:
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Maker:
    """A function with its static arguments; equal for equal ones: compiled once."""

    function: Callable
    identity: Any  # of the arguments
    static: _grid.Setting = dataclasses.field(compare=False)

    @classmethod
    def of(cls, function: Callable, static: _grid.Setting) -> "Maker":
        """The function with these arguments."""
        return cls(function, _grid.identity(static), static)

    def __call__(self, *, values: Mapping[str, Any]):
        given = self.static | dict(values)
        return self.function(**_grid.those_it_takes(self.function, given))


class Plan(NamedTuple):
    """How the settings of a group are run."""

    group: _grid.Group
    problem: Problem
    program: _chunks.ManySettings  # of a batch
    given: _run.Given  # its key is None if each setting has its own, of its seed
    stop: _run.Stop
    uplink: Uplink  # of a setting, of which the host needs the kind alone
    initial_error: float
    needed: int = 0  # bytes, for the settings of one device

    @property
    def count(self) -> int:
        """Of its settings."""
        return len(self.group.traced)

    def of_size(self, size: int, mesh: jax.sharding.Mesh | None = None) -> "Plan":
        """The same with so many settings in a batch."""
        return self._replace(program=self.program._replace(size=size, mesh=mesh))

    def capacity(self) -> int:
        """Rounds that a batch keeps on the device."""
        rounds = _chunks.capacity_for(self.program.size * self.problem.num_workers)
        return min(rounds, max(_chunks.FIRST_CHUNK, int(self.given.limits.rounds)))


def inputs_of(plan: Plan, settings: list[_grid.Setting]) -> _chunks.Inputs:
    """What the settings of one batch are run from."""
    params = plan.problem.init_params
    dtype = _trees.widest(*map(jnp.result_type, jax.tree.leaves(params)))
    values = _grid.stack(settings, dtype)
    given = plan.given
    if plan.program.own_keys:
        given = given._replace(key=jax.vmap(_trees.as_key)(values[_grid.SEED]))
    return _chunks.Inputs(_run.for_loop(plan.problem), given, values)


def run_batch(plan: Plan, settings: list[_grid.Setting], advance, log) -> "xr.Dataset":
    """At most `plan.program.size` settings, flat, to their end."""
    count, program, mesh = len(settings), plan.program, plan.program.mesh
    num_rounds = int(plan.given.limits.rounds)
    # A last batch of fewer runs in the same loop.
    padded = settings + settings[-1:] * (program.size - count)
    inputs = _spread(inputs_of(plan, padded), program)
    run, buffers = _chunks.begin(
        program, inputs, plan.problem.init_params, plan.capacity()
    )
    courses = [_Course([], {}, {}, {})]
    for chunk in _chunks.run_chunks(
        program, inputs, run, buffers, done=0, num_rounds=num_rounds
    ):
        run, record = chunk.run, chunk.record
        ended = np.asarray(_mesh.on_host(run.rounds, mesh))
        rounds = _records.Rounds.of(record, plan.problem, plan.uplink)
        columns = _until(_records.columns(rounds), ended, chunk)
        courses.append(_go_on(plan, courses[-1], columns, chunk))
        if log is not None:
            _tell(log, columns, plan, settings, ended, chunk)
        advance(count * (chunk.done - chunk.before))
    # What is over before its last round.
    advance(count * (num_rounds - chunk.done))  # pyright: ignore
    rounds, outcome = map(np.asarray, _mesh.on_host((run.rounds, run.outcome), mesh))
    return _dataset(plan, courses[1:], rounds, outcome, count)


def _spread(inputs: _chunks.Inputs, program) -> _chunks.Inputs:
    """The inputs, settings over the devices of the program's mesh."""
    given = inputs.given
    if program.own_keys:
        given = given._replace(key=_mesh.spread(given.key, program.mesh))
    return inputs._replace(
        given=given, values=_mesh.spread(inputs.values, program.mesh)
    )


class _Course(NamedTuple):
    """What is kept of some rounds: columns [J, S] at their evaluations."""

    rounds: Any  # [J], the evaluations
    measured: dict[str, np.ndarray]  # errors, and what does not add up
    totals: dict[str, np.ndarray]  # over the rounds so far
    last: dict[str, Any]  # [S], the totals after the rounds


def _numbers(chunk: _chunks.Chunk) -> np.ndarray:
    return np.arange(chunk.before, chunk.done) + 1


def _go_on(plan: Plan, course: _Course, columns, chunk: _chunks.Chunk) -> _Course:
    """The next rounds' course: not each round is kept, or long sweeps would not fit."""
    numbers, num_rounds = _numbers(chunk), int(plan.given.limits.rounds)
    kept = _run.evaluates(numbers, plan.program.options.eval_every, num_rounds)
    totals = {
        name: course.last.get(name, 0) + np.cumsum(x, axis=0)
        for name, x in columns.items()
        if _records.adds_up(name)
    }
    return _Course(
        numbers[kept],
        {name: x[kept] for name, x in columns.items() if name not in totals},
        {name: x[kept] for name, x in totals.items()},
        {name: x[-1] for name, x in totals.items()},
    )


def _until(columns, ended, chunk: _chunks.Chunk):
    """The columns [K, S] of a chunk, without what a setting computed after its end."""
    running = _numbers(chunk)[:, None] <= ended

    def one(name, x):
        shown = running.reshape(running.shape + (1,) * (x.ndim - 2))
        return np.where(shown, x, 0 if _records.adds_up(name) else np.nan)

    return {name: one(name, x) for name, x in columns.items()}


def _tell(log, columns, plan: Plan, settings, ended, chunk: _chunks.Chunk) -> None:
    for s, setting in enumerate(settings):
        numbers = _numbers(chunk)
        numbers = numbers[numbers <= ended[s]]
        if numbers.size:
            own = {name: x[: numbers.size, s] for name, x in columns.items()}
            told = log_columns(own, numbers, plan.program.options.observe)
            log(told, setting=plan.group.static | setting)


def _dataset(plan: Plan, courses: list[_Course], rounds_run, outcome, count: int):
    """The courses of a batch, one after the other, as a labelled dataset."""
    import xarray as xr

    num_rounds, size = int(plan.given.limits.rounds), plan.program.size
    rounds = np.arange(1, num_rounds + 1)
    rounds = rounds[_run.evaluates(rounds, plan.program.options.eval_every, num_rounds)]
    missing = rounds.size - sum(course.rounds.size for course in courses)

    # Where all settings ended early the last rounds are missing.
    def measured(name):
        columns = [course.measured[name] for course in courses]
        columns.append(np.full((missing, size, *columns[0].shape[2:]), np.nan))
        return _labelled(name, columns)

    def total(name):
        columns = [course.totals[name] for course in courses]
        columns.append(np.tile(courses[-1].last[name], (missing, 1)))
        return _labelled(name, columns)

    def _labelled(name, columns):
        values = np.concatenate(columns)[:, :count].swapaxes(0, 1)
        more = (f"{name}:{axis}" for axis in range(values.ndim - 2))
        return ("setting", "eval_round", *more), values

    outcomes = [OUTCOMES[int(o)] for o in outcome[:count]]
    return xr.Dataset(
        {name: measured(name) for name in courses[0].measured}
        | {f"{_records.TOTAL}{name}": total(name) for name in courses[0].totals}
        | {
            "outcome": ("setting", np.array(outcomes, dtype="U9")),
            "rounds": ("setting", rounds_run[:count].astype(np.int64)),
            "initial_error": ("setting", np.full(count, plan.initial_error)),
        },
        coords={"eval_round": rounds},
    )
