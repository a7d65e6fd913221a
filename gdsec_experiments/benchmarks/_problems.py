"""The problems whose rounds several benches time, and the calls that run them.

Their optimum is found once a process; they are in float64 where x64 is enabled.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Skipped, Times
from gdsec_jax import History, data, problems

NUM_WORKERS = 5
BETA = 0.01


def mnist(small: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 10,000 test images and digits, or random numbers of their shape."""
    shape = (100, 20) if small else (10_000, 784)
    if not small:
        try:
            images = data.load("mnist", split="test")
            return np.asarray(images.features), np.asarray(images.targets)
        except OSError:  # not here, and no way to download it
            pass
    rng = np.random.default_rng(0)
    features = rng.random(shape) * (rng.random(shape) < 0.19)
    return features, rng.integers(10, size=shape[0])


@functools.cache
def ridge(small: bool = False) -> problems.Problem:
    """Ridge regression on MNIST's digits as numbers."""
    return problems.ridge(*mnist(small), NUM_WORKERS)


@functools.cache
def logistic(small: bool = False) -> problems.Problem:
    """Logistic regression: digits below 5 from the others."""
    features, digits = mnist(small)
    return problems.logistic(features, np.where(digits < 5, -1, 1), NUM_WORKERS)


@functools.cache
def sparse_logistic(small: bool = False) -> problems.Problem:
    """Logistic regression on 1,000 rows like short texts, with 30 words of 30,000."""
    shape, density = ((100, 300), 0.01) if small else ((1_000, 30_000), 0.001)
    texts = data.sparse_binary(*shape, density, skew=1.0)
    return problems.logistic(
        texts.features, texts.targets, NUM_WORKERS, regularization=1e-4
    )


@functools.cache
def a9a(small: bool = False) -> problems.Problem:
    """Logistic regression on a9a, 32,561 samples, 123 columns, 11 % of them filled.

    Raises:
      Skipped: it is not here.
    """
    if small:
        adults: Any = data.sparse_binary(100, 20, 0.1)
    else:
        try:
            adults = data.load("a9a")
        except OSError as error:
            raise Skipped(f"a9a cannot be had: {error}") from error
    return problems.logistic(adults.features, adults.targets, 20)


@functools.cache
def rcv1_like(small: bool = False) -> problems.Problem:
    """Logistic regression on random features of rcv1's shape, 0.16 % of them filled."""
    shape = (200, 400) if small else (20_242, 47_236)
    texts = data.sparse_binary(*shape, 0.0016 if not small else 0.01, skew=1.0)
    return problems.logistic(
        texts.features, texts.targets, 20, regularization=1 / shape[0]
    )


@functools.cache
def breast_cancer(small: bool = False) -> problems.Problem:
    """Logistic regression on scikit-learn's 569 x 30, each feature standardised."""
    import sklearn.datasets

    x, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), 2 * y - 1
    rows = slice(100 if small else None)
    return problems.logistic(x[rows], y[rows], NUM_WORKERS)


def random_logistic(num_workers: int, samples: int, size: int) -> problems.Problem:
    """Logistic regression on normal features, so many samples a worker."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_workers * samples, size))
    y = np.sign(x @ rng.standard_normal(size) + rng.standard_normal(len(x)))
    return problems.logistic(x, y, num_workers)


def xi_of(problem: problems.Problem) -> float:
    """A threshold of L |change| for each worker, which GD-SEC bears on all of these."""
    return problem.num_workers * problem.smoothness


def optimizers_for(problem: problems.Problem) -> dict[str, Any]:
    """Gradient descent and GD-SEC, by the names of their papers."""
    step = optax.sgd(1 / problem.smoothness)
    number = problem.num_workers
    methods = {
        "GD": gdsec_jax.gd(number),
        "GD-SEC": gdsec_jax.gdsec(number, xi_of(problem), BETA),
    }
    return {name: optax.chain(method, step) for name, method in methods.items()}


def rounds_of(problem: problems.Problem, optimizer: Any) -> Callable[[int], History]:
    """A function that runs so many rounds, in a loop that is compiled for any number.

    The error is evaluated after the last round alone.

    Raises:
      ValueError: the run diverged: the time of rounds on infinities says nothing.
    """

    def run(rounds):
        history = gdsec_jax.simulate(
            problem, optimizer, rounds, eval_every=2**31 - 1, progress=False
        )
        if history.outcome == "diverged":
            raise ValueError(f"{problem.name}: {history.summary()}")
        return history

    return run


def seconds_a_round(
    runs: Mapping[str, Callable[[int], Any]], settings: benchmarks.Settings
) -> dict[str, Times]:
    """Times of a round of each run, in turns.

    The time of many rounds less the shortest of one: so it leaves out what a call costs
    beside its rounds. Many are as many as take about a second. At small size they may
    take less than calls differ by, and nothing is left out.

    Raises:
      ValueError: many rounds took no longer than one.
    """
    calls, numbers = {}, {}
    for name, run in runs.items():
        numbers[name] = _many(run, 0.02 if settings.small else 1.0)
        calls[f"{name} many"] = functools.partial(run, numbers[name])
        calls[f"{name} one"] = functools.partial(run, 1)
    times = benchmarks.interleaved(calls, settings.repeats)
    return {
        name: _of_a_round(
            name,
            times[f"{name} many"],
            number,
            None if settings.small else times[f"{name} one"],
        )
        for name, number in numbers.items()
    }


def _many(run: Callable[[int], Any], seconds: float, trial: int = 20) -> int:
    """How many rounds take so long; at least `trial`, at most a hundred times that."""
    calls = {"one": lambda: run(1), "many": lambda: run(trial)}
    times = benchmarks.interleaved(calls, 1)
    # A disturbed call may seem to leave the rounds no time at all.
    least = seconds / (100 * trial)
    taken = max((times["many"].best - times["one"].best) / (trial - 1), least)
    return max(round(seconds / taken), trial)


def _of_a_round(name: str, many: Times, number: int, one: Times | None) -> Times:
    if one is None:
        return Times(tuple(taken / number for taken in many.seconds))
    rest = [taken - one.best for taken in many.seconds]
    if min(rest) <= 0:
        raise ValueError(
            f"{number} rounds of {name} took {min(many.seconds):.3g} s, expected more "
            f"than the {one.best:.3g} s of one: the machine was disturbed."
        )
    return Times(tuple(taken / (number - 1) for taken in rest))
