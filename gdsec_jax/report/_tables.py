"""Tables for the terminal."""

from collections.abc import Mapping

import rich.table
import rich.text

from gdsec_jax.history import History


def target_table(
    histories: Mapping[str, History], target: float, *, title: str, baseline: str
) -> rich.table.Table:
    """Rounds and uploaded bits to a target error, relative to a baseline.

    Args:
      histories: by label.
      target: relative to each history's initial error.
      title: of the table.
      baseline: the label that the percentages refer to.

    Examples:
      >>> import numpy as np, optax, rich
      >>> from gdsec_jax import gd, problems, report, simulate
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> history = simulate(problem, optax.chain(gd(2), optax.sgd(2.0)), 9)
      >>> table = report.target_table({"GD": history}, 1e-2, title="", baseline="GD")
      >>> table.row_count
      1
    """
    columns = (
        "method",
        "rounds",
        "vs GD",
        "Mbit",
        "vs GD",
        "last error",
        "outcome",
    )
    table = rich.table.Table(title=rich.text.Text(title), title_justify="left")
    for position, column in enumerate(columns):
        name = column.replace("GD", baseline)
        table.add_column(name, justify="right" if 0 < position < 6 else "left")
    reference = histories[baseline]
    for label, history in histories.items():
        error = target * history.initial_error
        rounds, bits = history.rounds_to(error), history.bits_to(error)
        table.add_row(
            label,
            "never" if rounds is None else f"{rounds:,}",
            _percent(rounds, reference.rounds_to(error)),
            "never" if bits is None else f"{bits / 1e6:.3f}",
            _percent(bits, reference.bits_to(error)),
            f"{history.objective_error[-1]:.2e}",
            history.outcome,
        )
    return table


def _percent(value: int | None, reference: int | None) -> str:
    if value is None or not reference:
        return "-"
    return f"{100 * value / reference:.2f} %"
