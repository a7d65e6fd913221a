"""A figure as a section of the page."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from gdsec_experiments._parts._panels import dots_of, named_at_ends
from gdsec_experiments._parts._runs import (
    compare,
    leavers,
    most_telling,
    ours_of,
    spent,
    stopwatch,
)
from gdsec_experiments._parts._tables import costs, curves, how_chosen
from gdsec_experiments._parts._words import (
    fewest_bits,
    first_line,
    of_seeds,
    of_the_data,
    slower,
)
from gdsec_jax.plot import _look
from gdsec_jax.study import experiment, figures, report

UPS_AND_DOWNS = (
    "Pale: an error that goes up and down; strong, over it, the least so far."
)


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
