"""Figures of runs, and tables of what they cost."""

import functools
from collections.abc import Collection, Mapping
from typing import Any, Literal

import matplotlib.axes
import numpy as np
import pandas as pd
import rich.table
import rich.text

from gdsec_jax import plot
from gdsec_jax.simulation._history import History
from gdsec_jax.study.report._compose import Panel

# Of a setting of a sweep: what it cost to the target, and how it ended.
MEASURED = (
    *("rounds", "bits", "broadcast_bits", "gradient_evaluations"),
    *("last_error", "resolution", "outcome", "best"),
)


def convergence_panels(
    histories: Mapping[str, History],
    methods: Mapping[str, str],
    *,
    wire: str | None = None,
    target: float | None = None,
) -> tuple[Panel, Panel]:
    """Error against rounds, and against uploaded bits: two panels of a `Section`.

    Both are `gdsec_jax.plot.convergence`.

    Args:
      histories: by label.
      methods: the algorithm's name of each label, which gives its `line_style`.
      wire: the bit format, named on the axis, or ""; by default as the runs say.
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
    options = {"target": target, "wire": wire, "methods": methods}

    def panel(against: Literal["rounds", "bits"], axes: matplotlib.axes.Axes) -> None:
        plot.convergence(histories, against=against, ax=axes, **options)

    if not histories:
        raise ValueError(f"histories is {histories!r}, expected at least one.")
    return functools.partial(panel, "rounds"), functools.partial(panel, "bits")


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


def _millions(value: float | None) -> str:
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


def _cell(value: Any) -> str:
    """A value of a grid; none of a method that has no such axis."""
    if not isinstance(value, float):
        return str(value)
    return "" if np.isnan(value) else f"{value:.6g}"


def settings_table(
    frame: pd.DataFrame, *, title: str, most: int = 40
) -> rich.table.Table:
    """Settings of sweeps and what each cost, on a terminal, the best ones starred.

    Args:
      frame: of numbers, a row a setting: method, the axes, and what is `MEASURED`.
      title: above the table, which says how many settings it leaves out.
      most: rows; with more settings than so many, five of each method are shown, those
        of the fewest bits, and those starred.

    Examples:
      >>> import pandas as pd
      >>> from gdsec_jax.study import report
      >>> costs = {"rounds": [9.0, float("inf")], "bits": [8e6, float("inf")]}
      >>> ends = {"last_error": 1e-9, "resolution": 1e-15, "outcome": "completed"}
      >>> settings = {"method": "GD-SEC", "xi": [1.0, 1e9]}
      >>> frame = pd.DataFrame(settings | costs | ends | {"best": [True, False]})
      >>> table = report.settings_table(frame, title="")
      >>> [column.header for column in table.columns]
      ['best', 'method', 'xi', 'rounds', 'Mbit up', 'last error', 'outcome']
    """
    shown = frame
    if len(frame) > most:
        ordered = frame.sort_values(["best", "bits"], ascending=[False, True])
        first = ordered.groupby("method", sort=False).cumcount() < 5
        shown = frame[(first | ordered["best"]).reindex(frame.index)]
        title += f"; {len(frame) - len(shown)} further settings are in the CSV file"
    rows = []
    axes = [name for name in frame if name not in MEASURED]
    for _, series in shown.iterrows():
        row: dict[Any, Any] = dict(series)
        reached = np.isfinite(row["rounds"])
        cells = {"best": "*" if row["best"] else ""}
        cells |= {str(name): _cell(row[name]) for name in axes}
        cells["rounds"] = f"{row['rounds']:,.0f}" if reached else "never"
        cells["Mbit up"] = _millions(row["bits"] if reached else None)
        last, least = row["last_error"], row["resolution"]
        if last < least:  # as `History.in_words` says it
            cells["last error"] = f"≤ {max(last, 0.0) + least:.2e}"
        else:
            cells["last error"] = f"{last:.2e}"
        rows.append(cells | {"outcome": row["outcome"]})
    return _on_terminal(pd.DataFrame(rows), title, box=None, padding=(0, 1, 0, 0))


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
