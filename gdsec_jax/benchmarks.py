"""Benchmarks: timing side by side, the machine's own speed, results and their table.

A bench is a module in experiments/benchmarks with

    def bench(settings: benchmarks.Settings) -> list[benchmarks.Measure]

which times with `interleaved`, or raises `Skipped` where it cannot run. Measures are
ratios within one run where they can be: to a rival, or to what the machine's memory
bandwidth allows. A module whose name begins with _ is shared by benches, and none.
"""

import datetime
import json
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from gdsec_jax import _environment, _files, _shipped, experiment

LAST = ("figures",)  # of all: what takes minutes by itself


class Settings(NamedTuple):
    """What a bench is handed."""

    repeats: int = 5
    small: bool = False  # at sizes that show that it works, and time nothing
    console: rich.console.Console = rich.console.Console()


class Measure(NamedTuple):
    """What was measured, and what it should be."""

    name: str
    value: float
    unit: str = ""
    spread: float = 0.0  # interquartile range of the repeats over their median
    must: float | None = None
    goal: float | None = None
    larger_is_better: bool = False
    note: str = ""


class Skipped(Exception):
    """A bench cannot run here; its text says why."""


class Report(NamedTuple):
    """What a bench left: measures, or why there are none."""

    measures: tuple[Measure, ...] = ()
    seconds: float = 0.0
    skipped: str = ""
    failed: str = ""


class Result(NamedTuple):
    """One run of the command."""

    date: str
    environment: dict[str, str]  # machine, versions, commit
    repeats: int
    small: bool
    reports: dict[str, Report]  # by bench, in the order they ran


# Timing


class Times(NamedTuple):
    """Seconds of the repeats of one call."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the repeats."""
        return float(np.median(self.seconds))

    @property
    def best(self) -> float:
        """The shortest."""
        return min(self.seconds)


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, *, warm_ups: int = 1
) -> dict[str, Times]:
    """Time calls in turns, A B A B …, so that what slows the machine slows them all.

    A call is timed until all that it returns is there.

    Args:
      calls: by name, without arguments.
      repeats: of each, at least 1.
      warm_ups: calls of each before them, which compile and are not timed.

    Returns:
      The times of each, by name; the i-th of all belong to one turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_ups, repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            taken = time.perf_counter() - begin
            if turn >= 0:
                seconds[name].append(taken)
    return {name: Times(tuple(taken)) for name, taken in seconds.items()}


def threaded(step: Callable[..., Any], state: Any) -> Callable[[], Any]:
    """A call without arguments of a step that takes its own last result.

    So a jitted step may be given its state's buffers for good (donate_argnums=0), as a
    training loop does it.

    Args:
      step: from a state to the next.
      state: the first, which is given away.
    """

    def call():
        nonlocal state
        state = step(state)
        return state

    return call


def summary(samples: Iterable[float]) -> dict[str, float]:
    """The median and spread of samples, by the names that `Measure` has for them."""
    low, median, high = np.percentile(list(samples), [25, 50, 75])
    spread = (high - low) / abs(median) if median else 0.0
    return {"value": float(median), "spread": float(spread)}


def ratio(numerator: Times, denominator: Times) -> dict[str, float]:
    """The median and spread of the ratios turn by turn, for `Measure`."""
    pairs = zip(numerator.seconds, denominator.seconds, strict=True)
    return summary(a / b for a, b in pairs)


# The machine's memory


TRIAD_SIZE = 2**26  # float32 numbers, 256 MiB: far beyond any cache


def triad(size: int = TRIAD_SIZE) -> Callable[[], Any]:
    """A call of a += s b over float32 arrays of a size, in place by donation.

    It moves 12 bytes a number: it reads a and b and writes a.
    """

    def add(a, b, s):
        return a + s * b

    compiled = jax.jit(add, donate_argnums=0)
    b, s = jnp.ones(size, jnp.float32), jnp.float32(1e-3)
    return threaded(lambda a: compiled(a, b, s), jnp.zeros(size, jnp.float32))


def speed(times: Times, size: int = TRIAD_SIZE) -> float:
    """GB/s (1e9 bytes) of a `triad` of that size: of the fastest repeat."""
    return 12 * size / times.best / 1e9


def bandwidth(repeats: int = 10, size: int = TRIAD_SIZE) -> float:
    """GB/s (1e9 bytes) that the machine's memory moves, the best of the repeats.

    Measured as an in-place triad, a += s b of float32, compiled by XLA with its default
    flags and threads. Counted are 12 bytes a number: read a, read b, write a; what a
    cache reads beside them, as before a write, is not counted. The best repeat is
    taken: the reference is what the machine can do, not what it did while disturbed.

    Args:
      repeats: after one that warms up.
      size: numbers in each of the two arrays, beyond what the caches hold.
    """
    return speed(interleaved({"triad": triad(size)}, repeats)["triad"], size)


def roofline(
    call: Callable[[], Any], num_bytes: float, settings: Settings
) -> tuple[dict[str, float], float]:
    """A call's time over that of its bytes at the triad's speed, and this speed.

    Args:
      call: what is timed, in turns with the triad.
      num_bytes: that it must move.
      settings: of the bench.

    Returns:
      The median and spread of the ratio, for `Measure`; and GB/s.
    """
    size = 2**16 if settings.small else TRIAD_SIZE
    times = interleaved({"triad": triad(size), "call": call}, settings.repeats)
    reached = speed(times["triad"], size)
    least = num_bytes / (reached * 1e9)
    return summary(taken / least for taken in times["call"].seconds), reached


def exponent(sizes: Sequence[float], times: Sequence[Times]) -> dict[str, float]:
    """The exponent p of time ~ size^p by least squares of the logarithms, for `Measure`.

    One fit for each repeat; the value is the median, the spread that of the fits.
    """
    by_repeat = np.log([each.seconds for each in times])
    return summary(np.atleast_1d(np.polyfit(np.log(sizes), by_repeat, 1)[0]))


# Running


def available() -> dict[str, Path]:
    """The benches by name, in the order in which they run."""
    paths = (_shipped.folder("experiments") / "benchmarks").glob("[!_]*.py")
    found = {path.stem: path for path in sorted(paths)}
    return {n: found[n] for n in sorted(found, key=lambda name: name in LAST)}


def module(name: str) -> Any:
    """The module in experiments/benchmarks of that name."""
    return _shipped.module(_shipped.folder("experiments") / "benchmarks" / f"{name}.py")


def about(name: str) -> str:
    """What a bench measures, in a line."""
    return module(name).__doc__.splitlines()[0]


def run(names: Sequence[str], settings: Settings) -> Result:
    """Run benches one after the other; one that fails keeps none from running.

    Args:
      names: of benches; "all" for all.
      settings: for each of them.

    Raises:
      ValueError: there is no such bench, or repeats is below 1.
    """
    known = available()
    for name in names:
        if name not in known and name != "all":
            raise ValueError(
                f"no bench is called {name!r}, expected all or {', '.join(known)}."
            )
    if settings.repeats < 1:
        raise ValueError(f"repeats is {settings.repeats}, expected at least 1.")
    chosen = [name for name in known if "all" in names or name in names]
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    reports = {}
    for name in chosen:
        experiment.say(settings.console, f"bench {name}: {about(name)}")
        reports[name] = _report(name, settings)
        experiment.say(settings.console, f"  {_outcome(reports[name])}")
    return Result(date, _environment_here(), settings.repeats, settings.small, reports)


def _report(name: str, settings: Settings) -> Report:
    seconds = experiment.stopwatch()
    try:
        measures = tuple(module(name).bench(settings))
    except Skipped as reason:
        return Report(seconds=seconds(), skipped=str(reason))
    except Exception as error:
        experiment.say(settings.console, traceback.format_exc())
        return Report(seconds=seconds(), failed=f"{type(error).__name__}: {error}")
    return Report(measures, seconds())


def _outcome(report: Report) -> str:
    if report.skipped:
        return f"skipped: {report.skipped}"
    if report.failed:
        return f"failed: {report.failed}"
    return f"{len(report.measures)} measures in {report.seconds:.0f} s"


def _environment_here() -> dict[str, str]:
    everything = _environment.everything()
    del everything["x64"]  # each bench says its own precision
    return everything | {"commit": _commit()}


def _commit() -> str:
    """Of the checkout, "-dirty" if it has changes; "" if there is none."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


# Files


def as_json(result: Result) -> dict[str, Any]:
    """A result as JSON has it."""
    reports = {
        name: report._asdict() | {"measures": [m._asdict() for m in report.measures]}
        for name, report in result.reports.items()
    }
    return _files.plain("result", result._asdict() | {"reports": reports})


def from_json(values: Mapping[str, Any]) -> Result:
    """What `as_json` was of.

    Raises:
      ValueError: it is no result.
    """
    try:
        reports = {
            name: Report(**report)._replace(
                measures=tuple(Measure(**m) for m in report["measures"])
            )
            for name, report in values["reports"].items()
        }
        return Result(**(dict(values) | {"reports": reports}))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"no result of gdsec bench, expected what --json wrote: {error!r}."
        ) from error


def save(result: Result, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    with _files.whole(path) as temporary:
        temporary.write_text(json.dumps(as_json(result), indent=1) + "\n", "utf-8")


def load(path: Path) -> Result:
    """Read what `save` wrote, or of a history the last line.

    Raises:
      ValueError: the file holds no result.
      OSError: it cannot be read.
    """
    text = Path(path).read_text("utf-8")
    if Path(path).suffix == ".jsonl":
        text = (text.splitlines() or [""])[-1]
    try:
        return from_json(json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def append(result: Result, path: Path) -> None:
    """Add a result to a history, a line for each, in one write of the whole line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(as_json(result)) + "\n"
    with path.open("a+b") as history:
        if history.tell() and _last_byte(history) != b"\n":
            line = "\n" + line  # a line that was cut short spoils no other
        os.write(history.fileno(), line.encode())


def _last_byte(file) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


# Tables


def verdict(measure: Measure) -> str:
    """ "goal", "must" or "missed": the best that was reached; "" if nothing is asked."""
    if _reaches(measure, measure.goal):
        return "goal"
    if _reaches(measure, measure.must):
        return "must"
    return "" if measure.must is None else "missed"


def _reaches(measure: Measure, limit: float | None) -> bool:
    if limit is None:
        return False
    if measure.larger_is_better:
        return measure.value >= limit
    return measure.value <= limit


_STYLES = {"goal": "green", "must": "yellow", "missed": "red", "": ""}


def tables(result: Result) -> list[rich.table.Table]:
    """What must be reached, and what was measured beside it."""
    asked, others = _table("What must be reached"), _table("Also measured")
    for name, report in result.reports.items():
        for table, chosen in (
            (asked, [m for m in report.measures if verdict(m)]),
            (others, [m for m in report.measures if not verdict(m)]),
        ):
            _add_rows(table, name, chosen)
    return [table for table in (asked, others) if table.row_count]


def _table(title: str) -> rich.table.Table:
    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("bench")
    table.add_column("what was measured", overflow="fold")
    for column in ("value", "spread", "must", "goal"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    return table


def _add_rows(table, name: str, measures: Sequence[Measure]) -> None:
    for measure in measures:
        said = verdict(measure)
        table.add_row(
            name if measure is measures[0] else "",
            measure.name,
            _with_unit(measure.value, measure.unit),
            f"{measure.spread:.0%}" if measure.spread else "",
            *(_limit(measure, limit) for limit in (measure.must, measure.goal)),
            f"[{_STYLES[said]}]{said}[/]" if said else "",
            end_section=measure is measures[-1],
        )


def _limit(measure: Measure, limit: float | None) -> str:
    if limit is None:
        return ""
    return f"{'≥' if measure.larger_is_better else '≤'} {_number(limit)}"


def _number(value: float) -> str:
    """Three digits, and no exponents where they can be helped."""
    if abs(value) >= 1000 and math.isfinite(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _with_unit(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}".strip()


def show(result: Result, console: rich.console.Console) -> None:
    """Print a result: the tables, then notes, what did not run, and the machine."""
    for table in tables(result):
        console.print(table)
    for name, report in result.reports.items():
        for measure in report.measures:
            if measure.note:
                experiment.say(console, f"{name}, {measure.name}: {measure.note}")
        if report.skipped or report.failed:
            experiment.say(console, f"{name}: {_outcome(report)}")
    experiment.say(console, machine(result))


def machine(result: Result) -> str:
    """What a result was measured on and with, in a line."""
    here = result.environment
    small = ", small sizes: these are no measurements" if result.small else ""
    return (
        f"{here['processor']}, {here['cores']} cores, {here['memory']}; "
        f"{here['device']}; jax {here['jax']}, jaxlib {here['jaxlib']}, "
        f"NumPy {here['numpy']}, Python {here['python']}; {result.date}, "
        f"{result.repeats} repeats{small}"
    )


def compare(old: Result, new: Result, console: rich.console.Console) -> None:
    """Print the ratios of a new result's measures to an old one's.

    A change beyond both spreads is called better or worse. Differences of the machine,
    the versions and the sizes are named first: ratios across them say little.
    """
    for line in differences(old, new):
        experiment.say(console, line)
    table = rich.table.Table("bench", "what was measured")
    for column in ("old", "new", "new / old"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("change")
    measures = [_by_name(result) for result in (old, new)]
    names = list(measures[1]) + [n for n in measures[0] if n not in measures[1]]
    for bench, name in names:
        before, after = (each.get((bench, name)) for each in measures)
        cells = [_with_unit(m.value, m.unit) if m else "-" for m in (before, after)]
        both = before is not None and after is not None
        times = f"{_quotient(before, after):.2f}" if both else ""
        said = change(before, after) if both else ""
        table.add_row(bench, name, *cells, times, said)
    console.print(table)


def differences(old: Result, new: Result) -> list[str]:
    """In what two results differ beside their measures, a sentence each."""
    names = [*new.environment, *(set(old.environment) - set(new.environment))]
    pairs = [(n, *(r.environment.get(n, "") for r in (old, new))) for n in names]
    pairs.append(("small", str(old.small), str(new.small)))
    return [f"{name} differs: {a!r}, then {b!r}." for name, a, b in pairs if a != b]


def change(old: Measure, new: Measure) -> str:
    """ "better" or "worse" if a measure moved by more than both spreads, else ""."""
    quotient = _quotient(old, new)
    if not abs(quotient - 1) > old.spread + new.spread:
        return ""
    return "better" if (quotient > 1) == new.larger_is_better else "worse"


def _quotient(old: Measure, new: Measure) -> float:
    return new.value / old.value if old.value else math.nan


def _by_name(result: Result) -> dict[tuple[str, str], Measure]:
    return {
        (bench, measure.name): measure
        for bench, report in result.reports.items()
        for measure in report.measures
    }
