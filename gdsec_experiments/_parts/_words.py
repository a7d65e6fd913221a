"""What a figure says: its first line, its claims, and other sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from gdsec_experiments._parts._runs import spent
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, report

AGAIN = " (which does not stay there)"


def of_seeds(runs: experiment.Runs) -> str:
    """Which methods draw, and with which seeds, in words."""
    drawn = [label for label in runs.histories if label in runs.over_seeds]
    if not drawn:
        return ""
    _, seeds = runs.config.seeds_of(drawn[0])
    which = listed([str(seed) for seed in seeds])
    return (
        f"{listed(drawn)} {'draws' if len(drawn) == 1 else 'draw'} at random: shown is "
        f"the run in the middle, by the bits to the target, of seeds {which}, which "
        "had no part in the choice of parameters."
    )


def of_the_data(config: configs.RunConfig, split: str = "") -> str:
    """Which problem a figure is of, in words."""
    problem = config.problem
    kind = (problem.model or problem.kind).replace("_", " ")
    several = configs.values_of(problem.grid).get("num_workers")
    number = f"{several[0]} to {several[-1]:,}" if several else problem.num_workers
    words = (
        f"{kind} on {problem.data}, {number} workers, {split or problem.split} split."
    )
    return words[0].upper() + words[1:]


def first_line(
    ours: str, needed: Mapping[str, tuple[float, float]], left: Sequence[str] = ()
) -> str:
    """Who sends fewer bits to the target than ours, and by how much.

    Args:
      ours: the label that all are compared with.
      needed: rounds and bits to the target by label, inf where it is not reached.
      left: those that do not stay there.
    """
    rounds, bits = needed[ours]
    if not np.isfinite(bits):
        return f"{ours} does not reach the target here."
    fewer = {x: cost for x, cost in needed.items() if cost[1] < bits}
    if not fewer:
        return f"Of all methods here {ours} sends the fewest bits to the target."
    order = sorted(fewer, key=lambda label: fewer[label][1])
    words = [
        f"{label}{AGAIN * (label in left)} with {100 * fewer[label][1] / bits:.0f} % "
        f"of its bits and {fewer[label][0] / rounds:.2f} times its rounds"
        for label in order
    ]
    return f"Here not {ours} sends the least to the target, but {listed(words)}."


def slower(runs: experiment.Runs, ours: str) -> str:
    """How many more rounds ours takes than the rule lets it, if it does, in words."""
    baseline = runs.config.baseline()
    needed = spent(runs)
    ratio = needed[ours][0] / needed[baseline][0]
    if not np.isfinite(needed[ours][0]) or ratio <= 1 + runs.config.slack:
        return ""
    return f"But it takes {ratio:.2f} times the rounds of {baseline} at its best step."


def listed(words: Sequence[str]) -> str:
    """In a sentence: a, b and c."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def fewest_bits(
    ours: str, needed: Mapping[str, tuple[float, float]], left: Sequence[str] = ()
) -> report.Claim:
    """Whether of all methods ours sends the fewest bits, as in `first_line`."""
    order = sorted(needed, key=lambda label: needed[label][1])
    told = [
        f"{label} {bits / 1e6:.3f} in {rounds:,.0f} rounds{AGAIN * (label in left)}"
        for label, (rounds, bits) in ((x, needed[x]) for x in order[:5])
        if np.isfinite(bits)
    ]
    return report.Claim(
        f"of all methods {ours} uploads the fewest bits to the target",
        order[0] == ours and bool(told),
        f"Mbit to the target: {', '.join(told) or 'none reaches it'}",
    )


def keeps_the_rate(
    runs: experiment.Runs, label: str, slack: float = 0.1
) -> report.Claim:
    """Whether a method needs about the baseline's rounds, and fewer bits."""
    baseline = runs.config.baseline()
    ours, theirs = runs.cost_of(label), runs.cost_of(baseline)
    text = f"{label} keeps {baseline}'s rate with a fraction of the bits"
    if ours is None or theirs is None:
        return report.Claim(text, False, _never(label if ours is None else baseline))
    return report.Claim(
        text,
        ours.rounds <= (1 + slack) * theirs.rounds and ours.bits < theirs.bits / 2,
        f"{ours.rounds:,} rounds against {theirs.rounds:,}, "
        f"{ours.bits / theirs.bits:.2%} of the uploaded bits",
    )


def claims_of_the_paper(runs: experiment.Runs) -> list[report.Claim]:
    """What the paper says of GD-SEC, and of it without error correction."""
    return [
        keeps_the_rate(runs, "GD-SEC"),
        fails_without_correction(runs, "GD-SOEC same xi", "GD-SEC"),
        needs_more_bits(runs, "GD-SOEC", "GD-SEC"),
    ]


def fails_without_correction(
    runs: experiment.Runs, label: str, ours: str
) -> report.Claim:
    """Whether the method without error correction fails where ours does not."""
    text = f"without error correction, at the same threshold ({label}), it does not"
    with_it, without = runs.cost_of(ours), runs.cost_of(label)
    if with_it is None:
        return report.Claim(text, False, _never(ours))
    if without is None:
        last = runs.histories[label]
        end = last.in_words(last.objective_error[-1], ".1e")
        measured = f"{label} ends at {end}, {last.outcome}"
        return report.Claim(text, True, measured)
    ratio = without.rounds / with_it.rounds
    measured = f"{label} needs {ratio:.2f} times the rounds of {ours}"
    return report.Claim(text, ratio > 1 + runs.config.slack, measured)


def needs_more_bits(runs: experiment.Runs, label: str, ours: str) -> report.Claim:
    """Whether the method without error correction, at its best, needs more bits."""
    text = f"tuned for itself, {label} needs more bits than {ours}"
    with_it, without = runs.cost_of(ours), runs.cost_of(label)
    if with_it is None or without is None:
        missing = ours if with_it is None else label
        return report.Claim(text, with_it is not None, _never(missing))
    return report.Claim(
        text,
        without.bits > with_it.bits,
        f"{without.bits / with_it.bits:.1f} times the bits and "
        f"{without.rounds / with_it.rounds:.2f} times the rounds of {ours}",
    )


def _never(label: str) -> str:
    return f"{label} does not reach the target"


def differ(rounds, reference) -> bool:
    """Whether some number of rounds is a twentieth off; else a panel says nothing."""
    return bool((np.abs(_ratios(rounds, reference) - 1) > 0.05).any())


def rounds_in_words(rounds, reference) -> str:
    """How many rounds there are of GD's, for what has no panel."""
    ratios = _ratios(rounds, reference)
    if not ratios.size:
        return "No setting reaches the target, or GD does not."
    least, most = (f"{100 * (x - 1):+.1f} %" for x in (ratios.min(), ratios.max()))
    return f"Rounds to the target, against GD's: {least} to {most}."


def _ratios(rounds, reference) -> np.ndarray:
    """Of those that are known."""
    with np.errstate(invalid="ignore"):
        ratios = np.ravel(np.asarray(rounds, float) / float(reference))
    return ratios[np.isfinite(ratios) & (ratios > 0)]
