"""Figures of runs."""

import os
from collections.abc import Mapping
from typing import Any

import matplotlib.figure
import numpy as np

from gdsec_jax import _files
from gdsec_jax.algorithms import METHODS
from gdsec_jax.history import History

# Okabe and Ito's palette, which people with colour-blindness can tell apart. A method
# has the same colour and dash everywhere, by its place in the table of methods.
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
_BESIDE: dict[str, Any] = {
    "frameon": False,
    "fontsize": "small",
    "loc": "center left",
    "bbox_to_anchor": (1.0, 0.5),
}
_STYLES = ("-", "--", ":", "-.")


def convergence(
    histories: Mapping[str, History],
    methods: Mapping[str, str],
    *,
    title: str,
    wire: str,
    target: float | None = None,
) -> matplotlib.figure.Figure:
    """Error against rounds, and against uploaded bits, side by side.

    Args:
      histories: by label.
      methods: the algorithm's name of each label, which gives its colour; a second
        label of the same algorithm is dashed.
      title: of the figure.
      wire: the bit format, named on the axis.
      target: a relative error to mark.

    Returns:
      A figure; `save_figure` writes it.
    """
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    by_rounds, by_bits = figure.subplots(1, 2, sharey=True)
    seen: dict[str, int] = {}
    drawn = sent = False
    for label, history in histories.items():
        again = seen.get(methods[label], 0)
        seen[methods[label]] = again + 1
        place = list(METHODS).index(methods[label])
        line = {
            "color": _PALETTE[place % len(_PALETTE)],
            "linestyle": _STYLES[(place // len(_PALETTE) + again) % len(_STYLES)],
            # The baseline is broad, since the best methods lie right on top of it.
            "linewidth": 4 if methods[label] == "gd" else 1.6,
            "alpha": 0.35 if methods[label] == "gd" else 1,
            "label": label + (" (diverged)" if history.outcome == "diverged" else ""),
        }
        error = _positive(np.append(history.initial_error, history.objective_error))
        by_rounds.plot(np.append(0, history.eval_rounds), error, **line)
        by_bits.plot(_positive(history.total_bits), error[1:], **line)
        drawn |= bool(np.isfinite(error).any())
        sent |= bool(np.isfinite(_positive(history.total_bits) * error[1:]).any())
    if drawn:  # a logarithmic axis without a positive value is an error
        by_rounds.set_yscale("log")
    if sent:
        by_bits.set_xscale("log")
    first = next(iter(histories.values()))
    if target is not None:
        for axes in (by_rounds, by_bits):
            level = target * first.initial_error
            axes.axhline(level, color="0.6", linewidth=0.8, zorder=0, label="target")
    ceiling = 100 * max(history.initial_error for history in histories.values())
    if drawn and 0 < ceiling < by_rounds.get_ylim()[1]:  # the rest is divergence
        by_rounds.set_ylim(top=ceiling)
    by_rounds.set_xlabel("rounds")
    by_bits.set_xlabel(f"uploaded bits, all workers ({wire})")
    by_rounds.set_ylabel(str(first.attributes.get("error_name", "error")))
    if len(histories) > 6:  # beside the axes, or it would cover them
        figure.set_size_inches(11, 4.8)
        by_bits.legend(*by_rounds.get_legend_handles_labels(), **_BESIDE)
    else:
        by_rounds.legend(frameon=False)
    for axes in (by_rounds, by_bits):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, parse_math=False)
    return figure


def _positive(values: np.ndarray) -> np.ndarray:
    """The values a logarithmic axis has a place for; rounding makes some negative."""
    # Nor is there a place for what overflows the axis: 1e100 says "diverged" as well.
    return np.where((values > 0) & (values < 1e100), values, np.nan)


def save_figure(figure: matplotlib.figure.Figure, path: str | os.PathLike) -> None:
    """Write a figure in the format of the path's suffix, whole or not at all."""
    with _files.whole(path) as temporary:
        figure.savefig(temporary, dpi=150)
