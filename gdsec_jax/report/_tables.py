"""Tables for the terminal."""

from collections.abc import Collection, Mapping

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
            _megabits(bits),
            _percent(bits, reference.bits_to(error)),
            f"{history.objective_error[-1]:.2e}",
            history.outcome,
        )
    return table


def tuned_table(
    histories: Mapping[str, History],
    tuned: Mapping[str, tuple[float, History]],
    target: float,
    *,
    title: str,
    baseline: str,
    heuristic: Collection[str] = (),
) -> rich.table.Table:
    """Rounds and uploaded bits to a target error, at the given step and at a tuned one.

    Args:
      histories: by label, at each method's own step.
      tuned: by label, the factor of that step that was found best, and its history.
      target: relative to each history's initial error.
      title: of the table.
      baseline: the label that all percentages refer to, at its own step.
      heuristic: labels whose own step no theorem gives, to be marked.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, report, simulate
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> run = lambda step: simulate(problem, optax.chain(gd(2), optax.sgd(step)), 9)
      >>> own, best = {"GD": run(2.0)}, {"GD": (1.5, run(3.0))}
      >>> table = report.tuned_table(own, best, 1e-2, title="", baseline="GD")
      >>> table.row_count
      1
    """
    table = rich.table.Table(title=rich.text.Text(title), title_justify="left")
    table.add_column("method")
    columns = ("rounds", "Mbit", "vs GD", "step x", "rounds", "Mbit", "vs GD")
    for position, column in enumerate(columns):
        step = "own" if position < 3 else "tuned"
        name = column.replace("GD", baseline)
        table.add_column(f"{step}\n{name}", justify="right")
    if heuristic:
        table.caption = "* its own step is a heuristic"
    reference = histories[baseline]
    whole = reference.bits_to(target * reference.initial_error)
    for label, history in histories.items():
        factor, best = tuned[label]
        name = f"{label} *" if label in heuristic else label
        cells = [name, *_to_target(history, target, whole), f"{factor:g}"]
        table.add_row(*cells, *_to_target(best, target, whole))
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
      target: relative to each history's initial error.
      title: of the table.
      names: of the formats; by default all that were counted.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, problems, report, simulate, wire
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
        reached = history.rounds_to(error) is not None
        bits = (
            history.bits_to(error, name)
            if reached
            else int(history.format_bits[name].sum())
            for name in names
        )
        more = "" if reached else "> "
        table.add_row(label, *(more + _megabits(value) for value in bits))
    return table


def _to_target(history: History, target: float, reference: int | None) -> list[str]:
    error = target * history.initial_error
    rounds, bits = history.rounds_to(error), history.bits_to(error)
    missed = "diverged" if history.outcome == "diverged" else "never"
    return [
        missed if rounds is None else f"{rounds:,}",
        "-" if bits is None else _megabits(bits),
        _percent(bits, reference),
    ]


def _megabits(bits: int | None) -> str:
    return "never" if bits is None else f"{bits / 1e6:.3f}"


def _percent(value: int | None, reference: int | None) -> str:
    if value is None or not reference:
        return "-"
    return f"{100 * value / reference:.2f} %"
