"""Peak memory of a GD-SEC update beyond its inputs and outputs."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import psutil

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _update as update

SIZES = ((8, 12_500_000), (4, 50_000_000))  # M, D
SMALL = ((8, 1_250),)


def bench(settings: Settings) -> list[Measure]:
    """What the compiler plans, and what a fresh process really takes."""
    measures = []
    for num_workers, size in SMALL if settings.small else SIZES:
        name = f"{num_workers} x {size / 1e6:g} M"
        plan = update.abstract(num_workers, size).memory_analysis()
        held = (
            plan.argument_size_in_bytes
            + plan.output_size_in_bytes
            - plan.alias_size_in_bytes
        )
        measures.append(
            Measure(
                f"{name}: temporary / inputs and outputs, as compiled",
                plan.temp_size_in_bytes / held,
                must=0.15,
                goal=0.02,
                note=f"{held / 1e9:.3g} GB of inputs and outputs, donated ones once.",
            )
        )
        each = (held + plan.temp_size_in_bytes) / num_workers / size
        measures.append(Measure(f"{name}: peak a worker and component", each, unit="B"))
    # Of the last size's process: the kernel's own count of what it held at most.
    title = f"{name}: resident beyond inputs and outputs, measured"
    asked = {"must": 0.15, "goal": 0.02}
    if Path("/proc/self/clear_refs").exists():
        said = benchmarks.fresh(__file__, str(num_workers), str(size))
        return [*measures, Measure(title, json.loads(said) / held, **asked)]
    reason = "only Linux tells the peak."
    return [*measures, Measure(title, float("nan"), note=reason, **asked)]


def resident_beyond(num_workers: int, size: int) -> int:
    """Bytes that steps add to what their inputs and outputs hold, in this process."""
    optimizer = update.optimizer_for(num_workers)
    params = jnp.zeros(size, jnp.float32)
    gradients = jnp.ones((num_workers, size), jnp.float32)
    carry = jax.block_until_ready(update.start(optimizer, params))
    compiled = update.step_of(optimizer).lower(carry, gradients, params).compile()
    # Linux forgets the peak so far: that of the start is not the steps'.
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        carry = jax.block_until_ready(compiled(carry, gradients, params))
    return max(0, _peak() - before)


def _peak() -> int:
    """The most bytes that this process held."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    print(json.dumps(resident_beyond(*map(int, sys.argv[1:]))))
