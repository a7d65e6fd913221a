"""What memories in half precision cost: h and e in bfloat16 or float16.

GD-SEC on ridge and logistic regression, MNIST's 10,000 test images in float32, five
workers, step 1/L. The ratios are to the same run with memories in float32.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _problems as shared

ROUNDS, FEW = 1000, 20
HALVES = (jnp.bfloat16, jnp.float16)


def bench(settings: Settings) -> list[Measure]:
    """Error and bits after as many rounds, and the memories' size."""
    measures = []
    features, digits = shared.mnist(settings.small)
    features = features.astype(np.float32)
    makers = {
        "ridge": functools.partial(gdsec_jax.problems.ridge, targets=digits),
        "logistic": functools.partial(
            gdsec_jax.problems.logistic, targets=np.where(digits < 5, -1, 1)
        ),
    }
    for name, make in makers.items():
        problem = make(features, num_workers=shared.NUM_WORKERS)
        rounds = FEW if settings.small else ROUNDS
        full = _run(problem, None, rounds)
        for dtype in HALVES:
            half, label = _run(problem, dtype, rounds), jnp.dtype(dtype).name
            both = full.objective_error[-1], half.objective_error[-1]
            measures += [
                Measure(
                    f"{name}, {label}: error after {rounds:,} rounds / float32's",
                    float(both[1] / both[0]),
                    note=f"{both[1]:.3g} and {both[0]:.3g}; {half.outcome}.",
                ),
                Measure(
                    f"{name}, {label}: bits / float32's",
                    float(half.bits.sum() / full.bits.sum()),
                ),
            ]
    return measures


def _run(problem: Any, state_dtype: Any, rounds: int) -> gdsec_jax.History:
    xi = shared.xi_of(problem)
    method = gdsec_jax.gdsec(
        problem.num_workers, xi, shared.BETA, state_dtype=state_dtype
    )
    optimizer = optax.chain(method, optax.sgd(1 / problem.smoothness))
    return gdsec_jax.simulate(
        problem, optimizer, rounds, eval_every=rounds, progress=False
    )
