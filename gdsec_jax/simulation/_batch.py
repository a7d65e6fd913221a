"""The courses of a batch of a sweep's settings, which are run side by side."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gdsec_jax.simulation import _chunks, _grid, _mesh, _records, _run
from gdsec_jax.simulation._history import OUTCOMES
from gdsec_jax.simulation._observe import log_columns
from gdsec_jax.simulation._plan import Plan

if TYPE_CHECKING:
    import xarray as xr


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
    inputs = inputs._replace(values=_mesh.spread(inputs.values, mesh))
    if program.own_keys:
        inputs = inputs._replace(key=_mesh.spread(inputs.key, mesh))
    run, buffers = plan.begin(inputs)
    # Not each round is kept, or long sweeps would not fit.
    kept, last, numbers = [], {}, np.arange(0)
    for chunk in _chunks.run_chunks(program, inputs, run, buffers):
        run, numbers = chunk.run, chunk.numbers
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
    return _dataset(plan, kept, last, rounds[:count], outcome[:count])


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

    rounds, every = np.arange(1, plan.num_rounds + 1), plan.program.options.eval_every
    rounds = rounds[_run.evaluates(rounds, every, plan.num_rounds)]
    variables: dict[str, Any] = {
        "outcome": ("setting", np.array([OUTCOMES[o] for o in outcome], dtype="U9")),
        "rounds": ("setting", rounds_run.astype(np.int64)),
        "initial_error": ("setting", np.full(outcome.size, plan.initial_error)),
    }
    for name, end in last.items():
        values = np.concatenate([part[name] for part in kept])
        total = _records.adds_up(name)
        # Where all settings ended early the last rounds are missing.
        end = end if total else np.full_like(end, np.nan, dtype=float)
        missing = np.repeat(end[None], rounds.size - len(values), axis=0)
        values = np.concatenate([values, missing])[:, : outcome.size].swapaxes(0, 1)
        more = (f"{name}:{axis}" for axis in range(values.ndim - 2))
        label = f"{_records.TOTAL}{name}" if total else name
        variables[label] = (("setting", "eval_round", *more), values)
    return xr.Dataset(variables, coords={"eval_round": rounds})
