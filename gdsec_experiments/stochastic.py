"""Stochastic gradients: SGD, SGD-SEC, QSGD-SEC and QSGD over ten seeds."""

import numpy as np
import pandas as pd

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report, tuning

BITS = "uploaded bits, all workers"


def section(study: figures.Study) -> report.Section:
    """Medians over the seeds, with bands from the least to the largest."""
    seconds = parts.stopwatch()
    config = _seeds_alone(study.config)
    swept, chosen = parts.sweep(study._replace(config=config))
    methods = {label: method.name for label, method in config.methods.items()}
    return parts.section_of(
        study,
        panels=[
            _panel(swept, methods, config.target, "eval_round", "rounds"),
            parts.named_at_ends(
                _panel(swept, methods, config.target, "total_bits", BITS)
            ),
        ],
        data=parts.tidy(swept),
        table=_table(swept, config.target),
        claims=_claims(swept, config.target),
        chosen=chosen,
        first=parts.first_line(parts.ours_of(config), _medians(swept, config.target)),
        bands=f"Lines: medians of {len(config.grid['seed'])} seeds; bands: from the "
        "least to the largest.",
        seconds=seconds(),
    )


def _seeds_alone(config):
    """The config with the seeds that report as its grid, and no search."""
    methods = {
        x: m.model_copy(update={"search": {}}) for x, m in config.methods.items()
    }
    _, reporting = config.seeds_of(parts.ours_of(config))
    given = {"grid": {"seed": (*reporting,)}, "methods": methods, "search": None}
    return config.model_copy(update=given)


def _panel(swept, methods, target, x, label):
    def panel(axes):
        for name, style in report.line_styles(methods).items():
            one = swept[name]
            along = one[x] if x == "eval_round" else one[x].median("seed")
            error = one["objective_error"]  # a seed that diverged ends all lines there
            axes.plot(along, error.median("seed", skipna=False), **style)
            axes.fill_between(
                along,
                error.min("seed", skipna=False),
                error.max("seed", skipna=False),
                color=style["color"],
                alpha=0.15,
                linewidth=0,
            )
        level = target * float(next(iter(swept.values()))["initial_error"].max())
        parts.target_line(axes, level)
        axes.set(xlabel=label, ylabel="objective error")
        floor = max(map(tuning.resolution_of, swept.values()))
        parts.logarithmic(axes, "y", floor)
        if x != "eval_round":
            parts.logarithmic(axes, "x")

    return panel


def _costs(swept, target):
    return {
        label: tuning.cost_to(one, target * float(one["initial_error"].max()))
        for label, one in swept.items()
    }


def _medians(swept, target):
    """Rounds and bits to the target by label, inf where half do not reach it."""
    return {
        label: (float(costs["rounds"].median()), float(costs["bits"].median()))
        for label, costs in _costs(swept, target).items()
    }


def _table(swept, target):
    rows = []
    for label, costs in _costs(swept, target).items():
        reached = np.isfinite(costs["bits"].values)
        bits, rounds = costs["bits"].values[reached], costs["rounds"].values[reached]
        last = swept[label]["objective_error"].isel(eval_round=-1)
        lost = int((swept[label]["outcome"] == "diverged").sum())
        computed = costs["gradient_evaluations"].values[reached] / 1e6
        rows.append(
            {
                "method": label,
                "seeds at the target": f"{reached.sum()} of {reached.size}",
                f"{parts.TO_THE_TARGET}, median": f"{np.median(rounds):,.0f}"
                if reached.any()
                else "-",
                "Mbit, median": f"{np.median(bits) / 1e6:.3f}"
                if reached.any()
                else "-",
                "Mbit, range": (
                    f"{bits.min() / 1e6:.3f} to {bits.max() / 1e6:.3f}"
                    if reached.any()
                    else "-"
                ),
                "Mgrad, median": f"{np.median(computed):.3f}" if reached.any() else "-",
                "last error, median": f"{float(last.median(skipna=False)):.2e}",
                "diverged": str(lost),
            }
        )
    return pd.DataFrame(rows)


def _claims(swept, target):
    medians = _medians(swept, target)
    rounds = {label: needed[0] for label, needed in medians.items()}
    bits = {label: needed[1] for label, needed in medians.items()}
    known = np.isfinite([bits["SGD-SEC"], bits["SGD"]]).all()
    share = bits["SGD-SEC"] / bits["SGD"] if known else np.nan
    yield report.Claim(
        "SGD-SEC keeps SGD's rate with fewer bits",
        bool(known and rounds["SGD-SEC"] <= 1.1 * rounds["SGD"] and share < 1),
        f"{rounds['SGD-SEC']:,.0f} rounds against {rounds['SGD']:,.0f}, "
        f"{share:.2%} of the bits (medians)",
    )
    yield report.Claim(
        "quantising what is sent, QSGD-SEC needs fewer bits than QSGD and than SGD-SEC",
        bool(bits["QSGD-SEC"] < min(bits["QSGD"], bits["SGD-SEC"])),
        ", ".join(f"{x} {b / 1e6:.3f} Mbit" for x, b in bits.items()),
    )
