"""A transformer on characters: loss against rounds and bits, all behind Adam."""

from gdsec_jax import figures, report

LABELS = ("SGD-SEC", "QSGD-SEC", "top-j", "EF21-SGDM")


def section(study: figures.Study) -> report.Section:
    """Every method at the setting that one rule chose for it."""

    def claims(runs):
        slack = runs.config.slack
        return [figures.keeps_the_rate(runs, label, slack) for label in LABELS]

    return figures.section_of_runs(study, claims)
