"""Non-linear least squares: the comparison on an objective that is not convex."""

from gdsec_jax.study import figures, report


def section(study: figures.Study) -> report.Section:
    """Each method at the setting that one rule chose for it."""
    return figures.section_of_runs(study, figures.claims_of_the_paper)
