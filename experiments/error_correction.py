"""Error correction on and off, at the same threshold and at each one's best."""

from gdsec_jax import figures, report


def section(study: figures.Study) -> report.Section:
    """GD-SEC against GD-SOEC."""
    return figures.section_of_runs(
        study,
        lambda runs: [
            figures.keeps_the_rate(runs, "GD-SEC"),
            figures.fails_without_correction(runs, "GD-SOEC same xi", "GD-SEC"),
            figures.fails_without_correction(runs, "GD-SOEC best xi", "GD-SEC"),
        ],
    )
