"""A million rounds: what methods still send when nothing can become better."""

import dataclasses
from collections.abc import Callable

import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import neighbours
from gdsec_jax import problems, worker

M, LENGTH, ROUNDS, PARTS = 3, 8, 1_000_000, 100
HEADER = (
    "method",
    "parameters",
    "bits a round, of the first 10,000",
    "of the last 10,000",
    "last error over the first",
)
Method = Callable[[float], optax.GradientTransformation]
METHODS: dict[str, Method] = {
    "`gd`": lambda step: gdsec_jax.gd(M),
    "`gdsec(xi=5, beta=0.01)`": lambda step: gdsec_jax.gdsec(M, xi=5.0, beta=0.01),
    '`gdsec(xi=5, beta=0.01, on_standstill="hold")`': lambda step: gdsec_jax.gdsec(
        M, xi=5.0, beta=0.01, on_standstill="hold"
    ),
    "`gdsec(xi=5, beta=1)`": lambda step: gdsec_jax.gdsec(M, xi=5.0, beta=1.0),
    "`lag`": lambda step: gdsec_jax.lag(M, learning_rate=step),
    "`ef21(k=2)`": lambda step: gdsec_jax.ef21(M, k=2),
    "`top_j(k=2)`": lambda step: gdsec_jax.top_j(M, k=2),
    "`diana(worker.random_k(2))`": lambda step: gdsec_jax.diana(
        M, worker.random_k(2), key=0
    ),
}
NARROW = ("`gd`", "`gdsec(xi=5, beta=0.01)`", "`ef21(k=2)`")  # in bfloat16, too


def caption() -> str:
    """The problem."""
    return (
        f"Ridge regression, {M} workers, {LENGTH} parameters, {ROUNDS:,} rounds at "
        f"half the step 1/L, uploads of all workers as coo, {LENGTH} floats each and "
        f"{M * LENGTH * 32} bits where all is sent; an error of 0 is the optimum's to "
        "rounding. " + neighbours.versions("gdsec-jax", "jax", "optax") + "."
    )


def seen(name: str, dtype: str, rounds: int) -> tuple[float, float, float]:
    """Bits a round in the first and the last hundredth, and the error left."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, LENGTH)) * np.linspace(0.3, 3, LENGTH)
    targets = features @ rng.standard_normal(LENGTH) + 0.1 * rng.standard_normal(60)
    problem = problems.ridge(features, targets, num_workers=M)
    start = problem.init_params.astype(dtype)
    problem = dataclasses.replace(problem, init_params=start)
    step = 0.5 / float(problem.smoothness)
    optimizer = optax.chain(METHODS[name](step), optax.sgd(step))
    part = rounds // PARTS
    run = gdsec_jax.simulate(problem, optimizer, rounds, eval_every=part)
    total = np.asarray(run.bits, np.int64).sum(-1) if run.bits.ndim > 1 else run.bits
    first, last = total[:part].mean(), total[-part:].mean()
    return float(first), float(last), float(run.objective_error[-1] / run.initial_error)


def row(name: str, dtype: str, rounds: int = ROUNDS) -> tuple[str, ...]:
    """One method's."""
    first, last, error = seen(name, dtype, rounds)
    return (name, dtype, f"{first:,.0f}", f"{last:,.0f}", f"{error:.0e}")


def rows() -> list[tuple[str, ...]]:
    """All methods in float32, some in bfloat16."""
    wide = [row(name, "float32") for name in METHODS]
    return wide + [row(name, "bfloat16") for name in NARROW]
