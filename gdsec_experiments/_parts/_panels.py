"""A figure's panels, and what stands on their axes."""

from typing import Literal

import matplotlib.axes
import matplotlib.axis
import matplotlib.ticker
import numpy as np

from gdsec_experiments._parts._runs import leavers, ours_of
from gdsec_jax import plot
from gdsec_jax.plot import _ends, _look
from gdsec_jax.plot._look import logarithmic as logarithmic
from gdsec_jax.study import experiment, report

STAR = " *"  # of who does not stay at the target


def dots_of(runs: experiment.Runs, what: Literal["bits", "rounds"]) -> report.Panel:
    """What every method needs to the target, sorted, ours in bold letters."""

    def panel(axes):
        target = runs.config.target
        left = leavers(runs)
        marked = {label: label + STAR * (label in left) for label in runs.histories}
        plot.costs(
            {marked[label]: history for label, history in runs.histories.items()},
            target,
            what=what,
            methods={marked[label]: name for label, name in runs.methods.items()},
            ax=axes,
        )
        for line in axes.get_lines():
            line.set_label("_")  # its name stands at the axis
        for text in axes.get_yticklabels():  # pale letters are hard to read
            ours = text.get_text().removesuffix(STAR) == ours_of(runs.config)
            color = report.line_style("gdsec")["color"] if ours else "0.15"
            text.set(fontweight="bold" if ours else "normal", color=color)

    return panel


def named_at_ends(panel: report.Panel, *, first: bool = False) -> report.Panel:
    """The panel with the names of its curves at their ends, not in a legend.

    Or at their first points.
    """

    def drawn(axes):
        panel(axes)
        _ends.name_ends(axes, first=first)

    return drawn


def plain_numbers(axis: matplotlib.axis.Axis) -> None:
    """Ticks of an axis, if it is logarithmic, as 20 rather than 2 x 10^1."""
    if axis.get_scale() not in ("log", "symlog"):
        return
    plain = matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    if axis.get_scale() == "log":
        axis.set_minor_formatter(plain)
        axis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2.0, 5.0)))


def write_values(axes: matplotlib.axes.Axes, along, up, form: str) -> None:
    """The values of points beside them, where the line to the next is not."""
    values = np.append(np.asarray(up, float), np.nan)
    for x, y, following in zip(np.ravel(along), values, values[1:], strict=False):
        if np.isfinite(y):
            place = {"xytext": (6, -11 if following > y else 3)}
            axes.annotate(
                form.format(y),
                (x, y),
                textcoords="offset points",
                fontsize=9.5,
                **place,
            )


def target_line(axes: matplotlib.axes.Axes, level: float) -> None:
    """The error to reach, as a thin line."""
    _look.level(axes, level, "target")
