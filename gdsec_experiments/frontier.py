"""The frontier of xi: bits saved against extra rounds, and the edge of divergence."""

import numpy as np
import pandas as pd
import xarray as xr

from gdsec_experiments import _parts as parts
from gdsec_jax import plot
from gdsec_jax.plot import _look
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
    rounds = (costs["rounds"], reference["rounds"])
    panels = [_against_xi(swept, costs, reference, "bits"), _map(swept, config.target)]
    if parts.differ(*rounds):
        panels.append(_against_xi(swept, costs, reference, "rounds"))
    return parts.section_of(
        study,
        panels=panels,
        data=xr.merge([costs, swept[["outcome"]]]).to_dataframe().reset_index(),
        table=_table(costs, reference, swept),
        claims=_claims(costs, reference, swept),
        chosen=chosen,
        note=parts.rounds_in_words(*rounds),
        bands="Crosses: diverges. Squares: not at the target in time. Star: the least.",
        seconds=seconds(),
    )


def _against_xi(swept, costs, reference, what):
    """A curve for each beta, up to the first xi that fails."""

    def panel(axes):
        betas, xi = swept["beta"].values, swept["xi"].values
        shades = np.linspace(0.4, 1, betas.size)
        for beta, share in zip(betas, shades, strict=True):
            one = (100 * costs[what].sel(beta=beta) / reference[what]).values
            style = _look.shade(report.line_style("gdsec"), share)
            there = np.isfinite(one)
            style |= {"marker": "o", "markersize": 4, "label": f"beta = {beta:g}"}
            axes.plot(xi[there], one[there], **style)
            edge = np.flatnonzero(~there)
            if there.any() and edge.size and edge[0]:
                first = int(edge[0])
                lost = swept["outcome"].sel(beta=beta).values[first] == "diverged"
                marker = {"marker": "x" if lost else "s", "color": style["color"]}
                ends = [xi[first - 1 : first + 1], [one[first - 1]] * 2]
                axes.plot(*ends, ":", markevery=[1], zorder=4, **marker)
        axes.set(xlabel="xi", ylabel=f"% of GD's {what} to the target")
        parts.logarithmic(axes, "xy")
        parts.plain_numbers(axes.yaxis)
        axes.set_xlim(left=axes.get_xlim()[0] / 25)  # room for the names

    return parts.named_at_ends(panel, first=True)


def _map(swept, target):
    """Bits of each setting, and what becomes of those that do not reach the target."""

    def panel(axes):
        plot.heatmap(swept, target, along="xi", up="beta", ax=axes)
        outcome = swept["outcome"].transpose("beta", "xi").values
        reached = tuning.cost_to(swept, target * swept["initial_error"])["bits"]
        never = ~np.isfinite(reached.transpose("beta", "xi").values)
        for marker, here in (
            ("x", outcome == "diverged"),
            ("s", never & (outcome != "diverged")),
        ):
            up, along = np.nonzero(here)
            look = {"color": "0.3", "markersize": 5, "linestyle": "none"}
            axes.plot(along + 0.5, up + 0.5, marker, **look)
        values = swept["xi"].values  # the map has a tick for each
        shown = np.arange(0, values.size, 4)
        axes.set_xticks(shown + 0.5, [f"{values[x]:,g}" for x in shown], rotation=0)

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
