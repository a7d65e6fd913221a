"""A round of GD-SEC on a network of 50 million parameters, 200 MB a worker.

Four workers. The least that a round can do with: four buffers of the parameters' size
(theta, the previous theta, the sum of the messages, an optimizer's own), two memories
for each worker, and the gradient of one of them at a time.
"""

import functools
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_jax import problems
from gdsec_jax.simulation import _loop, _simulate

NUM_WORKERS, BATCH = 4, 16
WIDTHS = (784, 6_000, 6_000, 1_500, 10)  # 49.7 million parameters
SMALL = (8, 16, 4)
ROUNDS = 3


def bench(settings: Settings) -> list[Measure]:
    """Memory, as the compiler plans it and a process takes it, and seconds a round."""
    widths = SMALL if settings.small else WIDTHS
    size = 4 * sum((a + 1) * b for a, b in itertools.pairwise(widths))
    least = (4 + 2 * NUM_WORKERS + 1) * size
    measures = []
    for name, worker_batch in (("all at once", None), ("one after the other", 1)):
        plan = _planned(widths, worker_batch)
        note = f"{size / 1e6:.3g} MB of parameters; the least is {least / 1e9:.3g} GB."
        ratio = plan / least
        measures.append(
            Measure(f"workers {name}: memory / least", ratio, must=1.2, note=note)
        )
        if Path("/proc/self/clear_refs").exists():
            said = benchmarks.fresh(
                __file__, *map(str, widths), str(worker_batch or NUM_WORKERS)
            )
            taken, seconds = json.loads(said)
            measures.append(Measure(f"{name}: resident / least", taken / least))
            measures.append(Measure(f"{name}: a round", seconds, unit="s"))
    return measures


def problem_of(widths: tuple[int, ...]) -> problems.Problem:
    """Classification of random samples by a multilayer perceptron, float32."""
    rng = np.random.default_rng(0)
    layers = []
    for a, b in itertools.pairwise(widths):
        kernel = rng.standard_normal((a, b), np.float32) / np.float32(a**0.5)
        layers.append({"kernel": kernel, "bias": np.zeros(b, np.float32)})
    data = {
        "x": rng.standard_normal((NUM_WORKERS, BATCH, widths[0]), np.float32),
        "y": rng.integers(0, widths[-1], (NUM_WORKERS, BATCH)),
    }
    return problems.from_loss(_loss, data, layers)


def _loss(layers: Any, own: Any) -> jax.Array:
    x = own["x"]
    for number, layer in enumerate(layers):
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if number < len(layers) - 1 else x
    losses = optax.softmax_cross_entropy_with_integer_labels(x, own["y"])
    return losses.mean() / NUM_WORKERS


def optimizer_for() -> optax.GradientTransformation:
    """GD-SEC as a first-order method uses it."""
    return optax.chain(gdsec_jax.gdsec(NUM_WORKERS, 10.0, 0.01), optax.sgd(0.1))


def _planned(widths, worker_batch: int | None) -> int:
    """Bytes that the compiled loop holds at its peak."""
    problem, optimizer = problem_of(widths), optimizer_for()
    options = _loop.Options(1, False, worker_batch)
    limits = _loop.Limits(ROUNDS, -np.inf, np.inf)
    run = jax.eval_shape(lambda p: _loop.start(optimizer, p), problem.init_params)
    given = _loop.Given(limits, gdsec_jax.Uplink(), jax.random.key(0))
    arguments = (_loop.for_loop(problem), optimizer, options, given)
    one = functools.partial(_loop.one_round, *arguments, jnp.int32(0))
    buffers = _loop.buffers_like(jax.eval_shape(one, run)[1], ROUNDS)
    loop = _simulate._run_chunk.lower(*arguments, run, buffers, ROUNDS)
    plan = loop.compile().memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )


def _taken(widths: tuple[int, ...], worker_batch: int) -> tuple[int, float]:
    """Peak bytes of this process beyond its start, and the seconds of a round."""
    before = psutil.Process().memory_info().rss
    problem = problem_of(widths)
    run = functools.partial(
        gdsec_jax.simulate,
        *(problem, optimizer_for(), ROUNDS),
        worker_batch=worker_batch if worker_batch < NUM_WORKERS else None,
        eval_every=ROUNDS,
        progress=False,
    )
    run()  # compiles
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    seconds = run().attributes["seconds"] / ROUNDS
    status = Path("/proc/self/status").read_text("ascii")
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - before, seconds


if __name__ == "__main__":
    *own_widths, own_batch = map(int, sys.argv[1:])
    print(json.dumps(_taken(tuple(own_widths), own_batch)))
