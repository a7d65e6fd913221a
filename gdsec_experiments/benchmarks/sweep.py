"""What a sweep costs against the same settings run one after another.

GD-SEC over xi, beta and seed; ridge regression on MNIST, five workers, float64. Single
runs are compiled already, as the sweep is; four of them are timed, and scaled to all.
And many settings against few: logistic regression, 500 normal samples of length 30.
"""

import jax
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Times
from gdsec_experiments.benchmarks import _problems as problems

ROUNDS, SMALL_ROUNDS = 50, 5
XI, BETA = (200.0, 500.0, 1000.0, 2000.0), (0.003, 0.005, 0.008, 0.01)
NUMBERS = {64: (1 / 3, 1 / 6), 256: (1 / 5, 1 / 10)}  # settings: must and goal
MOST_REPEATS = 3  # a turn takes most of a minute
FEW, MANY = 16, 1_024  # settings


def bench(settings: Settings) -> list[Measure]:
    """Sweep over single runs, and how far apart their errors are."""
    rounds = SMALL_ROUNDS if settings.small else ROUNDS
    with jax.enable_x64(True):
        problem = problems.ridge(settings.small)

        def make_optimizer(xi, beta, seed=0):
            del seed  # of the run; full gradients draw nothing
            method = gdsec_jax.gdsec(problem.num_workers, xi, beta, wire="rle")
            return optax.chain(method, optax.sgd(1 / problem.smoothness))

        chosen = list(zip(XI, BETA, strict=True))
        optimizers = [make_optimizer(*setting) for setting in chosen]
        results = {}

        def singles():
            results["singles"] = [
                gdsec_jax.simulate(problem, optimizer, rounds, progress=False)
                for optimizer in optimizers
            ]

        def swept(number):
            seeds = list(range(number // len(XI) // len(BETA)))
            grid = {"xi": XI, "beta": BETA, "seed": seeds}
            results[number] = gdsec_jax.sweep(
                problem, make_optimizer, grid, rounds, progress=False
            )

        calls = {"singles": singles} | {
            str(number): lambda number=number: swept(number) for number in NUMBERS
        }
        times = benchmarks.interleaved(calls, min(settings.repeats, MOST_REPEATS))
    measures = []
    for number, (must, goal) in NUMBERS.items():
        scale = number / len(chosen)
        alone = Times(tuple(scale * taken for taken in times["singles"].seconds))
        measures.append(
            Measure(
                f"{number} settings: sweep / single runs",
                **benchmarks.ratio(times[str(number)], alone),
                must=must,
                goal=goal,
                note=f"{times[str(number)].median:.3g} s and {alone.median:.3g} s, "
                f"{rounds} rounds, float64.",
            )
        )
    for number in NUMBERS:
        apart = [
            np.abs(
                results[number].objective_error.sel(xi=xi, beta=beta, seed=0).values
                / history.objective_error
                - 1
            ).max()
            for (xi, beta), history in zip(chosen, results["singles"], strict=True)
        ]
        measures.append(
            Measure(
                f"{number} settings: largest relative difference of the errors",
                float(max(apart)),
            )
        )
    return [*measures, _many_settings(settings)]


def _many_settings(settings: Settings) -> Measure:
    """Whether a round of a setting takes longer beside many others."""

    def rounds_of(number):
        grid = {"xi": np.linspace(1.0, 50.0, number // len(BETA)), "beta": BETA}

        def run(rounds):
            return gdsec_jax.sweep(
                problem, make, grid, rounds, eval_every=2**31 - 1, progress=False
            )

        return run

    few, many = (4, 8) if settings.small else (FEW, MANY)
    with jax.enable_x64(True):
        problem = problems.random_logistic(5, 20 if settings.small else 100, 30)

        def make(xi, beta):
            method = gdsec_jax.gdsec(problem.num_workers, xi, beta)
            return optax.chain(method, optax.sgd(1 / problem.smoothness))

        runs = {str(number): rounds_of(number) for number in (few, many)}
        short = settings._replace(repeats=min(settings.repeats, MOST_REPEATS))
        times = problems.seconds_a_round(runs, short)
    each = {n: Times(tuple(t / n for t in times[str(n)].seconds)) for n in (few, many)}
    return Measure(
        f"a setting's round: of {many:,} settings / of {few}",
        **benchmarks.ratio(each[many], each[few]),
        must=1.3,
        goal=1.0,
        note=f"{1e6 * each[many].median:.3g} us and {1e6 * each[few].median:.3g} us.",
    )
