"""Which workers take part in a round, and what the others do."""

import numpy as np

from gdsec_experiments import _parts as parts
from gdsec_jax import plot
from gdsec_jax.study import figures, report

RULES = ("uniform", "Bernoulli", "round robin", "largest energy")
ACCUMULATE = "{} accumulate"
WHOLE, BUDGET = "GD-SEC", "largest energy"


def section(study: figures.Study) -> report.Section:
    """GD and GD-SEC, with all workers and with some of them by several rules."""
    seconds = parts.stopwatch()
    runs = parts.compare(study)
    return parts.section_of(
        study,
        panels=[
            _errors(runs, RULES, "absent workers hold"),
            _errors(
                runs, tuple(map(ACCUMULATE.format, RULES)), "absent workers accumulate"
            ),
            parts.named_at_ends(_without_memory(runs)),
            _bits_of_rounds(runs),
            _bits_to_the_target(runs),
        ],
        data=_thinned(parts.curves(runs.histories)),
        table=parts.costs(runs),
        claims=[
            parts.keeps_the_rate(runs, WHOLE),
            _by_every_rule(runs),
            _against(runs, "uniform", "GD half"),
            _stalls(runs, "uniform beta 0"),
            _diverges(runs, "uniform beta 1"),
        ],
        chosen=parts.how_chosen(study.config, runs.problem),
        note=f"{_first_round(runs)} {parts.of_seeds(runs)}",
        bands=parts.UPS_AND_DOWNS,
        seconds=seconds(),
    )


def _first_round(runs) -> str:
    """Why more than the budget is sent at the start."""
    each = runs.histories[BUDGET].bits.sum(1)
    budget = runs.config.methods[BUDGET].budget_bits
    over = np.flatnonzero(each > budget) + 1
    if not over.size:
        return f"No round of {BUDGET} sends more than its budget of {budget:g} bits."
    first = over[-1] == over.size  # and no later one
    which = f"the first {over.size}" if first else f"{over.size}"
    rounds = "the first round" if first and over.size == 1 else f"{which} rounds"
    return (
        f"The budget of {budget:g} bits has an exception, {rounds} of {BUDGET}, with "
        f"up to {each.max():,} bits: the worker with the largest energy may always "
        "send, and at first a message, of all entries, is longer than the budget."
    )


def _errors(runs, labels, title):
    """The legend is of the first panel's rules, which the others share."""

    def panel(axes):
        shown = ("GD", "GD half", WHOLE, *labels)
        histories = {label: runs.histories[label] for label in shown}
        plot.convergence(
            {label.removesuffix(" accumulate"): x for label, x in histories.items()},
            target=runs.config.target,
            wire="",
            methods={"GD": "gd", "GD half": "gd"} | dict.fromkeys(RULES, "gdsec"),
            ax=axes,
        )
        axes.set_title(title)

    return panel


def _without_memory(runs):
    """The uniform rule without the server's memory, and with all of a message in it."""

    def panel(axes):
        names = {"uniform": "beta = 0.01", "uniform beta 0": "beta = 0"}
        names |= {"uniform beta 1": "beta = 1"}
        plot.convergence(
            {words: runs.histories[label] for label, words in names.items()},
            target=runs.config.target,
            wire="",
            methods=dict.fromkeys(names.values(), "gdsec"),
            ax=axes,
        )
        axes.set_title("uniform, hold, by beta")

    return panel


def _bits_of_rounds(runs):
    """Who keeps a budget: the bits of a round, as a mean over a hundred."""

    def panel(axes):
        shown = (WHOLE, *RULES)
        methods = dict.fromkeys(shown, "gdsec")
        for label, style in report.line_styles(methods).items():
            if label not in (WHOLE, "uniform", BUDGET):
                continue  # the others are as uniform
            each = runs.histories[label].bits.sum(1)
            many = max(1, min(100, each.size // 4))
            whole = each[: each.size // many * many].reshape(-1, many).mean(1)
            style |= {"markevery": max(1, whole.size // 10)}
            axes.plot(many * np.arange(1, whole.size + 1), whole, **style)
        budget = runs.config.methods[BUDGET].budget_bits
        look = {"color": "0.2", "linestyle": (0, (6, 3)), "linewidth": 1.2}
        axes.axhline(budget, **look)
        place = {"ha": "right", "va": "bottom", "fontsize": 9.5, "color": "0.2"}
        words = f"budget of {BUDGET}: {budget:g} bits"
        axes.text(0.99, budget, words, transform=axes.get_yaxis_transform(), **place)
        axes.set(xlabel="rounds", ylabel="bits a round, all workers")
        axes.set_title("means over a hundred rounds")
        parts.logarithmic(axes, "y")
        parts.plain_numbers(axes.yaxis)

    return panel


def _bits_to_the_target(runs):
    """A row a rule, filled where absent workers hold."""

    def panel(axes):
        rows = {"all workers": (WHOLE,)}
        rows |= {rule: (rule, ACCUMULATE.format(rule)) for rule in RULES}
        color = report.line_style("gdsec")["color"]
        for place, labels in enumerate(rows.values()):
            for label, fill in zip(labels, (color, "white"), strict=False):
                cost = runs.cost_of(label)
                if cost is not None:
                    look = {"color": color, "markerfacecolor": fill, "markersize": 7}
                    axes.plot([cost.bits / 1e3], [place], "o", **look)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set(xlabel="kbit to the target")
        axes.set_title("filled: hold, open: accumulate")

    return panel


def _thinned(curves):
    return curves[curves["round"] % 10 == 0]


def _by_every_rule(runs) -> report.Claim:
    """With some of the workers, whichever they are and whatever the others do."""
    labels = [*RULES, *map(ACCUMULATE.format, RULES)]
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
