"""How a method looks, on axes, and in a legend."""

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.algorithms import METHODS

if TYPE_CHECKING:
    import matplotlib.axes

# Okabe and Ito's palette, which people with colour-blindness can tell apart, its yellow
# darker for white paper. A method has the same colour and dash everywhere, by its place
# in the table of methods; blue is GD-SEC's alone.
_FIRST = ("#000000", "#0072B2")
_PALETTE = (
    *("#D55E00", "#009E73", "#CC79A7", "#E69F00"),
    *("#56B4E9", "#A6A01A", "#000000"),
)
_STYLES: Any = (
    *("-", "--", ":", "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    *((0, (9, 2)), (0, (4, 4))),
)
_DOTS = "os^DvPX"  # of points, for these dashes
_MARKERS = ("", "o", "s", "^", "v", "D")  # of the first, second … curve of a method
_TWICE = 2  # times the least error so far: then a curve goes up and down
ENTRIES = 7  # of a legend


def line_style(method: str, again: int = 0) -> dict[str, Any]:
    """How a method's curve looks in every figure: its colour, dash and breadth.

    By the method's place in the table of methods: gd is black, broad and pale, gdsec
    blue, and the others share seven colours.

    Args:
      method: a name of `METHODS`, or MODULE:FUNCTION of one's own, which looks like
        none of the table.
      again: how many curves of the same look came before; each has another dash and
        marker.

    Returns:
      Keywords of matplotlib's `plot`.

    Raises:
      ValueError: there is no such method.

    Examples:
      >>> from gdsec_jax import plot
      >>> first, second = plot.line_style("gdsec"), plot.line_style("gdsec", 1)
      >>> first["color"], second["color"], first["linestyle"], second["linestyle"]
      ('#0072B2', '#0072B2', '-', '--')
    """
    names = (*METHODS, *([method] if ":" in method else []))
    _checks.one_of("method", method, names)
    return _style(names.index(method), again)


def _style(place: int, again: int) -> dict[str, Any]:
    """Of the method at a place in the table, or behind it."""
    marker = _MARKERS[again % len(_MARKERS)]
    marked = {"marker": marker, "markersize": 4}
    turn, number = divmod(max(place - len(_FIRST), 0), len(_PALETTE))
    turn += place >= len(_FIRST) and _PALETTE[number] in _FIRST  # not as GD itself
    return (marked if marker else {}) | {
        "color": (*_FIRST, _PALETTE[number])[min(place, len(_FIRST))],
        "linestyle": _STYLES[(turn + again) % len(_STYLES)],
        # The baseline is broad, since the best methods lie right on top of it.
        "linewidth": 1.6 if place else 4,
        "alpha": 1 if place else 0.35,
    }


def line_styles(methods: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`line_style` of every label of a figure; the first twelve of a method differ.

    Args:
      methods: the algorithm's name by label; several of one's own differ in colour.

    Examples:
      >>> from gdsec_jax import plot
      >>> styles = plot.line_styles({"xi = 1": "gdsec", "xi = 2": "gdsec"})
      >>> [style["linestyle"] for style in styles.values()]
      ['-', '--']
    """
    for method in methods.values():
        line_style(method)  # says what is none
    own = [name for name in dict.fromkeys(methods.values()) if name not in METHODS]
    places = {name: place for place, name in enumerate((*METHODS, *own))}
    seen, styles = collections.Counter(), {}
    for label, method in methods.items():
        styles[label] = _style(places[method], seen[method]) | {"label": label}
        seen[method] += 1
    return styles


def shade(line: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The line with so much of its colour, the rest white."""
    import matplotlib.colors

    red, green, blue = matplotlib.colors.to_rgb(line["color"])
    red, green, blue = (1 - share * (1 - part) for part in (red, green, blue))
    return {**line, "color": matplotlib.colors.to_hex((red, green, blue))}


def axes_of(ax: Any) -> Any:
    """The axes that are given, or new ones."""
    if ax is not None:
        if not hasattr(ax, "plot"):
            raise ValueError(f"ax is {ax!r}, expected matplotlib's axes.")
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").add_subplot()


def named(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines as they are drawn: of many some are in the legend, the others pale."""
    if len(lines) <= ENTRIES:
        return list(lines)
    shades = len({line["color"] for line in lines}) == len(lines)  # of one sweep
    few = ENTRIES - 1  # the last entry counts the others
    places = np.linspace(0, len(lines) - 1, few).round() if shades else range(few)
    pale = {} if shades else {"alpha": 0.3, "linewidth": 1, "zorder": 1}
    return [
        line if place in places else {**line, "label": f"_{line['label']}"} | pale
        for place, line in enumerate(lines)
    ]


def finished(axes: Any, number: int) -> Any:
    """The axes with a legend, which says how many of so many lines it leaves out."""
    if number > ENTRIES:
        rest = f"and {number - ENTRIES + 1} more"
        axes.plot([], [], color="0.5", alpha=0.3, label=rest)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small", frameon=False)
    return axes


def level(
    axes: Any, value: float, words: str, *, right: bool = False, **line: Any
) -> None:
    """A thin line across the axes with words at its left, rather than a legend."""
    look = {"color": "0.6", "linewidth": 0.8, "zorder": 0, "label": f"_{words}"} | line
    axes.axhline(value, **look)
    axes.annotate(
        words,
        (1 if right else 0, value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-3 if right else 3, 1),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        fontsize=9.5,
        color="0.35",
        zorder=6,
    )


def goes_up_and_down(errors: np.ndarray) -> bool:
    """Whether an error is somewhere more than twice its least so far."""
    return bool((errors > _TWICE * np.fmin.accumulate(errors)).any())


def fall(axes: Any, along: np.ndarray, errors: np.ndarray, **line: Any) -> None:
    """An error's curve; what goes up and down pale, and over it the least so far."""
    if goes_up_and_down(errors):
        pale = {"color": line["color"], "alpha": 0.3, "linewidth": 0.8, "zorder": 1}
        axes.plot(along, errors, **pale)
        errors = np.fmin.accumulate(errors)
    axes.plot(along, errors, **line)


def dots(line: Mapping[str, Any]) -> dict[str, Any]:
    """The same look for points: a marker stands for each dash."""
    marker = _DOTS[_STYLES.index(line["linestyle"])]
    return {**line, "linestyle": "none", "alpha": 1.0} | {"marker": marker}


def logarithmic(
    axes: "matplotlib.axes.Axes", which: str, floor: float = -np.inf
) -> None:
    """Logarithmic "x", "y" or "xy", where there are data that have a place on it.

    Curves of errors are raised to a floor, the least that can be told from 0.
    """
    if floor > 0:
        for line in axes.get_lines():
            line.set_ydata(np.maximum(np.asarray(line.get_ydata(), float), floor))
    limits = {"x": axes.dataLim.intervalx, "y": axes.dataLim.intervaly}
    for name in which:
        if np.isfinite(limits[name]).all() and limits[name][1] > 0:
            axes.set(**{f"{name}scale": "log"})


def logarithmic_costs(axes: "matplotlib.axes.Axes", which: str) -> None:
    """The same for costs, where all have a place: no dot may vanish; ticks as 20k."""
    import matplotlib.ticker

    form = matplotlib.ticker.EngFormatter(sep="")
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        low, high = getattr(axes.dataLim, f"interval{name}")
        if name not in which or not (np.isfinite([low, high]).all() and low > 0):
            continue
        logarithmic(axes, name)
        axis.set_major_formatter(form)
        few = (2, 5) if high < 500 * low else (1,)
        steps = (2, 3, 4, 6, 8) if high < 5 * low else few
        axis.set_minor_locator(matplotlib.ticker.LogLocator(subs=steps))
        axis.set_minor_formatter(form)
