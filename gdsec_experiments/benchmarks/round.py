"""A round of GD-SEC against one of gradient descent, and against reading the data.

In float64, five workers; ridge and logistic regression on MNIST's 10,000 test images.
A round is one of a compiled run without evaluations of the error.
"""

import jax
import jax.numpy as jnp

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _problems as problems


def bench(settings: Settings) -> list[Measure]:
    """The ratios; must and goal are those of ridge."""
    measures = []
    with jax.enable_x64(True):
        for name, make in (
            ("ridge, MNIST", problems.ridge),
            ("logistic, MNIST", problems.logistic),
            ("sparse logistic", problems.sparse_logistic),
        ):
            problem = make(settings.small)
            runs = {
                method: problems.rounds_of(problem, optimizer)
                for method, optimizer in problems.optimizers_for(problem).items()
            }
            times = problems.seconds_a_round(runs, settings)
            is_ridge = make is problems.ridge
            measures.append(
                Measure(
                    f"{name}: GD-SEC round / GD round",
                    **benchmarks.ratio(times["GD-SEC"], times["GD"]),
                    must=1.15 if is_ridge else None,
                    goal=1.05 if is_ridge else None,
                    note=f"{1e3 * times['GD-SEC'].median:.3g} ms and "
                    f"{1e3 * times['GD'].median:.3g} ms, float64.",
                )
            )
            if is_ridge:
                measures.append(_against_two_passes(problem, times, settings))
    return measures


def _against_two_passes(problem, times, settings: Settings) -> Measure:
    """The GD-SEC round against reading all features twice at the triad's speed."""
    features = problem.worker_data.shards.features
    size = benchmarks.triad_size(settings)
    triad = benchmarks.interleaved({"": benchmarks.triad(size)}, settings.repeats)[""]
    gigabytes = benchmarks.speed(triad, size)["value"]
    least = 2 * features.size * jnp.dtype(features.dtype).itemsize / gigabytes / 1e9
    return Measure(
        "ridge, MNIST: GD-SEC round / two passes over the data",
        **benchmarks.summary(t / least for t in times["GD-SEC"].seconds),
        must=1.3,
        goal=0.5,
        note=f"two passes over {features.size * 8 / 1e6:.0f} MB take "
        f"{1e3 * least:.3g} ms at {gigabytes:.3g} GB/s.",
    )
