"""What only a chip can say, for somebody who has one.

`python -m gdsec_experiments.tpu_check` runs on this process's devices, whatever they
are, and writes one report file: which they are; whether a core list of methods gives
the same iterates as on this machine's CPU, and updates of long vectors the same; how
casts of float64 to float32 round; seconds of updates and of a sweep. The file is
written anew after each part, so a part that fails loses none before it.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments.benchmarks import tpu
from gdsec_jax import data, problems
from gdsec_jax.files import _environment

LARGE = ("gdsec", "sign_ef", "qgd", "top_j", "rand_k", "ef21", "gdsec, capacity")
CORE = ("gd", "gdsec", "qgd", "laq", "top_j", "rand_k", "low_rank", "power_sgd")
ROUNDS, WORKERS = 200, 5
UPDATES = 5  # that are timed, of each method
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


def parts(length: int) -> Iterator[tuple[str, Any]]:
    """Name and contents of each part, as JSON can hold it, when it is made."""
    yield "environment", _environment.everything()
    yield "devices", [str(device) for device in jax.devices()]
    yield "casts of float64", casts()
    yield "iterates, float32", iterates("float32")
    with jax.enable_x64():
        wide = iterates("float64")
    yield "iterates, float64", wide
    yield f"large updates, 8 x {length:,} float32", large_updates(length)
    yield f"seconds of an update, 8 x {length:,} float32", seconds(length)
    yield "seconds", sweep_seconds()


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
    given = parser.parse_args(arguments)
    folder = given.output.parent
    if not folder.is_dir() or given.output.is_dir():
        parser.error(f"--output is {given.output}, expected a file in a folder.")
    if given.length < LEAST:
        parser.error(f"--length is {given.length}, expected at least {LEAST}.")
    made = {}
    for name, part in parts(given.length):
        made[name] = part
        given.output.write_text(json.dumps(made, indent=2), "utf-8")
        print(f"wrote {given.output}: {name}", flush=True)


if __name__ == "__main__":
    main()
