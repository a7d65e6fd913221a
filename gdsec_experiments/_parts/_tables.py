"""The tables of a figure: costs, choices and courses."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from gdsec_jax import problems
from gdsec_jax.simulation._history import History
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, report

TO_THE_TARGET = "rounds to the target"  # the head of a column


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


def tidy(swept: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Sweeps in long form: a row for each evaluation of each setting."""
    names = ["objective_error", "total_bits", "total_gradient_evaluations"]
    frames = [
        one[names].to_dataframe().reset_index().assign(method=label)
        for label, one in swept.items()
    ]
    return pd.concat(frames, ignore_index=True)
