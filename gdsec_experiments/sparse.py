"""Sparse logistic regression with tens of thousands of columns."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report


def section(study: figures.Study) -> report.Section:
    """Each method at the setting that one rule chose for it."""
    return parts.section_of_runs(study, parts.claims_of_the_paper)
