"""What the figures have in common: their runs, tables, claims and axes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib.axes
import matplotlib.axis
import matplotlib.ticker
import numpy as np
import pandas as pd
import xarray as xr

from gdsec_jax import problems
from gdsec_jax.simulation._history import History
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report, tuning


def stopwatch() -> Callable[[], float]:
    """Seconds since it was made, each time it is asked."""
    begin = time.perf_counter()
    return lambda: time.perf_counter() - begin


def compare(study: figures.Study) -> experiment.Runs:
    """The runs of all methods of a study's config."""
    return experiment.compare(
        study.config, study.folder, study.console, progress=study.progress
    )


def sweep(
    study: figures.Study, labels: Iterable[str] = ()
) -> tuple[dict[str, xr.Dataset], pd.DataFrame]:
    """The sweeps of a study's methods by label, and how their parameters were chosen.

    Args:
      study: with the grids.
      labels: of the methods; none for all.
    """
    config = study.config
    with experiment.prepared(config) as problem:
        swept = {
            label: tuning.sweep_method(
                config,
                label,
                problem,
                path=study.folder / f"{label}.nc",
                progress=study.progress,
            )
            for label in labels or config.methods
        }
        return swept, how_chosen(config, problem)


def section_of(
    study: figures.Study,
    *,
    panels: Sequence[report.Panel],
    data: pd.DataFrame,
    seconds: float,
    table: pd.DataFrame | None = None,
    claims: Sequence[report.Claim] = (),
    chosen: pd.DataFrame | None = None,
    note: str = "",
) -> report.Section:
    """A section with what the config says of it, and the problem of its optimum."""
    config = study.config
    return report.Section(
        name=study.name,
        title=f"({config.letter}) {config.title}" if config.letter else config.title,
        text=" ".join([*config.text.split(), _of_the_data(config), note]).strip(),
        panels=tuple(panels),
        table=table,
        data=data,
        claims=tuple(
            claim._replace(holds=None if claim.holds is None else bool(claim.holds))
            for claim in claims
        ),
        chosen=chosen,
        command=f"{study.command} {study.name}",
        config=config.model_dump(mode="json", exclude_unset=True, exclude={"real"}),
        seconds=seconds,
    )


def _of_the_data(config: configs.RunConfig) -> str:
    """Which data a figure is of, in a sentence."""
    problem = config.problem
    kind = (problem.model or problem.kind).replace("_", " ")
    if problem.grid:
        return f"Problem: {kind} on {problem.data}."
    number = f"{problem.num_workers} workers, {problem.split} split"
    return f"Problem: {kind} on {problem.data}, {number}."


def section_of_runs(
    study: figures.Study,
    claims: Callable[[experiment.Runs], Sequence[report.Claim]],
) -> report.Section:
    """The section of a figure that compares methods: error against rounds and bits."""
    seconds = stopwatch()
    runs = compare(study)
    return section_of(
        study,
        panels=report.convergence_panels(
            runs.histories,
            runs.methods,
            wire=study.config.wire_name(),
            target=study.config.target,
        ),
        data=curves(runs.histories),
        table=costs(runs),
        claims=claims(runs),
        chosen=how_chosen(study.config, runs.problem),
        note=runs.problem.note,
        seconds=seconds(),
    )


def costs(runs: experiment.Runs) -> pd.DataFrame:
    """What each method needs to the target: rounds, both ways' bits, evaluations."""
    config = runs.config
    return report.costs(runs.histories, config.target, baseline=config.baseline())


def how_chosen(config: configs.RunConfig, problem: problems.Problem) -> pd.DataFrame:
    """Each method's parameters and step, and where they come from."""
    rows = []
    for label, method in config.methods.items():
        said = method.model_dump(exclude_unset=True)
        hidden = ("name", "chosen", "grid")
        fields = {
            name: said[name]
            for name in type(method).names()
            if name in said and name not in hidden
        }
        if not method.chosen:  # then the grid is what the figure shows
            fields |= {
                name: f"{values[0]} to {values[-1]}"
                for name, values in configs.values_of(method.grid).items()
            }
        step = configs.resolved(method, problem).learning_rate or np.nan
        source = "given"
        if method.learning_rate is None:
            source = configs.recommended(method, problem).source
        rows.append(
            {
                "method": label,
                "parameters": ", ".join(f"{n} = {v}" for n, v in fields.items()) or "-",
                "step": f"{step:.3g}",
                "step from": source,
                "chosen": method.chosen or "our setting",
            }
        )
    return pd.DataFrame(rows)


def curves(histories: Mapping[str, History]) -> pd.DataFrame:
    """The courses in long form: a row for each evaluation of each label."""
    frames = []
    for label, history in histories.items():
        last = history.eval_rounds - 1
        frames.append(
            pd.DataFrame(
                {
                    "method": label,
                    "round": history.eval_rounds,
                    "error": history.objective_error,
                    "bits": history.total_bits,
                    "broadcast_bits": np.cumsum(history.broadcast_bits)[last],
                    "gradient_evaluations": np.cumsum(history.gradient_evaluations)[
                        last
                    ],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def keeps_the_rate(
    runs: experiment.Runs, label: str, slack: float = 0.1
) -> report.Claim:
    """Whether a method needs about the baseline's rounds, and fewer bits."""
    baseline = runs.config.baseline()
    ours, theirs = runs.cost_of(label), runs.cost_of(baseline)
    text = f"{label} keeps {baseline}'s rate with a fraction of the bits"
    if ours is None or theirs is None:
        return report.Claim(text, False, _never(label if ours is None else baseline))
    return report.Claim(
        text,
        ours.rounds <= (1 + slack) * theirs.rounds and ours.bits < theirs.bits / 2,
        f"{ours.rounds:,} rounds against {theirs.rounds:,}, "
        f"{ours.bits / theirs.bits:.2%} of the uploaded bits",
    )


def claims_of_the_paper(runs: experiment.Runs) -> list[report.Claim]:
    """What the paper says of GD-SEC, and of it without error correction."""
    return [
        keeps_the_rate(runs, "GD-SEC"),
        fails_without_correction(runs, "GD-SOEC same xi", "GD-SEC"),
        needs_more_bits(runs, "GD-SOEC", "GD-SEC"),
    ]


def fails_without_correction(
    runs: experiment.Runs, label: str, ours: str
) -> report.Claim:
    """Whether the method without error correction fails where ours does not."""
    text = f"without error correction, at the same threshold ({label}), it does not"
    with_it, without = runs.cost_of(ours), runs.cost_of(label)
    if with_it is None:
        return report.Claim(text, False, _never(ours))
    if without is None:
        last = runs.histories[label]
        end = last.in_words(last.objective_error[-1], ".1e")
        measured = f"{label} ends at {end}, {last.outcome}"
        return report.Claim(text, True, measured)
    ratio = without.rounds / with_it.rounds
    measured = f"{label} needs {ratio:.2f} times the rounds of {ours}"
    return report.Claim(text, ratio > 1 + runs.config.slack, measured)


def needs_more_bits(runs: experiment.Runs, label: str, ours: str) -> report.Claim:
    """Whether the method without error correction, at its best, needs more bits."""
    text = f"tuned for itself, {label} needs more bits than {ours}"
    with_it, without = runs.cost_of(ours), runs.cost_of(label)
    if with_it is None or without is None:
        missing = ours if with_it is None else label
        return report.Claim(text, with_it is not None, _never(missing))
    return report.Claim(
        text,
        without.bits > with_it.bits,
        f"{without.bits / with_it.bits:.1f} times the bits and "
        f"{without.rounds / with_it.rounds:.2f} times the rounds of {ours}",
    )


def _never(label: str) -> str:
    return f"{label} does not reach the target"


def tidy(swept: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Sweeps in long form: a row for each evaluation of each setting."""
    names = ["objective_error", "total_bits", "total_gradient_evaluations"]
    frames = [
        one[names].to_dataframe().reset_index().assign(method=label)
        for label, one in swept.items()
    ]
    return pd.concat(frames, ignore_index=True)


def logarithmic(axes: matplotlib.axes.Axes, which: str, floor: float = -np.inf) -> None:
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


def plain_numbers(axis: matplotlib.axis.Axis) -> None:
    """Ticks of an axis, if it is logarithmic, as 20 rather than 2 x 10^1."""
    if axis.get_scale() not in ("log", "symlog"):
        return
    plain = matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    if axis.get_scale() == "log":
        axis.set_minor_formatter(plain)
        axis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2.0, 5.0)))


def target_line(axes: matplotlib.axes.Axes, level: float) -> None:
    """The error to reach, as a thin line."""
    axes.axhline(level, color="0.6", linewidth=0.8, zorder=0, label="target")
