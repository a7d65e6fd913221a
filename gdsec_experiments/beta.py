"""The effect of beta: how fast the memory of the gradient follows."""

import numpy as np
import pandas as pd

from gdsec_experiments import _parts as parts
from gdsec_jax.plot import _look
from gdsec_jax.study import figures, report, tuning

LABEL = "GD-SEC"


def section(study: figures.Study) -> report.Section:
    """GD-SEC at one xi and many beta, and GD."""
    seconds = parts.stopwatch()
    config = study.config
    both, chosen = parts.sweep(study, (LABEL, "GD"))
    swept, gd = both.values()
    target = config.target * float(gd["initial_error"])
    costs = tuning.cost_to(swept, target)
    reference = tuning.cost_to(gd, target)
    rounds = (costs["rounds"], reference["rounds"])
    panels = [
        parts.named_at_ends(_errors(swept, gd, config)),
        _to_the_target(swept, costs, reference, "bits"),
    ]
    if parts.differ(*rounds):
        panels.append(_to_the_target(swept, costs, reference, "rounds"))
    return parts.section_of(
        study,
        panels=panels,
        data=parts.tidy(both),
        table=_table(costs, reference, swept),
        claims=_claims(costs, reference, swept),
        chosen=chosen,
        note=parts.rounds_in_words(*rounds),
        bands="Grey: beta beyond the edge, where the error grows until it is stopped.",
        seconds=seconds(),
    )


def _errors(swept, gd, config):
    """Errors against bits, in shades of GD-SEC's blue."""

    def panel(axes):
        axes.plot(
            gd["total_bits"],
            gd["objective_error"],
            **report.line_style("gd") | {"label": "GD"},
        )
        lost = _lost(swept)
        shades = iter(np.linspace(0.4, 1, lost.size - lost.sum()))
        for beta, diverges in zip(swept["beta"].values, lost, strict=True):
            run, style = swept.sel(beta=beta), report.line_style("gdsec")
            style = (
                style | {"color": "0.6", "linewidth": 0.8}
                if diverges
                else _look.shade(style, next(shades))
            )
            words = f"beta = {beta:g}"
            if diverges:  # one name for all of them
                more = " and more" * bool(lost.sum() > 1)
                name = f"{words}{more}: diverges"
                words = name if beta == swept["beta"].values[lost].min() else "_"
            axes.plot(run["total_bits"], run["objective_error"], label=words, **style)
        first = float(gd["initial_error"])
        parts.target_line(axes, config.target * first)
        axes.set_xlabel("uploaded bits, all workers")
        axes.set_ylabel("objective error")
        parts.logarithmic(axes, "xy", tuning.resolution_of(gd))
        axes.set_ylim(top=min(axes.get_ylim()[1], 100 * first))

    return panel


def _lost(swept) -> np.ndarray:
    return (swept["outcome"] == "diverged").values


def _to_the_target(swept, costs, reference, what):
    """What each beta needs, and where it diverges."""

    def panel(axes):
        betas, lost = swept["beta"].values, _lost(swept)
        share = (100 * costs[what] / reference[what]).values
        there = np.isfinite(share)
        style = report.line_style("gdsec") | {"marker": "o", "markersize": 5}
        axes.plot(betas[there], share[there], **style)
        parts.write_values(axes, betas[there], share[there], "{:.3g} %")
        axes.set_xscale("symlog", linthresh=1e-3)
        if lost.any():
            edge = betas[lost].min()
            inside = betas[betas < edge]
            begin = np.sqrt(edge * inside.max()) if inside.size else edge
            axes.axvspan(begin, 2 * betas.max(), color="0.9", zorder=0)
            axes.annotate(
                "diverges",
                (0.99, 0.95),
                xycoords="axes fraction",
                ha="right",
                fontsize=9.5,
            )
            axes.set_xlim(right=1.5 * betas.max())
        axes.margins(y=0.12)
        axes.set(xlabel="beta", ylabel=f"% of GD's {what} to the target")
        parts.logarithmic(axes, "y")
        parts.plain_numbers(axes.xaxis)
        parts.plain_numbers(axes.yaxis)

    return panel


def _table(costs, reference, swept):
    rows = []
    for beta in swept["beta"].values:
        cost, outcome = costs.sel(beta=beta), swept["outcome"].sel(beta=beta).item()
        reached = np.isfinite(cost["bits"].item())
        bits, rounds = cost["bits"] / reference["bits"], cost["rounds"]
        rows.append(
            {
                "beta": f"{beta:g}",
                parts.TO_THE_TARGET: f"{rounds.item():,.0f}" if reached else "never",
                "vs GD's bits": f"{bits.item():.2%}" if reached else "-",
                "Mgrad": _millions(cost["gradient_evaluations"], reached),
                "outcome": outcome,
            }
        )
    return pd.DataFrame(rows)


def _millions(value, reached):
    return f"{value.item() / 1e6:.3f}" if reached else "-"


def _claims(costs, reference, swept):
    reached = np.isfinite(costs["bits"].values)
    betas = swept["beta"].values
    share = (costs["bits"] / reference["bits"]).values
    best = int(np.argmin(np.where(reached, share, np.inf)))
    lost = betas[(swept["outcome"] == "diverged").values]
    yield report.Claim(
        "a small beta, which smooths the memory, is best: neither 0 nor 1",
        bool(reached.any()) and 0 < betas[best] <= 0.1,
        f"beta = {betas[best]:g} needs {share[best]:.2%} of GD's bits",
    )
    yield report.Claim(
        "the larger beta, the sooner it diverges",
        bool(lost.size) and np.array_equal(betas[betas >= lost.min()], lost),
        f"diverged: beta = {', '.join(f'{b:g}' for b in lost) or 'none'}",
    )
