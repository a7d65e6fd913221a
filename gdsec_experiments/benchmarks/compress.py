"""One GD-SEC update of large float32 vectors against what the memory's speed allows."""

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _update as update

SIZES = ((8, 12_500_000), (4, 50_000_000))  # M, D
SMALL = ((8, 1_250), (4, 5_000))


def bench(settings: Settings) -> list[Measure]:
    """Time over (bytes that must move / triad bandwidth), jitted and donated."""
    measures = []
    for num_workers, size in SMALL if settings.small else SIZES:
        call = update.call_of(num_workers, size)
        num_bytes = update.bytes_moved(num_workers, size)
        value, triad = benchmarks.roofline(call, num_bytes, settings)
        gigabytes = triad["value"]
        seconds = value["value"] * num_bytes / gigabytes / 1e9
        measures.append(
            Measure(
                f"{num_workers} x {size / 1e6:g} M: time / roofline",
                **value,
                must=3.0,
                goal=1.5,
                note=f"{seconds:.3g} s for {num_bytes / 1e9:.3g} GB at "
                f"{gigabytes:.3g} GB/s; {update.sent(call()):.2%} of the entries "
                'sent, wire="coo".',
            )
        )
    name = "triad a += s b, float32"
    return [*measures, Measure(name, **triad, unit="GB/s", larger_is_better=True)]
