"""Figures of runs."""

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.figure
import numpy as np

from gdsec_jax import _checks
from gdsec_jax.algorithms import METHODS
from gdsec_jax.simulation._history import History
from gdsec_jax.study.report import _compose
from gdsec_jax.study.report._compose import Panel

# Okabe and Ito's palette, which people with colour-blindness can tell apart, its yellow
# darker for white paper. A method has the same colour and dash everywhere, by its place
# in the table of methods.
_PALETTE = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#A6A01A",
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
    above it is divergence.

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
      >>> axes = matplotlib.figure.Figure().add_subplot()
      >>> by_bits(axes)
      >>> axes.get_xlabel()
      'uploaded bits, all workers (dense)'
    """
    if not histories:
        raise ValueError(f"histories is {histories!r}, expected at least one.")
    curves = _curves(histories, methods)
    first = next(iter(histories.values()))
    name = str(first.attributes.get("error_name", "error"))
    level = None if target is None else target * first.initial_error
    ceiling = 100 * max(history.initial_error for history in histories.values())

    def by_rounds(axes: matplotlib.axes.Axes) -> None:
        for curve in curves:
            axes.plot(curve.rounds, curve.errors, **curve.line)
        axes.set_xlabel("rounds")
        _error_axis(axes, curves, name, level, ceiling)

    def by_bits(axes: matplotlib.axes.Axes) -> None:
        for curve in curves:
            axes.plot(curve.bits, curve.errors[1:], **curve.line)
        # The start has no place on a logarithmic axis of bits, but one on the other.
        starts = [curve.errors[0] for curve in curves if np.isfinite(curve.errors[0])]
        axes.update_datalim([(1, start) for start in starts], updatex=False)
        if any(np.isfinite(curve.bits * curve.errors[1:]).any() for curve in curves):
            axes.set_xscale("log")
        axes.set_xlabel(f"uploaded bits, all workers ({wire})")
        _error_axis(axes, curves, name, level, ceiling)

    return by_rounds, by_bits


class _Curve(NamedTuple):
    rounds: np.ndarray  # [J + 1], with the start
    errors: np.ndarray  # [J + 1]
    bits: np.ndarray  # [J]
    line: dict[str, Any]  # of matplotlib's plot


def _curves(
    histories: Mapping[str, History], methods: Mapping[str, str]
) -> list[_Curve]:
    curves = []
    for label, line in line_styles({x: methods[x] for x in histories}).items():
        history = histories[label]
        if history.outcome == "diverged":
            line["label"] = f"{label} (diverged)"
        shown = _shown(history.eval_rounds.size)
        start = np.append(0, shown + 1)
        if "marker" in line:  # ten of them, however long and noisy the curve is
            line["markevery"] = (shown.size // 20, max(1, shown.size // 10))
        curve = _Curve(
            np.append(0, history.eval_rounds)[start],
            _positive(np.append(history.initial_error, history.objective_error))[start],
            _positive(history.total_bits)[shown],
            line,
        )
        curves.append(curve)
    return curves


def _shown(number: int) -> np.ndarray:
    """Which of so many points are drawn: no more than a picture can show.

    Some at equal distances for the axis of rounds, some at equal ratios for that of
    bits.
    """
    even = np.linspace(0, number - 1, min(number, _POINTS))
    ratios = np.geomspace(1, number, min(number, _POINTS)) - 1
    return np.unique(np.append(even, ratios).round().astype(int))


def _error_axis(
    axes: matplotlib.axes.Axes,
    curves: list[_Curve],
    name: str,
    level: float | None,
    ceiling: float,
) -> None:
    drawn = any(np.isfinite(curve.errors).any() for curve in curves)
    if drawn:  # a logarithmic axis without a positive value is an error
        axes.set_yscale("log")
    if level is not None:
        axes.axhline(level, color="0.6", linewidth=0.8, zorder=0, label="target")
    if drawn and 0 < ceiling < axes.get_ylim()[1]:  # the rest is divergence
        axes.set_ylim(top=ceiling)
    axes.set_ylabel(name)


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
      histories, methods, wire, target: as there.
      title: of the figure.

    Returns:
      A figure; `save_figure` writes it.

    Raises:
      ValueError: there are no histories, or no such method.

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
