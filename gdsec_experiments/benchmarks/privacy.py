"""What clipping the gradient of every sample costs, of the figures' CNN.

One worker's batch of MNIST's test images, float32: the clipped gradient against the
plain one of the usual network, in turns, by the size of a microbatch and whether its
convolutions are by slices; and as compiled the memory of both, what goes in and comes
out and what they take between.
"""

import jax
import numpy as np
import optax
from flax import nnx

from gdsec_experiments import _models as models
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _problems as shared
from gdsec_jax import problems

BATCH, SMALL = 256, 16
# Whether convolutions are by slices, and a microbatch's size; None: all at once.
CLIPPED = ((False, 1), (False, None), (True, 4), (True, 8), (True, 16), (True, 32))


def bench(settings: Settings) -> list[Measure]:
    """Time and memory, of each size; the best is what must be reached."""
    number = SMALL if settings.small else BATCH
    features, digits = shared.mnist(settings.small)
    pixels = int(np.sqrt(features.shape[1])) ** 2  # small ones are no images
    features, digits = features[:number, :pixels], digits[:number]
    loss = optax.softmax_cross_entropy_with_integer_labels
    data = (features.astype(np.float32), digits.astype(np.int32))

    def problem_of(sliced: bool) -> problems.Problem:
        own = {"rngs": nnx.Rngs(0), "dtype": None}
        model = models.LeNet(pixels, 10, sliced=sliced, **own)
        return problems.flax_problem(model, loss, data, num_workers=1)

    plain = problem_of(False)
    ways = {"plain": plain, "plain, by slices": problem_of(True)}
    for sliced, size in CLIPPED:
        private = problems.private(problem_of(sliced), 1.0, delta=1e-6, microbatch=size)
        ways[_named(sliced, size)] = private
    params = plain.init_params
    compiled = {
        name: jax.jit(problem.gradients).lower(params).compile()
        for name, problem in ways.items()
    }
    calls = {name: lambda made=made: made(params) for name, made in compiled.items()}
    times = benchmarks.interleaved(calls, settings.repeats)
    taken = {name: _memory(made) for name, made in compiled.items()}
    measures = []
    for name in ways:
        if name == "plain":
            continue
        measures.append(
            Measure(
                f"{name} / plain gradient",
                **benchmarks.ratio(times[name], times["plain"]),
            )
        )
        ratio = taken[name] / taken["plain"]
        measures.append(Measure(f"{name}: memory / plain", ratio))
    return [*measures, *_best(times, taken)]


def _best(times, taken) -> list[Measure]:
    """Of the sizes within the memory that is allowed, the fastest."""
    names = [name for name in taken if not name.startswith("plain")]
    within = [name for name in names if taken[name] <= 1.5 * taken["plain"]]
    best = min(within or names, key=lambda name: times[name].median)
    note = f"with {best}"
    return [
        Measure(
            "the best: clipped / plain gradient",
            **benchmarks.ratio(times[best], times["plain"]),
            must=3.0,
            goal=2.0,
            note=note,
        ),
        Measure(
            "the best: memory, clipped / plain",
            taken[best] / taken["plain"],
            must=1.5,
            note=note,
        ),
    ]


def _named(sliced: bool, size: int | None) -> str:
    words = "clipped, all at once" if size is None else f"clipped, microbatch {size}"
    return words + ", by slices" * sliced


def _memory(compiled) -> int:
    """Bytes that a call holds at most, as compiled."""
    found = compiled.memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )
