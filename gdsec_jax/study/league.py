"""The league: every method on every problem, tuned by one rule, on one page."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import xarray as xr

from gdsec_jax import _checks
from gdsec_jax._theory import theory
from gdsec_jax.algorithms import METHODS
from gdsec_jax.files import _environment
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _grid
from gdsec_jax.study import _processes, experiment, report, tuning
from gdsec_jax.study import config as configs
from gdsec_jax.study._kept import Kept
from gdsec_jax.study._standings import Score, section_of
from gdsec_jax.study.config._league import RELATIVE, LeagueConfig, load_league

QUICK_REPORTS, QUICK_ROUNDS = 2, 200
# The older emitters take half the newer ones' time; JAX 0.11 knows them no more.
_SOON = "--xla_backend_optimization_level=1" + (
    " --xla_cpu_use_fusion_emitters=false" * (jax.__version_info__ < (0, 11))
)

_TEXT = (
    "A method's score on a problem is the bits that its workers send until the error "
    "is at the target, as a multiple of the fewest that any method needs; where it "
    "stays there: the median error of the last tenth of the rounds is at the target, "
    "too. Methods are in the order of their mean rank over the problems; who does not "
    "get there, or cannot run, shares the last ranks. A dash says that the target was "
    "not reached within the rounds, a cross that the method cannot run there: the "
    "table below says why. In brackets are bootstrap intervals, 2.5 to 97.5 %, over "
    "the seeds that report, which are few: of data that are drawn, of the split over "
    "workers, of minibatches and of what methods draw."
)


def make(
    own: Path | None,
    results: Path,
    *,
    quick: bool = False,
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    jobs: int = 1,
    console: rich.console.Console,
) -> Path:
    """Run the league, and write its page, picture and numbers.

    A run that was ended early goes on with the scores that it left in the folder
    league of `results`; they are removed when all is done.

    Args:
      own: a config that adds to the shipped league, or None.
      results: the folder for league.html, .png, .pdf, .svg and .csv.
      quick: fewer problems, rounds and seeds.
      problems: names of those to run; none for all.
      methods: labels of those to run; none for all.
      jobs: problems at a time, in a process each if it is more than one.
      console: for a line a step.

    Returns:
      The path of the page.
    """
    league = chosen(load_league(own), quick, problems, methods)
    jobs = _checks.integer("jobs", jobs, 1)
    numbers = {one.problem.num_workers: x for x, one in league.problems.items()}
    for label, name in itertools.product(league.methods, numbers.values()):
        try:
            one = league.one(label, name, 0)
        except ValueError:  # it has no form there, which its score tells
            continue
        configs.check_makes(one)
    begin = time.perf_counter()
    names, folder = list(league.problems), results / "league"
    run = functools.partial(scores_on, league, folder)
    if min(jobs, len(names)) > 1:
        with _compiled_soon(), _processes.pool(jobs) as pool:
            made = pool.map(run, names)
            found = [
                _said(console, name, x) for name, x in zip(names, made, strict=True)
            ]
    else:
        found = [_said(console, name, run(name)) for name in names]
    scores = [score for part in found for score in part]
    words = ["gdsec", "league", *([str(own)] if own else []), *["--quick"] * quick]
    for option, given in (("--problems", problems), ("--methods", methods)):
        words += [option, *given] if given else []
    command = shlex.join(words)
    section = section_of(league, scores, command, time.perf_counter() - begin)
    results.mkdir(parents=True, exist_ok=True)
    report.save(section, results)
    page = results / "league.html"
    environment = _environment.everything() | {
        "matplotlib": importlib.metadata.version("matplotlib")
    }
    del environment["x64"]
    report.page(
        [section],
        page,
        title=league.title,
        environment=environment,
        command=command,
        introduction=(_TEXT, rule_of(league)),
        saved=True,
    )
    Kept.remove(folder, names)
    experiment.say(console, f"wrote {page}")
    return page


@contextlib.contextmanager
def _compiled_soon() -> Iterator[None]:
    """Processes that begin here spend less time on compiling: what runs is short."""
    before = os.environ.get("XLA_FLAGS")
    if before is None:
        os.environ["XLA_FLAGS"] = _SOON
    try:
        yield
    finally:
        if before is None:
            del os.environ["XLA_FLAGS"]


def chosen(
    league: LeagueConfig, quick: bool, problems: Sequence[str], methods: Sequence[str]
) -> LeagueConfig:
    """Those problems and methods alone that are named; in the quick form, its own."""
    update: dict[str, Any] = {}
    for field, names in (("problems", problems), ("methods", methods)):
        known = getattr(league, field)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"the league has no {field[:-1]} {name!r}"
                    f"{_checks.expected(name, known)} one of {', '.join(known)}."
                )
        update[field] = {x: known[x] for x in known if x in names or not names}
    if quick:
        named = update["problems"]
        kept = {x: one for x, one in named.items() if one.quick or problems}
        update["problems"] = {
            x: one.model_copy(update={"num_rounds": min(one.num_rounds, QUICK_ROUNDS)})
            for x, one in kept.items()
        }
        update["reporting"] = min(league.reporting, QUICK_REPORTS)
    return league.model_copy(update=update)


def rule_of(league: LeagueConfig) -> str:
    """How settings were chosen, in sentences."""
    targets = ", ".join(f"{x} {one.target:g}" for x, one in league.problems.items())
    return (
        f"Targets are ours, of the error relative to the first: {targets}. "
        f"Every method is given the same number of settings, {_settings(league)}: of "
        "its step, and where it has one of the parameter that matters most, around "
        "what its theory says. By one rule for all, the best is the setting with the "
        "fewest bits to the target, the median over the seeds that choose, "
        f"{league.choosing}; {league.reporting} others report. "
        "Fractions of entries, ranks and levels are not tuned. Bits are those of the "
        "messages of all workers as they would be written, run lengths of what is left "
        "out and values of 32 bits; broadcasts are not counted."
    )


def _settings(league: LeagueConfig) -> int:
    (axis,) = configs.axes_of(league.default)
    return len(axis.rows)


def _said(console, name: str, scores: list[Score]) -> list[Score]:
    ran = [score for score in scores if score.ran]
    there = sum(bool(np.isfinite(score.bits).all()) for score in ran)
    experiment.say(
        console,
        f"{name}: {there} of {len(ran)} methods reach the target with all seeds, "
        f"{len(scores) - len(ran)} cannot run",
    )
    return scores


def scores_on(league: LeagueConfig, folder: Path, name: str) -> list[Score]:
    """The scores of all methods on a problem; each is kept in the folder."""
    kept = Kept(folder, league, name)
    known = (kept.get(label) for label in league.methods)
    found = {score.label: score for score in known if score is not None}
    missing = [label for label in league.methods if label not in found]
    given = league.problems[name]
    zeroth = given.problem.model_copy(update={"seed": 0})
    with experiment.prepared(configs.RunConfig(problem=zeroth)) as first:
        made = [_with_step(first, given.step)]
        for seed in range(1, league.choosing + league.reporting):
            drawn = given.problem.model_copy(update={"seed": seed})
            made.append(_with_step(configs.make_problem(drawn), given.step))
        for label in missing:
            found[label] = score_of(league, label, name, made)
            kept.put(found[label])
            # No other method has use for its programs, and some hundreds of them are
            # more than a process can map.
            jax.clear_caches()
    return [found[label] for label in league.methods]


def score_of(
    league: LeagueConfig, label: str, name: str, made: Sequence[Problem]
) -> Score:
    """A method's score, of each seed's problem `made`; or why it has none."""
    reason, swept = None, []
    try:
        for seed, problem in enumerate(made):
            one = _in_numbers(league.one(label, name, seed), label, problem)
            part = tuning.sweep_method(one, label, problem, progress=False)
            swept.append(_relative(part))
    except ValueError as error:
        reason = str(error).removeprefix(f"methods.{label}: ")
    few = league.choosing
    if reason is not None:
        return Score(name, label, np.full(league.reporting, np.inf), reason, False)
    target = league.problems[name].target
    axes = configs.axes_of(league.grid_of(label))
    seeds: Any = xr.concat(
        [part.drop_vars(part.coords.keys() - {"eval_round"}) for part in swept],
        "seed",
        combine_attrs="override",
    )
    choice = tuning.choose(seeds.isel(seed=slice(few)), axes, target, np.inf)
    settings = list(_grid.settings_of(axes))
    place = np.unravel_index(
        settings.index(choice.setting), [len(axis.rows) for axis in axes]
    )
    dims = [axis.dimension for axis in axes]
    best = seeds.isel(dict(zip(dims, map(int, place), strict=True)))
    bits = tuning.bits_that_stay(best.isel(seed=slice(few, None)), target)
    told = ", ".join(f"{x} = {value:g}" for x, value in choice.setting.items())
    return Score(name, label, bits, f"{told}: {choice.why}", True)


def _with_step(problem: Problem, step: float | None) -> Problem:
    """Where theory knows no L: as if it were that of a step."""
    if step is None or problem.smoothness is not None:
        return problem
    each = np.full(problem.num_workers, 1 / step / problem.num_workers)
    return dataclasses.replace(problem, smoothness=1 / step, worker_smoothness=each)


def _in_numbers(
    one: configs.RunConfig, label: str, problem: Problem
) -> configs.RunConfig:
    """The grid in numbers, where it is in multiples of what theory says."""
    method = one.methods[label]
    grid = dict(method.grid)
    if set(RELATIVE) & set(grid):
        plain = method.model_copy(update={"grid": {}})
        known: dict[str, Any] = {"xi": float(problem.smoothness) / 8}
        if method.name in METHODS:
            known |= theory(method.name, problem, **plain.parameters()).parameters
        for x in set(RELATIVE) & set(grid) & set(known):
            most = 1.0 if x == "probability" else np.inf
            grid[x] = tuple(min(v * known[x], most) for v in configs.values_of(grid)[x])
    return one.model_copy(
        update={"methods": {label: method.model_copy(update={"grid": grid})}}
    )


def _relative(swept: xr.Dataset) -> xr.Dataset:
    """With errors as parts of the initial one."""
    first = swept["initial_error"]
    # -inf, where no optimum is known, stays so: Python's JSON has a word for it.
    resolution = float(tuning.resolution_of(swept)) / float(first.values.flat[0])
    return swept.assign(objective_error=swept["objective_error"] / first).assign_attrs(
        attributes=json.dumps({"resolution": resolution})
    )
