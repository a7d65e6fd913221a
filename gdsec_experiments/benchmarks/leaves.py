"""How long one GD-SEC update takes to trace and to compile, by the number of leaves.

Of a network's parameters: layers of a square matrix and a bias, as large in all however
many. In a fresh process that keeps no compiled programs, so that none is found.
"""

import json
import sys

import jax
import jax.numpy as jnp

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Times
from gdsec_experiments.benchmarks import _update as update

NUM_WORKERS, SIZE, SMALL_SIZE = 4, 2_000_000, 2_000  # M, about D
LEAVES, SMALL_LEAVES = (1, 16, 64), (1, 4)
MOST_REPEATS = 3  # a turn takes most of a minute


def bench(settings: Settings) -> list[Measure]:
    """Seconds to trace and to compile."""
    leaves = SMALL_LEAVES if settings.small else LEAVES
    size = SMALL_SIZE if settings.small else SIZE
    said = benchmarks.fresh(
        *(
            __file__,
            str(min(settings.repeats, MOST_REPEATS)),
            str(size),
            *map(str, leaves),
        ),
        JAX_ENABLE_COMPILATION_CACHE="false",
    )
    return [
        Measure(name, **benchmarks.summary(seconds), unit="s")
        for name, seconds in json.loads(said).items()
    ]


def network(num_leaves: int, size: int) -> list[jax.ShapeDtypeStruct]:
    """Matrix, bias, matrix, … of about that size in all; of one leaf, a matrix."""
    width = round((2 * size / max(num_leaves, 2)) ** 0.5)
    shapes = ((width, width), (width,))
    return [jax.ShapeDtypeStruct(shapes[i % 2], jnp.float32) for i in range(num_leaves)]


def times_of(num_leaves: int, size: int, repeats: int) -> dict[str, Times]:
    """To trace the step anew, and to compile what was traced."""
    params = network(num_leaves, size)
    gradients = [
        jax.ShapeDtypeStruct((NUM_WORKERS, *leaf.shape), leaf.dtype) for leaf in params
    ]
    traced = None

    def trace():
        nonlocal traced
        optimizer = update.optimizer_for(NUM_WORKERS)
        carry = jax.eval_shape(lambda p: update.start(optimizer, p), params)
        traced = update.step_of(optimizer).trace(carry, gradients, params)

    def compile_it():
        assert traced is not None
        traced.lower().compile()

    name = f"{num_leaves} {'leaf' if num_leaves == 1 else 'leaves'}"
    calls = {f"{name}: trace": trace, f"{name}: compile": compile_it}
    return benchmarks.interleaved(calls, repeats)


if __name__ == "__main__":
    repeats, size, *leaves = map(int, sys.argv[1:])
    times = {}
    for number in leaves:
        times |= times_of(number, size, repeats)
    print(json.dumps({name: each.seconds for name, each in times.items()}))
