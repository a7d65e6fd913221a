"""What a compiled program moves, read off its text: HLO as XLA prints it."""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather")

_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(
    r"(ROOT )?%([\w.-]+) = "
    r"(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|\S+) ([\w-]+)\((.*)"
)
_BITS = {"pred": 8, "token": 0, "opaque": 0}  # the others tell them: f32, s4, f8e4m3fn
# They name memory, and move none.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
    *("partition-id", "replica-id", "add-dependency", "opt-barrier"),
}
# They run other computations, which are counted themselves.
_CONTROL = {"while", "conditional", "call", "async-start", "async-update"}
VMEM = 2**27  # bytes of vector memory on the chip, of v5e and v6e


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
    """What one run of a program moves, and in how many pieces."""

    bytes: int
    collectives: Counter  # how often each kind runs
    collective_bytes: Counter  # of their results
    kernels: int  # instructions that the chip executes, but for those on one number
    operations: Counter  # how often each kind runs, those inside kernels too
    rough: int  # products of matrices whose factors are cut to bfloat16
    open_loops: int  # whose length is known while they run: they count as one pass


_NOTHING = Traffic(0, Counter(), Counter(), 0, Counter(), 0, 0)


def _sum_of(one: Traffic, times: int, other: Traffic) -> Traffic:
    """One, and so many times the other."""

    def add(a: Any, b: Any) -> Any:
        if isinstance(a, Counter):
            return a + Counter({kind: times * n for kind, n in b.items()})
        return a + times * b

    return Traffic(*map(add, one, other))


def traffic(text: str) -> Traffic:
    """What a program moves between a chip and its HBM, and between chips.

    A loop counts as often as its condition's constant says, once where it has none: a
    loop over rounds as one of them. Of a condition's branches the dearest counts. A
    fusion reads of an operand what it slices from it, and writes of a result what it
    updates in place. A sort passes over what does not fit into the chip's memory once
    more each time that half of that has doubled.

    Args:
      text: the compiled program, as XLA prints it.

    Returns:
      A `Traffic`.
    """
    computations, entry = _parse(text)
    return _of_computation(entry, computations)


def of_loop(text: str) -> Traffic:
    """The same of one round of the loop over rounds, which ends while it runs.

    Of the loops that stand in the program itself it has the most kernels.

    Args:
      text: the compiled program, as XLA prints it.

    Returns:
      A `Traffic`.
    """
    computations, entry = _parse(text)
    loops = [each for each in computations[entry] if each.operation == "while"]
    rounds = [
        _sum_of(
            _of_computation(each.called("body")[0], computations),
            1,
            _of_computation(each.called("condition")[0], computations),
        )
        for each in loops
    ]
    return max(rounds, key=lambda moved: moved.kernels, default=_NOTHING)


class Received(NamedTuple):
    """Bytes that a device receives in one run of a program."""

    regular: float  # where of a condition's branches the cheapest runs
    dearest: float  # where the dearest does


# Of the bytes of its result, what a collective brings to each of n devices on a ring.
_ON_A_RING = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-gather": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


def received(text: str, devices: int) -> Received:
    """What a device receives in all collectives of a program, by ring algorithms.

    Args:
      text: the compiled program, as XLA prints it.
      devices: that it runs on; a collective that names smaller groups counts by those.

    Returns:
      A `Received`. A loop counts as often as in `traffic`.
    """
    computations, entry = _parse(text)

    def of(name: str, choose) -> float:
        total = 0.0
        for each in computations[name]:
            if each.operation == "conditional":
                total += choose(of(branch, choose) for branch in _branches(each))
                continue
            for times, called in _calls(each, computations, computations[name]):
                total += times * of(called, choose)
            kind = each.operation.removesuffix("-start")
            if kind in _ON_A_RING:
                total += _ON_A_RING[kind](_group(each, devices)) * _size(_result(each))
        return total

    return Received(of(entry, min), of(entry, max))


def _group(each: Instruction, devices: int) -> int:
    """How many devices meet in a collective."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", each.attributes)
    if listed:
        return len(listed.group(1).split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", each.attributes)
    return int(counted.group(1)) if counted else devices


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
        told = re.match(r"[a-z]+(\d+)", kind)
        bits = _BITS[kind] if told is None else int(told[1])
        entries = math.prod(int(n) for n in lengths.split(",") if n)
        found.append((bits * entries // 8, re.search(r"S\([1-9]", layout) is None))
    return found


def _size(shape: str) -> int:
    return sum(size for size, _ in _arrays(shape))


def _in_hbm(shape: str) -> int:
    return sum(size for size, in_hbm in _arrays(shape) if in_hbm)


def _of_computation(name: str, computations) -> Traffic:
    instructions = computations[name]
    shapes = {each.name: each.shape for each in instructions}
    total = _NOTHING
    for each in instructions:
        for times, called in _calls(each, computations, instructions):
            total = _sum_of(total, times, _of_computation(called, computations))
        inside = [each]
        if each.operation == "fusion":
            inside = computations[each.called("calls")[0]]
        kind, collectives, arrived = each.operation.removesuffix("-start"), {}, {}
        if kind in COLLECTIVES:
            collectives, arrived = {kind: 1}, {kind: _size(_result(each))}
        is_open = each.operation == "while" and not _length(
            each, computations, instructions
        )
        own = Traffic(
            _of_instruction(each, shapes, computations),
            Counter(collectives),
            Counter(arrived),
            int(_is_kernel(each)),
            Counter(x.operation for x in inside if x.operation not in _FREE),
            sum(map(_is_rough, inside)),
            int(is_open),
        )
        total = _sum_of(total, 1, own)
    return total


def _is_kernel(each: Instruction) -> bool:
    if each.operation in _FREE | _CONTROL or each.operation.endswith("-done"):
        return False
    if each.operation == "custom-call" and _names_memory(each):
        return False
    # A single number is added by the scalar core, between kernels.
    return each.operation == "fusion" or re.search(r"\[\d", each.shape) is not None


def _names_memory(each: Instruction) -> bool:
    return any(name in each.attributes for name in ("AllocateBuffer", "ConcatBitcast"))


def _is_rough(each: Instruction) -> bool:
    """A product in one pass of a TPU's matrix unit, which takes bfloat16."""
    product = each.operation in ("dot", "convolution")
    wide = product and re.match(r"f(32|64)", each.shape)
    return bool(wide) and "operand_precision={high" not in each.attributes


def _calls(each: Instruction, computations, around) -> list[tuple[int, str]]:
    """The computations that an instruction runs, and how often."""
    if each.operation == "while":
        times = _length(each, computations, around) or 1
        return [(times, each.called("body")[0])]
    if each.operation == "conditional":

        def moved(branch):
            inner = _of_computation(branch, computations)
            return inner.bytes + inner.collective_bytes.total(), inner.kernels

        return [(1, max(_branches(each), key=moved))]
    if each.operation == "call":
        return [(1, each.called("to_apply")[0])]
    if each.operation == "async-start":
        return [(1, each.called("calls")[0])]
    return []


def _length(each: Instruction, computations, around) -> int | None:
    """How often a loop runs that counts from 0 to a constant; None for another."""
    (name,) = each.called("condition")
    condition = {x.name: x for x in computations[name]}
    (root,) = (x for x in condition.values() if x.is_root)
    compares, bound = root, None
    if root.operation == "fusion":  # a CPU's, of its operands
        body = computations[root.called("calls")[0]]
        (compares,) = (x for x in body if x.is_root)
        inside = {x.name: x for x in body}
        last = inside.get(compares.operands[-1])
        if last is not None and last.operation == "parameter":
            bound = condition[root.operands[int(last.inside)]]
        else:
            bound = last
    if compares.operation != "compare" or "direction=LT" not in compares.attributes:
        return None
    bound = bound or condition[root.operands[1]]
    if bound.operation == "get-tuple-element":  # it is carried along
        before = {x.name: x for x in around}
        given = before[each.operands[0]]
        index = re.search(r"index=(\d+)", bound.attributes)
        if given.operation != "tuple" or index is None:
            return None
        bound = before[given.operands[int(index.group(1))]]
    return int(bound.inside) if bound.inside.isdigit() else None


def _branches(each: Instruction) -> list[str]:
    """The computations of which a conditional runs one."""
    attributes = ("branch_computations", "true_\\w+", "false_\\w+")
    return [name for attribute in attributes for name in each.called(attribute)]


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
    if operation in _CONTROL or (operation == "custom-call" and _names_memory(each)):
        return 0
    if operation == "sort":
        passes = _passes_of_a_sort(each)
        read = sum(_in_hbm(shapes[name]) for name in operands)
        return passes * (read + _in_hbm(each.shape))
    if operation == "fusion":
        return _of_fusion(each, shapes, computations[each.called("calls")[0]])
    if operation in ("dynamic-slice", "slice", "slice-start"):
        read = _size(_result(each)) if _in_hbm(shapes[operands[0]]) else 0
        return read + _in_hbm(_result(each))
    if operation == "dynamic-update-slice":
        written = _size(shapes[operands[1]]) if _in_hbm(each.shape) else 0
        return written + _in_hbm(shapes[operands[1]])
    read = sum(_in_hbm(shapes[name]) for name in operands)
    # What a start returns beside its result are its operands, in place.
    return read + _in_hbm(_result(each))


def _passes_of_a_sort(each: Instruction) -> int:
    """Over HBM: runs that fit into half of the memory on the chip, then merges."""
    lengths = [int(n) for n in _ARRAY.search(each.shape).group(2).split(",") if n]  # pyright: ignore
    axis = int(re.search(r"dimensions=\{(\d+)", each.attributes).group(1))  # pyright: ignore
    others = math.prod(lengths) // max(1, lengths[axis])
    row = _size(each.shape) / max(1, others)
    return 1 + max(0, math.ceil(math.log2(max(1, 2 * row / VMEM))))


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
    for position, (size, in_hbm) in enumerate(_arrays(each.shape)):
        # A reduction of several arrays at once has several results, and is one root.
        result = results[min(position, len(results) - 1)]
        total += written(result, size) if in_hbm else 0
    return total
