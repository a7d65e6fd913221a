"""Sparse logistic regression with tens of thousands of columns."""

from gdsec_jax import figures, report


def section(study: figures.Study) -> report.Section:
    """Each method at the setting that one rule chose for it."""
    return figures.section_of_runs(
        study,
        lambda runs: [
            figures.keeps_the_rate(runs, "GD-SEC"),
            figures.fails_without_correction(runs, "GD-SOEC", "GD-SEC"),
        ],
    )
