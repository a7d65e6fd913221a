"""What the methods of a figure did: their runs and sweeps, and facts of these."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gdsec_experiments._parts._tables import how_chosen
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, tuning

CURVES = 6  # of a figure that compares more methods


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
    """Labels of at most six curves: the paper's own, and who sends the least; of seven
    methods all."""
    labels = list(runs.histories)
    if len(labels) == CURVES + 1:  # one left out would be missed
        return labels
    own = [x for x in labels if runs.methods[x] in ("gdsec", "gdsoec")]
    own = list(dict.fromkeys([runs.config.baseline(), *own]))[:CURVES]
    bits = {label: cost[1] for label, cost in spent(runs).items()}
    rivals = sorted(set(labels) - set(own), key=lambda x: (bits[x], labels.index(x)))
    return sorted([*own, *rivals[: CURVES - len(own)]], key=labels.index)
