"""Tables of what runs cost."""

from collections.abc import Collection, Mapping

import pandas as pd
import rich.table
import rich.text

from gdsec_jax.simulation._history import History


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
        error = target * history.initial_error
        cost = history.cost_to(error)
        link = {
            "s": _three(cost and cost.seconds),
            "J": _three(cost and cost.joules),
            "lost": f"{0 if history.lost is None else history.lost.sum():,}",
        }
        rows.append(
            {
                "method": label,
                "rounds": "never" if cost is None else f"{cost.rounds:,}",
                "Mbit up": _millions(cost and cost.bits),
                f"vs {baseline}": _percent(cost and cost.bits, whole and whole.bits),
            }
            | (link if timed else {})
            | {
                "Mbit down": _millions(cost and cost.broadcast_bits),
                "Mgrad": _millions(cost and cost.gradient_evaluations),
                "last error": f"{history.objective_error[-1]:.2e}",
                "outcome": history.outcome,
            }
        )
    return pd.DataFrame(rows)


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def target_table(
    histories: Mapping[str, History], target: float, *, title: str, baseline: str
) -> rich.table.Table:
    """The `costs` of runs, for the terminal.

    Args:
      histories, target, baseline: as there.
      title: of the table.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, simulate
      >>> from gdsec_jax.study import report
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> history = simulate(problem, optax.chain(gd(2), optax.sgd(2.0)), 9)
      >>> table = report.target_table({"GD": history}, 1e-2, title="", baseline="GD")
      >>> table.row_count
      1
    """
    frame = costs(histories, target, baseline=baseline)
    table = rich.table.Table(
        title=rich.text.Text(title),
        title_justify="left",
        box=None,  # eight columns are to fit into a terminal's eighty
        padding=(0, 1, 0, 0),
    )
    if "s" in frame:
        frame = frame.drop(columns=["Mbit down", "Mgrad", "outcome"])
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
    table = rich.table.Table(title=rich.text.Text(title), title_justify="left")
    table.add_column("method")
    for name in names:
        table.add_column(name, justify="right")
    for label, history in histories.items():
        error = target * history.initial_error
        costs = [history.cost_to(error, name) for name in names]
        bits = (
            int(history.format_bits[name].sum()) if cost is None else cost.bits
            for name, cost in zip(names, costs, strict=True)
        )
        more = "" if all(costs) else "> "
        table.add_row(label, *(more + _millions(value) for value in bits))
    return table


def _millions(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.3f}"


def _percent(value: int | None, reference: int | None) -> str:
    if value is None or not reference:
        return "-"
    return f"{100 * value / reference:.2f} %"
