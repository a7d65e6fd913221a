"""Error correction on and off, at the same threshold and at each one's best."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report


def section(study: figures.Study) -> report.Section:
    """GD-SEC against GD-SOEC."""
    return parts.section_of_runs(study, parts.claims_of_the_paper)
