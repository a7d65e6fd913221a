"""Bit strings in NumPy: fields of fixed width, codewords, and their concatenation.

The first bit of a string is the highest of its first byte, and a number stands with its
highest bit first.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_WINDOW = 2**15  # bits looked at at once: what it takes of memory fits the cache
_DOUBLINGS = 4  # 2^4 codewords for every step of the loop in Python


class Bits(NamedTuple):
    """A bit string; what is left of its last byte is ignored."""

    data: np.ndarray  # uint8
    length: int  # bits


def dtype_for(width: int) -> np.dtype:
    """The narrowest unsigned integer of at least this many bits."""
    return np.min_scalar_type((1 << width) - 1)


def bit_lengths(numbers: np.ndarray) -> np.ndarray:
    """floor(log2 x) + 1 of each x in 1 .. 2^53, int64."""
    # The exponent of a float64, which holds such a number exactly.
    exponents = numbers.astype(np.float64).view(np.int64) >> 52
    return exponents - 1022


def pack(numbers: np.ndarray, width: int) -> Bits:
    """The lowest `width` bits of each number, which has no higher ones, at most 64."""
    length = numbers.size * width
    if length == 0:
        return Bits(np.zeros(0, np.uint8), 0)
    if width == 1:
        return Bits(np.packbits(numbers.astype(bool)), length)
    if width % 8 == 0:
        kind = dtype_for(width)
        octets = numbers.astype(kind.newbyteorder(">")).view(np.uint8)
        octets = octets.reshape(-1, kind.itemsize)[:, kind.itemsize - width // 8 :]
        return Bits(octets.reshape(-1), length)
    # `several` numbers fill `period` bytes: shift each of them into its bytes.
    several, period = _period(width)
    groups = _padded(numbers.astype(dtype_for(width), copy=False), several)
    groups = groups.reshape(-1, several)
    octets = np.zeros((len(groups), period), np.uint8)
    for place, byte, shift in _overlaps(width):
        part = groups[:, place]
        part = part >> shift if shift >= 0 else part.astype(np.uint8) << -shift
        octets[:, byte] |= part.astype(np.uint8, copy=False)
    return Bits(octets.reshape(-1)[: -(-length // 8)], length)


def unpack(data: np.ndarray, count: int, width: int) -> np.ndarray:
    """The first `count` numbers of `width` bits each, the inverse of `pack`."""
    kind = dtype_for(width)
    if count * width == 0:
        return np.zeros(count, kind)
    if width == 1:
        return np.unpackbits(data, count=count)
    if width % 8 == 0:
        octets = np.zeros((count, kind.itemsize), np.uint8)
        read = data[: count * width // 8].reshape(count, -1)
        octets[:, kind.itemsize - width // 8 :] = read
        return octets.reshape(-1).view(kind.newbyteorder(">")).astype(kind)
    several, period = _period(width)
    octets = _padded(data[: -(-count * width // 8)], period).reshape(-1, period)
    groups = np.zeros((len(octets), several), kind)
    for place, byte, shift in _overlaps(width):
        part = octets[:, byte]
        part = part.astype(kind, copy=False) << shift if shift >= 0 else part >> -shift
        groups[:, place] |= part
    groups &= kind.type((1 << width) - 1)
    return groups.reshape(-1)[:count]


def _period(width: int) -> tuple[int, int]:
    """How many numbers of this width fill how many bytes exactly."""
    common = int(np.gcd(width, 8))
    return 8 // common, width // common


def _overlaps(width: int) -> Iterable[tuple[int, int, int]]:
    """Which number overlaps which byte, and how far right it is shifted into it."""
    for place in range(_period(width)[0]):
        end = (place + 1) * width
        for byte in range(place * width // 8, (end - 1) // 8 + 1):
            yield place, byte, end - 8 * (byte + 1)


def _padded(array: np.ndarray, multiple: int) -> np.ndarray:
    """The array with zeros appended, so that its length is a multiple of this."""
    missing = -array.size % multiple  # np.pad takes longer
    return np.append(array, np.zeros(missing, array.dtype)) if missing else array


def pack_codewords(numbers: np.ndarray, widths: np.ndarray) -> Bits:
    """Each number, from 1 to 2^32 - 1, in a field of a width of its own, int64."""
    ends = np.cumsum(widths)
    if not ends.size:
        return Bits(np.zeros(0, np.uint8), 0)
    # A field's last 32 bits, which hold the number, lie in two words of 32 bits: the
    # one in which it ends, and the one before.
    word, bit = np.divmod(ends - 1, 32)
    fields = numbers.astype(np.uint64) << (31 - bit).astype(np.uint64)
    starts = np.flatnonzero(np.diff(word, prepend=-1))  # of the fields ending in a word
    touched = word[starts]
    words = np.zeros(int(word[-1]) + 2, np.uint32)  # words[0] stands before the string
    both = np.bitwise_or.reduceat(fields, starts)  # fields do not overlap
    words[touched + 1] = both.astype(np.uint32)
    words[touched] |= (both >> np.uint64(32)).astype(np.uint32)
    length = int(ends[-1])
    octets = words[1:].astype(">u4").view(np.uint8)
    return Bits(octets[: -(-length // 8)], length)


def join(parts: list[Bits]) -> bytes:
    """The bit strings one after the other, and zeros up to a full byte."""
    if all(part.length % 8 == 0 for part in parts):
        return b"".join(part.data[: part.length // 8].data for part in parts)
    length = sum(part.length for part in parts)
    joined = np.zeros(-(-length // 8) + 1, np.uint8)
    position = 0
    for part in parts:
        first, shift = divmod(position, 8)
        size = -(-part.length // 8)
        data = part.data[:size]
        if shift == 0:
            joined[first : first + size] = data
        else:
            joined[first + 1 : first + size + 1] = data << (8 - shift)
            joined[first : first + size] |= data >> shift
        position += part.length
        if position % 8:  # clear what followed the last bit
            joined[position // 8] &= 0xFF00 >> position % 8 & 0xFF
        joined[-(-position // 8) : first + size + 1] = 0
    return joined[: -(-length // 8)].tobytes()


def slice_bits(data: np.ndarray, start: int, length: int) -> np.ndarray:
    """The bytes of `length` bits from `start` on, which must exist; more may follow."""
    first, shift = divmod(start, 8)
    size = -(-length // 8)
    part = data[first : first + size]
    if shift == 0 or not size:
        return part
    shifted = part << shift
    following = data[first + 1 : first + size + 1]
    shifted[: following.size] |= following >> (8 - shift)
    return shifted


def numbers_at(data: np.ndarray, starts: np.ndarray, widths) -> np.ndarray:
    """The numbers, uint64, in ascending fields of widths 0 to 32, which must exist."""
    first = int(starts[0]) // 8
    octets = data[first : int(starts[-1]) // 8 + 8]
    octets = np.concatenate([octets, np.zeros(8, np.uint8)])
    # The eight bytes from any byte on; 7 + 32 bits of them are looked at.
    eights = np.ndarray(octets.size - 7, ">u8", octets, strides=(1,))
    byte, bit = np.divmod(starts - 8 * first, 8)
    fields = eights[byte].astype(np.uint64) << bit.astype(np.uint64)
    # Two shifts: one by 64, for a width of 0, is undefined.
    remaining = np.asarray(63 - widths).astype(np.uint64)
    return fields >> np.uint64(1) >> remaining


class Codewords(NamedTuple):
    """What codewords hold, that are zeros, a one and a tail; int64."""

    zeros: np.ndarray  # how many precede the one
    tails: np.ndarray  # the number behind it
    end: int  # of the last codeword, in bits


def codewords(
    data: np.ndarray, start: int, count: int, tail: int | None = None
) -> Codewords | None:
    """Read codewords that are zeros, a one, and a tail: those of Elias and of Rice.

    In a window of bits, where a codeword would end is known for every bit it might
    start at, from the next one alone. Which of them do start codewords follows from
    the first, by jumps of sixteen codewords, sixteen jumps having been made one. A tail
    has at most 31 bits; None: as many as there are zeros before. Returns None if data
    end before, or a tail would be longer.
    """
    total = 8 * data.size
    if count > total - start:  # a codeword has at least one bit
        return None
    zeros, tails = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while count > 0:
        base = start - start % 8
        span = min(_WINDOW, 64 * (count + 1))
        window = np.unpackbits(data[base // 8 : (base + span) // 8])
        starts, ones = _chain(window, start - base, count, tail)
        if not starts.size:  # no codeword ends in the window
            one = _next_one(data, start)
            if one is None:
                return None
            starts, ones = np.array([start - base]), np.array([one - base])
        zeros.append(ones - starts)
        if tail is None and zeros[-1].max() > 31:
            return None
        widths = zeros[-1] if tail is None else tail
        start = base + int(ones[-1]) + 1 + int(zeros[-1][-1] if tail is None else tail)
        if start > total:
            return None
        tails.append(numbers_at(data, ones + (base + 1), widths).astype(np.int64))
        count -= starts.size
    return Codewords(np.concatenate(zeros), np.concatenate(tails), start)


def _chain(
    window: np.ndarray, start: int, count: int, tail: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ones of at most `count` codewords that end in the window."""
    size = window.size
    here = np.flatnonzero(window)
    if not here.size:
        return here, here
    one = np.repeat(here, np.diff(here, prepend=-1))  # the next, for each bit
    # Behind the window are two positions that lead to themselves: its end, which the
    # last codeword may reach, and one for codewords that go beyond.
    jump = np.full(size + 2, size + 1)
    jump[size] = size
    ends = one + one - np.arange(one.size) if tail is None else one + tail
    ends += 1
    jump[: one.size] = np.where(ends > size, size + 1, ends)
    far = jump
    for _ in range(_DOUBLINGS):
        far = far[far]
    anchors = []
    step = far.item
    while start < size and len(anchors) << _DOUBLINGS < count:
        anchors.append(start)
        start = step(start)
    found = np.empty((len(anchors), 1 << _DOUBLINGS), np.int64)
    found[:, 0] = anchors
    for k in range(1, found.shape[1]):
        found[:, k] = jump[found[:, k - 1]]
    found = found.reshape(-1)
    inside = (found < size) & (jump[found] <= size)  # the first ones, as ends ascend
    found = found[inside][:count]
    return found, one[found]


def _next_one(data: np.ndarray, start: int) -> int | None:
    """Where the next one bit is, from `start` on."""
    first = start // 8
    head = np.flatnonzero(np.unpackbits(data[first : first + 1])[start % 8 :])
    if head.size:
        return start + int(head[0])
    for block in range(first + 1, data.size, _WINDOW):
        nonzero = np.flatnonzero(data[block : block + _WINDOW])
        if nonzero.size:
            byte = block + int(nonzero[0])
            return 8 * byte + 8 - int(data[byte]).bit_length()
    return None
