"""What a TPU would do with a step of GD-SEC, asked of its compiler alone.

No TPU is needed, but the PyPI package libtpu (extra `tpu-aot`): it compiles for chips
that are named, not present. The step is one update of `gdsec`, the workers spread over
the chips. Each chip holds its workers' rows of the gradients and of the state, which is
donated, and all of the parameters: every worker needs them all for its gradient, and an
all-reduce leaves the update with all of them.

What counts is the traffic between a chip and its memory (HBM), against the least there
can be: every argument read once and every output written once. XLA's own count, "bytes
accessed", takes the body of a loop once, however often it runs, and cannot tell HBM
from the memory on the chip (VMEM). So the traffic is read off the compiled program,
loops as often as they run; in a program without either the two counts agree.

Beside it, what the choice of the largest entries moves: passes over a vector that the
compiler has put into VMEM move nothing, however many there are.
"""

import functools
import importlib.util
import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import gdsec_jax
from gdsec_experiments.benchmarks import Measure, Settings, Skipped
from gdsec_jax.simulation import _hlo as hlo
from gdsec_jax.worker import _select


class Setup(NamedTuple):
    """Which chips, and how large a problem."""

    topology: str
    accelerator: str  # the same, as the environment of a TPU names it
    num_workers: int
    length: int  # D


# Small in chips only: arrays that fit into VMEM would be kept there, out of the count.
FULL = Setup("v5e:4x4", "v5litepod-16", num_workers=64, length=50_000_000)
SMALL = Setup("v5e:2x2", "v5litepod-4", num_workers=8, length=50_000_000)
LENGTH = 4_000_000  # of the vector whose largest entries are chosen


def bench(settings: Settings) -> list[Measure]:
    """Compile the step and read what it moves.

    Raises:
      Skipped: libtpu is absent.
    """
    setup = SMALL if settings.small else FULL
    arguments, compiled = compile_step(setup)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    moved, least = hlo.traffic(text), minimum(arguments, compiled)
    xla = compiled.cost_analysis()["bytes accessed"]
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs in arguments' place": memory.alias_size_in_bytes,
    }
    return [
        Measure(
            "bytes accessed / minimum",
            moved.bytes / least,
            must=1.5,
            goal=1.1,
            note=f"{setup.topology}, {setup.num_workers} workers x {setup.length:,} "
            f"float32; a chip moves {moved.bytes / 1e9:.2f} GB, the least is "
            f"{least / 1e9:.2f} GB",
        ),
        Measure(
            "top-k: bytes moved / bytes of the vector",
            _moved_by_top_k(setup) / (4 * LENGTH),
            must=4.0,
            goal=2.0,
            note=f"{LENGTH:,} float32, k = 1 %, a mask of them",
        ),
        Measure("bytes accessed, XLA's own count", xla / 1e9, "GB a chip"),
        *(Measure(f"HBM: {k}", v / 1e9, "GB a chip") for k, v in sizes.items()),
        *(
            Measure(
                name,
                moved.collectives[name],
                note=f"{moved.collective_bytes[name] / 1e9:.3f} GB arrive at a chip",
            )
            for name in hlo.COLLECTIVES
        ),
    ]


def compile_step(setup: Setup, **options):
    """The step's abstract arguments, and what libtpu makes of it.

    Args:
      setup: chips and sizes.
      options: of `gdsec`.

    Raises:
      Skipped: libtpu is absent.
    """
    mesh = jax.sharding.Mesh(_chips(setup), ("workers",))
    rows = NamedSharding(mesh, PartitionSpec("workers"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def placed(tree):
        """Each worker's own on its chip, the rest everywhere."""

        def where(x):
            own = x.shape[:1] == (setup.num_workers,)
            return x.update(sharding=rows if own else everywhere)

        return jax.tree.map(where, tree)

    algorithm = gdsec_jax.gdsec(
        setup.num_workers, xi=4.0, beta=0.01, wire="coo", **options
    )
    params = jax.ShapeDtypeStruct((setup.length,), jnp.float32)
    gradients = jax.ShapeDtypeStruct((setup.num_workers, setup.length), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)
    arguments = placed((gradients, state, params))
    step = jax.jit(
        algorithm.update,
        donate_argnums=1,
        out_shardings=(everywhere, jax.tree.map(lambda x: x.sharding, arguments[1])),
    )
    return arguments, step.lower(*arguments).compile()


def _moved_by_top_k(setup: Setup) -> int:
    chip = jax.sharding.SingleDeviceSharding(_chips(setup)[0])
    x = jax.ShapeDtypeStruct((LENGTH,), jnp.float32, sharding=chip)
    choose = functools.partial(_select.mask_of_largest, k=LENGTH // 100)
    compiled = jax.jit(choose, out_shardings=chip).lower(x).compile()
    return hlo.traffic(compiled.as_text()).bytes


def _chips(setup: Setup):
    if importlib.util.find_spec("libtpu") is None:
        raise Skipped("libtpu is absent: pip install gdsec-jax[tpu-aot]")
    environment = {
        # libtpu would ask a cloud's servers where it runs; nobody answers elsewhere.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": setup.accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
        # No chip is opened, so several processes may compile at once.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=setup.topology
    )
    return described.devices


def minimum(arguments, compiled) -> int:
    """Bytes a chip: every argument read once, every output written once."""
    leaves = [*jax.tree.leaves(arguments), *jax.tree.leaves(compiled.out_info)]
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves
    )
