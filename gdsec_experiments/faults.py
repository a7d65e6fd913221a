"""What lost, late, absent and broken workers cost, and whether anything is lost."""

import numpy as np
import pandas as pd

from gdsec_experiments import _faulty
from gdsec_experiments import _parts as parts
from gdsec_jax import METHODS, wire
from gdsec_jax.plot import _look
from gdsec_jax.study import experiment, figures, report

RATES = {
    "none": {"erased": [0.0]},
    "erased": {"erased": [0.05, 0.2, 0.5]},
    "absent, hold": {"absent": [0.5, 0.8]},
    "absent, accumulate": {"absent": [0.5, 0.8]},
    "late": {"delay": [1, 2, 5]},
    "NaN": {"broken": [0.2]},
    "excessive": {"excessive": [0.2]},
}
CASES = [
    (fault, name, rate)
    for fault, each in RATES.items()
    for name, rates in each.items()
    for rate in rates
]
WORST = ("erased", "erased", 0.5)
OURS, AT_ONCE = "GD-SEC", "GD-SEC at once"
NEVER = 4.0  # where a ratio is drawn that is none
EXACT = 1e-12  # of what was said, far above float64's rounding and below any message


def section(study: figures.Study) -> report.Section:
    """Every fault at several rates, for methods of each kind."""
    seconds = parts.stopwatch()
    config = study.config
    with experiment.prepared(config) as problem:
        courses = {
            label: _courses(config, method, problem)
            for label, method in config.methods.items()
        }
        target = config.target * float(problem.error(problem.init_params))
        step = {"learning_rate": 1 / problem.smoothness}
        methods = {
            label: method.model_copy(update=step)
            for label, method in config.methods.items()
        }
        chosen = parts.how_chosen(
            config.model_copy(update={"methods": methods}), problem
        )
    rows = pd.DataFrame(
        [
            _row(config, label, case, courses[label], target)
            for case in CASES
            for label in courses
        ]
    )
    names = {label: method.name for label, method in config.methods.items()}
    return parts.section_of(
        study,
        panels=[
            _ratios(rows, names, "rounds"),
            _ratios(rows, names, "bits"),
            _errors(courses, names, target),
            _missing(courses, names),
        ],
        data=_tidy(courses),
        table=_table(rows),
        claims=_claims(rows),
        chosen=chosen,
        first=_first_line(courses, target),
        bands=parts.UPS_AND_DOWNS,
        seconds=seconds(),
    )


def _courses(config, method, problem):
    """By case, what a method does under it: cases side by side."""
    given = method.parameters()
    form = wire.Format(config.wire, config.value_bits)
    algorithm = METHODS[method.name].factory(problem.num_workers, **given, wire=form)
    beta = 1.0 if method.name in ("ef21", "cgd") else 0.0
    found = {}
    for absent in ("hold", "accumulate"):
        cases = [
            case for case in CASES if ("accumulate" in case[0]) == (absent != "hold")
        ]
        courses = _faulty.run(
            problem,
            algorithm,
            beta,
            1 / problem.smoothness,
            config.num_rounds,
            absent,
            [_faulty.Faults(**{name: rate}) for _, name, rate in cases],
            config.problem.seed,
        )
        found |= dict(zip(cases, courses, strict=True))
    return found


def _cost(course, target):
    """Rounds and bits to the target, or NaN: one touch alone does not count."""
    reached = np.flatnonzero(course.error <= target)
    if not reached.size or not parts.stays(course.error, target):
        return np.nan, np.nan
    return reached[0] + 1, course.bits[: reached[0] + 1].sum()


def _row(config, label, case, courses, target):
    course, ideal = courses[case], courses[CASES[0]]
    with np.errstate(invalid="ignore"):
        rounds, bits = np.divide(_cost(course, target), _cost(ideal, target))
    name = config.methods[label].name
    keeps_errors = name in ("gdsec", "qsgdsec", "top_j")
    keeps_errors &= label != AT_ONCE or case[0] != "late"
    remembers = name in ("ef21", "cgd")
    gap = course.drift if remembers else course.missing
    gap = np.nanmax(np.where(np.isfinite(course.error), gap, np.nan))
    return {
        "fault": case[0],
        "rate": case[2],
        "method": label,
        "rounds": rounds,
        "bits": bits,
        "lost": int(course.lost.sum()),
        "left out": int(course.left_out.sum()),
        "gap": gap,
        "keeps": keeps_errors or remembers,
    }


def _table(rows):
    def extra(ratio):
        return "never" if np.isnan(ratio) else f"{100 * (ratio - 1):+.0f} %"

    def nothing_lost(row):
        if row["gap"] <= EXACT:
            return "yes" if row["keeps"] else "-"
        return f"no: {100 * row['gap']:.2g} %"

    shown = rows[rows["fault"] != "none"]
    return pd.DataFrame(
        {
            "fault": shown["fault"],
            "rate": shown["rate"].map("{:g}".format),
            "method": shown["method"],
            "converged": np.where(shown["rounds"].isna(), "no", "yes"),
            "extra rounds": shown["rounds"].map(extra),
            "extra bits": shown["bits"].map(extra),
            "messages lost": shown["lost"].map("{:,}".format),
            "left out": shown["left out"].map("{:,}".format),
            "nothing lost": shown.apply(nothing_lost, axis=1),
        }
    )


def _ratios(rows, names, what):
    """What each fault multiplies a method's own need by."""

    def panel(axes):
        cases = [case for case in CASES if case[0] != "none"]
        labels = [f"{fault} {rate:g}" for fault, _, rate in cases]
        styles = _styles(names)
        for shift, label in enumerate(names):
            own = rows[(rows["method"] == label) & (rows["fault"] != "none")]
            place = np.arange(len(cases)) + 0.11 * (shift - 3)
            ratio = own[what].to_numpy()
            line = styles[label] | {"linestyle": ""}
            axes.plot(ratio, place, **line)
            never = place[np.isnan(ratio)]
            line |= {"marker": "x", "label": "_"}
            axes.plot(np.full(never.size, NEVER), never, **line)
        axes.axvline(1, color="0.6", linewidth=0.8)
        axes.set_yticks(range(len(cases)), labels)
        axes.invert_yaxis()
        axes.set(xlabel=f"{what} to the target, of those without faults (x: never)")
        axes.set_xscale("log", base=2)
        ticks = [0.25, 0.5, 1, 2, NEVER]
        axes.set_xticks(ticks, [*(f"{tick:g}" for tick in ticks[:-1]), "never"])

    return panel


def _styles(names):
    """Of each label the colour that its method has everywhere, and a marker."""
    looks = {}
    for place, (label, name) in enumerate(names.items()):
        line = report.line_style(name)
        own = {"color": line["color"] if name != "gd" else "0.5", "markersize": 5}
        looks[label] = own | {"label": label, "marker": "os*^vDP"[place % 7]}
    if AT_ONCE in looks:
        looks[AT_ONCE]["markerfacecolor"] = "white"
    return looks


def _errors(courses, names, target):
    def panel(axes):
        for label, style in _styles(names).items():
            error = courses[label][WORST].error
            rounds = np.arange(1, error.size + 1)
            _look.fall(axes, rounds, error, **style, markevery=250)
        parts.target_line(axes, target)
        axes.set(xlabel="rounds", ylabel="objective error")
        axes.set_title("half of all messages erased")
        parts.logarithmic(axes, "y")

    return panel


def _missing(courses, names):
    def panel(axes):
        for label, style in _styles(names).items():
            if names[label] in ("ef21", "cgd"):
                continue  # no error memory: what is missing comes back by itself
            missing = np.maximum(courses[label][WORST].missing, 1e-18)
            rounds = np.arange(1, missing.size + 1)
            axes.plot(rounds, missing, **style, markevery=250)
        axes.set(xlabel="rounds", ylabel="share of the gradients that is nowhere")
        axes.set_title("half of all messages erased")
        parts.logarithmic(axes, "xy")

    return panel


def _first_line(courses, target):
    """Who sends the least, without faults and at the worst."""
    said = []
    for words, case in (("Without faults", CASES[0]), ("Half erased", WORST)):
        needed = {
            label: tuple(np.nan_to_num(_cost(own[case], target), nan=np.inf))
            for label, own in courses.items()
        }
        said.append(f"{words}: {parts.first_line(OURS, needed)}")
    return " ".join(said)


def _tidy(courses):
    frames = []
    for label, own in courses.items():
        for (fault, _, rate), course in own.items():
            rounds = np.arange(1, course.error.size + 1)
            frame = pd.DataFrame(
                {
                    "method": label,
                    "fault": fault,
                    "rate": rate,
                    "round": rounds,
                    "error": course.error,
                    "bits": np.cumsum(course.bits),
                    "missing": course.missing,
                    "drift": course.drift,
                }
            )
            frames.append(frame[rounds % 20 == 0])
    return pd.concat(frames, ignore_index=True)


def _each(columns):
    return ", ".join(f"{value:.2f}" for column in columns for value in column)


def _claims(rows):
    kept = rows[rows["keeps"]]
    yield report.Claim(
        "no fault makes a method with a memory lose anything",
        bool((kept["gap"] <= EXACT).all()),
        f"at most {kept['gap'].max():.1e} of what was said is missing, rounding",
    )
    ours = rows[(rows["method"] == "GD-SEC") & (rows["fault"] != "late")]
    few = ours[~((ours["fault"] == "absent, hold") & (ours["rate"] > 0.5))]
    yield report.Claim(
        "GD-SEC keeps its rate when half of its messages are lost, or of its workers "
        "absent, or a fifth broken",
        bool((few["rounds"] <= 1.1).all()),
        f"at most {few['rounds'].max():.2f} times the rounds, {few['bits'].max():.2f} "
        "times the bits",
    )
    late = rows[rows["fault"] == "late"].set_index(["method", "rate"])
    waits, at_once = late.loc["GD-SEC"], late.loc[AT_ONCE]
    both = waits["rounds"].notna() & at_once["rounds"].notna()
    ratios = [waits[x][both] / at_once[x][both] for x in ("rounds", "bits")]
    yield report.Claim(
        "of late messages GD-SEC loses nothing where its memories wait for them, at "
        "the rounds that it takes where they do not, and lose some",
        bool((waits["gap"] <= EXACT).all() and (at_once["gap"] > EXACT).all())
        and bool((waits["rounds"] <= 1.05 * at_once["rounds"])[both].all()),
        f"{_each(ratios)} times the rounds and bits; else "
        f"{_each([100 * at_once['gap']])} % of the gradients are missing",
    )
    gd = rows[(rows["method"] == "GD") & (rows["fault"] == "erased")]
    yield report.Claim(
        "GD, which has no memory, loses what is erased",
        bool((gd["gap"] > 1e-3).all()),
        f"{100 * gd['gap'].min():.2g} to {100 * gd['gap'].max():.2g} % at most",
    )
