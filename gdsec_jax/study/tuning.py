"""A config's methods over their grids, and the rule that picks one setting of each."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr

from gdsec_jax import _trees, problems
from gdsec_jax.algorithms import METHODS
from gdsec_jax.simulation import _chunks, _grid
from gdsec_jax.simulation._costs import cost_to as cost_to
from gdsec_jax.simulation._costs import resolution_of as resolution_of
from gdsec_jax.simulation._store import SweepFile
from gdsec_jax.simulation._sweep import sweep
from gdsec_jax.study import config as configs
from gdsec_jax.study import report


def axes_of(config: configs.RunConfig, label: str) -> tuple[_grid.Axis, ...]:
    """The axes of a method's grid: the common ones that it has no own for, then its."""
    return configs.axes_of(configs.joined(config.grid, config.methods[label].grid))


def sweep_method(
    config: configs.RunConfig,
    label: str,
    problem: problems.Problem,
    *,
    log: Callable[..., None] | None = None,
    path: Path | None = None,
    within: Mapping[str, Any] = {},
    **options: Any,
) -> xr.Dataset:
    """Every setting of a method's grid, each with the step that theory gives for it.

    The options, and the result, are those of `sweep`, with a dimension for each axis of
    the grid. What is wrong names the method. `within` is the setting of the problem, in
    the log, whose two columns all methods share, so that one file can have them all.
    """
    method, axes = config.methods[label], axes_of(config, label)
    given = list(_grid.settings_of(axes))
    rows = [ready(label, method, problem, **setting) for setting in given]
    fields = [dict(row) for row in rows]
    traced = _traced(rows)
    static = [
        name
        for name in {name: None for row in fields for name in row}
        if name not in traced
        and len({repr(row.get(name)) for row in fields}) > 1  # 1 is not 1.0
    ]
    settings = [{name: row.get(name) for name in traced + static} for row in fields]
    if log is not None:
        said = {
            _grid.identity(setting): " ".join(
                f"{name}={value}" for name, value in (*within.items(), *own.items())
            )
            for setting, own in zip(settings, given, strict=True)
        }
        options["log"] = lambda columns, setting: log(
            columns, setting={"method": label, "setting": said[_grid.identity(setting)]}
        )
    if rows[0].seed is None:
        options["key"] = config.problem.seed
    if options.get("progress") is None:
        options["progress"] = label
    uplink = configs.make_uplink(rows[0], config.channel, problem.num_workers)

    make_optimizer = _maker_of(rows[0], config, problem, (*traced, *static))
    with configs.of_method(label):
        return sweep(
            problem,
            make_optimizer,
            _grid.Listed(axes, settings, static),
            config.num_rounds,
            eval_every=config.eval_every,
            uplink=uplink,
            path=SweepFile(path, about_method(config, label, method)),
            **options,
        )


def _traced(rows: Sequence[configs.MethodConfig]) -> list[str]:
    """The fields of a method whose values, in these settings, one loop can take."""
    return [
        name
        for name in configs.TRACED
        if getattr(rows[0], name, None) is not None
        and not any(isinstance(getattr(row, name), str) for row in rows)
    ]


@dataclasses.dataclass(frozen=True)
class _MakerOf:
    """Makes a method's optimizer of its values; equal for equal ones: compiled once."""

    same: Any
    given: Mapping[str, Any] = dataclasses.field(compare=False)

    def __call__(self, **fields: Any) -> optax.GradientTransformation:
        return _of_values(**self.given, **fields)


def _maker_of(method, config, problem, varied: Collection[str]) -> _MakerOf:
    """What a sweep's settings are made by, the same on problems that it does not see.

    Settings have the step, and all else of theory that is a number.
    """
    function = configs.function_of(method.name)
    sees = method.name not in METHODS or getattr(method, "coordinate_xi", None)
    sees = sees or "name" in varied  # other methods may see it
    sees = sees or config.problem.proximal or _grid.takes(function, "probabilities")
    others = {"methods": {}, "grid": {}, "title": "", "text": ""}
    others |= {"problem": config.problem.model_copy(update={"seed": 0, "grid": {}})}
    left = dict.fromkeys({*varied, "chosen"} - {"name"})
    same = (
        repr(configs.with_values(method, **left, grid={}, search={})),
        repr(config.model_copy(update=others)),
        problem.num_workers,
        id(problem) if sees else None,
    )
    return _MakerOf(same, {"method": method, "config": config, "problem": problem})


def made(
    method: configs.MethodConfig, config: configs.RunConfig, problem: problems.Problem
) -> Any:
    """What `simulate` takes of a `ready` method, so that runs of its kind share a loop.

    Of one's own function the optimizer itself: it may look at its values.
    """
    optimizer = configs.make_optimizer(method, config, problem)  # checks the values
    if method.name not in METHODS:
        return optimizer
    values = {name: getattr(method, name) for name in _traced([method])}
    static = configs.with_values(method, **dict.fromkeys((*values, "chosen")))
    others = config.model_copy(update={"methods": {}})
    given = {"method": method, "config": config, "problem": problem}
    same = repr(static), repr(others), id(problem)
    maker = _grid.Maker(_of_values, same, given)
    dtype = _trees.widest(*map(jnp.result_type, jax.tree.leaves(problem.init_params)))
    return _chunks.Made(maker, {n: _grid.traced(x, dtype) for n, x in values.items()})


def _of_values(method, config, problem, **values) -> optax.GradientTransformation:
    return configs.make_optimizer(
        configs.with_values(method, **values), config, problem
    )


def ready(
    label: str, method: configs.MethodConfig, problem: problems.Problem, **setting: Any
) -> configs.MethodConfig:
    """A method at a setting of its grid, with all its numbers, those of theory too."""
    with configs.of_method(label):
        return configs.resolved(configs.varied(method, **setting), problem)


def about_method(
    config: configs.RunConfig, label: str, method: configs.MethodConfig
) -> dict[str, Any]:
    """What a method's results are kept with: its label, its seed, the config."""
    return {
        "label": label,
        "seed": config.problem.seed if method.seed is None else method.seed,
        "config": config.model_dump(mode="json"),
    }


class Choice(NamedTuple):
    """One setting of a grid, and how it was chosen."""

    setting: dict[str, Any]
    why: str
    rounds: float  # that it took to the target; inf if it never got there
    number: int  # of settings to choose from


def choose(
    swept: xr.Dataset,
    axes: tuple[_grid.Axis, ...],
    target_error: float,
    most_rounds: float,
) -> Choice:
    """The setting that needs the fewest bits to the target in at most so many rounds.

    The one rule for all methods. Where no setting reaches the target in so few rounds,
    the fewest bits among those that reach it; where none does, the least last error. A
    setting that does not stay there has not reached it: whose last error, the median
    over the last tenth of its evaluations, is larger.
    Over an axis `seed` there is nothing to choose: the medians over it count.
    """
    axes = tuple(axis for axis in axes if axis.names != (_grid.SEED,))
    settings = list(_grid.settings_of(axes))
    best, why, rounds = best_of(swept, target_error, most_rounds)
    of = f"of {len(settings)} settings" if len(settings) > 1 else "the one setting"
    why = f"{of}, {why}{_edges(axes, settings[best])}"
    return Choice(settings[best], why, rounds, len(settings))


def best_of(
    swept: xr.Dataset, target_error: float, most_rounds: float
) -> tuple[int, str, float]:
    """By the rule of `choose`: the place of the best setting, why, and its rounds."""
    costs, errors = cost_to(swept, target_error), _last_errors(swept)
    arrived = np.isfinite(errors) & (swept["outcome"] != "diverged")
    errors = errors.where(arrived, np.inf)
    costs = costs.where(errors <= target_error, np.inf)
    if _grid.SEED in costs.dims:
        costs, errors = costs.median(_grid.SEED), errors.median(_grid.SEED)
    rounds = np.ravel(costs["rounds"].values)
    bits = np.ravel(costs["bits"].values)
    reached = np.isfinite(rounds)
    within = reached & (rounds <= most_rounds)
    if reached.any():
        best = np.argmin(np.where(within if within.any() else reached, bits, np.inf))
        limit = " within" if within.any() else "; none within"
        limit = f"{limit} {most_rounds:,.0f} rounds" if most_rounds < np.inf else ""
        why = f"the fewest bits to the target{limit}"
    else:
        best = np.argmin(np.ravel(errors.values))
        diverged = np.isinf(np.ravel(errors.values)[best])
        never = "the least last error; none reaches the target"
        why = "all diverge" if diverged else never
    return int(best), why, float(rounds[best])


def choices(
    asked: Iterable[tuple[str, Callable[[float], Choice]]],
    baseline: str,
    slack: float,
) -> Iterator[tuple[str, Choice]]:
    """What is chosen for each method, by label, as they come, the baseline first.

    Each comes with its label and what chooses in at most so many rounds: the others may
    take a share `slack` more of them than the baseline.
    """
    most_rounds = np.inf
    for label, chosen_within in asked:
        choice = chosen_within(most_rounds)
        if label == baseline:
            most_rounds = (1 + slack) * choice.rounds
        yield label, choice


def bits_that_stay(swept: xr.Dataset, target: float) -> np.ndarray:
    """What each setting had sent at the target; inf if it does not stay there."""
    bits = cost_to(swept, target)["bits"]
    return bits.where(_last_errors(swept) <= target, np.inf).values


def axes_in(swept: xr.Dataset) -> tuple[_grid.Axis, ...]:
    """The axes of a sweep's dataset, with the values that label them."""
    axes = []
    for dim in map(str, swept["outcome"].dims):
        names = [str(n) for n, x in swept.coords.items() if x.dims == (dim,)] or [dim]
        columns = [swept[name].values.tolist() for name in names]
        axes.append(_grid.Axis(tuple(names), tuple(zip(*columns, strict=True))))
    return tuple(axes)


def compared(
    swept: Mapping[str, xr.Dataset],
    target: float,
    *,
    baseline: str,
    slack: float,
    within: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict[str, xr.Dataset]]:
    """All settings with what they cost to a target, and the best of each method.

    Args:
      swept: by label.
      target: relative to the initial error.
      baseline, slack: as in `choices`.
      within: dimensions of the problem, for each of whose settings the best is chosen.

    Returns:
      A row a setting, with the columns `report.MEASURED`, and the best ones by label.
    """
    frames, best = {label: [] for label in swept}, {}
    fixed = [axis for axis in axes_in(swept[baseline]) if axis.dimension in within]
    for places in np.ndindex(*(len(axis.rows) for axis in fixed)):
        at = {axis.dimension: x for axis, x in zip(fixed, places, strict=True)}
        rows = [axis.rows[x] for axis, x in zip(fixed, places, strict=True)]
        setting = {
            name: value
            for axis, row in zip(fixed, rows, strict=True)
            for name, value in zip(axis.names, row, strict=True)
        }
        words = "".join(f", {name} = {value}" for name, value in setting.items())
        parts = {}
        for label in sorted(swept, key=lambda label: label != baseline):
            part = swept[label].isel(at, missing_dims="ignore")
            first = float(part["initial_error"].values.flat[0])
            error = max(target * first, resolution_of(part))
            parts[label] = (part, axes_in(part), error)
        asked = (
            (label, functools.partial(choose, *part)) for label, part in parts.items()
        )
        for label, choice in choices(asked, baseline, slack):
            frame, chosen = _table_of(parts[label], choice)
            frames[label].append(frame.assign(method=label, **setting))
            best[label + words] = chosen
    whole = pd.concat([x for own in frames.values() for x in own], ignore_index=True)
    names = [*(n for axis in fixed for n in axis.names)]
    names += [n for n in whole if n not in ("method", *names, *report.MEASURED)]
    return whole.reindex(columns=["method", *names, *report.MEASURED]), best


def _table_of(
    given: tuple[xr.Dataset, tuple[_grid.Axis, ...], float], choice: Choice
) -> tuple[pd.DataFrame, xr.Dataset]:
    """A row for each setting of a sweep, and the chosen one, of seeds' the first."""
    swept, axes, error = given
    settings = list(_grid.settings_of(axes))
    measured = cost_to(swept, error).assign(
        last_error=_last_errors(swept), outcome=swept["outcome"]
    )
    columns: dict[str, Any] = {
        str(n): np.ravel(x.values) for n, x in measured.data_vars.items()
    }
    best = [choice.setting.items() <= setting.items() for setting in settings]
    columns |= {"resolution": resolution_of(swept), "best": best}
    frame = pd.DataFrame(settings, range(len(settings))).assign(**columns)
    place = np.unravel_index(best.index(True), [len(axis.rows) for axis in axes] or [1])
    dims = [axis.dimension for axis in axes]
    return frame, swept.isel(dict(zip(dims, map(int, place), strict=False)))


def _last_errors(swept: xr.Dataset) -> xr.DataArray:
    """The medians over the last tenth of each setting's evaluations: noise is none."""
    number = (swept["eval_round"] <= swept["rounds"]).sum("eval_round")
    place = xr.ones_like(swept["eval_round"]).cumsum("eval_round")
    # Where all are evaluated at once, one at least.
    late = (place <= number) & (place > number - np.maximum(number // 10, 1))
    unfinished = swept["objective_error"].isnull() & late
    errors = swept["objective_error"].where(late).median("eval_round")
    return errors.where(~unfinished.any("eval_round"), np.inf)


def _edges(axes: tuple[_grid.Axis, ...], setting: dict[str, Any]) -> str:
    """Where a better setting may lie beyond the grid, in words."""
    names = []
    for axis in axes:
        numbers = all(type(x) in (int, float) for row in axis.rows for x in row)
        if len(axis.rows) < 3 or not numbers:
            continue
        place = tuple(setting[name] for name in axis.names)
        # Less than no threshold, or than one entry, there is not.
        least = place == (0.0,) or (place == (1,) and isinstance(place[0], int))
        if place in (min(axis.rows), max(axis.rows)) and not least:
            names.append(" and ".join(axis.names))
    return f"; {', '.join(names)} at the edge of the grid" if names else ""
