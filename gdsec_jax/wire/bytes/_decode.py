"""From bytes back to messages."""

from typing import Any, NoReturn

import numpy as np

from gdsec_jax import _plain
from gdsec_jax.wire._codes import Code
from gdsec_jax.wire._formats import Format
from gdsec_jax.wire.bytes import _bits, _values
from gdsec_jax.wire.bytes._message import AS_FLOATS, Leaf, Message, Plan, plan_of
from gdsec_jax.wire.bytes._values import (
    check_scales,
    count_nonzero,
    in_chunks,
    own_scale,
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
      ValueError: the bytes are none that `encode` could write for such a message, or
        values are not finite that should be. A flipped bit in a value is not noticed.

    Examples:
      >>> import jax, numpy as np
      >>> from gdsec_jax.wire import decode
      >>> like = jax.ShapeDtypeStruct((5,), np.float32)
      >>> decode(bytes.fromhex("11fe000000"), like, "bitmap").values
      array([0. , 0. , 0. , 1.5, 0. ], dtype=float32)
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"data are a {type(data).__name__}, expected bytes.")
    data = bytes(data)  # a view may have items wider than a byte
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
    values = _plain.unflatten(plan.structure, leaves)
    return Message(values, code, scales, bool(whole))


def most_bytes(
    like: Any, format: str | Format, code: Code = AS_FLOATS, whole: bool = False
) -> int:
    """A bound on the bytes of a message, to refuse longer ones before they are read.

    Args:
      like, format, code, whole: as in `decode`.

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


class _Reader:
    """Reads bits one after the other, and refuses what ends too soon."""

    def __init__(self, data: np.ndarray):
        self.data, self.start = data, 0  # in bits

    def _advance(self, bits: int) -> int:
        """Where the next bits start, so many, which must exist."""
        start, self.start = self.start, self.start + bits
        if self.start > 8 * self.data.size:
            self._truncated()
        return start

    def number(self, width: int) -> int:
        return int(self.numbers(1, width)[0])

    def numbers(self, count: int, width: int) -> np.ndarray:
        start = self._advance(count * width)
        part = _bits.slice_bits(self.data, start, count * width)
        return _bits.unpack(part, count, width)

    def gamma(self, count: int) -> np.ndarray:
        """Numbers in Elias' gamma code, int64."""
        found = self._codewords(self.data, count)
        return (1 << found.zeros) + found.tails

    def rice(self, count: int, low: int, most: int) -> np.ndarray | None:
        """Numbers in the Rice code of b = low; None if one exceeds `most`."""
        # Inverted, ones with a zero behind them are zeros with a one.
        found = self._codewords(np.invert(self.data), count, low)
        if found.zeros.max() > most >> low:  # what follows would exceed 64 bits
            return None
        return (found.zeros << low) + ((1 << low) - 1 - found.tails)

    def _codewords(
        self, data: np.ndarray, count: int, tail: int | None = None
    ) -> _bits.Codewords:
        found = _bits.codewords(data, self.start, count, tail)
        if found is None:
            self._truncated()
        self.start = found.end
        return found

    def _truncated(self) -> NoReturn:
        raise ValueError(
            f"data are {self.data.size} bytes, which end within the scales or the "
            "positions of the non-zeros, expected more: they are truncated, or of "
            "another format."
        )


def _read(data: np.ndarray, plan: Plan) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scales and leaves of a message that is not all zeros."""
    reader = _Reader(data)
    scales = reader.numbers(plan.num_scales, 32).view(np.float32)
    check_scales(scales, plan.code)
    if plan.dense:
        positions, sizes = None, [leaf.size for leaf in plan.leaves]
    else:
        # Said first, so that what follows does not grow with the data.
        most = -(-plan.most_bits // 8)
        if data.size > most:
            raise ValueError(
                f"data are {data.size} bytes, expected at most {most} for a message of "
                f"{plan.length} entries."
            )
        positions = _positions(reader, plan)
        starts = [leaf.start for leaf in plan.leaves]
        sizes = np.diff(np.searchsorted(positions, [*starts, plan.length])).tolist()
    widths = [plan.width(leaf) for leaf in plan.leaves]
    values = sum(n * v for n, v in zip(sizes, widths, strict=True))
    _exactly(data, reader.start + values)
    leaves, sent, first = [], 0, 0
    for leaf, size, width in zip(plan.leaves, sizes, widths, strict=True):
        bits = reader.numbers(size, width)
        if plan.code.kind != "float" or plan.float_dtype(leaf) != leaf.dtype:
            scale = own_scale(scales, leaf, plan.code)
            bits = _values.from_numbers(bits, leaf, plan, scale)
        nonzero, flushed = count_nonzero(bits, leaf.dtype)
        if not flushed or (not plan.zeros and nonzero < size):
            zeros = "" if plan.zeros else "zeros, "
            raise ValueError(
                f"data hold {zeros}subnormal numbers or -0.0 as values of {leaf.name}, "
                "expected none."
            )
        if positions is not None:
            where = positions[first : first + size]
            every = np.zeros(leaf.size, bits.dtype)
            own = where - leaf.start if leaf.start else where
            every[own] = bits
            bits = every
            if plan.form == "chunks":
                _check_zeros(bits, own, leaf, plan)
        leaves.append(bits.view(leaf.dtype).reshape(leaf.shape))
        sent += nonzero
        first += size
    if not sent:
        _silent(data)
    return scales, leaves


def _positions(reader: _Reader, plan: Plan) -> np.ndarray:
    """The positions of the non-zeros, int64, which ascend."""
    length, index = plan.length, None
    if plan.form == "chunks":
        return _in_chunks(reader, plan)

    def checked(count: int) -> int:
        if count == 0:
            _silent(reader.data)
        if count > length:
            raise ValueError(
                f"data hold {count} non-zeros, expected at most {length}, the entries "
                "of the message."
            )
        return count

    match plan.form:
        case "bitmap":
            index = np.flatnonzero(reader.numbers(length, 1).view(bool))
            checked(index.size)
        case "coo":
            count = checked(reader.number(length.bit_length()))
            index = reader.numbers(count, (length - 1).bit_length()).astype(np.int64)
        case "rle":
            count = checked(int(reader.gamma(1)[0]) - 1)
            index = np.cumsum(reader.gamma(count)) - 1
        case "golomb":
            count = checked(int(reader.gamma(1)[0]) - 1)
            runs = reader.rice(count, reader.number(5), length)
            if runs is not None:
                index = np.cumsum(runs + 1) - 1
    if index is None or index[-1] >= length or (index[1:] <= index[:-1]).any():
        raise ValueError(
            "data hold positions of non-zeros that do not ascend strictly below "
            f"{length}, the entries of the message, as expected."
        )
    return index


def _in_chunks(reader: _Reader, plan: Plan) -> np.ndarray:
    """The positions of what is written of each chunk."""
    code, found = plan.code, [np.zeros(0, np.int64)]
    for leaf in plan.leaves:
        count = code.written(leaf.size)
        places = reader.numbers(count, code.place_width(leaf.size)).astype(np.int64)
        first = np.arange(count) // code.kept * code.chunk
        ascend = np.diff(first + places, prepend=-1) > 0
        if not (ascend.all() and (first + places < leaf.size).all()):
            raise ValueError(
                f"data hold places in chunks of {leaf.name} that do not ascend "
                f"strictly below {code.chunk}, or the chunk's end, as expected."
            )
        found.append(leaf.start + first + places)
    return np.concatenate(found)


def _check_zeros(bits: np.ndarray, written: np.ndarray, leaf: Leaf, plan: Plan) -> None:
    """Of the zeros of a chunk the first ones are written."""
    expected = in_chunks(np.flatnonzero(bits), leaf.size, plan.code)
    if not np.array_equal(expected, written):
        raise ValueError(
            f"data hold zeros of {leaf.name} that are not the first ones of their "
            "chunks, expected those."
        )


def _exactly(data: np.ndarray, bits: int) -> None:
    """Check that the data are so many bits, and zeros up to the full byte."""
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


def _silent(data: np.ndarray) -> NoReturn:
    raise ValueError(
        f"data are {data.size} bytes for a message that is all zeros, expected none."
    )
