"""What a link costs: error against seconds and joules, at three signal-to-noise ratios.

The methods and their parameters are those of the figure of all rivals.
"""

import functools

import numpy as np
import pandas as pd

from gdsec_experiments import _parts as parts
from gdsec_jax import Uplink, simulate, sweep
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report, tuning

COSTS = {"total_time_s": "seconds", "total_energy_j": "joules"}
SNRS_DB = (0.0, 10.0, 20.0)
MARKERS = ("o", "s", "^")
OURS = "GD-SEC"
NEAR = ("GD", OURS)  # whose rounds are looked at worker by worker


def section(study: figures.Study) -> report.Section:
    """All methods over the same lossy links."""
    seconds = parts.stopwatch()
    config = study.config
    if "methods" not in config.model_fields_set:
        rivals = configs.load(figures.sources()["ridge"])
        config = config.model_copy(update={"methods": rivals.methods})
    methods = config.methods
    with experiment.prepared(config) as problem:
        swept = {
            label: _over_snrs(config, method, problem, study.progress)
            for label, method in methods.items()
        }
        near = {
            label: _at_snrs(config, methods[label], problem, study.progress)
            for label in NEAR
        }
        chosen = parts.how_chosen(config, problem)
    names = {label: method.name for label, method in methods.items()}
    target = config.target * float(swept["GD"]["initial_error"][0])
    return parts.section_of(
        study,
        panels=[
            *(_dots(swept, names, cost, target) for cost in COSTS),
            _workers(near, config.channel.distance_m, SNRS_DB[0]),
            *(
                parts.named_at_ends(_panel(swept, names, cost, SNRS_DB[0], target))
                for cost in COSTS
            ),
            _workers(near, config.channel.distance_m, SNRS_DB[-1]),
        ],
        data=_tidy(swept),
        table=_table(swept, target),
        claims=_claims(swept, near, target),
        chosen=chosen,
        first=_first_line(swept, target),
        bands="Curves: medians over windows of rounds. Boxes: half of the rounds; "
        "whiskers: from 1 to 99 %.",
        seconds=seconds(),
    )


def _over_snrs(config, method, problem, progress):
    """Runs of a method, side by side: an SNR each."""
    method = configs.resolved(method, problem)
    optimizer = configs.make_optimizer(method, config, problem)
    return sweep(
        problem,
        lambda: optimizer,
        {"snr_db": list(SNRS_DB)},
        config.num_rounds,
        key=config.problem.seed,
        eval_every=config.eval_every,
        uplink=Uplink(channel=functools.partial(_channel, config)),
        progress=progress,
    )


def _at_snrs(config, method, problem, progress):
    """Its histories, which have each worker's times."""
    optimizer = configs.make_optimizer(method, config, problem)
    return {
        snr: simulate(
            problem,
            optimizer,
            config.num_rounds,
            key=config.problem.seed,
            uplink=Uplink(channel=_channel(config, snr)),
            progress=progress,
        )
        for snr in SNRS_DB
    }


def _channel(config, snr_db):
    given = config.channel.model_copy(update={"snr_db": snr_db})
    return configs.make_channel(given, config.problem.num_workers)


def _dots(swept, names, cost, target):
    """What every method needs to the target at each SNR, sorted by the first."""

    def panel(axes):
        needed = {
            label: [_needed(runs.sel(snr_db=snr), cost, target) for snr in SNRS_DB]
            for label, runs in swept.items()
        }
        order = sorted(needed, key=lambda label: needed[label])
        for place, label in enumerate(order):
            color = report.line_style(names[label])["color"]
            for value, marker in zip(needed[label], MARKERS, strict=True):
                axes.plot([value], [place], marker, color=color, markersize=6)
        for marker, snr in zip(MARKERS, SNRS_DB, strict=True):
            look = {"color": "0.4", "markersize": 6, "linestyle": "none"}
            axes.plot([], [], marker, label=f"{snr:g} dB", **look)
        words = [f"{x}{' (never)' * (np.inf in needed[x])}" for x in order]
        axes.set_yticks(range(len(order)), words)
        axes.get_yticklabels()[order.index(OURS)].set_fontweight("bold")
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set(xlabel=f"{COSTS[cost]} to the target")
        parts.logarithmic(axes, "x")

    return panel


def _needed(one, cost, target) -> float:
    at = _first(one, target)
    return np.inf if at is None else at[cost].item()


def _panel(swept, names, cost, snr, target):
    """GD, GD-SEC and who needs the least beside them."""

    def panel(axes):
        first = {x: _needed(swept[x].sel(snr_db=snr), cost, target) for x in names}
        others = sorted((x for x in names if x not in NEAR), key=first.__getitem__)
        shown = [*NEAR, *others[: parts.CURVES - len(NEAR)]]
        styles = report.line_styles({label: names[label] for label in shown})
        for label, style in styles.items():
            one = swept[label].sel(snr_db=snr)
            axes.plot(*_in_windows(one[cost], one["objective_error"]), **style)
        parts.target_line(axes, target)
        axes.set(xlabel=COSTS[cost], ylabel="objective error", title=f"{snr:g} dB")
        parts.logarithmic(axes, "xy", tuning.resolution_of(swept["GD"]))
        start = float(swept["GD"]["initial_error"][0])
        axes.set_ylim(top=min(axes.get_ylim()[1], 10 * start))

    return panel


def _first_line(swept, target) -> str:
    """Who needs less than GD-SEC, and by how much, at each SNR."""
    said = []
    for cost, unit in COSTS.items():
        for snr in SNRS_DB:
            all_of = {
                label: _needed(runs.sel(snr_db=snr), cost, target)
                for label, runs in swept.items()
            }
            less = sorted(
                (x for x in all_of if all_of[x] < all_of[OURS]), key=all_of.__getitem__
            )
            if less:
                share = all_of[less[0]] / all_of[OURS]
                more = f" ({len(less)} methods need less)" * (len(less) > 1)
                said.append(f"{share:.0%} of its {unit} at {snr:g} dB, {less[0]}{more}")
    if not said:
        return f"{OURS} needs the least seconds and joules of all methods here."
    return f"Not {OURS} needs the least here: {parts.listed(said)}."


def _in_windows(costs, errors):
    """Medians of windows of rounds that grow by a twentieth: what is lost is noise."""
    ends = np.unique(np.geomspace(1, errors.size, 100).round().astype(int))
    windows = np.split(np.arange(errors.size), ends)[:-1]
    medians = [np.median(errors.values[window]) for window in windows]
    return costs.values[ends - 1], np.where(np.array(medians) > 0, medians, np.nan)


def _workers(near, distances, snr):
    """The times of each worker's rounds."""

    def panel(axes):
        for shift, (label, histories) in enumerate(near.items()):
            colour = ("0.65", report.line_style("gdsec")["color"])[shift]
            place = np.arange(len(distances)) + 0.35 * shift - 0.175
            axes.boxplot(
                1e3 * histories[snr].worker_time_s,
                positions=place,
                widths=0.3,
                whis=(1, 99),
                showfliers=False,
                manage_ticks=False,
                boxprops={"color": colour},
                whiskerprops={"color": colour},
                capprops={"color": colour},
                medianprops={"color": colour},
            )
            axes.plot([], [], color=colour, linewidth=6, label=f"{label}, a worker")
        axes.set_xticks(range(len(distances)), [f"{d:g}" for d in distances])
        axes.set(xlabel="worker at so many metres", ylabel="ms a round (1 to 99 %)")
        axes.set_title(f"{snr:g} dB")
        parts.logarithmic(axes, "y")

    return panel


def _tidy(swept):
    names = ["objective_error", "total_bits", "total_lost", *COSTS]
    frames = [
        runs[names].to_dataframe().reset_index().assign(method=label)
        for label, runs in swept.items()
    ]
    every = pd.concat(frames, ignore_index=True)
    return every[every["eval_round"] % 25 == 0]


def _first(one, target):
    """The evaluation at which a run reaches the target to stay there, or None."""
    errors = one["objective_error"].values
    reached = np.flatnonzero(errors <= target)
    if not reached.size or not parts.stays(errors, target):
        return None
    return one.isel(eval_round=reached[0])


def _table(swept, target):
    rows = []
    for label, runs in swept.items():
        row = {"method": label}
        for snr in SNRS_DB:
            at = _first(runs.sel(snr_db=snr), target)
            for cost, unit in (("total_time_s", "s"), ("total_energy_j", "J")):
                what = "never" if at is None else f"{at[cost].item():.3g}"
                row[f"{unit} at {snr:g} dB"] = what
        last = runs.isel(snr_db=-1, eval_round=-1)
        row["lost"] = f"{last['total_lost'].item():,.0f}"
        row["last error"] = f"{last['objective_error'].item():.1e}"
        rows.append(row)
    return pd.DataFrame(rows)


def _claims(swept, near, target):
    for cost, unit in (("total_time_s", "seconds"), ("total_energy_j", "joules")):
        spent = {
            label: [_first(swept[label].sel(snr_db=snr), target) for snr in SNRS_DB]
            for label in NEAR
        }
        text = f"over links that lose packets GD-SEC reaches the target in fewer {unit}"
        ours = spent["GD-SEC"]
        if any(at is None for at in ours):
            yield report.Claim(text, False, "GD-SEC does not reach the target")
            continue
        if any(at is None for at in spent["GD"]):
            words = f"GD-SEC does, in {ours[0][cost].item():.3g} {unit} at 0 dB; GD not"
            yield report.Claim(text, True, words)
            continue
        ratios = [
            us[cost].item() / gd[cost].item()
            for us, gd in zip(ours, spent["GD"], strict=True)
        ]
        words = ", ".join(
            f"{ratio:.1%} of GD's at {snr:g} dB"
            for ratio, snr in zip(ratios, SNRS_DB, strict=True)
        )
        yield report.Claim(text, max(ratios) < 1, words)
    slow = {
        label: np.percentile(histories[SNRS_DB[0]].worker_time_s, 99)
        for label, histories in near.items()
    }
    yield report.Claim(
        "at 0 dB a worker's slowest rounds are shorter, too",
        slow["GD-SEC"] < slow["GD"],
        ", ".join(f"{label} {1e3 * t:.3g} ms (99 %)" for label, t in slow.items()),
    )
