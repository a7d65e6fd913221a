"""The effect of beta: how fast the memory of the gradient follows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report, tuning

LABEL = "GD-SEC"


def section(study: figures.Study) -> report.Section:
    """GD-SEC at one xi and many beta, and GD."""
    seconds = parts.stopwatch()
    config = study.config
    both, chosen = parts.sweep(study, (LABEL, "GD"))
    swept, gd = both.values()
    betas = swept["beta"].values
    colours = plt.colormaps["viridis"](np.linspace(0, 0.9, betas.size))
    baseline = report.line_style("gd") | {"label": "GD"}

    def against(x_of, label):
        def panel(axes):
            axes.plot(x_of(gd), gd["objective_error"], **baseline)
            for beta, colour in zip(betas, colours, strict=True):
                one = swept.sel(beta=beta)
                ended = " (diverged)" if one["outcome"] == "diverged" else ""
                axes.plot(
                    x_of(one),
                    one["objective_error"],
                    color=colour,
                    label=f"beta = {beta:g}{ended}",
                )
            level = config.target * float(gd["initial_error"])
            parts.target_line(axes, level)
            axes.set(xlabel=label, ylabel="objective error")
            parts.logarithmic(axes, "y", tuning.resolution_of(gd))
            top = 100 * float(gd["initial_error"])
            axes.set_ylim(top=min(axes.get_ylim()[1], top))

        return panel

    target = config.target * float(gd["initial_error"])
    costs = tuning.cost_to(swept, target)
    reference = tuning.cost_to(gd, target)
    return parts.section_of(
        study,
        panels=[
            against(lambda x: x["eval_round"], "rounds"),
            _logarithmic(
                against(
                    lambda x: x["total_bits"],
                    f"uploaded bits, all workers ({config.wire_name()})",
                )
            ),
            _bits_against_beta(costs, reference, betas, swept["outcome"]),
        ],
        data=parts.tidy(both),
        table=_table(costs, reference, swept),
        claims=_claims(costs, reference, swept),
        chosen=chosen,
        seconds=seconds(),
    )


def _logarithmic(panel):
    def with_a_logarithmic_axis(axes):
        panel(axes)
        parts.logarithmic(axes, "x")

    return with_a_logarithmic_axis


def _bits_against_beta(costs, reference, betas, outcome):
    def panel(axes):
        share = 100 * costs["bits"] / reference["bits"]
        axes.plot(
            betas, share.where(np.isfinite(share)), "o-", label="bits to the target"
        )
        lost = betas[(outcome == "diverged").values]
        axes.plot(lost, np.full(lost.size, 100), "kx", label="diverges")
        axes.set_xscale("symlog", linthresh=1e-3)
        axes.set(xlabel="beta", ylabel="% of GD's bits to the target")
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
                "rounds": f"{rounds.item():,.0f}" if reached else "never",
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
