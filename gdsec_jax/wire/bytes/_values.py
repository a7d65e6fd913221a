"""Values as the numbers that are written for them: floats, or multiples of a scale.

Floats are handled as the unsigned integers that have their bits, so that NaNs keep
theirs, and in blocks, so that what is computed in between stays in the cache.
"""

from collections.abc import Iterator

import numpy as np

from gdsec_jax import _plain
from gdsec_jax.wire._codes import Code
from gdsec_jax.wire.bytes import _bits
from gdsec_jax.wire.bytes._message import Leaf, Plan

_BLOCK = 2**15


def check_scales(scales: np.ndarray, code: Code) -> None:
    """Scales are 0 or normal, finite numbers; positive but for those of bins."""
    tiny, signed = np.finfo(np.float32).tiny, code.kind == "bins"
    sizes = np.abs(scales) if signed else scales
    good = (scales.view(np.uint32) == 0) | ((sizes >= tiny) & (sizes < np.inf))
    if not good.all():
        index = int(np.argmin(good))
        raise ValueError(
            f"scales[{index}] is {scales[index]!s}, expected 0 or a finite "
            f"{'' if signed else 'positive '}float32 that is not subnormal."
        )


def own_scale(scales: np.ndarray, leaf: Leaf, code: Code):
    """A leaf's scale; of bins all of its own; without any None, and 1 of a grid."""
    own = scales[leaf.scale]
    if code.kind == "bins":
        return own
    return own[0] if own.size else np.float32(1) if code.kind == "grid" else None


def in_chunks(nonzero: np.ndarray, size: int, code: Code) -> np.ndarray:
    """Which entries of a leaf are written, ascending: non-zeros and first zeros."""
    if not size:
        return nonzero
    chunks = -(-size // code.chunk)
    zero = np.ones(chunks * code.chunk, bool)
    zero[nonzero] = False
    zero = zero.reshape(chunks, code.chunk)
    # Sorted without swaps, the non-zeros of a chunk come first.
    first = np.argsort(zero, axis=1, kind="stable")[:, : code.kept]
    if (zero.shape[1] - zero.sum(axis=1) > code.kept).any():
        raise ValueError(
            f"values have more than {code.kept} non-zeros in a chunk of {code.chunk}, "
            "expected at most those that are kept."
        )
    where = np.sort(first + np.arange(chunks)[:, None] * code.chunk, axis=1).ravel()
    return where[where < size]


def bits_of(dtype: np.dtype) -> np.dtype:
    """The unsigned integer that views a float of this dtype."""
    return np.dtype(f"u{dtype.itemsize}")


def count_nonzero(bits: np.ndarray, dtype: np.dtype) -> tuple[int, bool]:
    """How many floats are not +0.0, and whether all of those are normal numbers."""
    nonzero = normal = 0
    smallest = _smallest_normal(dtype)
    for block in _blocks(bits.size, 2 * _BLOCK):
        nonzero += np.count_nonzero(bits[block])
        normal += np.count_nonzero((bits[block] << 1) >= smallest)
    return int(nonzero), nonzero == normal


def flush(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats with subnormal numbers and -0.0 as 0, in place."""
    bits[(bits << 1) < _smallest_normal(dtype)] = 0
    return bits


def _smallest_normal(dtype: np.dtype) -> np.unsignedinteger:
    """The bits of the smallest normal number, shifted left so that the sign is out."""
    return bits_of(dtype).type(2 << _plain.finfo(dtype).nmant)


def to_numbers(bits: np.ndarray, leaf: Leaf, plan: Plan, scale) -> np.ndarray:
    """The numbers of `plan.width(leaf)` bits for the bits of a leaf's values."""
    dtype = plan.float_dtype(leaf)
    if plan.code.kind == "float" and dtype == leaf.dtype:
        return bits
    width = plan.width(leaf)
    numbers = np.empty(bits.size, _bits.dtype_for(width))
    for block in _blocks(bits.size):
        values = bits[block].view(leaf.dtype)
        with np.errstate(all="ignore"):  # what goes wrong is found by the comparison
            match plan.code.kind:
                case "bins":
                    found = _numbers_of_bins(values, scale)
                case "float":
                    found = values.astype(dtype).view(bits_of(dtype))
                case "power":
                    found = _powers(values)
                case _:
                    found = _multiples(values, plan, scale)
            numbers[block] = found
            again, wrong = _decoded(numbers[block], leaf, plan, scale)
        wrong |= again != bits[block]
        if wrong.any():
            value = values[np.argmax(wrong)]
            raise ValueError(
                f"{leaf.name} has the value {value!s}, expected "
                f"{_expected(plan, dtype, scale)}."
            )
    return numbers


def from_numbers(numbers: np.ndarray, leaf: Leaf, plan: Plan, scale) -> np.ndarray:
    """The inverse of `to_numbers`."""
    bits = np.empty(numbers.size, bits_of(leaf.dtype))
    width = plan.width(leaf)
    with np.errstate(all="ignore"):
        if width <= 9 and numbers.size > 2**width:
            every = np.arange(2**width, dtype=numbers.dtype)
            table, wrong = _decoded(every, leaf, plan, scale)
            if not (wrong.any() or ((table == 0).any() and not plan.zeros)):
                for block in _blocks(numbers.size):
                    bits[block] = table[numbers[block]]
                return bits
        for block in _blocks(numbers.size):
            part = numbers[block]
            bits[block], wrong = _decoded(part, leaf, plan, scale)
            if not plan.zeros:
                wrong |= bits[block] == 0
            if wrong.any():
                raise ValueError(
                    f"data hold the number {part[np.argmax(wrong)]} for a value of "
                    f"{leaf.name}, expected one for "
                    f"{_expected(plan, plan.float_dtype(leaf), scale)}"
                    f"{'' if plan.zeros else ' and not 0'}."
                )
    return bits


def _decoded(
    numbers: np.ndarray, leaf: Leaf, plan: Plan, scale
) -> tuple[np.ndarray, np.ndarray]:
    """The bits of the values that numbers stand for, and which stand for no value."""
    code, kind = plan.code, bits_of(leaf.dtype)
    if code.kind == "float":
        dtype = plan.float_dtype(leaf)
        values = numbers.view(dtype).astype(leaf.dtype)
        bits = values.view(kind)
        wrong = values.astype(dtype).view(numbers.dtype) != numbers
        return bits, wrong | (flush(bits.copy(), leaf.dtype) != bits)
    if code.kind == "power":
        exponent = numbers & 0xFF
        wide = exponent.astype(np.uint64) + np.uint64(1023 - 127) << np.uint64(52)
        values = wide.view(np.float64)
        values[exponent == 0] = 0.0
        np.negative(values, where=numbers > 0xFF, out=values)
        cast = values.astype(leaf.dtype)
        wrong = (exponent == 0xFF) | (cast != values) | (numbers == 0x100)
        bits = cast.view(kind)
        # Half precision has subnormal powers, and -0.0 stands for none anyway.
        return bits, wrong | (flush(bits.copy(), leaf.dtype) != bits)
    if code.kind == "bins":
        bits = _bits_of_bins(scale, leaf.dtype)[numbers]
        return bits, np.zeros(numbers.size, bool)
    limit = _limit(code)
    wrong = np.zeros(numbers.size, bool)
    if code.kind == "grid":
        levels = 2.0 * numbers - limit
    elif code.kind == "ternary" and not plan.zeros:
        levels = 1.0 - 2.0 * numbers
    else:
        width = limit.bit_length()
        size = numbers & ((1 << width) - 1)
        negative = (numbers >> width).astype(bool)
        wrong = (size > limit) | (negative & (size == 0))
        levels = size.astype(np.float64)
        np.negative(levels, where=negative, out=levels)
    return _products(levels, leaf.dtype, scale), wrong


def _bits_of_bins(means: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The bits of what the bins stand for, in the dtype of a leaf."""
    return flush(means.astype(dtype).view(bits_of(dtype)), dtype)


def _numbers_of_bins(values: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The first bin that stands for each value; bin 0 for other values."""
    known = _bits_of_bins(means, values.dtype)
    return np.argmax(values.view(known.dtype)[:, None] == known, axis=1)


def _products(levels: np.ndarray, dtype: np.dtype, scale) -> np.ndarray:
    """The bits of scale l, multiplied as a worker does it, and flushed."""
    wide = _wide(dtype)
    products = (wide(scale) * levels.astype(wide)).astype(dtype)
    return flush(products.view(bits_of(dtype)), dtype)


def _multiples(values: np.ndarray, plan: Plan, scale) -> np.ndarray:
    """The numbers that stand for multiples of the scale; any for other values."""
    code, dtype = plan.code, values.dtype
    limit, odd = _limit(code), code.kind == "grid"
    if scale == 0:  # all the same, as all values are zero
        levels = np.full(values.size, -limit if odd else 0, np.float64)
    else:
        quotients = values.astype(np.float64) / np.float64(scale)
        levels = 2 * np.rint((quotients - 1) / 2) + 1 if odd else np.rint(quotients)
        levels = np.clip(levels, -limit, limit)
        # Rounding of a product to few digits can bring it nearer to the next multiple.
        bits = values.view(bits_of(dtype))
        off = np.flatnonzero(_products(levels, dtype, scale) != bits)
        for sign in (-1, 1) if off.size else ():
            # Large multiples are rounded themselves before they are multiplied.
            near = levels[off]
            digits = np.spacing(near.astype(_wide(dtype)))
            step = np.maximum(2 if odd else 1, np.abs(digits).astype(np.float64))
            near = np.clip(near + sign * step, -limit, limit)
            right = _products(near, dtype, scale) == bits[off]
            levels[off[right]] = near[right]
            off = off[~right]
        # What is no number is no multiple, and casts to no integer.
        levels = np.where(np.isnan(levels), limit, levels)
    if odd:
        return (levels + limit) / 2
    if code.kind == "ternary" and not plan.zeros:
        return levels < 0
    return np.abs(levels) + (levels < 0) * 2.0 ** limit.bit_length()


def _powers(values: np.ndarray) -> np.ndarray:
    """The numbers that stand for powers of two; any for other values."""
    bits = values.astype(np.float64).view(np.uint64)
    exponent = (bits >> np.uint64(52)).astype(np.int64) & 0x7FF
    exponent = np.clip(exponent - 1023 + 127, 0, 0xFF)
    return exponent | (bits >> np.uint64(63) << np.uint64(8)).astype(np.int64)


def _wide(dtype: np.dtype) -> type[np.floating]:
    """The wider of float32, in which scales travel, and the dtype of a leaf."""
    return np.float64 if dtype.itemsize == 8 else np.float32


def _limit(code: Code) -> int:
    """The largest multiple of the scale."""
    if code.kind == "grid":
        return 2**code.size - 1
    return 1 if code.kind == "ternary" else code.size


def _expected(plan: Plan, dtype: np.dtype, scale) -> str:
    """What values the code can write, in words for an error."""
    code = plan.code
    if code.kind == "float":
        return f"a number that is exact in {dtype}"
    if code.kind == "power":
        return "a power of two from 2^-126 to 2^127 that its dtype holds"
    if code.kind == "bins":
        return "one of the leaf's scales"
    odd = "odd " if code.kind == "grid" else ""
    return f"{scale!s} times an {odd}integer of at most {_limit(code)} in size"


def _blocks(size: int, of: int = _BLOCK) -> Iterator[slice]:
    return (slice(start, start + of) for start in range(0, size, of))
