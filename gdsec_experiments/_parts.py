"""What the figures have in common: their runs, tables, claims and axes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib.axes
import matplotlib.axis
import matplotlib.ticker
import numpy as np
import pandas as pd
import xarray as xr

from gdsec_jax import plot, problems
from gdsec_jax.plot import _ends, _look
from gdsec_jax.plot._look import logarithmic as logarithmic
from gdsec_jax.simulation._history import History
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report, tuning

STAR = " *"  # of who does not stay at the target
AGAIN = " (which does not stay there)"
TO_THE_TARGET = "rounds to the target"  # the head of a column
CURVES = 6  # of a figure that compares more methods
UPS_AND_DOWNS = (
    "Pale: an error that goes up and down; strong, over it, the least so far."
)


def stopwatch() -> Callable[[], float]:
    """Seconds since it was made, each time it is asked."""
    begin = time.perf_counter()
    return lambda: time.perf_counter() - begin


def compare(study: figures.Study, **options: Any) -> experiment.Runs:
    """The runs of all methods of a study's config; the options are `simulate`'s.

    A method that draws is run with each seed that reports, none of which had a part in
    the choice of its parameters: what counts is the run in the middle, by the bits to
    the target, and all of them are `over_seeds`.
    """
    options |= {"progress": study.progress}
    config, each, seeds_of = study.config, {}, {}
    for label, method in config.methods.items():
        _, seeds_of[label] = config.seeds_of(label)
        for seed in seeds_of[label]:
            each[f"{label} seed {seed}"] = method.model_copy(update={"seed": seed})
        if not seeds_of[label]:
            each[label] = method
    whole = config.model_copy(update={"methods": each})
    runs = experiment.compare(whole, study.folder, study.console, **options)

    def bits(history):
        cost = history.cost_to(runs.target_error)
        return (cost is None, cost.bits if cost else history.objective_error[-1])

    histories, over_seeds = {}, {}
    for label, seeds in seeds_of.items():
        own = [runs.histories[f"{label} seed {seed}"] for seed in seeds]
        if own:
            over_seeds[label] = sorted(own, key=bits)
            histories[label] = over_seeds[label][(len(own) - 1) // 2]
        else:
            histories[label] = runs.histories[label]
    return runs._replace(config=config, histories=histories, over_seeds=over_seeds)


def of_seeds(runs: experiment.Runs) -> str:
    """Which methods draw, and with which seeds, in words."""
    drawn = [label for label in runs.histories if label in runs.over_seeds]
    if not drawn:
        return ""
    _, seeds = runs.config.seeds_of(drawn[0])
    which = listed([str(seed) for seed in seeds])
    return (
        f"{listed(drawn)} {'draws' if len(drawn) == 1 else 'draw'} at random: shown is "
        f"the run in the middle, by the bits to the target, of seeds {which}, which "
        "had no part in the choice of parameters."
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
    first: str = "",
    note: str = "",
    bands: str = "",
    problem: str = "",
) -> report.Section:
    """A section with what the config says of it, and the problem of its optimum.

    Its text begins with `first`; its caption ends with what `bands` are. The problem in
    words is by default that of the config.
    """
    config = study.config
    problem = problem or of_the_data(config)
    return report.Section(
        name=study.name,
        title=f"({config.letter}) {config.title}" if config.letter else config.title,
        text=" ".join([*first.split(), *config.text.split(), problem, note]).strip(),
        caption=f"{problem} Bits: {config.wire_name()}. {bands}".strip(),
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


def of_the_data(config: configs.RunConfig, split: str = "") -> str:
    """Which problem a figure is of, in words."""
    problem = config.problem
    kind = (problem.model or problem.kind).replace("_", " ")
    several = configs.values_of(problem.grid).get("num_workers")
    number = f"{several[0]} to {several[-1]:,}" if several else problem.num_workers
    words = (
        f"{kind} on {problem.data}, {number} workers, {split or problem.split} split."
    )
    return words[0].upper() + words[1:]


def section_of_runs(
    study: figures.Study,
    claims: Callable[[experiment.Runs], Sequence[report.Claim]],
    **options: Any,
) -> report.Section:
    """The section of a figure that compares methods; the options are `simulate`'s.

    Error against rounds and bits, of many methods of those that matter most, and then
    what all need to the target.
    """
    seconds = stopwatch()
    runs = compare(study, **options)
    target, few = study.config.target, most_telling(runs)
    by_rounds_and_bits = report.convergence_panels(
        {label: runs.histories[label] for label in few},
        runs.methods,
        wire="",  # the caption says it
        target=target,
    )
    curves_of = [named_at_ends(panel) for panel in by_rounds_and_bits]
    if len(few) < len(runs.histories):  # all of them as dots, beside some as curves
        dots = [dots_of(runs, what) for what in ("rounds", "bits")]
        curves_of = [x for pair in zip(dots, curves_of, strict=True) for x in pair]
    ours = ours_of(runs.config)
    return section_of(
        study,
        panels=curves_of,
        data=curves(runs.histories),
        table=costs(runs),
        claims=[*claims(runs), fewest_bits(ours, spent(runs), leavers(runs))],
        chosen=how_chosen(study.config, runs.problem),
        first=f"{first_line(ours, spent(runs), leavers(runs))} {slower(runs, ours)}",
        note=f"{of_seeds(runs)} {runs.problem.note}".strip(),
        bands=_bands(runs, few),
        seconds=seconds(),
    )


def _bands(runs: experiment.Runs, few: Sequence[str]) -> str:
    """What there is to say of the curves and the dots."""
    said = []
    settled = [runs.histories[x] for x in few]
    settled = [x for x in settled if x.outcome not in ("diverged", "worsened")]
    if any(_look.goes_up_and_down(x.objective_error) for x in settled):
        said.append(UPS_AND_DOWNS)
    if len(few) < len(runs.histories) and leavers(runs):
        said.append("Star: touches the target, but does not stay there.")
    return " ".join(said)


def ours_of(config: configs.RunConfig) -> str:
    """The label that claims are about: the first of GD-SEC, or else of all."""
    ours = (label for label, method in config.methods.items() if method.name == "gdsec")
    return next(ours, next(iter(config.methods)))


def spent(runs: experiment.Runs) -> dict[str, tuple[float, float]]:
    """Rounds and bits to the target by label, inf where it is not reached."""
    found = {label: runs.cost_of(label) for label in runs.histories}
    never = (np.inf, np.inf)
    return {x: (cost.rounds, cost.bits) if cost else never for x, cost in found.items()}


def leavers(runs: experiment.Runs) -> list[str]:
    """Who reaches the target, but is above it again at the end: a tenth's median."""
    return [
        label
        for label, history in runs.histories.items()
        if runs.cost_of(label) is not None
        and not stays(history.objective_error, runs.target_error)
    ]


def stays(errors: np.ndarray, target: float) -> bool:
    """Whether a run is at the target at its end: the median over its last tenth is."""
    return bool(np.median(errors[-max(1, len(errors) // 10) :]) <= target)


def most_telling(runs: experiment.Runs) -> list[str]:
    """Labels of at most six curves: the paper's own, and who sends the least."""
    labels = list(runs.histories)
    own = [x for x in labels if runs.methods[x] in ("gdsec", "gdsoec")]
    own = list(dict.fromkeys([runs.config.baseline(), *own]))[:CURVES]
    bits = {label: cost[1] for label, cost in spent(runs).items()}
    rivals = sorted(set(labels) - set(own), key=lambda x: (bits[x], labels.index(x)))
    return sorted([*own, *rivals[: CURVES - len(own)]], key=labels.index)


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


def first_line(
    ours: str, needed: Mapping[str, tuple[float, float]], left: Sequence[str] = ()
) -> str:
    """Who sends fewer bits to the target than ours, and by how much.

    Args:
      ours: the label that all are compared with.
      needed: rounds and bits to the target by label, inf where it is not reached.
      left: those that do not stay there.
    """
    rounds, bits = needed[ours]
    if not np.isfinite(bits):
        return f"{ours} does not reach the target here."
    fewer = {x: cost for x, cost in needed.items() if cost[1] < bits}
    if not fewer:
        return f"Of all methods here {ours} sends the fewest bits to the target."
    order = sorted(fewer, key=lambda label: fewer[label][1])
    words = [
        f"{label}{AGAIN * (label in left)} with {100 * fewer[label][1] / bits:.0f} % "
        f"of its bits and {fewer[label][0] / rounds:.2f} times its rounds"
        for label in order
    ]
    return f"Here not {ours} sends the least to the target, but {listed(words)}."


def slower(runs: experiment.Runs, ours: str) -> str:
    """How many more rounds ours takes than the rule lets it, if it does, in words."""
    baseline = runs.config.baseline()
    needed = spent(runs)
    ratio = needed[ours][0] / needed[baseline][0]
    if not np.isfinite(needed[ours][0]) or ratio <= 1 + runs.config.slack:
        return ""
    return f"But it takes {ratio:.2f} times the rounds of {baseline} at its best step."


def listed(words: Sequence[str]) -> str:
    """In a sentence: a, b and c."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def fewest_bits(
    ours: str, needed: Mapping[str, tuple[float, float]], left: Sequence[str] = ()
) -> report.Claim:
    """Whether of all methods ours sends the fewest bits, as in `first_line`."""
    order = sorted(needed, key=lambda label: needed[label][1])
    told = [
        f"{label} {bits / 1e6:.3f} in {rounds:,.0f} rounds{AGAIN * (label in left)}"
        for label, (rounds, bits) in ((x, needed[x]) for x in order[:5])
        if np.isfinite(bits)
    ]
    return report.Claim(
        f"of all methods {ours} uploads the fewest bits to the target",
        order[0] == ours and bool(told),
        f"Mbit to the target: {', '.join(told) or 'none reaches it'}",
    )


def costs(runs: experiment.Runs) -> pd.DataFrame:
    """What each method needs to the target: rounds, both ways' bits, evaluations."""
    config = runs.config
    frame = report.costs(runs.histories, config.target, baseline=config.baseline())
    if runs.over_seeds:
        frame = frame.assign(**{"Mbit over seeds": [*map(_range(runs), frame.method)]})
    return frame.rename(columns={"rounds": TO_THE_TARGET})


def _range(runs: experiment.Runs) -> Callable[[str], str]:
    """The least and the most bits to the target, of a method that draws."""

    def told(label):
        found = [x.cost_to(runs.target_error) for x in runs.over_seeds.get(label, ())]
        bits = [cost.bits / 1e6 if cost else np.inf for cost in found]
        ends = ["never" if x == np.inf else f"{x:.3g}" for x in sorted(bits)]
        return f"{ends[0]} to {ends[-1]}" if ends else "-"

    return told


def how_chosen(config: configs.RunConfig, problem: problems.Problem) -> pd.DataFrame:
    """Each method's parameters and step, and where they come from."""
    rows = []
    for label, method in config.methods.items():
        said = method.model_dump(exclude_unset=True)
        hidden = ("name", "chosen", "grid", "search")
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


def plain_numbers(axis: matplotlib.axis.Axis) -> None:
    """Ticks of an axis, if it is logarithmic, as 20 rather than 2 x 10^1."""
    if axis.get_scale() not in ("log", "symlog"):
        return
    plain = matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    if axis.get_scale() == "log":
        axis.set_minor_formatter(plain)
        axis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2.0, 5.0)))


def differ(rounds, reference) -> bool:
    """Whether some number of rounds is a twentieth off; else a panel says nothing."""
    return bool((np.abs(_ratios(rounds, reference) - 1) > 0.05).any())


def rounds_in_words(rounds, reference) -> str:
    """How many rounds there are of GD's, for what has no panel."""
    ratios = _ratios(rounds, reference)
    if not ratios.size:
        return "No setting reaches the target, or GD does not."
    least, most = (f"{100 * (x - 1):+.1f} %" for x in (ratios.min(), ratios.max()))
    return f"Rounds to the target, against GD's: {least} to {most}."


def _ratios(rounds, reference) -> np.ndarray:
    """Of those that are known."""
    with np.errstate(invalid="ignore"):
        ratios = np.ravel(np.asarray(rounds, float) / float(reference))
    return ratios[np.isfinite(ratios) & (ratios > 0)]


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
