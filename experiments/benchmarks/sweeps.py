"""What a sweep costs against the same settings run one after another.

Run it with `python experiments/benchmarks/sweeps.py`; `--help` lists the options. The
problem is ridge regression on the 10,000 MNIST test images (GDSEC_DATA_DIR names their
folder), or where they are absent on random numbers of the same shape; GD-SEC over xi,
beta and seed, five workers, float64. Single runs are timed when they are compiled
already, `--singles` of them, and scaled to all.
"""

import argparse
import json
import time

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import gdsec_jax
from gdsec_jax import data, problems

NUM_WORKERS = 5
XI, BETA = (200.0, 500.0, 1000.0, 2000.0), (0.003, 0.005, 0.008, 0.01)


def problem_of_mnist() -> problems.Problem:
    """Ridge on MNIST's test images, or on random numbers of their shape."""
    try:
        images = data.load("mnist", split="test")
    except OSError:
        rng = np.random.default_rng(0)
        features = rng.random((10_000, 784)) * (rng.random((10_000, 784)) < 0.19)
        return problems.ridge(features, rng.integers(10, size=10_000), NUM_WORKERS)
    return problems.ridge(images.features, images.targets, NUM_WORKERS)


def timed(run):
    """Seconds of a call, and what it returns."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--singles", type=int, default=8, help="that are timed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 16])
    arguments = parser.parse_args()
    rounds, singles = arguments.rounds, arguments.singles
    jax.config.update("jax_enable_x64", True)
    problem = problem_of_mnist()

    def make_optimizer(xi, beta, seed=0):
        del seed  # of the run; full gradients draw nothing
        step = optax.sgd(1 / problem.smoothness)
        return optax.chain(gdsec_jax.gdsec(NUM_WORKERS, xi, beta, wire="rle"), step)

    settings = [(xi, beta) for xi in XI for beta in BETA]
    chosen = [settings[i % len(settings)] for i in range(singles)]
    seconds, histories = [], {}
    for xi, beta in chosen:
        optimizer = make_optimizer(xi, beta)
        gdsec_jax.simulate(problem, optimizer, rounds)  # compiles
        each, histories[xi, beta] = timed(
            lambda optimizer=optimizer: gdsec_jax.simulate(problem, optimizer, rounds)
        )
        seconds.append(each)
    table = Table(
        title=f"{problem.init_params.size} parameters, {NUM_WORKERS} workers, {rounds} "
        f"rounds; a compiled single run: {np.median(seconds):.2f} s, the median of "
        f"{singles}"
    )
    for column in ("settings", "compiling", "sweep", "singles", "ratio", "difference"):
        table.add_column(column, justify="right")
    for number in arguments.seeds:
        grid = {"xi": XI, "beta": BETA, "seed": list(range(number))}
        first, _ = timed(
            lambda grid=grid: gdsec_jax.sweep(problem, make_optimizer, grid, rounds)
        )
        again, swept = timed(
            lambda grid=grid: gdsec_jax.sweep(problem, make_optimizer, grid, rounds)
        )
        total = len(settings) * number
        apart = max(
            np.abs(
                swept.objective_error.sel(xi=xi, beta=beta, seed=0).values
                / history.objective_error
                - 1
            ).max()
            for (xi, beta), history in histories.items()
        )
        batches = json.loads(swept.attrs["attributes"])["batches"]
        alone = total * float(np.median(seconds))
        table.add_row(
            f"{total} in {sum(map(len, batches))}",
            f"{first - again:.1f} s",
            f"{again:.1f} s",
            f"{alone:.0f} s",
            f"1/{alone / again:.1f}",
            f"{apart:.0e}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
