"""Figures of runs, and tables of what they cost."""

import collections
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.figure
import numpy as np
import pandas as pd
import rich.table
import rich.text

from gdsec_jax import _checks
from gdsec_jax.algorithms import METHODS
from gdsec_jax.simulation._history import History
from gdsec_jax.study.report import _compose
from gdsec_jax.study.report._compose import Panel

# Okabe and Ito's palette, which people with colour-blindness can tell apart, its yellow
# darker for white paper. A method has the same colour and dash everywhere, by its place
# in the table of methods.
_PALETTE = (
    *("#000000", "#0072B2", "#D55E00", "#009E73"),
    *("#CC79A7", "#E69F00", "#56B4E9", "#A6A01A"),
)
_POINTS = 500  # of a curve that are drawn, at most twice as many
_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("", "o", "s", "^", "v", "D")  # of the first, second … curve of a method


def line_style(method: str, again: int = 0) -> dict[str, Any]:
    """How a method's curve looks in every figure: its colour, dash and breadth.

    By the method's place in the table of methods, in eight colours.

    Args:
      method: a name of `METHODS`, or MODULE:FUNCTION of one's own: all of those look
        the same, and like none of the table.
      again: how many curves of the same look came before; each has another dash and
        marker.

    Returns:
      Keywords of matplotlib's `plot`.

    Raises:
      ValueError: there is no such method.

    Examples:
      >>> from gdsec_jax.study import report
      >>> first, second = report.line_style("gdsec"), report.line_style("gdsec", 1)
      >>> first["color"] == second["color"], first["linestyle"], second["linestyle"]
      (True, '-', '--')
    """
    names = (*METHODS, *([method] if ":" in method else []))
    _checks.one_of("method", method, names)
    place = names.index(method)
    marker = _MARKERS[again % len(_MARKERS)]
    marked = {"marker": marker, "markersize": 4}
    return (marked if marker else {}) | {
        "color": _PALETTE[place % len(_PALETTE)],
        "linestyle": _STYLES[(place // len(_PALETTE) + again) % len(_STYLES)],
        # The baseline is broad, since the best methods lie right on top of it.
        "linewidth": 4 if method == "gd" else 1.6,
        "alpha": 0.35 if method == "gd" else 1,
    }


def line_styles(methods: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`line_style` of every label of a figure, no two the same.

    Args:
      methods: the algorithm's name by label.

    Examples:
      >>> from gdsec_jax.study import report
      >>> styles = report.line_styles({"xi = 1": "gdsec", "xi = 2": "gdsec"})
      >>> [style["linestyle"] for style in styles.values()]
      ['-', '--']
    """
    seen = collections.Counter()
    styles = {}
    for label, method in methods.items():
        look = method if method in METHODS else "one's own"
        styles[label] = line_style(method, seen[look]) | {"label": label}
        seen[look] += 1
    return styles


def convergence_panels(
    histories: Mapping[str, History],
    methods: Mapping[str, str],
    *,
    wire: str,
    target: float | None = None,
) -> tuple[Panel, Panel]:
    """Error against rounds, and against uploaded bits: two panels of a `Section`.

    Both have the same range of errors, up to a hundred times the largest initial one:
    above it is divergence. What lies below the least error that can be told from 0,
    negative errors too, is drawn at it, and a line is.

    Args:
      histories: by label, or what has their errors, bits, outcome and attributes.
      methods: the algorithm's name of each label, which gives its `line_style`.
      wire: the bit format, named on the axis.
      target: an error relative to the first history's initial one, to mark.

    Returns:
      Two functions that draw on the matplotlib axes that they are given.

    Raises:
      ValueError: there are no histories, or no such method.

    Examples:
      >>> import matplotlib.figure, numpy as np, optax
      >>> from gdsec_jax import gd, problems, simulate
      >>> from gdsec_jax.study import report
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> history = simulate(problem, optax.chain(gd(2), optax.sgd(2.0)), 9)
      >>> by_rounds, by_bits = report.convergence_panels(
      ...     {"GD": history}, {"GD": "gd"}, wire="dense")
      >>> by_bits(matplotlib.figure.Figure().add_subplot())
    """
    if not histories:
        raise ValueError(f"histories is {histories!r}, expected at least one.")
    curves = _curves(histories, methods)
    first = next(iter(histories.values()))
    level = None if target is None else target * first.initial_error
    ceiling = 100 * max(history.initial_error for history in histories.values())

    def finish(axes: matplotlib.axes.Axes) -> None:
        drawn = any(np.isfinite(curve.errors).any() for curve in curves)
        if drawn:  # a logarithmic axis without a positive value is an error
            axes.set_yscale("log")
        if level is not None:
            axes.axhline(level, color="0.6", linewidth=0.8, zorder=0, label="target")
        if drawn and 0 < ceiling < axes.get_ylim()[1]:  # the rest is divergence
            axes.set_ylim(top=ceiling)
        floors = [curve.floor for curve in curves if curve.floor]
        if floors:
            line = {"color": "0.6", "linewidth": 0.8, "linestyle": ":", "zorder": 0}
            axes.axhline(max(floors), **line, label="less is not known")
        axes.set_ylabel(str(first.attributes.get("error_name", "error")))

    def by_rounds(axes: matplotlib.axes.Axes) -> None:
        for curve in curves:
            axes.plot(curve.rounds, curve.errors, **curve.line)
        axes.set_xlabel("rounds")
        finish(axes)

    def by_bits(axes: matplotlib.axes.Axes) -> None:
        for curve in curves:
            axes.plot(curve.bits, curve.errors[1:], **curve.line)
        # The start has no place on a logarithmic axis of bits, but one on the other.
        starts = [curve.errors[0] for curve in curves if np.isfinite(curve.errors[0])]
        axes.update_datalim([(1, start) for start in starts], updatex=False)
        if any(np.isfinite(curve.bits * curve.errors[1:]).any() for curve in curves):
            axes.set_xscale("log")
        axes.set_xlabel(f"uploaded bits, all workers ({wire})")
        finish(axes)

    return by_rounds, by_bits


class _Curve(NamedTuple):
    rounds: np.ndarray  # [J + 1], with the start
    errors: np.ndarray  # [J + 1]
    bits: np.ndarray  # [J]
    floor: float  # of the errors, 0 if none is that small
    line: dict[str, Any]  # of matplotlib's plot


def _curves(
    histories: Mapping[str, History], methods: Mapping[str, str]
) -> list[_Curve]:
    """What is drawn of each run."""
    curves = []
    for label, line in line_styles({x: methods[x] for x in histories}).items():
        history = histories[label]
        if history.outcome in ("diverged", "worsened"):
            line["label"] = f"{label} ({history.outcome})"
        shown = _shown(history.eval_rounds.size)
        start = np.append(0, shown + 1)
        if "marker" in line:  # ten of them, however long and noisy the curve is
            line["markevery"] = (shown.size // 20, max(1, shown.size // 10))
        errors = np.append(history.initial_error, history.objective_error)[start]
        floor = max(history.attributes.get("resolution", 0.0), 0.0)
        below = errors < floor
        curve = _Curve(
            np.append(0, history.eval_rounds)[start],
            _positive(np.where(below, floor, errors)),
            _positive(history.total_bits)[shown],
            floor if below.any() else 0.0,
            line,
        )
        curves.append(curve)
    return curves


def _shown(number: int) -> np.ndarray:
    """Points to draw of so many: at equal distances for rounds, ratios for bits."""
    even = np.linspace(0, number - 1, min(number, _POINTS))
    ratios = np.geomspace(1, number, min(number, _POINTS)) - 1
    return np.unique(np.append(even, ratios).round().astype(int))


def convergence(
    histories: Mapping[str, History],
    methods: Mapping[str, str],
    *,
    title: str,
    wire: str,
    target: float | None = None,
) -> matplotlib.figure.Figure:
    """The two `convergence_panels`, side by side.

    Args:
      histories, methods, wire, target: as there; what it raises, too.
      title: of the figure.

    Returns:
      A figure; `save_figure` writes it.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, simulate
      >>> from gdsec_jax.study import report
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> history = simulate(problem, optax.chain(gd(2), optax.sgd(2.0)), 9)
      >>> figure = report.convergence(
      ...     {"GD": history}, {"GD": "gd"}, title="Ridge", wire="dense")
      >>> [axes.get_xlabel() for axes in figure.axes]
      ['rounds', 'uploaded bits, all workers (dense)']
    """
    panels = convergence_panels(histories, methods, wire=wire, target=target)
    return _compose.draw(panels, title)


def _positive(values: np.ndarray) -> np.ndarray:
    """The values a logarithmic axis has a place for; rounding makes some negative."""
    # Nor is there a place for what overflows the axis: 1e100 says "diverged" as well.
    return np.where((values > 0) & (values < 1e100), values, np.nan)


def costs(
    histories: Mapping[str, History], target: float, *, baseline: str
) -> pd.DataFrame:
    """What each run needs to a target error, as words: a row a method.

    Rounds, megabits uploaded and sent down by the server, the uploads relative to a
    baseline's, of runs over a channel seconds, joules and the uploads that were lost in
    all, gradients of samples in millions, and how the run ended.

    Args:
      histories: by label.
      target: relative to each history's initial error.
      baseline: the label that the percentages refer to.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, simulate
      >>> from gdsec_jax.study import report
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> history = simulate(problem, optax.chain(gd(2), optax.sgd(2.0)), 9)
      >>> report.costs({"GD": history}, 1e-2, baseline="GD")["vs GD"].item()
      '100.00 %'
    """
    reference = histories[baseline]
    whole = reference.cost_to(target * reference.initial_error)
    rows = []
    timed = any(history.time_s is not None for history in histories.values())
    for label, history in histories.items():
        cost = history.cost_to(target * history.initial_error)
        share = 100 * cost.bits / whole.bits if cost and whole and whole.bits else None
        row = {
            "method": label,
            "rounds": _or_dash(cost and cost.rounds, ",", "never"),
            "Mbit up": _millions(cost and cost.bits),
            f"vs {baseline}": _or_dash(share, ".2f", unit=" %"),
        }
        if timed:
            row["s"] = _or_dash(cost and cost.seconds, ".3g")
            row["J"] = _or_dash(cost and cost.joules, ".3g")
            row["lost"] = f"{0 if history.lost is None else history.lost.sum():,}"
        row["Mbit down"] = _millions(cost and cost.broadcast_bits)
        row["Mgrad"] = _millions(cost and cost.gradient_evaluations)
        row["last error"] = history.in_words(history.objective_error[-1], ".2e")
        rows.append(row | {"outcome": history.outcome})
    return pd.DataFrame(rows)


def _or_dash(value: float | None, form: str, missing: str = "-", unit: str = "") -> str:
    return missing if value is None else f"{value:{form}}{unit}"


def _millions(value: int | None) -> str:
    return _or_dash(None if value is None else value / 1e6, ".3f")


def target_table(
    histories: Mapping[str, History], target: float, *, title: str, baseline: str
) -> rich.table.Table:
    """The `costs` of runs, which says what is to be given, under a title on a terminal.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, simulate
      >>> from gdsec_jax.study import report
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> history = simulate(problem, optax.chain(gd(2), optax.sgd(2.0)), 9)
      >>> report.target_table({"GD": history}, 1e-2, title="", baseline="GD").row_count
      1
    """
    frame = costs(histories, target, baseline=baseline)
    if "s" in frame:
        frame = frame.drop(columns=["Mbit down", "Mgrad", "outcome"])
    # Without a box eight columns fit into a terminal's eighty.
    return _on_terminal(frame, title, box=None, padding=(0, 1, 0, 0))


def _on_terminal(frame: pd.DataFrame, title: str, **options: Any) -> rich.table.Table:
    title_text = rich.text.Text(title)
    table = rich.table.Table(title=title_text, title_justify="left", **options)
    for name in frame:
        left = name in ("method", "outcome")
        table.add_column(str(name), justify="left" if left else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*row)
    return table


def format_table(
    histories: Mapping[str, History],
    target: float,
    *,
    title: str,
    names: Collection[str] = (),
) -> rich.table.Table:
    """Megabits to a target error in every bit format, for other papers' conventions.

    Of a run that does not reach it, more than those of all its rounds.

    Args:
      histories: by label, of algorithms with `wire.Format(also=...)`.
      target, title: as in `target_table`.
      names: of the formats; by default all that were counted.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, simulate, wire
      >>> from gdsec_jax.study import report
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> algorithm = gd(2, wire=wire.Format("rle", also=("coo", "values")))
      >>> history = simulate(problem, optax.chain(algorithm, optax.sgd(2.0)), 9)
      >>> table = report.format_table({"GD": history}, 1e-2, title="")
      >>> [column.header for column in table.columns]
      ['method', 'coo', 'values']
    """
    names = list(names or next(iter(histories.values())).format_bits)
    rows = []
    for label, history in histories.items():
        error = target * history.initial_error
        row = {"method": label}
        for name in names:
            cost = history.cost_to(error, name)
            whole = f"> {_millions(history.format_bits[name].sum())}"
            row[name] = _millions(cost.bits) if cost else whole
        rows.append(row)
    return _on_terminal(pd.DataFrame(rows), title)
