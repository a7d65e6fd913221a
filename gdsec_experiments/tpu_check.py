"""What only a chip can say, for somebody who has one.

`python -m gdsec_experiments.tpu_check` runs on this process's devices, whatever they
are, and writes one report file: which they are; whether a core list of methods gives
the same iterates as on this machine's CPU, and updates of long vectors the same; how
casts of float64 to float32 round; seconds of updates and of a sweep; some figures,
which are drawn beside the report; benches; and the tests of the core, in a checkout of
the repository. The file is written anew after each part, so a part that fails loses
none before it. `--only` names parts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import tpu
from gdsec_jax import data, problems
from gdsec_jax.files import _environment
from gdsec_jax.study import figures

LARGE = ("gdsec", "sign_ef", "qgd", "top_j", "rand_k", "ef21", "gdsec, capacity")
CORE = ("gd", "gdsec", "qgd", "laq", "top_j", "rand_k", "low_rank", "power_sgd")
ROUNDS, WORKERS = 200, 5
UPDATES = 5  # that are timed, of each method
FIGURES = ("beta", "stochastic")  # with sweeps
BENCHES = ("round", "sweep")
CORE_TESTS = ("tests/worker", "tests/server", "tests/federation/test_federate.py")
LEAST = 100  # entries of a vector, of which sparsifiers send a hundredth


def iterates(dtype: str) -> dict[str, Any]:
    """Per method the largest distance of its parameters from the CPU's, and of errors.

    Both relative; and whether the bits that were sent are the same.
    """
    found = {}
    for name in CORE:
        runs = []
        for device in (jax.devices()[0], jax.devices("cpu")[0]):
            with jax.default_device(device):
                problem = _ridge(dtype)
                algorithm = tpu.methods(WORKERS, 64)[name]
                step = optax.sgd(1 / problem.smoothness)
                optimizer = optax.chain(algorithm, step)
                runs.append(gdsec_jax.simulate(problem, optimizer, ROUNDS))
        here, there = runs
        found[name] = {
            "params": _distance(here.params, there.params),
            "error": _distance(here.objective_error[-1], there.objective_error[-1]),
            "same bits": bool(np.array_equal(here.bits, there.bits)),
        }
    return found


def _ridge(dtype: str):
    digits = data.load("digits")
    return problems.ridge(digits.features, digits.targets, WORKERS, dtype=dtype)


def _distance(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


def large_updates(length: int) -> dict[str, Any]:
    """Of two updates of long vectors, which go their own way on a TPU, the same."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((2, 8, length)).astype(np.float32)
    gradients[:, :, ::3] = np.round(gradients[:, :, ::3], 1)  # of equal ones the first
    found = {}
    for name in LARGE:
        algorithm, made = tpu.methods(8, length)[name], []
        for device in (jax.devices()[0], jax.devices("cpu")[0]):
            with jax.default_device(device):
                params = jnp.ones(length)
                state, update = algorithm.init(params), jax.jit(algorithm.update)
                for now in gradients:
                    direction, state = update(jnp.asarray(now), state, params)
                    params = params - 0.1 * direction
                made.append((np.asarray(params), gdsec_jax.last_round(state).bits))
        (here, bits), (there, expected) = made
        same = bool(np.array_equal(np.asarray(bits), np.asarray(expected)))
        found[name] = {"params": _distance(here, there), "same bits": same}
    return found


def casts() -> dict[str, Any]:
    """How many of 10,000 float64 round to another float32 than on a CPU."""
    with jax.enable_x64():
        x = np.random.default_rng(0).standard_normal(10_000)
        here = jax.jit(lambda x: x.astype(jnp.float32))(jnp.asarray(x))
        return {"others of 10,000": int((np.asarray(here) != x.astype("f4")).sum())}


def seconds(length: int) -> dict[str, float]:
    """Of an update of every method, 8 workers, the fastest of some."""
    found = {}
    for name, algorithm in tpu.methods(8, length).items():
        params = jnp.zeros(length)
        gradients = jax.random.normal(jax.random.key(0), (8, length))
        update = jax.jit(algorithm.update, donate_argnums=1)
        _, state = jax.block_until_ready(
            update(gradients, algorithm.init(params), params)
        )
        times = []
        for _ in range(UPDATES):
            start = time.perf_counter()
            _, state = jax.block_until_ready(update(gradients, state, params))
            times.append(time.perf_counter() - start)
        found[name] = min(times)
    return found


def sweep_seconds() -> dict[str, float]:
    """Of a second sweep of 64 settings, compiled by the first, and of one run."""
    problem = _ridge("float32")

    def optimizer(xi):
        return optax.chain(
            gdsec_jax.gdsec(WORKERS, xi), optax.sgd(1 / problem.smoothness)
        )

    one = optimizer(4.0)
    calls = {
        "sweep of 64": lambda: gdsec_jax.sweep(
            problem, optimizer, {"xi": [float(n) for n in range(64)]}, ROUNDS
        ),
        "run": lambda: gdsec_jax.simulate(problem, one, ROUNDS),
    }
    found = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        found[name] = time.perf_counter() - start
    return found


def made_figures(folder: Path) -> dict[str, Any]:
    """Seconds of figures with long sweeps, and where they were drawn."""
    start = time.perf_counter()
    page = figures.make(FIGURES, folder, console=rich.console.Console(), real=False)
    return {"seconds": time.perf_counter() - start, "page": str(page)}


def measured() -> dict[str, Any]:
    """What the benches say that need nothing but the devices."""
    settings = benchmarks.Settings(5, False, rich.console.Console())
    return benchmarks.as_json(benchmarks.run(BENCHES, settings))


def tests() -> dict[str, Any]:
    """Which tests of the core fail, in this process, which has the devices."""
    root = Path(gdsec_jax.__file__).parents[1]
    if not (root / "tests").is_dir():
        return {"absent": "they are in a checkout of the repository alone"}
    import pytest

    seen = _Seen([], [])
    places = [str(root / place) for place in CORE_TESTS]
    code = pytest.main(
        [
            "-q",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            f"--rootdir={root}",
            *places,
        ],
        plugins=[seen],
    )
    return {"exit": int(code), "passed": len(seen.passed), "failed": seen.failed}


class _Seen(NamedTuple):
    """A plugin of pytest that keeps what became of each test."""

    passed: list[str]
    failed: list[str]

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed.append(report.nodeid)


def parts(length: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """By name what makes each part, as JSON can hold it."""

    def wide():
        with jax.enable_x64():
            return iterates("float64")

    return {
        "environment": _environment.everything,
        "devices": lambda: [str(device) for device in jax.devices()],
        "casts of float64": lambda: casts(),
        "iterates, float32": lambda: iterates("float32"),
        "iterates, float64": wide,
        f"large updates, 8 x {length:,} float32": lambda: large_updates(length),
        f"seconds of an update, 8 x {length:,} float32": lambda: seconds(length),
        "seconds": sweep_seconds,
        "figures": lambda: made_figures(folder),
        "bench": measured,
        "tests": tests,
    }


def main(arguments: list[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("tpu_check.json"),
        help="the report's file, in a folder that is there",
    )
    parser.add_argument(
        "--length",
        type=int,
        default=4_000_000,
        help=f"entries of the vectors that are long, at least {LEAST}",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="beginnings of parts' names"
    )
    given = parser.parse_args(arguments)
    folder = given.output.parent
    if not folder.is_dir() or given.output.is_dir():
        parser.error(f"--output is {given.output}, expected a file in a folder.")
    if given.length < LEAST:
        parser.error(f"--length is {given.length}, expected at least {LEAST}.")
    asked = parts(given.length, given.output.with_suffix(""))
    if given.only:
        begins = tuple(given.only)
        asked = {name: make for name, make in asked.items() if name.startswith(begins)}
    if not asked:
        parser.error(f"--only is {given.only}, expected beginnings of parts' names.")
    made = {}
    for name, make in asked.items():
        made[name] = make()
        given.output.write_text(json.dumps(made, indent=2), "utf-8")
        print(f"wrote {given.output}: {name}", flush=True)


if __name__ == "__main__":
    main()
