"""Local training of a transformer: loss against bits, and seconds of three links."""

import numpy as np
import optax
import pandas as pd

import gdsec_jax
from gdsec_experiments import _parts as parts
from gdsec_jax import federate, worker
from gdsec_jax.study import experiment, figures, report, tuning
from gdsec_jax.wire import Format

LINKS = {"50 Mbit/s": 50e6, "200 Mbit/s": 200e6, "1 Gbit/s": 1e9}
STEP_S = 0.025  # of a worker's step
SEEDS = (1, 2, 3)
CHUNK, KEPT = 512, 8
LOOKS = {
    "Dense": "gd",
    "DiLoCo": "scaffold",
    "SparseLoCo": "top_j",
    "GD-SEC local": "gdsec",
    "DeMo": "ef21",
}


def dense(num_workers: int, *, wire: str | Format = "rle"):
    """Adam on the mean of all gradients."""
    return optax.chain(gdsec_jax.gd(num_workers, wire=wire), optax.scale_by_adam())


def gdsec_local(
    num_workers: int,
    local_learning_rate,
    steps: int,
    xi: float = 1.0,
    *,
    wire: str | Format = "rle",
):
    """GD-SEC of pseudo-gradients."""
    sent = gdsec_jax.gdsec(num_workers, xi=xi, reduction="mean", wire=wire)
    trained = gdsec_jax.local(num_workers, optax.adamw(local_learning_rate), steps)
    return optax.chain(trained, sent)


def demo(num_workers: int, *, wire: str | Format = "rle"):
    """The largest cosine coefficients of a momentum, and signs."""
    largest = worker.chunk_top_k(KEPT, chunk=CHUNK, dct=True)
    piece = worker.error_feedback(largest, decay=0.999)
    sent = federate(piece, num_workers, wire=wire)
    return optax.chain(sent, optax.scale_by_sign())


def section(study: figures.Study) -> report.Section:
    """Of each method the best setting of seed 0, with other seeds."""
    seconds, config = parts.stopwatch(), study.config
    best, rows = {}, []
    with experiment.prepared(config, study.console) as problem:
        for label, method in config.methods.items():
            steps = getattr(method, "steps", None) or 1
            own = {
                "num_rounds": config.num_rounds // steps,
                "eval_every": max(config.eval_every // steps, 1),
            }
            one = config.model_copy(update=own)
            swept = _swept(study, one, label, {**method.grid, "seed": (0,)}, problem)
            last = swept["objective_error"].isel(seed=0, eval_round=-1)
            place = last.fillna(np.inf).argmin(...)
            setting = {n: float(last[n][at]) for n, at in place.items()}
            grid = {n: (value,) for n, value in setting.items()} | {"seed": SEEDS}
            best[label] = _swept(study, one, label, grid, problem).squeeze(drop=True)
            best[label] = best[label].assign_attrs(steps=steps)
            told = ", ".join(f"{n} = {value:g}" for n, value in setting.items())
            why = f"of {last.size} settings, the least loss at the end, seed 0"
            rows.append({"method": label, "setting": told, "why": why})
    losses, table = _losses(best), _table(best, config)
    return parts.section_of(
        study,
        panels=[_against(best, lambda one, name: one["total_bits"], BITS)]
        + [
            _against(best, _seconds_on(speed), f"s, links of {x}")
            for x, speed in LINKS.items()
        ],
        data=parts.tidy({x: one.drop_attrs() for x, one in best.items()}),
        table=table,
        claims=_claims(losses, best),
        chosen=pd.DataFrame(rows),
        bands=f"Lines: medians of {len(SEEDS)} seeds; bands: from the least to the "
        "largest.",
        seconds=seconds(),
    )


BITS = "uploaded bits, all workers"


def _swept(study, config, label, grid, problem):
    method = config.methods[label].model_copy(update={"grid": grid})
    one = config.model_copy(update={"methods": {label: method}})
    return tuning.sweep_method(one, label, problem, progress=study.progress)


def _seconds_on(speed: float):
    """Of steps, and of what travels: around a ring, or from each to all."""

    def seconds(one, label):
        M = int(one.attrs["workers"]) if "workers" in one.attrs else 4
        bits = one["total_bits"].median("seed")
        ring = 2 * (M - 1) / M**2 if label in ("Dense", "DiLoCo") else (M - 1) / M
        return one["eval_round"] * one.attrs["steps"] * STEP_S + bits * ring / speed

    return seconds


def _against(best, along, words):
    def panel(axes):
        for label, style in report.line_styles(LOOKS).items():
            one = best[label]
            x = along(one, label)
            x = x.median("seed") if "seed" in x.dims else x
            loss = one["objective_error"]
            axes.plot(x, loss.median("seed"), **style)
            axes.fill_between(
                x, loss.min("seed"), loss.max("seed"),
                color=style["color"], alpha=0.15, linewidth=0,
            )  # fmt: skip
        axes.set(xlabel=words, ylabel="held-out loss")
        parts.logarithmic(axes, "x")

    return panel


def _losses(best) -> dict[str, float]:
    """At the end, medians over the seeds."""
    return {
        label: float(one["objective_error"].isel(eval_round=-1).median())
        for label, one in best.items()
    }


def _within(one, bits: float) -> float:
    """The least median loss for at most so many bits."""
    spent = one["total_bits"].median("seed").values
    loss = one["objective_error"].median("seed").values
    return float(np.min(loss[spent <= bits], initial=np.inf))


def _table(best, config) -> pd.DataFrame:
    budgets = [1e6, 1e7, 1e8]
    rows = []
    for label, one in best.items():
        total = float(one["total_bits"].median("seed")[-1])
        losses = {
            f"loss within {b / 1e6:g} Mbit": (
                f"{_within(one, b):.3f}" if np.isfinite(_within(one, b)) else "-"
            )
            for b in budgets
        }
        ends = {"loss at the end": f"{_losses({label: one})[label]:.3f}"}
        rows.append({"method": label, **losses, **ends, "Mbit": f"{total / 1e6:.2f}"})
    return pd.DataFrame(rows)


def _claims(losses, best):
    yield report.Claim(
        "at equal steps DiLoCo loses to dense training, at this small budget",
        bool(losses["DiLoCo"] > losses["Dense"]),
        ", ".join(f"{label} {loss:.3f}" for label, loss in losses.items()),
    )
    bits = {x: float(one["total_bits"].median("seed")[-1]) for x, one in best.items()}
    whole = bits["SparseLoCo"]
    at = {label: _within(one, whole) for label, one in best.items()}
    yield report.Claim(
        f"for SparseLoCo's bits, {whole / 1e6:.2f} Mbit, GD-SEC's threshold on "
        "pseudo-gradients reaches a lower loss",
        bool(at["GD-SEC local"] < at["SparseLoCo"]),
        ", ".join(
            f"{x} {loss:.3f}"
            if np.isfinite(loss)
            else f"{x}: its first message is more"
            for x, loss in at.items()
        ),
    )
