"""What local training costs beside its gradients, and what memory it holds.

Logistic regression on MNIST's 10,000 test images, five workers, float32: a round of ten
steps against ten gradients of all workers, in turns, the state donated. Beside it, as
compiled, the memory of a round of AdamW inside, 4 workers and 50 M parameters, against
the least: the parameters and states that go in, and of each worker its parameters and
one gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _problems as shared

STEPS = 10
WORKERS, LENGTH, SMALL = 4, 50_000_000, 1_000_000  # of the round whose memory counts
RATE = 1e-3


def bench(settings: Settings) -> list[Measure]:
    """Time and memory."""
    features, digits = shared.mnist(settings.small)
    problem = gdsec_jax.problems.logistic(
        features.astype(np.float32), np.where(digits < 5, -1, 1), shared.NUM_WORKERS
    )
    m = problem.num_workers
    ways = {
        "diloco": gdsec_jax.diloco(m, RATE, STEPS),
        "scaffold": gdsec_jax.scaffold(m, RATE, STEPS),
    }
    calls = {"gradients": _gradients(problem)}
    calls |= {name: _rounds(problem, method) for name, method in ways.items()}
    times = benchmarks.interleaved(calls, settings.repeats)
    measures = [
        Measure(
            f"a round of {name} / {STEPS} gradients",
            **benchmarks.ratio(times[name], times["gradients"]),
            must=1.1,
        )
        for name in ways
    ]
    length = SMALL if settings.small else LENGTH
    for on_nonfinite in ("drop", "propagate"):
        name = f'memory of a round / the least, on_nonfinite="{on_nonfinite}"'
        measures.append(Measure(name, _held(length, on_nonfinite), must=1.2))
    return measures


def _gradients(problem):
    """So many gradients of all workers, each at other parameters."""

    @jax.jit
    def all_steps(params):
        def step(_, ends):
            slope = jax.vmap(jax.grad(problem.worker_loss))
            return ends - RATE * slope(ends, problem.worker_data)

        ends = jnp.tile(params, (problem.num_workers, 1))
        return jax.lax.fori_loop(0, STEPS, step, ends).mean(0)

    return benchmarks.threaded(all_steps, problem.init_params)


def _rounds(problem, method):
    optimizer = optax.chain(method, optax.sgd(1.0))

    def step(carry):
        params, state = carry
        losses = gdsec_jax.WorkerLosses(problem.own_loss, problem.worker_data)
        updates, state = optimizer.update(losses, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.array(problem.init_params)
    return benchmarks.threaded(
        jax.jit(step, donate_argnums=0), (params, optimizer.init(params))
    )


def _held(length: int, on_nonfinite) -> float:
    """Bytes of a round, as it is compiled, against the least."""
    optimizer = optax.chain(
        gdsec_jax.local(WORKERS, optax.adamw(RATE), STEPS, on_nonfinite=on_nonfinite),
        gdsec_jax.gd(WORKERS, reduction="mean", on_nonfinite=on_nonfinite),
        optax.sgd(0.7),
    )

    def loss(params, target, key):
        del key
        return 0.5 * jnp.vdot(params - target, params - target)

    def step(params, state, data):
        losses = gdsec_jax.WorkerLosses(loss, data)
        updates, state = optimizer.update(losses, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.ShapeDtypeStruct((length,), jnp.float32)
    state = jax.eval_shape(optimizer.init, params)
    data = jax.ShapeDtypeStruct((WORKERS, 1), jnp.float32)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, data)
    memory = lowered.compile().memory_analysis()
    given = memory.argument_size_in_bytes
    all_of_it = given + memory.output_size_in_bytes + memory.temp_size_in_bytes
    least = given + 2 * WORKERS * 4 * length
    return (all_of_it - memory.alias_size_in_bytes) / least
