"""From messages to bytes, and by `decode` back."""

import numpy as np

from gdsec_jax import _plain
from gdsec_jax.wire._formats import Format
from gdsec_jax.wire.bytes import _bits, _values
from gdsec_jax.wire.bytes._bits import Bits
from gdsec_jax.wire.bytes._message import Leaf, Message, Plan, plan_of
from gdsec_jax.wire.bytes._values import (
    bits_of,
    check_scales,
    count_nonzero,
    in_chunks,
    own_scale,
)


def encode(message: Message, format: str | Format) -> bytes:
    r"""The bytes of a message, of which a count gives the number of bits.

    The message is one vector: the leaves of the tree in order, concatenated, of D
    entries. If all of them are zero, nothing is sent. Otherwise first come the scales,
    as float32, then where the n non-zeros are, then their values in order:

    ======  ========================================================================
    dense   nothing: the values of all D entries follow
    coo     n in :math:`\lceil\log_2(D+1)\rceil` bits, and n indices in
            :math:`\lceil\log_2 D\rceil` bits each
    bitmap  D flags
    rle     :math:`\gamma(n + 1)`, and :math:`\gamma(r + 1)` for each non-zero, with r
            the zeros before it and :math:`\gamma` Elias' gamma code of x:
            :math:`\lfloor\log_2 x\rfloor` zeros, then x in binary
    golomb  :math:`\gamma(n + 1)`, b in 5 bits, and for each non-zero
            :math:`\lfloor r / 2^b \rfloor` ones, a zero, and the b low bits of r; b is
            the cheapest, the smallest of those
    ======  ========================================================================

    A value is written, with its highest bit first, as

    =======  =======================================================================
    float    its bits, in `code.dtype` or else the leaf's
    levels   a sign, and :math:`|l|`; the value is the scale times l
    ternary  a sign; where zeros are written, a sign and :math:`|l|`
    grid     :math:`(l + 2^b - 1) / 2` in b bits, with b the code's size; the value is
             the scale, or 1 without one, times l, and all D are written in any format
    power    a sign, and the exponent of two + 127 in 8 bits, or 0 for zero
    bins     l in b bits, with b the code's size; the value is scale number l of the
             leaf's own, the first that equals it
    =======  =======================================================================

    Where the code has a `chunk`, no format says where the non-zeros are: of every chunk
    of a leaf, the last one perhaps shorter, as many entries as are kept are written,
    the non-zeros and the first zeros; their places in their chunks, ascending, of all
    leaves in turn, and then their values.

    Zeros fill the last byte. A message that is `whole` is its values as floats, dense.

    Args:
      message: of one worker in one round.
      format: one of `wire.FORMATS`, or a `wire.Format`; of its conventions, a
        `value_bits` other than the width of the floats has no bytes.

    Returns:
      :math:`\lceil` bits / 8 :math:`\rceil` bytes; none if all values are zero.

    Raises:
      ValueError: the format has no bytes; values are subnormal or -0.0, or none that
        the code can express; scales are not of its number, or negative or not finite.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax.wire import Message, encode
      >>> message = Message(np.float32([0, 0, 0, 1.5, 0]))
      >>> encode(message, "bitmap").hex()  # 00010 and the bits of 1.5, 3fc00000
      '11fe000000'
      >>> encode(Message(np.zeros(5, np.float32)), "bitmap")
      b''

    References: Elias, 1975, https://doi.org/10.1109/TIT.1975.1055349; Rice, 1979;
    Golomb, 1966.
    """
    if not isinstance(message, Message):
        raise ValueError(f"message is a {type(message).__name__}, expected a Message.")
    plan = plan_of("values", message.values, format, message.code, message.whole)
    scales = _scales_of(message, plan)
    entries, positions = [], []
    sent = 0
    for item, leaf in zip(_plain.leaves(message.values), plan.leaves, strict=True):
        array = np.asarray(item).astype(leaf.dtype, copy=False)
        bits = np.ascontiguousarray(array).reshape(-1).view(bits_of(leaf.dtype))
        if not plan.dense:
            where = np.flatnonzero(bits != 0)
            if plan.form == "chunks":
                where = in_chunks(where, leaf.size, plan.code)
            bits = bits[where]
            positions.append(where + leaf.start)
        number, flushed = count_nonzero(bits, leaf.dtype)
        if not flushed:
            raise ValueError(
                f"{leaf.name} has subnormal numbers or -0.0, expected none: "
                "wire.flush makes them 0."
            )
        entries.append(bits)
        sent += number
    if not sent:
        return b""
    check_scales(scales, plan.code)
    parts = [_bits.pack(scales.view(np.uint32), 32)]
    if not plan.dense:
        parts += _index(np.concatenate(positions), plan)
    parts += _written(entries, plan, scales)
    return _bits.join(parts)


def _scales_of(message: Message, plan: Plan) -> np.ndarray:
    if not plan.num_scales:
        return np.zeros(0, np.float32)
    scales = np.asarray(message.scales)
    if scales.dtype != np.float32 or scales.shape != (plan.num_scales,):
        raise ValueError(
            f"scales are {scales.dtype} of shape {scales.shape}, expected float32 of "
            f"shape ({plan.num_scales},)."
        )
    return np.ascontiguousarray(scales, np.float32)


def _index(positions: np.ndarray, plan: Plan) -> list[Bits]:
    """Where the non-zeros are; positions ascend and are one at least."""
    count, length = positions.size, plan.length
    if plan.form == "chunks":
        return [
            _bits.pack(places, plan.code.place_width(leaf.size))
            for leaf, places in _by_leaf(positions, plan)
        ]
    if plan.form == "bitmap":
        flags = np.zeros(length, bool)
        flags[positions] = True
        return [_bits.pack(flags, 1)]
    if plan.form == "coo":
        number = _bits.pack(np.array([count]), length.bit_length())
        return [number, _bits.pack(positions, (length - 1).bit_length())]
    distances = np.diff(positions, prepend=-1)  # zeros before, and one
    if plan.form == "rle":
        return [_gamma(np.concatenate([[count + 1], distances]))]
    runs = distances - 1
    low = _cheapest(runs)
    # Inverted, a codeword is zeros, a one and the low bits: as a number, they with a
    # one before them, in a field of a width of its own.
    numbers = (2 << low) - 1 - (runs & ((1 << low) - 1))
    rice = _bits.pack_codewords(numbers, (runs >> low) + 1 + low)
    return [
        _gamma(np.array([count + 1])),
        _bits.pack(np.array([low]), 5),
        Bits(np.invert(rice.data), rice.length),
    ]


def _by_leaf(positions: np.ndarray, plan: Plan):
    """Each leaf, and the places in their chunks of its entries that are written."""
    ends = np.cumsum([plan.code.written(leaf.size) for leaf in plan.leaves])
    own = np.split(positions, ends[:-1]) if plan.leaves else []
    for leaf, mine in zip(plan.leaves, own, strict=True):
        yield leaf, (mine - leaf.start) % plan.code.chunk


def _gamma(numbers: np.ndarray) -> Bits:
    """Elias' gamma code: the number itself behind as many zeros as bits follow."""
    return _bits.pack_codewords(numbers, 2 * _bits.bit_lengths(numbers) - 1)


def _cheapest(runs: np.ndarray) -> int:
    """The b, at most 31, for which Rice codes of the runs are shortest."""
    best, cost = 0, int(runs.sum()) + runs.size
    for low in range(1, 32):
        if runs.size * (1 + low) >= cost:  # even without any ones
            break
        now = int((runs >> low).sum()) + runs.size * (1 + low)
        if now < cost:
            best, cost = low, now
    return best


def _written(entries: list[np.ndarray], plan: Plan, scales: np.ndarray) -> list[Bits]:
    """The values in order; neighbours of one width, no whole bytes, share a string."""

    def numbers(bits: np.ndarray, leaf: Leaf) -> np.ndarray:
        scale = own_scale(scales, leaf, plan.code)
        return _values.to_numbers(bits, leaf, plan, scale)

    groups: list[tuple[int, list[np.ndarray]]] = []
    for bits, leaf in zip(entries, plan.leaves, strict=True):
        width = plan.width(leaf)
        if not groups or groups[-1][0] != width or width % 8 == 0:
            groups.append((width, []))
        groups[-1][1].append(numbers(bits, leaf))
    return [
        _bits.pack(found[0] if len(found) == 1 else np.concatenate(found), width)
        for width, found in groups
    ]
