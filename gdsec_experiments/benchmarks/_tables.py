"""Results as people read them: the table, and the comparison of two."""

import math
from collections.abc import Callable
from typing import Any

import rich.console
import rich.table

from gdsec_experiments.benchmarks._results import Measure, Result
from gdsec_jax.study import experiment

FLOOR = 0.05  # of a change, where no spread is known


def verdict(measure: Measure) -> str:
    """What a measure reached: goal, must, or missed; empty if nothing is asked.

    Or skipped, where the value is NaN: the measure's note says why.
    """
    if math.isnan(measure.value):
        return "skipped"
    sign = -1 if measure.larger_is_better else 1
    for name, limit in (("goal", measure.goal), ("must", measure.must)):
        if limit is not None and sign * measure.value <= sign * limit:
            return name
    return "" if measure.must is None else "missed"


_STYLES = {"goal": "green", "must": "yellow", "missed": "red", "skipped": "dim"}


def _tables(result: Result) -> list[rich.table.Table]:
    """What must be reached, and what was measured beside it.

    At small sizes nothing is measured, so nothing is asked and nothing judged.
    """
    asks = not result.small
    wanted: dict[str, Callable[[Measure], Any]] = {
        "What must be reached": verdict,
        "Also measured": lambda measure: not (verdict(measure) or measure.told),
    }
    if not asks:
        wanted = {"At small sizes": lambda measure: not measure.told}
    made = []
    for title, wants in wanted.items():
        table = rich.table.Table(title=title, title_justify="left")
        table.add_column("bench")
        table.add_column("what was measured", overflow="fold")
        for column in ("value", "spread", *(("must", "goal") if asks else ())):
            table.add_column(column, justify="right", no_wrap=True)
        if asks:
            table.add_column("verdict")
        for name, report in result.reports.items():
            measures = [measure for measure in report.measures if wants(measure)]
            for measure in measures:
                table.add_row(
                    name if measure is measures[0] else "",
                    *_cells(measure)[: None if asks else 3],
                    end_section=measure is measures[-1],
                )
        made.append(table)
    return [table for table in made if table.row_count]


def _cells(measure: Measure) -> tuple[str, ...]:
    """Name, value, spread; must, goal, verdict."""
    sign, said = "≥" if measure.larger_is_better else "≤", verdict(measure)
    limits = (measure.must, measure.goal)
    return (
        measure.name,
        _with_unit(measure.value, measure.unit),
        f"{measure.spread:.0%}" if measure.spread else "",
        *("" if limit is None else f"{sign} {_number(limit)}" for limit in limits),
        f"[{_STYLES[said]}]{said}[/]" if said else "",
    )


def _number(value: float) -> str:
    """Three digits, and no exponents where they can be helped."""
    if abs(value) >= 1000 and math.isfinite(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _with_unit(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{_number(value)} {unit}".strip()


def show(result: Result, console: rich.console.Console) -> None:
    """Print a result: the tables, then notes, what did not run, and the machine."""
    for table in _tables(result):
        console.print(table)
    for name, report in result.reports.items():
        for measure in report.measures:
            if measure.note:
                experiment.say(console, f"{name}, {measure.name}: {measure.note}")
        if report.skipped or report.failed:
            experiment.say(console, f"{name}: {report.outcome}")
    experiment.say(console, machine(result))


def machine(result: Result) -> str:
    """What a result was measured on and with, in a line."""
    here = result.environment
    small = ", small sizes: these are no measurements" if result.small else ""
    return (
        f"{here['processor']}, {here['cores']} cores, {here['memory']}, "
        f"load {here['load']} at the start; "
        f"{here['device']}; jax {here['jax']}, jaxlib {here['jaxlib']}, "
        f"NumPy {here['numpy']}, Python {here['python']}; {result.date}, "
        f"{result.repeats} repeats{small}"
    )


def compare(old: Result, new: Result, console: rich.console.Console) -> None:
    """Print the ratios of a new result's measures to an old one's.

    A change beyond both spreads is called better or worse, unless at small sizes.
    Differences of the machine, the versions and the sizes are named first: ratios
    across them say little.

    Raises:
      ValueError: they have no measure in common.
    """
    measures = [_by_name(result) for result in (old, new)]
    if not measures[0].keys() & measures[1].keys():
        both = (", ".join(each.reports) or "none" for each in (old, new))
        raise ValueError(
            "the results have no measure in common, expected some of the same benches: "
            "the old one is of {}, the new one of {}.".format(*both)
        )
    for line in differences(old, new):
        experiment.say(console, line)
    table = rich.table.Table("bench", "what was measured")
    for column in ("old", "new", "new / old"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("change")
    names = list(measures[1]) + [n for n in measures[0] if n not in measures[1]]
    for bench, name in names:
        before, after = (each.get((bench, name)) for each in measures)
        cells = [_with_unit(m.value, m.unit) if m else "-" for m in (before, after)]
        if before is not None and after is not None:
            said = "" if old.small or new.small else change(before, after)
            cells += [f"{_quotient(before, after):.2f}", said]
        table.add_row(bench, name, *cells)
    console.print(table)


def differences(old: Result, new: Result) -> list[str]:
    """In what two results differ beside their measures, a sentence each."""
    names = [*new.environment, *(set(old.environment) - set(new.environment))]
    pairs = [
        (name, *(result.environment.get(name, "") for result in (old, new)))
        for name in names
        if name != "load"  # of the moment
    ]
    pairs.append(("small", str(old.small), str(new.small)))
    return [f"{name} differs: {a!r}, then {b!r}." for name, a, b in pairs if a != b]


def change(old: Measure, new: Measure) -> str:
    """Better or worse, if a measure moved by more than both spreads; else empty.

    Where neither has a spread, by more than 5 %: one number says nothing of its noise.
    """
    quotient = _quotient(old, new)
    if not abs(quotient - 1) > (old.spread + new.spread or FLOOR):
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
