"""The k largest of the entries of several arrays, on a TPU: by counting codes.

Every entry has a key, an unsigned integer that grows with its magnitude, and of that a
code of 16 bits: the key's first ones. The k-th largest code is found by counting, for
all workers at once. Then the entries that have it get new codes, of the key's next
bits, above those of all below and below those of all above; so on until the keys have
no more bits. The codes stay on the chip. No array is laid out anew, nothing is sorted,
and no entry is fetched.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax._masks import reaching
from gdsec_jax.worker._vectors import places

# Of fewer entries it is as fast to sort them.
LEAST = 2**18
# Bits of a code, and of what refines one, which is neither 0 nor the largest.
_CODE, _FINER = 16, 15
# Of so many entries the codes of a tile's eight workers fill half of the chip's memory;
# there it counts least to find bit by bit, and elsewhere four of them in a pass.
ON_CHIP = 2**22


class Threshold(NamedTuple):
    """Which entries are the k largest: those above a key, and the first with it."""

    key: jax.Array  # uint32 [], of float64 uint64
    last: jax.Array  # uint32 [], the place of the last one that has the key

    def mask(self, x: jax.Array, start) -> jax.Array:
        """Where the entries are, of an array whose first one has this place; bool."""
        return reaching(keys_of(x), places(x.shape, start), *self)


def keys_of(x: jax.Array) -> jax.Array:
    """Integers that grow with the magnitudes: a float's bits but its sign.

    They are uint32, of float64 uint64; unsigned integers are such keys themselves.
    """
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        return x
    x = x.astype(_trees.widest(x.dtype, jnp.float32))
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    but_sign = jnp.asarray(jnp.iinfo(unsigned).max >> 1, unsigned)
    return jax.lax.bitcast_convert_type(x, unsigned) & but_sign


def masks(parts: list[jax.Array], k: int) -> list[jax.Array]:
    """Where the k largest of all entries are, bool like each part.

    Args:
      parts: arrays of one dtype, whose entries follow one another; floats, or uint32.
      k: from 1 to their number, static.
    """
    return masks_by(lambda parts, n: parts[n], parts, parts, k)


def masks_by(make: Callable, given, like: list, k: int) -> list[jax.Array]:
    """`masks` of parts that are made of something when they are needed.

    Args:
      make: from what is given, and the number of a part, to the part. It is made anew
        for each code: random words, say, to write and to read which would move more.
      given: arrays.
      like: the parts' shapes and dtypes.
      k: see `masks`.
    """
    kind = like[0].dtype
    cut = _cut(kind)

    def entries(_, codes):
        # The barrier keeps parts from being made once, and written for all codes.
        again, _ = jax.lax.optimization_barrier((given, codes))
        made = []
        for n in range(len(like)):
            key = keys_of(make(again, n))
            code = _bits(key, *cut[0])
            # As many levels are refined as are known; those behind them are to come.
            for was, bits in zip(codes, cut[1:], strict=False):
                code = _finer(code, was, _bits(key, *bits))
            made.append(code)
        return jax.lax.optimization_barrier(made) if codes else made

    starts = starts_of(like)
    return _masks(_found([entries] * len(cut), starts, k), starts)


def threshold(parts: list[jax.Array], starts: list, k: int):
    """The `Threshold` of the k largest entries, and how large the largest is.

    Args:
      parts: all float32, or all float64.
      starts: the places of their first entries.
      k: see `masks`.

    Returns:
      The threshold, and a float [], the largest magnitude without its last digits: it
      is finite, and a normal number, where the largest magnitude is.
    """
    kind = parts[0].dtype
    cut, levels = _cut(kind), _stored_levels(parts)
    found = _found(levels, starts, k)
    unsigned = jax.eval_shape(keys_of, jax.ShapeDtypeStruct((), kind)).dtype
    key = jnp.zeros((), unsigned)
    for n, ((shift, _), code) in enumerate(zip(cut, found.codes, strict=True)):
        bits = code - (n > 0)  # a finer code is of its bits and 1
        key |= bits.astype(unsigned) << jnp.asarray(shift, unsigned)
    largest = found.largest.astype(unsigned) << jnp.asarray(cut[0][0], unsigned)
    return Threshold(key, found.last), jax.lax.bitcast_convert_type(largest, kind)


class _Found(NamedTuple):
    codes: list[jax.Array]  # int32 [], of the k-th largest entry, at each level
    entries: list[jax.Array]  # uint16, the codes of all entries at the last level
    last: jax.Array  # see `Threshold`
    largest: jax.Array  # int32 [], the largest of all codes at the first level


def _found(levels: list[Callable], starts: list, k: int) -> _Found:
    """The k-th largest of the entries.

    Args:
      levels: of each, from the entries' codes at the last level, and the k-th largest
        codes so far, to their codes: uint16, a list of parts.
      starts: the places of the parts' first entries.
      k: its number.
    """
    entries, codes, largest = [], [], jnp.int32(0)
    for level in levels:
        entries = level(entries, codes)
        code, most = _nth(entries, k)
        largest = largest if codes else most
        codes = [*codes, code]
    too_many = _count(entries, lambda x, _: x >= code, starts) > k

    def ties(_):
        return _last(entries, starts, code, k)

    # A loop, which all workers skip where none of them has more ties than it may send.
    every = jnp.uint32(2**32 - 1)
    last = jax.lax.while_loop(lambda last: too_many & (last == every), ties, every)
    return _Found(codes, entries, last, largest)


def _masks(found: _Found, starts: list) -> list[jax.Array]:
    code, made = found.codes[-1], []
    for x, start in zip(found.entries, starts, strict=True):
        wide = x.astype(jnp.int32)
        tie = (wide == code) & (places(x.shape, start) <= found.last)
        made.append((wide > code) | tie)
    # Kept as flags, not as what becomes of them.
    return jax.lax.optimization_barrier(made)


def _nth(entries: list[jax.Array], k: int) -> tuple[jax.Array, jax.Array]:
    """The k-th largest code, and the largest, int32 []."""

    digit = _digit(entries)

    def narrow(i, found):
        low, _ = found
        step = jnp.left_shift(jnp.int32(1), _CODE - digit * (i + 1))
        counts = [
            _count(entries, lambda x, _, j=j: x >= low + j * step)
            for j in range(1, 2**digit)
        ]
        low += step * (jnp.stack(counts) >= k).sum(dtype=jnp.int32)
        # In the loop, since codes are made in a pass that writes other bits, too.
        return low, jnp.stack([x.astype(jnp.int32).max() for x in entries]).max()

    start = jnp.int32(0), jnp.int32(0)
    return jax.lax.fori_loop(0, _CODE // digit, narrow, start)


def _last(entries: list[jax.Array], starts: list, code: jax.Array, k: int):
    """The place of the k-th entry among those with a code, or a larger one; uint32."""
    left = k - _count(entries, lambda x, _: x > code)
    bits = sum(math.prod(x.shape) for x in entries).bit_length()

    def narrow(i, low):  # bit by bit: the codes then stay on the chip
        next_one = low + jnp.left_shift(
            jnp.uint32(1), (bits - 1 - i).astype(jnp.uint32)
        )
        before = _count(
            entries, lambda x, place: (x == code) & (place < next_one), starts
        )
        return jnp.where(before < left, next_one, low)

    return jax.lax.fori_loop(0, bits, narrow, jnp.uint32(0))


def _digit(entries: list) -> int:
    """Bits of a code that a pass over all codes finds."""
    return 1 if sum(math.prod(x.shape) for x in entries) <= ON_CHIP else 4


def _count(entries: list[jax.Array], which: Callable, starts: list | None = None):
    """How many codes, and places, are such, int32 []."""
    total = jnp.int32(0)
    for n, x in enumerate(entries):
        place = None if starts is None else places(x.shape, starts[n])
        total += which(x.astype(jnp.int32), place).sum(dtype=jnp.int32)
    return total


def _finer(x: jax.Array, code: jax.Array, bits: jax.Array) -> jax.Array:
    """New codes of the entries that have a code: their next bits and 1."""
    wide = x.astype(jnp.int32)
    others = jnp.where(wide > code, jnp.uint16(2**_CODE - 1), jnp.uint16(0))
    return jnp.where(wide == code, bits + jnp.uint16(1), others)


def _stored_levels(parts: list[jax.Array]) -> list[Callable]:
    """Levels by the keys' bits, of which all but the first are written at once."""
    keys = [keys_of(x) for x in parts]
    stored = []
    for n, (shift, number) in enumerate(_cut(parts[0].dtype)):
        bits = [_bits(key, shift, number) for key in keys]
        # What is left, by what was taken: so the compiler makes both in one pass.
        keys = [
            key - (own.astype(key.dtype) << jnp.asarray(shift, key.dtype))
            for key, own in zip(keys, bits, strict=True)
        ]
        stored.append([jax.lax.optimization_barrier(x) for x in bits] if n else bits)

    def level(n):
        def entries(before, codes):
            if not codes:
                return stored[0]
            code, made = codes[-1], []
            for x, bits in zip(before, stored[n], strict=True):
                # One after the other: what is no longer needed leaves the chip.
                x, bits, code = jax.lax.optimization_barrier((x, bits, code))
                x, code = jax.lax.optimization_barrier((_finer(x, code, bits), code))
                made.append(x)
            return made

        return entries

    return [level(n) for n in range(len(stored))]


def _cut(kind) -> list[tuple[int, int]]:
    """Of each level the lowest bit, and the number of bits, of a dtype's keys.

    Floats of fewer bits than float32 have its keys; others are uint32.
    """
    is_float = jnp.issubdtype(kind, jnp.floating)
    width = 8 * _trees.widest(kind, jnp.float32).itemsize - 1 if is_float else 32
    cut = [(width - _CODE, _CODE)]
    while cut[-1][0]:
        shift = max(0, cut[-1][0] - _FINER)
        cut.append((shift, cut[-1][0] - shift))
    return cut


def _bits(key: jax.Array, shift: int, bits: int) -> jax.Array:
    short = key >> jnp.asarray(shift, key.dtype)
    return (short & jnp.asarray(2**bits - 1, key.dtype)).astype(jnp.uint16)


def starts_of(parts: list) -> list[int]:
    """The places of the parts' first entries."""
    sizes = [math.prod(x.shape) for x in parts]
    return [sum(sizes[:n]) for n in range(len(parts))]
