"""Half of the workers a round."""

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
    other = "does not reach it" if its is None else f"needs {its.rounds:,}"
    return report.Claim(
        text, True, f"{ours} needs {mine.rounds:,} rounds, {theirs} {other}"
    )


def _stalls(runs, label) -> report.Claim:
    last = runs.histories[label]
    cost = last.cost_to(runs.target_error)
    return report.Claim(
        "plain GD stalls at the variance of the workers it misses",
        cost is None,
        f"{label} ends at {last.objective_error[-1]:.1e}",
    )
