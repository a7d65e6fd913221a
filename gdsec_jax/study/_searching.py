"""The search for a method's best setting, as a config asks for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from gdsec_jax import problems
from gdsec_jax.simulation import _grid
from gdsec_jax.study import config as configs
from gdsec_jax.study import search, tuning

ENTRIES = ("k", "broadcast_k", "capacity")  # whole numbers of them: at most all


def search_method(
    config: configs.RunConfig,
    label: str,
    problem: problems.Problem,
    target_error: float,
    most_rounds: float = np.inf,
    *,
    folder: Path | None = None,
    **options: Any,
) -> tuning.Choice:
    """The best setting that a search finds, by the rule of `choose`.

    It begins where the config says, on the ladders of `lattice_of`, and goes on as
    `search.following` says; a method that draws is judged by the medians over the seeds
    that choose. Batches are kept in the folder, and read if they are there. The options
    are those of `sweep_method`.
    """
    given = config.search or configs.SearchConfig()
    lattice = lattice_of(config, label, problem)
    names, ladders = tuple(lattice), tuple(lattice.values())
    sizes = [len(ladder.values) for ladder in ladders]
    choosing, _ = config.seeds_of(label)
    best: search.Point = tuple(ladder.start for ladder in ladders)
    points, parts, why, rounds = [], [], "", np.inf
    limits = {"settings": given.settings, "batch": given.batch}
    while new := search.following(best, set(points), sizes, **limits):
        rows = [_values_at(point, ladders) for point in new]
        own = dict(options)
        if folder is not None:
            own["path"] = folder / f"{label} tune {len(parts) + 1}.nc"
        one = _listed(config, label, names, rows, choosing)
        part = tuning.sweep_method(one, label, problem, **own)
        parts.append(part.drop_vars(names))  # 1 and 0.1 of one axis are of two types
        points += new
        swept: Any = xr.concat(parts, "_".join(names), combine_attrs="override")
        place, why, rounds = tuning.best_of(swept, target_error, most_rounds)
        best = points[place]
    setting = dict(zip(names, _values_at(best, ladders), strict=True))
    why = _searched(given, lattice, points, best, choosing, why)
    return tuning.Choice(setting, why, rounds, len(points))


def lattice_of(
    config: configs.RunConfig, label: str, problem: problems.Problem
) -> dict[str, search.Ladder]:
    """The ladder of each parameter of a method's search, by name.

    A step's has its start times the powers of two, a whole number's the powers of two,
    any other's 1, 3, 10, 30 and so on. They end where the config's schema, or its
    `most`, says, and whole numbers of entries at the number of all.
    """
    entries = sum(np.size(leaf) for leaf in jax.tree.leaves(problem.init_params))
    method, most = config.methods[label], config.search.most if config.search else {}
    starts = {
        name: start
        for name, start in config.starts_of(label).items()
        if not isinstance(start, str)
    }
    found = {}
    for name, start in starts.items():
        bound = most.get(name, np.inf)
        if name in ENTRIES and isinstance(start, int):
            bound = min(bound, entries)

        def allowed(value, name=name, bound=bound):
            if not 0 < value <= bound:
                return False
            try:
                configs.varied(method, **(starts | {name: value}))
            except ValueError:
                return False
            return True

        with configs.of_method(label):
            try:
                doubles = name in configs.STEPS
                found[name] = search.ladder(start, doubles=doubles, allowed=allowed)
            except ValueError as error:
                raise ValueError(f"search.{name}: {error}.") from error
    return found


def _values_at(point: search.Point, ladders: Sequence[search.Ladder]) -> tuple:
    return tuple(x.values[place] for x, place in zip(ladders, point, strict=True))


def _listed(
    config: configs.RunConfig,
    label: str,
    names: tuple[str, ...],
    rows: Sequence[tuple],
    seeds: Sequence[int],
) -> configs.RunConfig:
    """The config with some settings of a method as its grid, and seeds."""
    values = tuple(row if len(names) > 1 else row[0] for row in rows)
    grid: dict[str, Any] = {",".join(names): values}
    grid |= {_grid.SEED: tuple(seeds)} if seeds else {}
    method = config.methods[label].model_copy(update={"grid": grid})
    return config.model_copy(update={"grid": {}, "methods": {label: method}})


def _searched(
    given: configs.SearchConfig,
    lattice: Mapping[str, search.Ladder],
    points: Sequence[search.Point],
    best: search.Point,
    choosing: Sequence[int],
    why: str,
) -> str:
    """How a search has chosen, in words: of what, by which rule, and where it ended."""
    more = len(points) - given.settings
    of = f"of {given.settings} and {more} more" if more > 0 else f"of {len(points)}"
    tried, bounds = [], []
    for axis, (name, ladder) in enumerate(lattice.items()):
        places = [point[axis] for point in points]
        ends = (ladder.values[min(places)], ladder.values[max(places)])
        tried.append(f"{name} {ends[0]:g} to {ends[1]:g}")
        bounds += [name] * ladder.ends_at(best[axis])
    words = f"{of} settings ({', '.join(tried)}), {why}"
    if choosing:
        words += f", by the medians of seeds {choosing[0]} to {choosing[-1]}"
    sizes = [len(ladder.values) for ladder in lattice.values()]
    if len(points) < given.settings:
        words += "; there are no more"
    elif not search.surrounded(best, set(points), sizes):
        words += "; the search ended at its cap"
    return words + (f"; {', '.join(bounds)} at the bound" if bounds else "")
