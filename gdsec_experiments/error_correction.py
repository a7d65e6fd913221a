"""Error correction on and off, at the same threshold and at each one's best."""

import jax
import numpy as np
import optax

from gdsec_experiments import _parts as parts
from gdsec_jax.study import experiment, figures, report

OURS, WITHOUT = "GD-SEC", "GD-SOEC"


def section(study: figures.Study) -> report.Section:
    """GD-SEC against GD-SOEC, and why the latter needs fewer rounds."""

    def claims(runs):
        return [*parts.claims_of_the_paper(runs), _goes_further(runs)]

    return parts.section_of_runs(study, claims, observe=reach)


def reach(now):
    """How far a step goes along the gradient g: -<updates, g> / |g|^2, GD's step."""
    gradient = jax.tree.map(lambda each: each.sum(0), now.gradients)
    along = -optax.tree.vdot(now.updates, gradient)
    return {"reach": along / optax.tree.vdot(gradient, gradient)}


def _goes_further(runs: experiment.Runs) -> report.Claim:
    """Whether longer steps are what saves rounds.

    Where an entry is not sent the server takes what it remembers: the gradient of many
    rounds ago, which was larger. Error correction takes the surplus back later.
    """
    text = (
        f"{WITHOUT} needs fewer rounds since its steps are longer, not better: for "
        "what is not sent the server takes older gradients, which are larger, and "
        "without correction nobody takes the surplus back"
    )
    baseline = runs.config.baseline()
    costs = {label: runs.cost_of(label) for label in (baseline, OURS, WITHOUT)}
    never = [label for label, cost in costs.items() if cost is None]
    if never:
        return report.Claim(text, None, f"{parts.listed(never)} never at the target")
    means = {
        label: np.nanmean(runs.histories[label].observed["reach"][: cost.rounds])
        for label, cost in costs.items()
    }
    # Each has a step of its own: as far as the baseline would go with that.
    given = {label: runs.config.methods[label].step_factor for label in costs}
    ours, without = (
        means[label] / means[baseline] * given[baseline] / given[label]
        for label in (OURS, WITHOUT)
    )
    rounds = costs[WITHOUT].rounds
    expected = costs[baseline].rounds * means[baseline] / means[WITHOUT]
    return report.Claim(
        text,
        bool(without > 1.05 and abs(rounds / expected - 1) < 0.1),
        f"along the gradient the mean step of {WITHOUT} goes {without:.2f} times as "
        f"far as {baseline}'s with that learning rate, that of {OURS} {ours:.2f} "
        f"times; steps of that length would bring {baseline} there in "
        f"{expected:,.0f} rounds, {WITHOUT} takes {rounds:,}",
    )
