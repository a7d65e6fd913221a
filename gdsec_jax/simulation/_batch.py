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
    params = plan.problem.init_params
    run, buffers = _chunks.begin(program, inputs, params, plan.capacity())
    # Not each round is kept, or long sweeps would not fit.
    kept, last = [], {}
    for chunk in _chunks.run_chunks(
        program, inputs, run, buffers, done=0, num_rounds=num_rounds
    ):
        ended = np.asarray(_mesh.on_host(chunk.run.rounds, mesh))
        numbers = np.arange(chunk.before, chunk.done) + 1
        columns = _columns(plan, chunk.record, numbers[:, None] <= ended)
        if log is not None:
            _tell(log, columns, plan, settings, numbers[:, None] <= ended, numbers)
        sofar = _so_far(columns, last)
        last = {name: x[-1] for name, x in sofar.items()}
        evaluated = _run.evaluates(numbers, program.options.eval_every, num_rounds)
        kept.append({name: x[evaluated] for name, x in sofar.items()})
        advance(count * (chunk.done - chunk.before))
        run = chunk.run
    # What is over before its last round.
    advance(count * (num_rounds - int(numbers[-1])))  # pyright: ignore
    rounds, outcome = map(np.asarray, _mesh.on_host((run.rounds, run.outcome), mesh))
    return _dataset(plan, kept, last, rounds[:count], outcome[:count])


def _spread(inputs: _chunks.Inputs, program) -> _chunks.Inputs:
    """The inputs, settings over the devices of the program's mesh."""
    given = inputs.given
    if program.own_keys:
        given = given._replace(key=_mesh.spread(given.key, program.mesh))
    return inputs._replace(
        given=given, values=_mesh.spread(inputs.values, program.mesh)
    )


def _columns(plan: Plan, record: Any, running: np.ndarray) -> dict[str, np.ndarray]:
    """The columns [K, S] of a chunk, without what a setting computed after its end.

    Args:
      plan, record: of the chunk.
      running: bool [K, S], whether a setting had not ended before a round.
    """

    def one(name, x):
        shown = running.reshape(running.shape + (1,) * (x.ndim - 2))
        return np.where(shown, x, 0 if _records.adds_up(name) else np.nan)

    rounds = _records.Rounds.of(record, plan.problem, plan.uplink)
    return {name: one(name, x) for name, x in _records.columns(rounds).items()}


def _so_far(columns, last: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns; of what adds up the totals, behind those of the rounds before."""
    return {
        name: last.get(name, 0) + np.cumsum(x, axis=0) if _records.adds_up(name) else x
        for name, x in columns.items()
    }


def _tell(log, columns, plan: Plan, settings, running, numbers) -> None:
    for s, setting in enumerate(settings):
        own = running[:, s]
        if own.any():
            told = {name: x[own, s] for name, x in columns.items()}
            told = log_columns(told, numbers[own], plan.program.options.observe)
            log(told, setting=plan.group.static | setting)


def _dataset(plan: Plan, kept, last, rounds_run, outcome) -> "xr.Dataset":
    """What is kept of a batch, chunk after chunk, as a labelled dataset."""
    import xarray as xr

    num_rounds, count = int(plan.given.limits.rounds), outcome.size
    rounds = np.arange(1, num_rounds + 1)
    rounds = rounds[_run.evaluates(rounds, plan.program.options.eval_every, num_rounds)]

    def variable(name):
        values = np.concatenate([part[name] for part in kept])
        # Where all settings ended early the last rounds are missing.
        total = _records.adds_up(name)
        end = last[name] if total else np.full_like(last[name], np.nan, dtype=float)
        missing = np.repeat(end[None], rounds.size - len(values), axis=0)
        values = np.concatenate([values, missing])[:, :count].swapaxes(0, 1)
        more = (f"{name}:{axis}" for axis in range(values.ndim - 2))
        return ("setting", "eval_round", *more), values

    def label(name):
        return f"{_records.TOTAL}{name}" if _records.adds_up(name) else name

    outcomes = [OUTCOMES[int(o)] for o in outcome]
    return xr.Dataset(
        {label(name): variable(name) for name in last}
        | {
            "outcome": ("setting", np.array(outcomes, dtype="U9")),
            "rounds": ("setting", rounds_run.astype(np.int64)),
            "initial_error": ("setting", np.full(count, plan.initial_error)),
        },
        coords={"eval_round": rounds},
    )
