"""Ridge regression: GD-SEC and all rivals, in bits and rounds to the target."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report


def section(study: figures.Study) -> report.Section:
    """Every method at the setting that one rule chose for it."""
    return parts.section_of_runs(study, parts.claims_of_the_paper)
