"""The threshold that a controller chooses, against the best of a sweep."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

import gdsec_jax
from gdsec_experiments import _parts as parts
from gdsec_jax.plot import _look
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report, tuning

FIXED, ADAPTIVE, GD = "GD-SEC", "adaptive", "GD"
HELD_OUT = 7  # of the problems; the constants were not chosen on the last ones
HARM = 2.0  # times GD's largest error: more is harm
RUN = "number_step"  # the dimension of the runs on a problem
GD_ROUNDS, GD_BITS = "GD's rounds", "GD's bits"
SHORT = {"nonlinear_least_squares": "NLS", "sparse_binary": "sparse"}


class Result(NamedTuple):
    """What was found on one problem."""

    name: str
    step: float  # of 1/L
    target: np.ndarray  # [S], the error to reach
    swept: object  # the sweep over xi, of the first seed
    methods: dict[str, xr.Dataset]  # over RUN, the seeds; chosen_xi of the adaptive one


def section(study: figures.Study) -> report.Section:
    """One set of constants on every problem, and on each many seeds."""
    seconds = parts.stopwatch()
    config = study.config
    grid = configs.values_of(config.problem.grid)
    seeds = grid.pop("seed")
    ((names, rows),) = grid.items()
    (factors,) = configs.values_of(config.methods[GD].grid).values()
    results = []
    for row, step in zip(rows, factors, strict=True):
        own = dict(zip(names, row, strict=True)) | {"grid": {}}
        # Sparse features of another seed have another shape.
        several = own["data"] != "sparse_binary"
        results.append(_result(config, own, step, seeds if several else seeds[:1]))
    with experiment.prepared(config) as first:
        chosen = parts.how_chosen(config, first)
    table = pd.concat(map(_costs, results), ignore_index=True)
    number = [row[names.index("num_workers")] for row in rows]
    workers = f"{min(number)} to {max(number)}"
    return parts.section_of(
        study,
        panels=[
            parts.named_at_ends(lambda axes: _against_bits(axes, results[0], config)),
            lambda axes: _ratios(axes, table),
            lambda axes: _course(axes, results),
        ],
        data=table,
        table=_shown(table),
        claims=_claims(table),
        chosen=chosen,
        first=_first_line(table),
        bands=f"Left: {results[0].name}; right: it in blue, the others grey, those "
        "held out dotted; middle: those held out on grey.",
        problem=f"{len(results)} problems of {workers} workers, {len(seeds)} seeds.",
        seconds=seconds(),
    )


def _result(config, own, step, seeds) -> Result:
    problem_configs = [
        config.problem.model_copy(update=own | {"seed": seed}) for seed in seeds
    ]
    methods = {
        label: method.model_copy(update={"step_factor": step})
        for label, method in config.methods.items()
    }
    one = config.model_copy(update={"problem": problem_configs[0], "methods": methods})
    with experiment.prepared(one) as first:
        others = [configs.make_problem(each) for each in problem_configs[1:]]
        swept = tuning.sweep_method(one, FIXED, first)
        # Seeds of a set of data differ in the split, which GD does not see.
        drawn = own["data"] == "heterogeneous"
        methods = {
            ADAPTIVE: _courses([first, *others], ADAPTIVE, one),
            GD: _courses([first, *others] if drawn else [first], GD, one),
        }
    # A squared norm is small when it is as small as the square of an error.
    power = 2 if first.measure == "gradient" else 1
    target = config.target**power * methods[ADAPTIVE]["initial_error"].values
    words = [SHORT.get(word, word) for word in (own["kind"], own["data"])]
    words.append(f"M={own['num_workers']}")
    return Result(" ".join(words).replace("_", " "), step, target, swept, methods)


def _courses(problems, label: str, config) -> xr.Dataset:
    """A method's runs on problems of the same shapes, each with its part of 1/L."""
    method = config.methods[label]

    def make_optimizer(step):
        resolved = method.model_copy(
            update={"learning_rate": step, "step_factor": 1.0, "grid": {}}
        )
        return configs.make_optimizer(resolved, config, problems[0])

    def xi(now):
        return {"chosen_xi": gdsec_jax.last_xi(now.new_state)}

    steps = [float(method.step_factor / problem.smoothness) for problem in problems]
    return gdsec_jax.sweep(
        lambda number: problems[number],
        make_optimizer,
        {("number", "step"): list(enumerate(steps))},
        config.num_rounds,
        observe=xi if label == ADAPTIVE else None,
        progress=False,
    )


def _to_target(courses: xr.Dataset, target) -> tuple[np.ndarray, np.ndarray]:
    """Rounds and bits of each seed to its target, inf if never."""
    if courses.sizes[RUN] == 1:  # of all seeds
        courses = courses.isel({RUN: 0}, drop=True)
    costs = tuning.cost_to(courses, xr.DataArray(target, dims=RUN))
    return costs["rounds"].values, costs["bits"].values


def _costs(result: Result) -> pd.DataFrame:
    """A row for each seed; what is of the sweep is of the first seed."""
    (rounds, bits), (gd_rounds, gd_bits) = (
        _to_target(result.methods[label], result.target) for label in (ADAPTIVE, GD)
    )
    ours, gds = result.methods[ADAPTIVE], result.methods[GD]
    error, gds_error = (x["objective_error"].values for x in (ours, gds))
    largest = np.maximum(gds_error.max(1), gds["initial_error"].values)
    highest = np.where(np.isfinite(error), error, np.inf).max(1) / largest
    costs = tuning.cost_to(result.swept, float(result.target[0]))
    quick = costs["rounds"].values <= 1.1 * gd_rounds[0]
    # A run that ended early is NaN from there on; one that diverged has said so before.
    rises = result.swept["objective_error"].max("eval_round").values / largest[0]
    ok = quick & (rises <= HARM)
    best = int(np.argmin(np.where(ok, costs["bits"].values, np.inf)))
    rash = np.where(quick, costs["bits"].values, np.inf).min()
    return pd.DataFrame(
        {
            "problem": result.name,
            "step": result.step,
            "seed": np.arange(rounds.size),
            "rounds": rounds,
            "bits": bits,
            GD_ROUNDS: gd_rounds,
            GD_BITS: gd_bits,
            "highest": highest,
            "best xi": result.swept["xi"].values[best],
            "its rounds": costs["rounds"].values[best] if ok.any() else np.inf,
            "its bits": costs["bits"].values[best] if ok.any() else np.inf,
            "least bits": rash,
        }
    )


def _by_problem(table: pd.DataFrame):
    """Each problem's rows, with the ratios that all else is about."""
    # inf / inf is NaN, and left out: where GD never arrives nothing is compared.
    slower = table["rounds"] / table[GD_ROUNDS]
    table = table.replace(np.inf, np.nan)
    table = table.assign(
        share=table["bits"] / table[GD_BITS],
        slower=slower,
        ratio=(table["bits"] / table["its bits"]).where(table["seed"] == 0),
        rash=(table["bits"] / table["least bits"]).where(table["seed"] == 0),
    )
    return table.groupby(["problem", "step"], sort=False)


def _against_bits(axes, result: Result, config) -> None:
    best = _costs(result)["best xi"].iloc[0]
    place = int(np.argmin(np.abs(result.swept["xi"].values - best)))
    shown = [place + step for step in (-6, 0, 3)]
    ours = report.line_style("gdsec")
    for share, number in zip((0.35, 0.6, 0.85), shown, strict=True):
        if number not in range(result.swept.sizes["xi"]):
            continue
        one = result.swept.isel(xi=number)
        style = _look.shade(ours, share) | {"linestyle": "--", "linewidth": 1.2}
        xi = float(one["xi"])
        label = f"xi = {xi:,.0f}" if xi >= 10 else f"xi = {xi:.2g}"
        label += ", the best" * (number == place)
        axes.plot(one["total_bits"], one["objective_error"], label=label, **style)
    for label, style in ((ADAPTIVE, ours), (GD, report.line_style("gd"))):
        courses = result.methods[label]
        first = courses.isel({RUN: 0})
        along = (first["total_bits"], first["objective_error"])
        axes.plot(*along, **style | {"label": label})
    initial = result.methods[GD]["initial_error"].values[0]
    axes.set_ylim(result.target[0] / 10, 3 * initial)
    parts.target_line(axes, result.target[0])
    axes.set(
        xlabel="uploaded bits, all workers", ylabel=f"objective error, {result.name}"
    )
    parts.logarithmic(axes, "xy")


def _ratios(axes, table) -> None:
    """Of each problem, bits and rounds against those of the best xi and of GD."""
    groups = _by_problem(table)
    color = report.line_style("gdsec")["color"]
    for place, (_, one) in enumerate(groups):
        label = "bits / best xi's" if place == 0 else "_"
        axes.plot([one["ratio"].iloc[0]], [place], "o", color=color, label=label)
        label = "rounds / GD's, each seed" if place == 0 else "_"
        look = {"color": "0.3", "linestyle": "none", "label": label}
        axes.plot(one["slower"], np.full(len(one), place + 0.25), "|", **look)
    words = [f"{name}, {step:g}/L" for name, step in groups.groups]
    axes.set_yticks(range(len(groups)), words)
    axes.axhspan(HELD_OUT - 0.4, len(groups), color="0.93", zorder=0)
    axes.axvline(1.0, color="0.6", linewidth=0.8, zorder=0)
    axes.axvline(2.0, color="0.6", linewidth=0.8, zorder=0, linestyle=":")
    parts.logarithmic(axes, "x")
    parts.plain_numbers(axes.xaxis)
    axes.set(xlabel="ratio (dotted: 2)", ylim=(-0.7, len(groups) + 0.3))


def _course(axes, results) -> None:
    """All problems, thin; that of the first panel in GD-SEC's blue."""
    for number, result in enumerate(results):
        xi = result.methods[ADAPTIVE]["chosen_xi"].values[0]
        best = _costs(result)["best xi"].iloc[0]
        rounds = np.arange(1, xi.size + 1)
        look = {"color": "0.35", "linewidth": 0.8, "linestyle": "-"}
        look |= {"linestyle": ":"} if number >= HELD_OUT else {}
        if number == 0:
            color = report.line_style("gdsec")["color"]
            look |= {"color": color, "linewidth": 1.8, "zorder": 3}
        axes.plot(rounds, np.where(xi > 0, xi, np.nan) / best, **look)
    axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel="rounds", ylabel="xi / the best fixed xi")
    parts.logarithmic(axes, "y")


def _first_line(table) -> str:
    """On how many problems a fixed xi sends less, and by how much."""
    ratio = _by_problem(table)["ratio"].first()
    less = ratio[ratio > 1]
    if less.empty:
        return f"On no problem here does a fixed xi send fewer bits than {ADAPTIVE}."
    return (
        f"The best of 12 fixed xi, which somebody had to find, sends fewer bits than "
        f"{ADAPTIVE} on {len(less)} of {len(ratio)} problems: "
        f"{1 / less.max():.0%} to {1 / less.min():.0%} of them."
    )


def _shown(table) -> pd.DataFrame:
    rows = []
    for number, ((name, step), one) in enumerate(_by_problem(table)):
        first = one.iloc[0]
        best = f"{first['its bits'] / first[GD_BITS]:.2%}"
        rows.append(
            {
                "problem": name,
                "step": f"{step:g}/L",
                "held out": "yes" if number >= HELD_OUT else "",
                "GD's rounds": _number(first[GD_ROUNDS], ",.0f"),
                "best xi": f"{first['best xi']:.3g}",
                "best xi's bits, of GD's": best if first["its bits"] > 0 else "-",
                "adaptive, of GD's": _number(one["share"].median(), ".2%"),
                "against best xi's": _number(first["ratio"], ".2f"),
                "against any xi's": _number(first["rash"], ".2f"),
                "seeds": f"{len(one)}",
                "rounds, of GD's": _number(one["slower"].median(), ".2f"),
                "at most": _number(one["slower"].max(), ".2f"),
                "highest error, of GD's": f"{one['highest'].max():.2f}",
            }
        )
    return pd.DataFrame(rows)


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "never"


def _claims(table):
    groups = _by_problem(table)
    ratio, share = groups["ratio"].first(), groups["share"].max()
    slower = groups["slower"].max()
    yield report.Claim(
        "one set of constants costs at most twice the bits of the best of 12 xi",
        bool((ratio <= 2).all()),
        f"{_listed(ratio)}; against those, too, that exceed {HARM:g} times GD's error: "
        f"{_listed(groups['rash'].first())}",
    )
    yield report.Claim(
        "and never more than GD's", bool((share <= 1).all()), _listed(share)
    )
    yield report.Claim(
        "it takes at most 1.5 times GD's rounds, with every seed",
        bool((slower <= 1.5).all()),
        _listed(slower),
    )
    yield report.Claim(
        "and its error is never above twice GD's largest",
        bool((table["highest"] <= HARM).all()),
        f"at most {table['highest'].max():.2f} times, in {len(table)} runs",
    )


def _listed(values) -> str:
    return ", ".join(
        f"{name} {step:g}/L {_number(x, '.2f')}" for (name, step), x in values.items()
    )
