"""A round of GD-SEC on a network of 50 million parameters, 200 MB a worker.

Four workers. The least that a round can do with: four buffers of the parameters' size
(theta, the previous theta, the sum of the messages, an optimizer's own), two memories
for each worker, and the gradient of one of them at a time.
"""

import functools
import itertools
import json
import sys
from typing import Any

import jax
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _resident as resident
from gdsec_jax import problems

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
        if resident.TOLD:
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
    """Bytes that a compiled loop of rounds holds at its peak."""
    problem, optimizer = problem_of(widths), optimizer_for()

    def one(_, carry):
        params, state = carry
        if worker_batch is None:
            gradients = problem.gradients(params)
        else:
            of_some = functools.partial(problem.gradients_of, params, None)
            data = problem.worker_data
            gradients = gdsec_jax.WorkerBatches(of_some, data, worker_batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    @functools.partial(jax.jit, donate_argnums=0)
    def rounds(carry):
        return jax.lax.fori_loop(0, ROUNDS, one, carry)

    start = jax.eval_shape(lambda p: (p, optimizer.init(p)), problem.init_params)
    compiled = rounds.lower(start).compile()
    return resident.held(compiled) + resident.temporary(compiled)


def _taken(widths: tuple[int, ...], worker_batch: int) -> tuple[int, float]:
    """Peak bytes of this process beyond its start, and the seconds of a round."""
    before = resident.now()
    problem = problem_of(widths)
    run = functools.partial(
        gdsec_jax.simulate,
        *(problem, optimizer_for(), ROUNDS),
        worker_batch=worker_batch if worker_batch < NUM_WORKERS else None,
        eval_every=ROUNDS,
        progress=False,
    )
    run()  # compiles
    resident.forget_peak()
    seconds = run().attributes["seconds"] / ROUNDS
    return resident.peak() - before, seconds


if __name__ == "__main__":
    *own_widths, own_batch = map(int, sys.argv[1:])
    print(json.dumps(_taken(tuple(own_widths), own_batch)))
