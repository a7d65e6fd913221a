"""How fast messages become bytes and come back, format by format.

Run it with `python experiments/benchmarks/encoders.py`; `--help` lists two options.
Speeds are of dense input, 4 bytes an entry, whatever its density. The first row is a
copy of it between arrays that exist already; decoding can exceed it, since zeros take
memory only where they are read or written.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from gdsec_jax import wire
from gdsec_jax.wire import Message, decode, encode

DENSITIES = (0.001, 0.01, 0.1)


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Times of the repeats, after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def speed(times: list[float], megabytes: float) -> str:
    """MB/s of the fastest and of the median repeat."""
    fastest, median = min(times), statistics.median(times)
    return f"{megabytes / fastest:,.0f} / {megabytes / median:,.0f}"


def message_of(rng: np.random.Generator, entries: int, density: float) -> Message:
    """Normal values at uniformly random positions."""
    values = rng.standard_normal(entries, np.float32)
    values[rng.random(entries, np.float32) >= density] = 0
    return Message(np.asarray(wire.flush(values)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=12_500_000, help="of float32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    entries, repeats = arguments.entries, arguments.repeats
    megabytes = 4 * entries / 1e6

    table = Table(
        title=f"{entries:,} float32, {repeats} repeats, {platform.machine()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}",
        caption="MB/s of dense input: fastest / median repeat",
    )
    for name in ("density", "format", "encode", "decode", "bits an entry"):
        table.add_column(name, justify="left" if name == "format" else "right")

    rng = np.random.default_rng(0)
    source = rng.standard_normal(entries, np.float32)
    target = np.empty_like(source)
    copy = speed(seconds(lambda: np.copyto(target, source), repeats), megabytes)
    table.add_row("", "copy in memory", copy, copy, "32", end_section=True)
    for density in DENSITIES:
        message = message_of(rng, entries, density)
        for form in wire.FORMATS:
            data = encode(message, form)
            back = decode(data, message.values, form)
            assert np.array_equal(back.values, message.values)
            written = seconds(lambda m=message, f=form: encode(m, f), repeats)
            read = seconds(
                lambda d=data, m=message, f=form: decode(d, m.values, f), repeats
            )
            table.add_row(
                f"{density:.1%}",
                form,
                speed(written, megabytes),
                speed(read, megabytes),
                f"{8 * len(data) / entries:.3f}",
                end_section=form == wire.FORMATS[-1],
            )
    Console().print(table)


if __name__ == "__main__":
    main()
