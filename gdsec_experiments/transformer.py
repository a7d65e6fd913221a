"""A transformer on characters: loss against rounds and bits, all behind Adam."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report

LABELS = ("SGD-SEC", "QSGD-SEC", "top-j", "EF21-SGDM")


def section(study: figures.Study) -> report.Section:
    """Every method at one setting; the config says how it was chosen."""

    def claims(runs):
        slack = runs.config.slack
        labels = [label for label in LABELS if label in runs.histories]
        return [parts.keeps_the_rate(runs, label, slack) for label in labels]

    made = parts.section_of_runs(study, claims)
    return made._replace(panels=tuple(map(_with_plain_losses, made.panels)))


def _with_plain_losses(panel: report.Panel) -> report.Panel:
    def drawn(axes):
        panel(axes)
        parts.plain_numbers(axes.yaxis)

    return drawn
