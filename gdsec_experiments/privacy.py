"""Methods under noise: loss against bits at several epsilons, an audit, an attack."""

import functools

import matplotlib.axes
import numpy as np

from gdsec_experiments import _canaries, _inversion
from gdsec_experiments import _noised as noised
from gdsec_experiments import _parts as parts
from gdsec_jax.study import experiment, figures, report

AUDITED = (2.0, 8.0)


def section(study: figures.Study) -> report.Section:
    """Loss against bits at each epsilon, an audit, and an attack."""
    seconds = parts.stopwatch()
    config = study.config
    with experiment.prepared(config) as problem:
        compared = noised.on_digits(config, problem), noised.on_network(config)
        runs = {each.name: noised.runs_of(study, each) for each in compared}
    audits = [_canaries.audit(epsilon) for epsilon in AUDITED]
    return parts.section_of(
        study,
        panels=[
            *(
                noised.losses_of(name, epsilon, methods)
                for name, own in runs.items()
                for epsilon, methods in own.items()
            ),
            _audited(audits),
            functools.partial(_attacked, _inversion.seen()),
        ],
        data=noised.tidy(runs),
        table=noised.table_of(runs),
        claims=[
            *(x for name, own in runs.items() for x in noised.claims_of(name, own)),
            _sound(audits),
        ],
        chosen=noised.chosen_of(runs),
        bands=noised.BANDS,
        seconds=seconds(),
    )


def _sound(audits: list[_canaries.Audit]) -> report.Claim:
    return report.Claim(
        "no audit proves more than was promised",
        all(max(x.dense, x.censored) <= x.promised for x in audits),
        ", ".join(
            f"promised {x.promised:.2f}: {x.dense:.2f} of dense messages, "
            f"{x.censored:.2f} of censored ones"
            for x in audits
        ),
    )


def _audited(audits: list[_canaries.Audit]) -> report.Panel:
    def panel(axes: matplotlib.axes.Axes):
        for n, each in enumerate(audits):
            names = ("dense", "censored")
            for k, value in enumerate((each.dense, each.censored)):
                place = n + 0.4 * (k - 0.5)
                axes.bar(place, value, 0.36, color=("0.35", "0.7")[k])
                axes.text(place, value + 0.1, f"{names[k]}\n{value:.2f}", ha="center")
            axes.hlines(each.promised, n - 0.45, n + 0.45, color="C3")
            axes.text(
                n, each.promised + 0.1, f"promised {each.promised:.2f}", ha="center"
            )
        axes.set(
            title="what an audit proves", ylabel="epsilon", xticks=[],
            ylim=(0, 1.2 * max(each.promised for each in audits)),
        )  # fmt: skip

    return panel


def _attacked(seen: dict[str, np.ndarray], axes: matplotlib.axes.Axes) -> None:
    """The image, and what a server makes of each kind of message, side by side."""
    gap, names = 2, list(seen)
    canvas = np.full((8 * 2 + 6, 3 * 8 + 2 * gap), np.nan)
    for n, name in enumerate(names):
        top, left = (n // 3) * (8 + 6), (n % 3) * (8 + gap)
        canvas[top : top + 8, left : left + 8] = seen[name]
        axes.text(left + 3.5, top + 8.2, name, ha="center", va="top", fontsize=8)
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
    axes.set_ylim(24.5, -0.5)
    axes.set_title("what the server sees")
    axes.set_axis_off()
