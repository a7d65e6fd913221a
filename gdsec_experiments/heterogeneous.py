"""Unequal workers: one threshold against one that follows each coordinate's L^i."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report

SCALAR, COORDINATE = "GD-SEC scalar", "GD-SEC by coordinate"


def section(study: figures.Study) -> report.Section:
    """xi against xi / L^i."""
    return parts.section_of_runs(
        study,
        lambda runs: [
            parts.keeps_the_rate(runs, SCALAR),
            parts.keeps_the_rate(runs, COORDINATE),
            _compared(runs),
        ],
    )


def _compared(runs) -> report.Claim:
    scalar, coordinate = runs.cost_of(SCALAR), runs.cost_of(COORDINATE)
    text = "a threshold xi / L^i needs fewer bits than one xi for all"
    if scalar is None or coordinate is None:
        return report.Claim(text, None, "one of the two does not reach the target")
    ratio = coordinate.bits / scalar.bits
    rounds = coordinate.rounds / scalar.rounds
    measured = f"it needs {ratio:.2f} times the bits and {rounds:.2f} times the rounds"
    return report.Claim(text, ratio < 1, measured)
