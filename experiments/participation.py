"""Half of the workers a round."""

import numpy as np

from gdsec_jax import figures, report


def section(study: figures.Study) -> report.Section:
    """GD and GD-SEC, with all workers and with half of them."""
    return figures.section_of_runs(
        study,
        lambda runs: [
            figures.keeps_the_rate(runs, "GD-SEC"),
            _against(runs, "GD-SEC half", "GD half"),
            _stalls(runs, "GD half"),
        ],
    )


def _against(runs, ours, theirs) -> report.Claim:
    """With half of the workers the memory stands in for the absent."""
    mine, its = (runs.histories[x].cost_to(runs.target_error) for x in (ours, theirs))
    text = "with half of the workers GD-SEC still converges to the target"
    if mine is None:
        last = runs.histories[ours].objective_error[-1]
        return report.Claim(text, False, f"{ours} ends at {last:.1e}")
    other = "does not touch it" if its is None else f"touches it after {its.rounds:,}"
    return report.Claim(
        text, True, f"{ours} needs {mine.rounds:,} rounds, {theirs} {other}"
    )


def _stalls(runs, label) -> report.Claim:
    errors = runs.histories[label].objective_error
    late = np.median(errors[-max(1, errors.size // 10) :])
    return report.Claim(
        "plain GD stalls above the target, at the variance of the workers it misses",
        late > runs.target_error,
        f"the median of the last tenth of {label}'s errors is {late:.1e}, the target "
        f"{runs.target_error:.1e}",
    )
