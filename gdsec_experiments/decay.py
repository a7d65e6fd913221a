"""A decaying step: a fixed hard threshold, one that follows the step, and GD-SEC's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr

import gdsec_jax
from gdsec_experiments import _parts as parts
from gdsec_jax import federate, wire, worker
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report, tuning

SLOWS = 100  # rounds until the step is half
NUMBER = 8  # of thresholds
CHOOSING, REPORTING = range(4), range(4, 10)
FIXED, AWARE, OURS, DENSE = "fixed", "step-aware", "GD-SEC", "SGD"
LOOKS = {DENSE: "gd", FIXED: "top_j", AWARE: "ef21", OURS: "gdsec"}


def decays(round):
    """What is left of the step in a round, the first is 0."""
    return 1 / (1 + round / SLOWS)


def hard_threshold(level):
    """A piece that keeps entries above `level`, a function of the round."""

    def update(v, state, params=None, *, round, **extra_args):
        del params, extra_args
        above = level(jnp.asarray(round, jnp.result_type(*jax.tree.leaves(v))))
        return jax.tree.map(lambda x: jnp.where(jnp.abs(x) > above, x, 0), v), state

    plain = optax.GradientTransformationExtraArgs(lambda params: (), update)
    return worker.declare(plain, component_wise=True)


def chain(label, num_workers, step, wire, threshold, beta=0.01):
    """The optimizer of a label; thresholds are of the step's, or of L's, units."""
    if label in (DENSE, OURS):
        ours = gdsec_jax.gdsec(num_workers, xi=threshold, beta=beta, wire=wire)
        algorithm = ours if label == OURS else gdsec_jax.gd(num_workers, wire=wire)
        return optax.chain(algorithm, optax.sgd(lambda count: step * decays(count)))

    def level(round):
        return threshold * (decays(round) if label == AWARE else 1)

    moves = optax.scale_by_schedule(lambda count: -step * decays(count))
    piece = worker.error_feedback(hard_threshold(level))
    return optax.chain(moves, federate(piece, num_workers, wire=wire))


def section(study: figures.Study) -> report.Section:
    """Errors against bits, and what share of the entries is sent."""
    seconds = parts.stopwatch()
    config = study.config
    with experiment.prepared(config) as problem:
        method = configs.resolved(config.methods[OURS], problem)
        step, form = method.learning_rate, wire.Format(config.wire, config.value_bits)
        size = float(step * problem.smoothness)
        scales = {  # where each ladder begins
            DENSE: 0.0,
            FIXED: 1e-3 * size,
            AWARE: 1e-3 * size,
            OURS: 3.0 * float(problem.smoothness),
        }
        swept = {}
        for label, first in scales.items():

            def optimizer(threshold, label=label):
                return chain(label, problem.num_workers, step, form, threshold)

            ladder = [first * 10 ** (x / 2) for x in range(NUMBER)] if first else [0.0]
            seeds = [*CHOOSING, *REPORTING]
            swept[label] = gdsec_jax.sweep(
                problem,
                optimizer if first else lambda threshold: optimizer(threshold),
                {"threshold": ladder, "seed": seeds},
                config.num_rounds,
                eval_every=config.eval_every,
                path=study.folder / f"{label}.nc",
                progress=study.progress if study.progress is None else False,
            )
    best, rows = {}, []
    for label, one in swept.items():
        error = config.target * float(one["initial_error"].max())
        axes = tuning.axes_in(one.sel(seed=[*CHOOSING]))
        few = one.sel(seed=[*CHOOSING])
        choice = tuning.choose(few, axes, error, np.inf)
        best[label] = one.sel(choice.setting).sel(seed=[*REPORTING])
        told = f"threshold = {choice.setting['threshold']:.3g}"
        rows.append({"method": label, "setting": told, "why": choice.why})
    return parts.section_of(
        study,
        panels=[_errors(best, config.target), _shares(best, _entries(config, problem))],
        data=parts.tidy({x: one.drop_vars("threshold") for x, one in best.items()}),
        table=_table(best, config.target),
        claims=_claims(best, config.target),
        chosen=pd.DataFrame(rows),
        bands=f"Lines: medians of {len(REPORTING)} seeds; bands: from the least to the "
        "largest.",
        seconds=seconds(),
    )


def _entries(config, problem) -> int:
    """Of all messages between two evaluations, if every entry is sent."""
    size = sum(np.size(x) for x in jax.tree.leaves(problem.init_params))
    return size * problem.num_workers * config.eval_every


def _errors(best, target):
    def panel(axes):
        for label, style in report.line_styles(LOOKS).items():
            one = best[label]
            bits, error = one["total_bits"].median("seed"), one["objective_error"]
            axes.plot(bits, error.median("seed"), **style)
            axes.fill_between(
                bits, error.min("seed"), error.max("seed"),
                color=style["color"], alpha=0.15, linewidth=0,
            )  # fmt: skip
        first = float(next(iter(best.values()))["initial_error"].max())
        parts.target_line(axes, target * first)
        axes.set(xlabel="uploaded bits, all workers", ylabel="objective error")
        parts.logarithmic(axes, "xy")

    return panel


def _shares(best, whole):
    def panel(axes):
        for label, style in report.line_styles(LOOKS).items():
            sent = best[label]["total_entries"].median("seed")
            each = 100 * np.diff(sent.values, prepend=0.0) / whole
            axes.plot(sent["eval_round"], np.maximum(each, 1e-3), **style)
        axes.set(xlabel="rounds", ylabel="% of the entries that are sent")
        parts.logarithmic(axes, "y")
        parts.plain_numbers(axes.yaxis)

    return panel


def _measured(best, target) -> dict[str, tuple[float, float, float, float]]:
    """Bits to the target, last error, and shares sent early and late, of medians."""
    found = {}
    for label, one in best.items():
        first = float(one["initial_error"].max())
        bits = np.median(tuning.bits_that_stay(one, target * first))
        last = one["objective_error"].isel(eval_round=slice(-15, None))
        entries = one["total_entries"].median("seed").values
        each = np.diff(entries, prepend=0.0) / entries[-1]
        found[label] = (bits, float(last.median()) / first, *each[[5, -1]])
    return found


def _table(best: dict[str, xr.Dataset], target: float) -> pd.DataFrame:
    rows = []
    for label, (bits, last, _, _) in _measured(best, target).items():
        there, whole = np.isfinite(bits), best[label]["total_bits"].median("seed")
        rows.append(
            {
                "method": label,
                "Mbit to the target, median": f"{bits / 1e6:.3f}" if there else "-",
                "last error, of the first": f"{last:.2e}",
                "Mbit in all": f"{float(whole[-1]) / 1e6:.3f}",
            }
        )
    return pd.DataFrame(rows)


def _claims(best, target):
    found = _measured(best, target)
    fixed, aware, ours = (found[x] for x in (FIXED, AWARE, OURS))
    yield report.Claim(
        "a fixed threshold starves: what it sends falls farther than where the "
        "threshold follows the step",
        bool(fixed[3] / fixed[2] < 0.5 * min(x[3] / x[2] for x in (aware, ours))),
        f"of what it sends in all, a fixed threshold sends {fixed[2]:.2%} in rounds 51 "
        f"to 60 and {fixed[3]:.2%} in the last ten; a step-aware one {aware[2]:.2%} "
        f"and {aware[3]:.2%}, GD-SEC {ours[2]:.2%} and {ours[3]:.2%}",
    )
    yield report.Claim(
        "GD-SEC needs fewer bits to the target than both hard thresholds",
        bool(ours[0] < min(fixed[0], aware[0])),
        ", ".join(f"{x} {found[x][0] / 1e6:.3f} Mbit" for x in found),
    )
