"""One GD-SEC update of large float32 vectors against what the memory's speed allows.

With the compiled kernels, where they are installed, and without; and with the gradients
given away too, as a training loop may.
"""

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _update as update
from gdsec_jax import _native

SIZES = ((8, 12_500_000), (4, 50_000_000))  # M, D
SMALL = ((8, 1_250), (4, 5_000))
# must and goal
WITH, WITHOUT = (1.5, 1.2), (4.0, 2.5)


def bench(settings: Settings) -> list[Measure]:
    """Time over (bytes that must move / triad bandwidth), jitted and donated."""
    measures = []
    sizes = SMALL if settings.small else SIZES
    for native in (True, False) if _native.used() else (False,):
        for num_workers, size in sizes:
            for give in (False, True) if (num_workers, size) == sizes[0] else (False,):
                calls = update.calls_of(num_workers, size, give, native)
                measure, triad = _measure(
                    calls, num_workers, size, native, give, settings
                )
                measures.append(measure)
    name = "triad a += s b, float32"
    return [*measures, Measure(name, **triad, unit="GB/s", larger_is_better=True)]


def _measure(calls, num_workers, size, native, give, settings):
    num_bytes = update.bytes_moved(num_workers, size)
    value, triad = benchmarks.roofline(calls.call, num_bytes, settings, calls.before)
    gigabytes = triad["value"]
    seconds = value["value"] * num_bytes / gigabytes / 1e9
    must, goal = WITH if native else WITHOUT
    name = f"{num_workers} x {size / 1e6:g} M: time / roofline"
    measure = Measure(
        name
        + (", gradients donated" if give else "")
        + ("" if native else ", without kernels"),
        **value,
        must=must,
        goal=goal,
        note=f"{seconds:.3g} s for {num_bytes / 1e9:.3g} GB at {gigabytes:.3g} GB/s; "
        f'{update.sent(_next(calls)):.2%} of the entries sent, wire="coo".',
    )
    return measure, triad


def _next(calls: update.Calls) -> update.Carry:
    if calls.before is not None:
        calls.before()
    return calls.call()
