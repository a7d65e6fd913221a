"""How fast messages become bytes and come back, format by format.

Speeds are of dense float32 input, 4 bytes an entry, whatever its density. Decoding can
exceed a copy in memory: zeros take memory only where they are read or written.
"""

import functools

import numpy as np

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Times
from gdsec_jax import wire

ENTRIES, SMALL_ENTRIES = 12_500_000, 1_250
CASES = (  # densities: all formats at one of them, the sparse one at others
    *((0.01, form) for form in wire.FORMATS),
    *((density, "rle") for density in (0.001, 0.1)),
)


def bench(settings: Settings) -> list[Measure]:
    """MB/s of encoding and decoding, in turns with a copy in memory."""
    entries = SMALL_ENTRIES if settings.small else ENTRIES
    rng = np.random.default_rng(0)
    source = rng.standard_normal(entries, np.float32)
    target = np.empty_like(source)
    measures = []
    for density, form in CASES:
        values = np.where(rng.random(entries, np.float32) < density, source, 0)
        message = wire.Message(np.asarray(wire.flush(values)))
        data = wire.encode(message, form)
        back = wire.decode(data, message.values, form)
        if not np.array_equal(back.values, message.values):
            raise ValueError(f"{form} gives other values back than it was given.")
        times = benchmarks.interleaved(
            {
                "copy": functools.partial(np.copyto, target, source),
                "encode": functools.partial(wire.encode, message, form),
                "decode": functools.partial(wire.decode, data, message.values, form),
            },
            settings.repeats,
        )
        if not measures:
            measures.append(_speed("copy in memory", times["copy"], entries))
        for what in ("encode", "decode"):
            name = f"{form} {what}, {density:.1%} non-zeros"
            measures.append(_speed(name, times[what], entries))
    return measures


def _speed(name: str, times: Times, entries: int) -> Measure:
    speeds = benchmarks.summary(4 * entries / t / 1e6 for t in times.seconds)
    return Measure(name, **speeds, unit="MB/s", larger_is_better=True)
