"""The number of workers, from 1 to 1,000, with the same data."""

import numpy as np
import pandas as pd

from gdsec_experiments import _parts as parts
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report

LABEL = "GD-SEC"
_ROUND = np.array([0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 20, 30, 50, 100, 200, 500])


def section(study: figures.Study) -> report.Section:
    """GD-SEC and GD, with the samples split over more and more workers."""
    seconds = parts.stopwatch()
    config = study.config
    rows, curves = [], []
    for number in configs.values_of(config.problem.grid)["num_workers"]:
        problem = config.problem.model_copy(update={"num_workers": number, "grid": {}})
        one = study._replace(
            config=config.model_copy(update={"problem": problem}),
            folder=study.folder / f"M={number}",
        )
        runs = parts.compare(one)
        costs = {label: runs.cost_of(label) for label in runs.histories}
        rows.append(_row(number, costs))
        curve = parts.curves(runs.histories)
        curves.append(curve[curve["round"] % 20 == 0].assign(num_workers=number))
    with experiment.prepared(config) as first:
        chosen = parts.how_chosen(config, first)
    table = pd.DataFrame(rows)
    ratio = table[f"{LABEL} rounds"] / table["GD rounds"]
    panels = [_panel(table, "bits a worker"), _share(table)]
    if parts.differ(ratio, 1):
        panels.append(_panel(table, "rounds"))
    return parts.section_of(
        study,
        panels=panels,
        data=pd.concat(curves, ignore_index=True),
        table=_shown(table),
        claims=_claims(table),
        chosen=chosen,
        note=parts.rounds_in_words(ratio, 1),
        seconds=seconds(),
    )


def _row(number, costs):
    row = {"M": number}
    for label, cost in costs.items():
        row |= {
            f"{label} rounds": np.nan if cost is None else cost.rounds,
            f"{label} bits a worker": np.nan if cost is None else cost.bits / number,
            f"{label} Mgrad": np.nan
            if cost is None
            else cost.gradient_evaluations / 1e6,
        }
    return row


def _panel(table, what):
    def panel(axes):
        for label, name in (("GD", "gd"), (LABEL, "gdsec")):
            style = report.line_style(name) | {"label": label, "marker": "o", "ms": 4}
            axes.plot(table["M"], table[f"{label} {what}"], **style)
        axes.set_ylabel(f"{what} to the target")
        _over_workers(axes, table)
        low, high = axes.get_ylim()
        if axes.get_yscale() == "log":  # a per cent more is no trend
            axes.set_ylim(low / 2, 2 * high)

    return parts.named_at_ends(panel)


def _over_workers(axes, table):
    axes.set_xlabel("workers")
    parts.logarithmic(axes, "xy")
    axes.set_xticks(table["M"], [f"{number:,}" for number in table["M"]])
    axes.set_xticks([], minor=True)


def _share(table):
    def panel(axes):
        share = 100 * table[f"{LABEL} bits a worker"] / table["GD bits a worker"]
        style = report.line_style("gdsec") | {"marker": "o", "ms": 4}
        axes.plot(table["M"], share, **style)
        axes.set_ylabel("% of GD's bits to the target")
        _over_workers(axes, table)
        parts.write_values(axes, table["M"], share, "{:.2g} %")
        known = share[np.isfinite(share)]
        if known.size:  # from below the least to above the most, with ticks at both
            axes.set_ylim(known.min() / 1.4, 1.4 * known.max())
            ticks = [*_ROUND[(known.min() < _ROUND) & (known.max() > _ROUND)]]
            ticks = [known.min(), *(x for x in ticks if x > 1.15 * known.min())]
            axes.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.set_yticks([], minor=True)

    return panel


def _shown(table):
    shown = {"workers": table["M"].map("{:,}".format)}
    for label in ("GD", LABEL):
        shown[f"{label}, {parts.TO_THE_TARGET}"] = table[f"{label} rounds"].map(_count)
        shown[f"{label} kbit a worker"] = (table[f"{label} bits a worker"] / 1e3).map(
            lambda x: "never" if np.isnan(x) else f"{x:,.1f}"
        )
        shown[f"{label} Mgrad"] = table[f"{label} Mgrad"].map("{:.3f}".format)
    share = table[f"{LABEL} bits a worker"] / table["GD bits a worker"]
    return pd.DataFrame(shown | {"vs GD": share.map("{:.2%}".format)})


def _count(value):
    return "never" if np.isnan(value) else f"{value:,.0f}"


def _claims(table):
    ratio = table[f"{LABEL} rounds"] / table["GD rounds"]
    yield report.Claim(
        "GD-SEC keeps GD's rate whatever the number of workers",
        bool((ratio <= 1.1).all()),
        f"{ratio.min():.2f} to {ratio.max():.2f} times GD's rounds",
    )
    share = table[f"{LABEL} bits a worker"] / table["GD bits a worker"]
    yield report.Claim(
        "it saves bits at every number of workers",
        bool((share < 0.2).all()),
        ", ".join(
            f"{x:.1%} of GD's bits with {m:,}"
            for m, x in zip(table["M"], share, strict=True)
        ),
    )
