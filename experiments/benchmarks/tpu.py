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
"""

import importlib.util
import math
import os
import re
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import gdsec_jax
from gdsec_jax.benchmarks import Measure, Settings, Skipped


class Setup(NamedTuple):
    """Which chips, and how large a problem."""

    topology: str
    accelerator: str  # the same, as the environment of a TPU names it
    num_workers: int
    length: int  # D


# Small in chips only: arrays that fit into VMEM would be kept there, out of the count.
FULL = Setup("v5e:4x4", "v5litepod-16", num_workers=64, length=50_000_000)
SMALL = Setup("v5e:2x2", "v5litepod-4", num_workers=8, length=50_000_000)
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather")


def bench(settings: Settings) -> list[Measure]:
    """Compile the step and read what it moves.

    Raises:
      Skipped: libtpu is absent.
    """
    setup = SMALL if settings.small else FULL
    arguments, compiled = compile_step(setup)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    moved, least = traffic(text), minimum(arguments, compiled)
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
        Measure("bytes accessed, XLA's own count", xla / 1e9, "GB a chip"),
        *(Measure(f"HBM: {k}", v / 1e9, "GB a chip") for k, v in sizes.items()),
        *(
            Measure(
                name,
                moved.collectives[name],
                note=f"{moved.collective_bytes[name] / 1e9:.3f} GB arrive at a chip",
            )
            for name in COLLECTIVES
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

    def placed(tree, sharding):
        return jax.tree.map(lambda x: x.update(sharding=sharding), tree)

    algorithm = gdsec_jax.gdsec(
        setup.num_workers, xi=4.0, beta=0.01, wire="coo", **options
    )
    params = jax.ShapeDtypeStruct((setup.length,), jnp.float32)
    gradients = jax.ShapeDtypeStruct((setup.num_workers, setup.length), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)
    state = type(state)(
        rounds=placed(state.rounds, everywhere),
        workers=placed(state.workers, rows),
        server=placed(state.server, everywhere),
        sent=placed(state.sent, rows),
    )
    arguments = placed(gradients, rows), state, placed(params, everywhere)
    step = jax.jit(
        algorithm.update,
        donate_argnums=1,
        out_shardings=(everywhere, jax.tree.map(lambda x: x.sharding, state)),
    )
    return arguments, step.lower(*arguments).compile()


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


# --- Reading a compiled program. -------------------------------------------------

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(
    r"(ROOT )?%([\w.-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w-]+)\((.*)"
)
_WIDTHS = {"pred": 1, "bf16": 2}  # the others tell their bits: f32, s8, u16
# They name memory, and move none.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
    *("partition-id", "replica-id", "add-dependency", "opt-barrier"),
}


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    inside: str  # the parentheses, where a constant has its value
    attributes: str
    is_root: bool

    def called(self, attribute: str) -> list[str]:
        """Names of the computations under an attribute."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.-]+)", self.attributes)
        return re.findall(r"%([\w.-]+)", found.group(1)) if found else []


class Traffic(NamedTuple):
    """What one run of a program moves."""

    bytes: int
    collectives: Counter  # how often each kind runs
    collective_bytes: Counter  # of their results


def traffic(text: str) -> Traffic:
    """What a program moves between a chip and its HBM, and between chips.

    A loop counts as often as its condition's constant says, once where it has none; of
    a condition's branches the dearest counts. A fusion reads of an operand what it
    slices from it, and writes of a result what it updates in place.

    Args:
      text: the compiled program, as XLA prints it.

    Returns:
      A `Traffic`.
    """
    computations, entry = _parse(text)
    return _of_computation(entry, computations)


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations, current, entry = {}, [], ""
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%([\w.-]+) .*->.*\{$", line)
        if header:
            current = computations[header.group(2)] = []
            entry = header.group(2) if header.group(1) else entry
        elif found := _INSTRUCTION.match(line.strip()):
            root, name, shape, operation, rest = found.groups()
            end = _closing(rest)
            operands = tuple(re.findall(r"%([\w.-]+)", rest[:end]))
            current.append(
                Instruction(
                    *(name, shape, operation, operands),
                    *(rest[:end], rest[end + 1 :], bool(root)),
                )
            )
    return computations, entry


def _closing(rest: str) -> int:
    """Where the parenthesis closes that opened before."""
    depth = 1
    for position, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    return len(rest)


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """Of each array in a shape its bytes, and whether it lies in HBM."""
    found = []
    for kind, lengths, layout in _ARRAY.findall(shape):
        width = _WIDTHS.get(kind) or int(re.sub(r"\D", "", kind) or 0) // 8
        entries = math.prod(int(n) for n in lengths.split(",") if n)
        found.append((width * entries, re.search(r"S\([1-9]", layout) is None))
    return found


def _size(shape: str) -> int:
    return sum(size for size, _ in _arrays(shape))


def _in_hbm(shape: str) -> int:
    return sum(size for size, in_hbm in _arrays(shape) if in_hbm)


def _of_computation(name: str, computations) -> Traffic:
    instructions = computations[name]
    shapes = {each.name: each.shape for each in instructions}
    total, runs, arrived = 0, Counter(), Counter()
    for each in instructions:
        for times, called in _calls(each, computations):
            inner = _of_computation(called, computations)
            total += times * inner.bytes
            for counter, own in ((runs, inner[1]), (arrived, inner[2])):
                counter.update({kind: times * n for kind, n in own.items()})
        total += _of_instruction(each, shapes, computations)
        kind = each.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            runs[kind] += 1
            arrived[kind] += _size(_result(each))
    return Traffic(total, runs, arrived)


def _calls(each: Instruction, computations) -> list[tuple[int, str]]:
    """The computations that an instruction runs, and how often."""
    if each.operation == "while":
        (condition,) = each.called("condition")
        times = [
            int(other.inside)
            for other in computations[condition]
            if other.operation == "constant" and other.inside.isdigit()
        ]
        return [(max(times, default=1), each.called("body")[0])]
    if each.operation == "conditional":
        branches = [
            name
            for attribute in ("branch_computations", "true_\\w+", "false_\\w+")
            for name in each.called(attribute)
        ]

        def moved(branch):
            inner = _of_computation(branch, computations)
            return inner.bytes + inner.collective_bytes.total()

        return [(1, max(branches, key=moved))]
    if each.operation == "call":
        return [(1, each.called("to_apply")[0])]
    if each.operation == "async-start":
        return [(1, each.called("calls")[0])]
    return []


def _result(each: Instruction) -> str:
    """The shape that an instruction makes; a start names its operands beside it."""
    if not each.operation.endswith("-start"):
        return each.shape
    arrays = [found.group(0) for found in _ARRAY.finditer(each.shape)]
    return arrays[0 if each.operation == "copy-start" else len(each.operands)]


def _of_instruction(each: Instruction, shapes, computations) -> int:
    """Bytes that an instruction moves itself, beside those it calls."""
    operation, operands = each.operation, each.operands
    if operation in _FREE or operation.endswith("-done"):
        return 0
    if operation in ("while", "conditional", "call", "async-start", "async-update"):
        return 0
    if operation == "custom-call" and "AllocateBuffer" in each.attributes:
        return 0
    if operation == "fusion":
        return _of_fusion(each, shapes, computations[each.called("calls")[0]])
    if operation in ("dynamic-slice", "slice"):
        read = _size(each.shape) if _in_hbm(shapes[operands[0]]) else 0
        return read + _in_hbm(each.shape)
    if operation == "dynamic-update-slice":
        written = _size(shapes[operands[1]]) if _in_hbm(each.shape) else 0
        return written + _in_hbm(shapes[operands[1]])
    read = sum(_in_hbm(shapes[name]) for name in operands)
    # What a start returns beside its result are its operands, in place.
    return read + _in_hbm(_result(each))


def _of_fusion(each: Instruction, shapes, body: list[Instruction]) -> int:
    by_name = {inner.name: inner for inner in body}
    users: dict[str, list[Instruction]] = {}
    for inner in body:
        for operand in inner.operands:
            users.setdefault(operand, []).append(inner)

    def read(name: str, whole: int) -> int:
        total = 0
        for user in users.get(name, []):
            if user.operation in ("dynamic-slice", "slice"):
                total += _size(user.shape)
            elif user.operation == "bitcast":
                total += read(user.name, whole)
            elif user.operation != "dynamic-update-slice" or user.operands[0] != name:
                return whole
        return min(total, whole)

    def written(inner: Instruction, size: int) -> int:
        while inner.operation == "bitcast":
            inner = by_name[inner.operands[0]]
        if inner.operation == "dynamic-update-slice":
            return _size(by_name[inner.operands[1]].shape)
        return size

    parameters = {
        int(inner.inside): inner for inner in body if inner.operation == "parameter"
    }
    total = 0
    for position, operand in enumerate(each.operands):
        if whole := _in_hbm(shapes[operand]):
            total += read(parameters[position].name, whole)
    root = next(inner for inner in body if inner.is_root)
    is_tuple = root.operation == "tuple"
    results = [by_name[name] for name in root.operands] if is_tuple else [root]
    for result, (size, in_hbm) in zip(results, _arrays(each.shape), strict=True):
        total += written(result, size) if in_hbm else 0
    return total
