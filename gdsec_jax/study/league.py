"""The league: every method on every problem, tuned by one rule, on one page."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.metadata
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import rich.console
import xarray as xr

from gdsec_jax import _checks
from gdsec_jax._theory import theory
from gdsec_jax.algorithms import METHODS
from gdsec_jax.files import _environment
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _grid
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, report, tuning
from gdsec_jax.study.config._league import RELATIVE, LeagueConfig, load_league

RESAMPLES = 1000  # of the bootstrap
QUICK_REPORTS, QUICK_ROUNDS = 2, 200

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
CANNOT, NEVER = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


class Score(NamedTuple):
    """What came of a method on a problem."""

    problem: str
    label: str
    bits: np.ndarray  # [R], of the seeds that report; inf where it does not get there
    words: str  # how its setting was chosen, or why it cannot run
    ran: bool


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
    begin = time.perf_counter()
    names = list(league.problems)
    if min(jobs, len(names)) > 1:
        spawn = multiprocessing.get_context("spawn")
        pools = concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawn)
        with _compiled_soon(), pools as pool:
            made = pool.map(functools.partial(scores_on, league), names)
            found = [
                _said(console, name, x) for name, x in zip(names, made, strict=True)
            ]
    else:
        found = [_said(console, name, scores_on(league, name)) for name in names]
    scores = [score for part in found for score in part]
    command = (
        "gdsec league" + (f" {own}" if own else "") + (" --quick" if quick else "")
    )
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
    experiment.say(console, f"wrote {page}")
    return page


@contextlib.contextmanager
def _compiled_soon() -> Iterator[None]:
    """Processes that begin here compile in half the time, programs that are slower.

    Most of the time is the compiler's.
    """
    before = os.environ.get("XLA_FLAGS")
    if before is None:
        flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = flags
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
    return (
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


def scores_on(league: LeagueConfig, name: str) -> list[Score]:
    """The scores of all methods on a problem."""
    seeds = range(league.choosing + league.reporting)
    one = league.one(next(iter(league.methods)), name, 0)
    with experiment.prepared(one) as first:
        made = [_with_step(first, league.problems[name].step)]
        for seed in seeds[1:]:
            given = league.problems[name].problem.model_copy(update={"seed": seed})
            problem = configs.make_problem(given)
            made.append(_with_step(problem, league.problems[name].step))
        return [score_of(league, label, name, made) for label in league.methods]


def score_of(
    league: LeagueConfig, label: str, name: str, made: Sequence[Problem]
) -> Score:
    """A method's score, of each seed's problem `made`; or why it has none."""
    reason, swept = league.refusal(label, name), []
    try:
        for seed, problem in enumerate(made) if reason is None else ():
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
    resolution = tuning.resolution_of(swept) / float(first.values.flat[0])
    return swept.assign(objective_error=swept["objective_error"] / first).assign_attrs(
        attributes=f'{{"resolution": {resolution}}}'
    )


class Table(NamedTuple):
    """What the page shows, of methods in the order of their mean ranks."""

    labels: list[str]
    ratios: np.ndarray  # [methods, problems], of medians; inf, NaN: cannot run
    intervals: np.ndarray  # [methods, problems, 2]
    ranks: np.ndarray  # [methods], mean over the problems
    rank_intervals: np.ndarray  # [methods, 2]


def table_of(league: LeagueConfig, scores: Sequence[Score], seed: int = 0) -> Table:
    """Ranks, ratios and their intervals."""
    labels, names = list(league.methods), list(league.problems)
    at = {(score.problem, score.label): score for score in scores}
    bits = np.array([[at[name, label].bits for name in names] for label in labels])
    ran = np.array([[at[name, label].ran for name in names] for label in labels])
    number = bits.shape[-1]
    rng = np.random.default_rng(seed)
    draws = rng.integers(number, size=(RESAMPLES, number))
    ratios, ranks = ratios_and_ranks(bits)
    several = [ratios_and_ranks(bits[..., draw]) for draw in draws]
    some = np.array([x for x, _ in several]), np.array([x for _, x in several])
    ends = [np.quantile(x, (0.025, 0.975), axis=0, method="nearest") for x in some]
    mean = ranks.mean(1)
    order = np.argsort(mean, kind="stable")
    ratios = np.where(ran, ratios, np.nan)
    means = np.quantile(some[1].mean(2), (0.025, 0.975), axis=0)
    return Table(
        [labels[i] for i in order],
        ratios[order],
        np.moveaxis(ends[0], 0, -1)[order],
        mean[order],
        means.T[order],
    )


def ratios_and_ranks(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of bits [methods, problems, seeds]: medians over the seeds, by the least, ranked.

    Ranks are from 1, the mean of those that are equal.
    """
    median = np.median(bits, axis=-1)
    there = np.isfinite(median)
    least = np.where(there.any(0), median.min(0), 1.0)
    ratios = np.where(there, np.where(there, median, 0) / least, np.inf)
    return ratios, pd.DataFrame(median).rank(method="average").to_numpy()


def section_of(
    league: LeagueConfig, scores: Sequence[Score], command: str, seconds: float
) -> report.Section:
    """The picture, the table, and what is claimed."""
    table, names = table_of(league, scores), list(league.problems)
    rows = [
        {"method": label, "mean rank": _with(rank, ends)}
        | {n: _cell(table, row, c) for c, n in enumerate(names)}
        for row, (label, rank, ends) in enumerate(
            zip(table.labels, table.ranks, table.rank_intervals, strict=True)
        )
    ]
    data = pd.DataFrame(
        {"problem": s.problem, "method": s.label, "seed": seed, "bits": bits}
        for s in scores
        for seed, bits in enumerate(s.bits, league.choosing)
    )
    words = pd.DataFrame(
        {
            "method": s.label,
            "problem": s.problem,
            "its setting, or why it cannot run": s.words
            if s.ran
            else f"{CANNOT} {s.words}",
        }
        for s in sorted(scores, key=lambda s: table.labels.index(s.label))
    )
    return report.Section(
        name="league",
        title=league.title,
        text=f"{len(table.labels)} methods, {len(names)} problems.",
        panels=(functools.partial(_draw_ratios, table, names), _ranks_of(table)),
        data=data,
        command=command,
        table=pd.DataFrame(rows),
        claims=_claims(table),
        caption="Bits to the target as multiples of the fewest; mean ranks.",
        chosen=words,
        config=league.model_dump(mode="json"),
        seconds=seconds,
        tall=max(1.0, len(table.labels) / 14),
    )


def _with(value: float, ends: np.ndarray) -> str:
    return f"{value:.1f} [{ends[0]:.1f}, {ends[1]:.1f}]"


def _cell(table: Table, row: int, column: int) -> str:
    ratio, ends = table.ratios[row, column], table.intervals[row, column]
    if np.isnan(ratio):
        return CANNOT
    if np.isinf(ratio):
        return NEVER
    return f"{ratio:.3g} [{ends[0]:.3g}, {_ends(ends[1])}]"


def _ends(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else NEVER


def _claims(table: Table) -> tuple[report.Claim, ...]:
    best = table.labels[0]
    reached = np.where(np.isfinite(table.ratios), table.ratios, np.inf)
    columns = reached.T[np.isfinite(reached).any(0)]
    firsts = [table.labels[int(np.argmin(column))] for column in columns]
    several = len(set(firsts)) > 1
    made = [
        report.Claim(
            "no method is the best on every problem",
            several if len(firsts) > 1 else None,
            f"the least mean rank has {best}, {table.ranks[0]:.1f}; the fewest bits, "
            f"problem by problem: {', '.join(firsts)}",
        )
    ]
    if {"GD", "GD-SEC"} <= set(table.labels):
        ours, dense = (table.labels.index(x) for x in ("GD-SEC", "GD"))
        apart = table.rank_intervals[ours, 1] < table.rank_intervals[dense, 0]
        made.append(
            report.Claim(
                "GD-SEC ranks before GD, their intervals apart",
                bool(apart),
                f"{_with(table.ranks[ours], table.rank_intervals[ours])} against "
                f"{_with(table.ranks[dense], table.rank_intervals[dense])}; GD-SEC is "
                f"number {ours + 1} of {len(table.labels)}",
            )
        )
    return tuple(made)


def _draw_ratios(table: Table, names: Sequence[str], axes) -> None:
    """Ratios as colours with their numbers; grey where there is none."""
    shown = np.where(np.isfinite(table.ratios), table.ratios, np.nan)
    image = np.ma.masked_invalid(np.log10(shown))
    axes.set_facecolor("0.93")
    axes.imshow(image, cmap="viridis_r", vmin=0, vmax=3, aspect="auto")
    for row, column in np.ndindex(*shown.shape):
        ratio = table.ratios[row, column]
        missing = CANNOT if np.isnan(ratio) else NEVER
        text = (
            f"{ratio:.2g}"
            if np.isfinite(ratio) and ratio < 99.5
            else (f"{ratio:.0f}" if np.isfinite(ratio) else missing)
        )
        dark = np.isfinite(ratio) and np.log10(ratio) > 1.2
        axes.text(
            column, row, text, ha="center", va="center", fontsize=6.5,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(table.labels)), table.labels, fontsize=7)
    axes.set_title("bits to the target, as a multiple of the fewest", fontsize=8)


def _ranks_of(table: Table):
    def draw(axes) -> None:
        places = np.arange(len(table.labels))
        ends = np.abs(table.rank_intervals - table.ranks[:, None]).T
        axes.errorbar(table.ranks, places, xerr=ends, fmt="o", ms=3, lw=1, color="C0")
        axes.set_yticks(places, table.labels, fontsize=7)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlabel("mean rank over the problems, with its interval")
        axes.grid(axis="x", alpha=0.3)

    return draw
