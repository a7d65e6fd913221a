"""Peak memory of a GD-SEC update beyond its inputs and outputs."""

import json
import sys

import jax
import jax.numpy as jnp

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _resident as resident
from gdsec_experiments.benchmarks import _update as update

SIZES = ((8, 12_500_000), (4, 50_000_000))  # M, D
SMALL = ((8, 1_250),)


def bench(settings: Settings) -> list[Measure]:
    """What the compiler plans, and what a fresh process really takes."""
    measures, held, asked = [], 0, {"must": 0.15, "goal": 0.02}
    sizes = SMALL if settings.small else SIZES
    for num_workers, size in sizes:
        name = f"{num_workers} x {size / 1e6:g} M"
        compiled = update.abstract(num_workers, size)
        held, temporary = resident.held(compiled), resident.temporary(compiled)
        measures.append(
            Measure(
                f"{name}: temporary / inputs and outputs, as compiled",
                temporary / held,
                note=f"{held / 1e9:.3g} GB of inputs and outputs, donated ones once.",
                **asked,
            )
        )
        each = (held + temporary) / num_workers / size
        measures.append(Measure(f"{name}: peak a worker and component", each, unit="B"))
    # Of the last size's process: the kernel's own count of what it held at most.
    num_workers, size = sizes[-1]
    title = f"{num_workers} x {size / 1e6:g} M: resident beyond inputs and outputs, "
    value, note = float("nan"), "only Linux tells the peak."
    if resident.TOLD:
        said = benchmarks.fresh(__file__, str(num_workers), str(size))
        value, note = json.loads(said) / held, ""
    return [*measures, Measure(f"{title}measured", value, note=note, **asked)]


def resident_beyond(num_workers: int, size: int) -> int:
    """Bytes that steps add to what their inputs and outputs hold, in this process."""
    optimizer = update.optimizer_for(num_workers)
    params = jnp.zeros(size, jnp.float32)
    gradients = jnp.ones((num_workers, size), jnp.float32)
    carry = jax.block_until_ready(update.start(optimizer, params))
    compiled = update.step_of(optimizer).lower(carry, gradients, params).compile()
    resident.forget_peak()  # that of the start is not the steps'
    before = resident.now()
    for _ in range(3):
        carry = jax.block_until_ready(compiled(carry, gradients, params))
    return max(0, resident.peak() - before)


if __name__ == "__main__":
    print(json.dumps(resident_beyond(*map(int, sys.argv[1:]))))
