"""From bytes back to messages."""

from typing import Any, NoReturn

import jax
import numpy as np

from gdsec_jax.wire._codes import Code
from gdsec_jax.wire._formats import Format
from gdsec_jax.wire.bytes import _bits, _values
from gdsec_jax.wire.bytes._message import (
    AS_FLOATS,
    Message,
    Plan,
    check_scales,
    count_nonzero,
    plan_of,
)


def decode(
    data: bytes,
    like: Any,
    format: str | Format,
    code: Code = AS_FLOATS,
    whole: bool = False,
    finite: bool = False,
) -> Message:
    """The message that `encode` wrote, bit for bit.

    Bytes may come from anywhere: what is no message is refused, in memory and time that
    grow with the message expected, not with what the bytes claim. Yet any value that
    its code can express is one: floats may be infinite or NaN, and so may products with
    a large scale. Who adds up messages of others asks for `finite` ones.

    Args:
      data: the bytes.
      like: a tree of arrays, or of `jax.ShapeDtypeStruct`, with the message's shapes
        and dtypes.
      format: that it was written in, one of `wire.FORMATS` or a `wire.Format`.
      code: of its values.
      whole: whether it was not compressed.
      finite: refuse infinities and NaNs.

    Returns:
      The message, with NumPy arrays; zeros, and scales of zero, if there are no bytes.

    Raises:
      ValueError: the bytes are none that `encode` could write for such a message: too
        few or too many, positions that do not ascend or do not exist, values or scales
        that their code does not have, or values that are not finite where they should
        be. A flipped bit within a value is not noticed.

    Examples:
      >>> import jax, numpy as np
      >>> from gdsec_jax.wire import decode
      >>> like = jax.ShapeDtypeStruct((5,), np.float32)
      >>> decode(bytes.fromhex("11fe000000"), like, "bitmap").values
      array([0. , 0. , 0. , 1.5, 0. ], dtype=float32)
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"data are a {type(data).__name__}, expected bytes.")
    data = bytes(data)  # of a view of anything else than bytes too
    plan = plan_of("like", like, format, code, whole)
    scales = np.zeros(code.num_scales, np.float32)
    if len(data) == 0:
        leaves = [np.zeros(leaf.shape, leaf.dtype) for leaf in plan.leaves]
    else:
        octets = np.frombuffer(data, np.uint8)
        found, leaves = _read(octets, plan)
        scales[: found.size] = found
    for leaf, array in zip(plan.leaves, leaves, strict=True) if finite else ():
        if not np.isfinite(array).all():
            raise ValueError(
                f"data hold infinities or NaNs as values of {leaf.name}, expected none."
            )
    values = jax.tree.unflatten(plan.structure, leaves)
    return Message(values, code, scales, bool(whole))


def most_bytes(
    like: Any, format: str | Format, code: Code = AS_FLOATS, whole: bool = False
) -> int:
    """A bound on the bytes of a message, to refuse longer ones before they are read.

    Args:
      like, format, code, whole: as of `decode`.

    Returns:
      No message has more bytes; a dense one has so many or none.

    Examples:
      >>> import jax, numpy as np
      >>> from gdsec_jax import wire
      >>> like = jax.ShapeDtypeStruct((5,), np.float32)
      >>> wire.most_bytes(like, "dense"), wire.most_bytes(like, "bitmap")
      (20, 21)
    """
    return -(-plan_of("like", like, format, code, whole).most_bits // 8)


def _read(data: np.ndarray, plan: Plan) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scales and leaves of a message that is not all zeros."""
    start = 32 * plan.num_scales
    _need(data, start)
    scales = _bits.unpack(data, plan.num_scales, 32).view(np.float32)
    check_scales(scales)
    if plan.dense:
        positions, sizes = None, [leaf.size for leaf in plan.leaves]
    else:
        _not_too_long(data, plan)
        positions, start = _index(data, start, plan)
        _strictly_ascending(positions, plan.length)
        starts = [leaf.start for leaf in plan.leaves]
        bounds = np.searchsorted(positions, [*starts, plan.length])
        sizes = np.diff(bounds).tolist()
    widths = [plan.width(leaf) for leaf in plan.leaves]
    _exactly(data, start + sum(n * v for n, v in zip(sizes, widths, strict=True)))
    leaves, sent, first = [], 0, 0
    for leaf, size, width in zip(plan.leaves, sizes, widths, strict=True):
        field = _bits.slice_bits(data, start, size * width)
        start += size * width
        scale = scales[leaf.scale] if scales.size else None
        bits = _bits.unpack(field, size, width)
        if plan.code.kind != "float" or plan.float_dtype(leaf) != leaf.dtype:
            bits = _values.from_numbers(bits, leaf, plan, scale)
        nonzero, flushed = count_nonzero(bits, leaf.dtype)
        if not flushed or (positions is not None and nonzero < size):
            zeros = "" if plan.dense else "zeros, "
            raise ValueError(
                f"data hold {zeros}subnormal numbers or -0.0 as values of {leaf.name}, "
                "expected none."
            )
        if positions is not None:
            where = positions[first : first + size]
            every = np.zeros(leaf.size, bits.dtype)
            every[where - leaf.start if leaf.start else where] = bits
            bits = every
        leaves.append(bits.view(leaf.dtype).reshape(leaf.shape))
        sent += nonzero
        first += size
    if not sent:
        _silent(data)
    return scales, leaves


def _index(data: np.ndarray, start: int, plan: Plan) -> tuple[np.ndarray, int]:
    """Positions of the non-zeros, and where in the data their values start."""
    length = plan.length
    if plan.form == "bitmap":
        _need(data, start + length)
        flags = _bits.unpack(_bits.slice_bits(data, start, length), length, 1)
        positions = np.flatnonzero(flags.view(bool))
        _checked_count(positions.size, data, plan)
        return positions, start + length
    if plan.form == "coo":
        end = start + length.bit_length()
        _need(data, end)
        count = _bits.number_at(data, start, end - start)
        _checked_count(count, data, plan)
        start, width = end, (length - 1).bit_length()
        end += count * width
        _need(data, end)
        field = _bits.slice_bits(data, start, end - start)
        return _bits.unpack(field, count, width).astype(np.int64), end
    numbers, start = _gamma(data, start, 1)
    count = int(numbers[0]) - 1
    _checked_count(count, data, plan)
    if plan.form == "rle":
        distances, start = _gamma(data, start, count)
    else:
        _need(data, start + 5)
        low = _bits.number_at(data, start, 5)
        # Inverted, ones with a zero behind them are zeros with a one.
        runs = _bits.codewords(np.invert(data), start + 5, count, low)
        if runs is None:
            _truncated(data)
        if runs.zeros.max() > length >> low:  # what follows would exceed 64 bits
            _runs_too_far(length)
        distances = (runs.zeros << low) + ((1 << low) - 1 - runs.tails) + 1
        start = runs.end
    return np.cumsum(distances) - 1, start


def _gamma(data: np.ndarray, start: int, count: int) -> tuple[np.ndarray, int]:
    """Numbers in Elias' gamma code, int64, and where the last of them ends."""
    found = _bits.codewords(data, start, count)
    if found is None:
        _truncated(data)
    return (1 << found.zeros) + found.tails, found.end


def _checked_count(count: int, data: np.ndarray, plan: Plan) -> None:
    if count == 0:
        _silent(data)
    if count > plan.length:
        raise ValueError(
            f"data hold {count} non-zeros, expected at most {plan.length}, the entries "
            "of the message."
        )


def _strictly_ascending(positions: np.ndarray, length: int) -> None:
    if positions[-1] >= length or (positions[1:] <= positions[:-1]).any():
        _runs_too_far(length)


def _not_too_long(data: np.ndarray, plan: Plan) -> None:
    """Said first, so that what follows does not grow with the data."""
    most = -(-plan.most_bits // 8)
    if data.size > most:
        raise ValueError(
            f"data are {data.size} bytes, expected at most {most} for a message of "
            f"{plan.length} entries."
        )


def _need(data: np.ndarray, bits: int) -> None:
    """There are so many bits, at least."""
    if bits > 8 * data.size:
        _truncated(data)


def _exactly(data: np.ndarray, bits: int) -> None:
    """There are so many bits, and behind them less than eight, which are zeros."""
    size = -(-bits // 8)
    if data.size != size:
        raise ValueError(
            f"data are {data.size} bytes, expected {size} for the {bits} bits of this "
            "message."
        )
    if bits % 8 and int(data[-1]) & (0xFF >> bits % 8):
        raise ValueError(
            f"data have ones behind the {bits} bits of this message, expected zeros "
            "up to the full byte."
        )


def _truncated(data: np.ndarray) -> NoReturn:
    raise ValueError(
        f"data are {data.size} bytes, which end within the scales or the positions of "
        "the non-zeros, expected more: they are truncated, or of another format."
    )


def _runs_too_far(length: int) -> NoReturn:
    raise ValueError(
        f"data hold positions of non-zeros that do not ascend strictly below {length}, "
        "the entries of the message, as expected."
    )


def _silent(data: np.ndarray) -> NoReturn:
    raise ValueError(
        f"data are {data.size} bytes for a message that is all zeros, expected none."
    )
