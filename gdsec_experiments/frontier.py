"""The frontier of xi: bits saved against extra rounds, and the edge of divergence."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report, tuning

LABEL = "GD-SEC"


def section(study: figures.Study) -> report.Section:
    """GD-SEC over xi and beta."""
    seconds = parts.stopwatch()
    config = study.config
    both, chosen = parts.sweep(study, (LABEL, "GD"))
    swept, gd = both.values()
    target = config.target * float(gd["initial_error"])
    costs, reference = tuning.cost_to(swept, target), tuning.cost_to(gd, target)
    return parts.section_of(
        study,
        panels=[
            _frontier(costs, reference),
            _bits(costs, reference),
            _edge(swept, costs),
        ],
        data=xr.merge([costs, swept[["outcome"]]]).to_dataframe().reset_index(),
        table=_table(costs, reference, swept),
        claims=_claims(costs, reference, swept),
        chosen=chosen,
        seconds=seconds(),
    )


def _colours(costs):
    betas = costs["beta"].values
    return list(
        zip(
            betas,
            plt.colormaps["viridis"](np.linspace(0, 0.9, betas.size)),
            strict=True,
        )
    )


def _frontier(costs, reference):
    def panel(axes):
        for beta, colour in _colours(costs):
            one = costs.sel(beta=beta)
            extra = 100 * (one["rounds"] / reference["rounds"] - 1)
            share = 100 * one["bits"] / reference["bits"]
            there = np.isfinite(share)
            axes.plot(
                extra[there],
                share[there],
                "o-",
                color=colour,
                ms=4,
                label=f"beta = {beta:g}",
            )
        axes.set_xscale("symlog", linthresh=1)
        parts.logarithmic(axes, "y")
        parts.plain_numbers(axes.xaxis)
        parts.plain_numbers(axes.yaxis)
        axes.set(
            xlabel="extra rounds to the target, %",
            ylabel="% of GD's bits to the target",
        )

    return panel


def _bits(costs, reference):
    def panel(axes):
        for beta, colour in _colours(costs):
            share = 100 * costs.sel(beta=beta)["bits"] / reference["bits"]
            there = np.isfinite(share)
            axes.plot(costs["xi"][there], share[there], "o-", color=colour, ms=4)
            if not bool(there.all()) and bool(there.any()):
                edge = float(costs["xi"][there][-1])
                axes.axvline(edge, color=colour, linestyle=":", linewidth=1)
        axes.set_xlabel("xi (dotted: the largest that works)")
        axes.set_ylabel("% of GD's bits to the target")
        parts.logarithmic(axes, "xy")
        parts.plain_numbers(axes.yaxis)

    return panel


def _edge(swept, costs):
    """What becomes of each setting, as a map over xi and beta."""

    def panel(axes):
        lost = (swept["outcome"] == "diverged").values
        reached = np.isfinite(costs["bits"].values)
        kind = np.where(lost, 2, np.where(reached, 0, 1))
        names = ("reaches the target", "does not reach it in time", "diverges")
        shades = ("#009E73", "#E69F00", "#000000")
        markers = ("o", "s", "x")
        xi, beta = np.meshgrid(swept["xi"], swept["beta"])
        for value, (name, shade, marker) in enumerate(
            zip(names, shades, markers, strict=True)
        ):
            here = value == kind.T
            axes.plot(xi[here], beta[here], marker, color=shade, label=name, ls="none")
        axes.set(xlabel="xi", ylabel="beta")
        parts.logarithmic(axes, "xy")

    return panel


def _table(costs, reference, swept):
    rows = []
    for beta in swept["beta"].values:
        one, outcome = costs.sel(beta=beta), swept["outcome"].sel(beta=beta)
        share = (one["bits"] / reference["bits"]).values
        there = np.isfinite(share)
        best = int(np.argmin(np.where(there, share, np.inf)))
        lost = swept["xi"].values[(outcome == "diverged").values]
        rows.append(
            {
                "beta": f"{beta:g}",
                "best xi": f"{swept['xi'].values[best]:.3g}" if there.any() else "-",
                "bits, % of GD": f"{100 * share[best]:.2f}" if there.any() else "-",
                "extra rounds, %": (
                    f"{100 * float(one['rounds'][best] / reference['rounds'] - 1):.1f}"
                    if there.any()
                    else "-"
                ),
                "Mgrad": (
                    f"{float(one['gradient_evaluations'][best]) / 1e6:.3f}"
                    if there.any()
                    else "-"
                ),
                "diverges from xi": f"{lost.min():.3g}" if lost.size else "not seen",
            }
        )
    return pd.DataFrame(rows)


def _claims(costs, reference, swept):
    share = (costs["bits"] / reference["bits"]).transpose("xi", "beta").values
    free = costs["rounds"].transpose("xi", "beta").values <= 1.01 * float(
        reference["rounds"]
    )
    least = np.where(free & np.isfinite(share), share, np.inf).min()
    yield report.Claim(
        "bits can be saved at the price of hardly any rounds",
        bool(least < 0.2),
        f"{least:.2%} of GD's bits within 1 % more rounds",
    )
    lost = (swept["outcome"] == "diverged").transpose("xi", "beta").values
    xi = swept["xi"].values
    edges = [xi[column].min() if column.any() else np.inf for column in lost.T]
    yield report.Claim(
        "beyond some xi it diverges, the sooner the larger beta",
        bool(np.isfinite(edges).any()) and edges == sorted(edges, reverse=True),
        "first xi that diverges: "
        + ", ".join(
            f"{edge:.3g} (beta = {beta:g})"
            for beta, edge in zip(swept["beta"].values, edges, strict=True)
        ),
    )
