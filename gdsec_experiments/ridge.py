"""Ridge regression: error against rounds and bits, GD-SEC and all rivals."""

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report


def section(study: figures.Study) -> report.Section:
    """Every method at the setting that one rule chose for it."""
    return parts.section_of_runs(
        study,
        lambda runs: [*parts.claims_of_the_paper(runs), _fewest(runs)],
    )


def _fewest(runs) -> report.Claim:
    costs = {label: runs.cost_of(label) for label in runs.histories}
    slack = 1 + runs.config.slack
    rounds = costs["GD"].rounds if costs["GD"] else float("inf")
    soon = {x: c.bits for x, c in costs.items() if c and c.rounds <= slack * rounds}
    order = sorted(soon, key=soon.__getitem__)
    place = ", ".join(f"{x} {soon[x] / 1e6:.3f}" for x in order[:5])
    return report.Claim(
        "of all methods within the rounds that the rule allows, GD-SEC uploads the "
        "fewest bits",
        order[:1] == ["GD-SEC"],
        f"Mbit to the target: {place}",
    )
