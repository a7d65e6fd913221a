"""Values as the numbers that are written for them: floats, or multiples of a scale.

Floats are handled as the unsigned integers that have their bits, so that NaNs keep
theirs, and in blocks, so that what is computed in between stays in the cache.
"""

import numpy as np

from gdsec_jax.wire._codes import Code
from gdsec_jax.wire.bytes import _bits
from gdsec_jax.wire.bytes._message import Leaf, Plan, bits_of, flush

_BLOCK = 2**15


def to_numbers(bits: np.ndarray, leaf: Leaf, plan: Plan, scale) -> np.ndarray:
    """The numbers of `plan.width(leaf)` bits that stand for a leaf's values.

    Args:
      bits: of its values, or of its non-zero ones.
      leaf: it.
      plan: of the message.
      scale: np.float32, its scale, where the code has one.

    Raises:
      ValueError: the code has no number for a value.
    """
    dtype = plan.float_dtype(leaf)
    if plan.code.kind == "float" and dtype == leaf.dtype:
        return bits
    width = plan.width(leaf)
    numbers = np.empty(bits.size, _bits.dtype_for(width))
    for block in _blocks(bits.size):
        values = bits[block].view(leaf.dtype)
        with np.errstate(all="ignore"):  # what goes wrong is found by the comparison
            match plan.code.kind:
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
    """The inverse of `to_numbers`.

    Raises:
      ValueError: no value is written as one of these numbers.
    """
    bits = np.empty(numbers.size, bits_of(leaf.dtype))
    width = plan.width(leaf)
    table = None
    with np.errstate(all="ignore"):
        if width <= 9 and numbers.size > 2**width:
            every = np.arange(2**width, dtype=numbers.dtype)
            table = _decoded(every, leaf, plan, scale)
        for block in _blocks(numbers.size):
            part = numbers[block]
            if table is None:
                bits[block], wrong = _decoded(part, leaf, plan, scale)
            else:
                bits[block], wrong = table[0][part], table[1][part]
            if not plan.dense:
                wrong |= bits[block] == 0
            if wrong.any():
                raise ValueError(
                    f"data hold the number {part[np.argmax(wrong)]} for a value of "
                    f"{leaf.name}, expected one for "
                    f"{_expected(plan, plan.float_dtype(leaf), scale)}"
                    f"{'' if plan.dense else ' and not 0'}."
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
    limit = _limit(code)
    if code.kind == "grid":
        wrong = np.zeros(numbers.size, bool)
        levels = 2.0 * numbers - limit
    elif code.kind == "ternary" and not plan.dense:
        wrong = np.zeros(numbers.size, bool)
        levels = 1.0 - 2.0 * numbers
    else:
        width = limit.bit_length()
        size = numbers & ((1 << width) - 1)
        negative = (numbers >> width).astype(bool)
        wrong = (size > limit) | (negative & (size == 0))
        levels = size.astype(np.float64)
        np.negative(levels, where=negative, out=levels)
    return _products(levels, leaf.dtype, scale), wrong


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
            digits = np.spacing(
                near.astype(np.float32 if dtype.itemsize < 8 else float)
            )
            step = np.maximum(2 if odd else 1, np.abs(digits).astype(np.float64))
            near = np.clip(near + sign * step, -limit, limit)
            right = _products(near, dtype, scale) == bits[off]
            levels[off[right]] = near[right]
            off = off[~right]
        # What is no number is no multiple, and casts to no integer.
        levels = np.where(np.isnan(levels), limit, levels)
    if odd:
        return (levels + limit) / 2
    if code.kind == "ternary" and not plan.dense:
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
    match code.kind:
        case "levels":
            return code.size
        case "ternary":
            return 1
        case _:
            return 2**code.size - 1


def _expected(plan: Plan, dtype: np.dtype, scale) -> str:
    """What values the code can write, in words for an error."""
    code = plan.code
    if code.kind == "float":
        return f"a number that is exact in {dtype}"
    if code.kind == "power":
        return "a power of two from 2^-126 to 2^127 that its dtype holds"
    odd = "odd " if code.kind == "grid" else ""
    return f"{scale!s} times an {odd}integer of at most {_limit(code)} in size"


def _blocks(size: int):
    for start in range(0, size, _BLOCK):
        yield slice(start, start + _BLOCK)
