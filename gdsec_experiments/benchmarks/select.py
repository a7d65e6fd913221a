"""The k largest entries of a vector: the package's way against `jax.lax.top_k`.

Both give a mask, or values and indices. Ratios are of calls in turns, in CPU time,
which other programs disturb less; how long they took is in the notes. So are updates by
`top_j`, with the compiled kernel, where it is installed, and without, and NumPy's.
"""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _update as update
from gdsec_jax import _native, top_j
from gdsec_jax.worker import _select

SIZES, SMALL = (2**16, 2**18, 2**20, 2**22, 12_500_000), (2**10,)
SHARES = (0.001, 0.01, 0.1)
WORKERS, OWN = 8, 500_000  # as many, and so many entries each
MUST = {0.01: (4.0, 8.0), 0.1: (8.0, 20.0)}  # at the last size: must and goal
TURNS_OF_SORTS = 3  # one of 12.5 M takes seconds
UPDATES, SHARE = (2_000_000, 12_500_000), 0.01  # of WORKERS each


def bench(settings: Settings) -> list[Measure]:
    """Ratios by size and share, and for several workers at once."""
    sizes = SMALL if settings.small else SIZES
    shapes = [
        *((size,) for size in sizes),
        (WORKERS, SMALL[0] if settings.small else OWN),
    ]
    measures = []
    for shape in shapes:
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        for share in SHARES:
            bounds = MUST.get(share) if shape == (sizes[-1],) else None
            measures += _compared(jnp.asarray(x), share, bounds, settings)
    for size in SMALL if settings.small else UPDATES:
        measures += _updates(size, settings)
    return measures


def _compared(x, share, bounds, settings: Settings) -> list[Measure]:
    k = max(1, int(share * x.shape[-1]))
    ways = {
        "mask": (_sorted_mask, _select.mask_of_largest),
        "indices": (_sorted, _select.largest),
    }
    must, goal = bounds or (None, None)
    made = []
    for what, functions in ways.items():
        theirs, ours = (_compiled(f, k, x.ndim) for f in functions)
        repeats = min(settings.repeats, TURNS_OF_SORTS)
        calls = functools.partial(theirs, x), functools.partial(ours, x)
        cpu, wall = _in_turns(calls, repeats)
        of = " x ".join(f"{n:,}" for n in x.shape)
        made.append(
            Measure(
                f"{of}, k = {share:.1%}, {what}: lax.top_k / ours",
                **benchmarks.summary(cpu[0] / cpu[1]),
                must=must,
                goal=goal,
                larger_is_better=True,
                note=f"CPU {np.median(cpu[1]):.2g} s for {np.median(cpu[0]):.2g}; "
                f"wall {np.median(wall[1]):.2g} s for {np.median(wall[0]):.2g}",
            )
        )
    return made


def _updates(size: int, settings: Settings) -> list[Measure]:
    """`top_j`: what NumPy, and XLA without the kernel, take over what ours takes."""
    gradients = update.gradients_of(WORKERS, size)
    ways = {"NumPy": _numpy_update(np.asarray(gradients), SHARE)}
    if _native.used():
        ways["without the kernel"] = _our_update(gradients, native=False)
    ways["ours"] = _our_update(gradients, native=_native.used())
    cpu, wall = _in_turns(tuple(ways.values()), settings.repeats)
    return [
        Measure(
            f"update by top_j, {WORKERS} x {size:,}, k = {SHARE:.0%}: {name} / ours",
            **benchmarks.summary(cpu[i] / cpu[-1]),
            larger_is_better=True,
            note=f"CPU {np.median(cpu[-1]):.2g} s for {np.median(cpu[i]):.2g}; "
            f"wall {np.median(wall[-1]):.2g} s for {np.median(wall[i]):.2g}",
        )
        for i, name in enumerate(tuple(ways)[:-1])
    ]


def _our_update(gradients, native: bool):
    """A call that does the next update, its state donated."""
    optimizer = top_j(WORKERS, SHARE)
    step, params = update.step_of(optimizer), jnp.zeros(gradients.shape[1])
    carry = update.start(optimizer, params)

    def call():
        nonlocal carry
        with _native.native_kernels(native):
            carry = step(carry, gradients, params)
        return carry

    return call


def _numpy_update(gradients: np.ndarray, share: float):
    """The same in place, by `numpy.argpartition`."""
    errors, total = np.zeros_like(gradients), np.zeros_like(gradients[0])
    rest = total.size - max(1, math.ceil(share * total.size))

    def call():
        total[:] = 0
        for gradient, error in zip(gradients, errors, strict=True):
            error += gradient
            chosen = np.argpartition(np.abs(error), rest)[rest:]
            total[chosen] += error[chosen]
            error[chosen] = 0
        return total

    return call


def _sorted(x, k: int):
    _, index = jax.lax.top_k(jnp.abs(x), k)
    return x[index], index


def _sorted_mask(x, k: int):
    return jnp.zeros(x.shape, bool).at[_sorted(x, k)[1]].set(True)


def _compiled(function, k: int, ndim: int):
    one = functools.partial(function, k=k)
    return jax.jit(one if ndim == 1 else jax.vmap(one))


def _in_turns(calls, repeats: int):
    """Seconds of the processor and of the clock, [calls, repeats] each."""
    cpu, wall = np.empty((2, len(calls), repeats))
    for turn in range(-1, repeats):
        for i, call in enumerate(calls):
            before = time.process_time(), time.perf_counter()
            jax.block_until_ready(call())
            cpu[i, turn] = time.process_time() - before[0]
            wall[i, turn] = time.perf_counter() - before[1]
    return cpu, wall
