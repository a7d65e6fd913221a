"""Which workers take part in a round, and what the others do."""

import numpy as np

from gdsec_experiments import _parts as parts
from gdsec_jax.study import figures, report

RULES = {
    "uniform": "#0072B2",
    "Bernoulli": "#009E73",
    "round robin": "#D55E00",
    "largest energy": "#CC79A7",
}
AGAIN = "{} accumulate"


def section(study: figures.Study) -> report.Section:
    """GD and GD-SEC, with all workers and with some of them by several rules."""
    seconds = parts.stopwatch()
    runs = parts.compare(study)
    return parts.section_of(
        study,
        panels=[
            _errors(runs, list(RULES), "absent workers hold"),
            _errors(runs, list(map(AGAIN.format, RULES)), "absent workers accumulate"),
            _errors(runs, [f"uniform beta {b}" for b in (0, 1)], "other beta, hold"),
            _bits_of_rounds(runs),
            _bits_to_the_target(runs),
        ],
        data=_thinned(parts.curves(runs.histories)),
        table=parts.costs(runs),
        claims=[
            parts.keeps_the_rate(runs, "GD-SEC"),
            _by_every_rule(runs),
            _against(runs, "uniform", "GD half"),
            _stalls(runs, "uniform beta 0"),
            _diverges(runs, "uniform beta 1"),
        ],
        chosen=parts.how_chosen(study.config, runs.problem),
        seconds=seconds(),
    )


def _style(label):
    rule = label.removesuffix(" accumulate")
    if rule in RULES:
        dash = "-" if rule == label else "--"
        return {"color": RULES[rule], "linestyle": dash, "label": label}
    if "beta" in label:
        colour = {"0": "#56B4E9", "1": "#000000"}[label[-1]]
        return {"color": colour, "linestyle": ":", "label": label}
    return report.line_style("gd" if label == "GD" else "lag") | {"label": label}


def _errors(runs, labels, title):
    def panel(axes):
        for label in ("GD", "GD half", *labels):
            history = runs.histories[label]
            ended = " (diverged)" if history.outcome == "diverged" else ""
            style = _style(label) | {"label": label + ended}
            axes.plot(history.total_bits, history.objective_error, **style)
        parts.target_line(axes, runs.target_error)
        floor = runs.problem.resolution
        axes.set(xlabel=f"uploaded bits, all workers ({runs.config.wire_name()})")
        axes.set(ylabel="objective error", title=title)
        parts.logarithmic(axes, "xy", floor)
        first = runs.histories["GD"].initial_error
        axes.set_ylim(top=min(axes.get_ylim()[1], 10 * first))

    return panel


def _bits_of_rounds(runs):
    """Who keeps a budget: the bits of a round, as a mean over fifty."""

    def panel(axes):
        for label in ("GD-SEC", *RULES, AGAIN.format("largest energy")):
            each = runs.histories[label].bits.sum(1)
            whole = each[: each.size // 50 * 50].reshape(-1, 50).mean(1)
            style = _style(label)
            if label == "GD-SEC":
                style = report.line_style("gdsec") | {"label": label, "color": "0.5"}
            axes.plot(50 * np.arange(1, whole.size + 1), whole, **style)
        axes.axhline(
            runs.config.methods["largest energy"].budget_bits,
            color="0.6",
            linewidth=0.8,
            label="budget",
        )
        axes.set(xlabel="rounds", ylabel="bits a round, all workers")
        parts.logarithmic(axes, "y")

    return panel


def _bits_to_the_target(runs):
    def panel(axes):
        for place, rule in enumerate(RULES):
            for shift, label in ((-0.2, rule), (0.2, AGAIN.format(rule))):
                cost = runs.cost_of(label)
                if cost is not None:
                    filled = shift < 0
                    axes.bar(
                        place + shift,
                        cost.bits / 1e3,
                        0.38,
                        color=RULES[rule] if filled else "none",
                        edgecolor=RULES[rule],
                        linestyle="-" if filled else "--",
                    )
        whole = runs.cost_of("GD-SEC")
        if whole is not None:
            axes.axhline(whole.bits / 1e3, color="0.5", label="GD-SEC")
        axes.set_xticks(range(len(RULES)), [rule.replace(" ", "\n") for rule in RULES])
        axes.set(ylabel="kbit to the target", title="hold, and accumulate (dashed)")

    return panel


def _thinned(curves):
    return curves[curves["round"] % 10 == 0]


def _by_every_rule(runs) -> report.Claim:
    """With some of the workers, whichever they are and whatever the others do."""
    labels = [*RULES, *map(AGAIN.format, RULES)]
    theirs = runs.cost_of("GD")
    costs = {label: runs.cost_of(label) for label in labels}
    text = "by every rule, holding or accumulating, GD-SEC keeps GD's rate within 15 %"
    never = [label for label, cost in costs.items() if cost is None]
    if theirs is None or never:
        return report.Claim(
            text, False, f"{', '.join(never) or 'GD'} does not reach it"
        )
    ratios = {x: cost.rounds / theirs.rounds for x, cost in costs.items()}
    return report.Claim(
        text,
        max(ratios.values()) <= 1.15,
        f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f} times GD's rounds, "
        "with all its workers",
    )


def _against(runs, ours, theirs) -> report.Claim:
    """With half of the workers the memory stands in for the absent."""
    mine, its = runs.cost_of(ours), runs.cost_of(theirs)
    text = "with half of the workers it needs fewer rounds than GD with half"
    if mine is None:
        last = runs.histories[ours].objective_error[-1]
        return report.Claim(text, False, f"{ours} ends at {last:.1e}")
    other = "does not touch it" if its is None else f"touches it after {its.rounds:,}"
    return report.Claim(
        text,
        its is None or mine.rounds < its.rounds,
        f"{ours} needs {mine.rounds:,} rounds, {theirs} {other}",
    )


def _stalls(runs, label) -> report.Claim:
    errors = runs.histories[label].objective_error
    late = np.median(errors[-max(1, errors.size // 10) :])
    return report.Claim(
        "without the server's memory it stalls above the target",
        late > runs.target_error,
        f"the median of the last tenth of {label}'s errors is {late:.1e}, the target "
        f"{runs.target_error:.1e}",
    )


def _diverges(runs, label) -> report.Claim:
    history = runs.histories[label]
    return report.Claim(
        "with beta = 1 the same threshold diverges",
        history.outcome == "diverged",
        f"{label}: {history.outcome} after {history.num_rounds:,} rounds",
    )
