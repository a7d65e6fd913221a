"""Local training: FedAvg against methods that correct the workers' drift."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report

CORRECTED = ("SCAFFOLD", "Scaffnew", "TAMUNA", "LoCoDL")


def section(study: figures.Study) -> report.Section:
    """Rounds, bits and gradients to the target."""
    return parts.section_of_runs(
        study, lambda runs: [_drifts(runs), *(_reaches(runs, x) for x in CORRECTED)]
    )


def _drifts(runs) -> report.Claim:
    history = runs.histories["FedAvg"]
    text = "local steps alone end beside the solution"
    error = history.objective_error[-1] / history.initial_error
    reached = runs.cost_of("FedAvg") is not None
    return report.Claim(text, not reached, f"FedAvg's error ends at {error:.1e}")


def _reaches(runs, label: str) -> report.Claim:
    own, theirs = runs.cost_of(label), runs.cost_of("GD")
    text = f"{label} reaches the target in fewer rounds than GD"
    if own is None or theirs is None:
        return report.Claim(text, None if own else False, "one of the two does not")
    return report.Claim(
        text,
        own.rounds < theirs.rounds,
        f"{own.rounds:,} rounds against {theirs.rounds:,}, "
        f"{own.gradient_evaluations / theirs.gradient_evaluations:.2g} times the "
        "gradients",
    )
