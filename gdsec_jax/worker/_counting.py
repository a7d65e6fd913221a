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

    key: jax.Array  # unsigned []
    last: jax.Array  # uint32 [], the place of the last one that has the key

    def mask(self, x: jax.Array, start) -> jax.Array:
        """Where the entries are, of an array whose first one has this place; bool."""
        keys, place = keys_of(x), places(x.shape, start)
        return (keys > self.key) | ((keys == self.key) & (place <= self.last))


def keys_of(x: jax.Array) -> jax.Array:
    """Unsigned integers that grow with the magnitudes: a float's bits but its sign."""
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        return x
    x = x.astype(_trees.widest(x.dtype, jnp.float32))
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    but_sign = jnp.asarray(jnp.iinfo(unsigned).max >> 1, unsigned)
    return jax.lax.bitcast_convert_type(x, unsigned) & but_sign


def masks(parts: list[jax.Array], k: int) -> list[jax.Array]:
    """Where the k largest of all entries are, bool like each part.

    Args:
      parts: arrays of one dtype, whose entries follow one another; floats, or unsigned
        integers.
      k: from 1 to their number, static.
    """
    return _masks(_found(_levels_of(parts), starts_of(parts), k), starts_of(parts))


def masks_of_words(words: Callable, key, parts: list, k: int) -> list[jax.Array]:
    """`masks` of random words, drawn when they are needed.

    Args:
      words: from a key, and the number of a part, to its words, uint32 like the part.
        They are drawn anew for each code: to write and to read them moves more.
      key: the key.
      parts: arrays, or their shapes.
      k: see `masks`.
    """

    def level(shift, bits):
        def codes(after):
            # The barrier keeps words from being drawn once, and written for all codes.
            again, _ = jax.lax.optimization_barrier((key, after))
            drawn = (words(again, n) for n in range(len(parts)))
            return [_bits(each, shift, bits) for each in drawn]

        return codes

    levels = [level(shift, bits) for shift, bits in _cut(32)]
    return _masks(_found(levels, starts_of(parts), k), starts_of(parts))


def threshold(parts: list[jax.Array], starts: list, k: int):
    """The `Threshold` of the k largest entries, and how large the largest is.

    Args:
      parts: floats of one dtype.
      starts: the places of their first entries.
      k: see `masks`.

    Returns:
      The threshold, and a float [], the largest magnitude without its last digits: it
      is finite, and a normal number, where the largest magnitude is.
    """
    kind = parts[0].dtype
    shape = jax.eval_shape(keys_of, jax.ShapeDtypeStruct((), kind))
    cut = _cut(_width(shape.dtype, kind))
    found = _found(_levels_of(parts), starts, k)
    key = jnp.zeros((), shape.dtype)
    for n, ((shift, _), code) in enumerate(zip(cut, found.codes, strict=True)):
        bits = code - (n > 0)  # a finer code is of its bits and 1
        key |= bits.astype(key.dtype) << jnp.asarray(shift, key.dtype)
    largest = found.largest.astype(key.dtype) << jnp.asarray(cut[0][0], key.dtype)
    return Threshold(key, found.last), jax.lax.bitcast_convert_type(largest, kind)


class _Found(NamedTuple):
    codes: list[jax.Array]  # int32 [], of the k-th largest entry, at each level
    entries: list[jax.Array]  # uint16, the codes of all entries at the last level
    last: jax.Array  # see `Threshold`
    largest: jax.Array  # int32 [], the largest of all codes at the first level


def _found(levels: list[Callable], starts: list, k: int) -> _Found:
    """The k-th largest of the entries.

    Args:
      levels: of each, from an array to wait for, to the codes of all parts.
      starts: the places of their first entries.
      k: its number.
    """
    entries = levels[0](jnp.int32(0))
    code, largest = _nth(entries, k)
    codes = [code]
    for level in levels[1:]:
        finer = []
        for x, bits in zip(entries, level(code), strict=True):
            # One after the other: what is no longer needed leaves the chip.
            x, bits, code = jax.lax.optimization_barrier((x, bits, code))
            x, code = jax.lax.optimization_barrier((_finer(x, code, bits), code))
            finer.append(x)
        entries = finer
        code, _ = _nth(entries, k)
        codes.append(code)
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
    digit = _digit(entries)

    def narrow(i, low):
        step = jnp.left_shift(jnp.uint32(1), 32 - digit * (i + 1).astype(jnp.uint32))
        counts = [
            _count(
                entries,
                lambda x, place, j=j: (x == code) & (place < low + j * step),
                starts,
            )
            for j in range(1, 2**digit)
        ]
        return low + step * (jnp.stack(counts) < left).sum(dtype=jnp.uint32)

    return jax.lax.fori_loop(0, 32 // digit, narrow, jnp.uint32(0))


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


def _levels_of(parts: list[jax.Array]) -> list[Callable]:
    """Codes by the keys of arrays. All but the first level's are written at once."""
    keys = [keys_of(x) for x in parts]
    cut = _cut(_width(keys[0].dtype, parts[0].dtype))
    levels = []
    for n, (shift, bits) in enumerate(cut):
        codes = [_bits(key, shift, bits) for key in keys]
        # What is left, by what was taken: so the compiler makes both in one pass.
        keys = [
            key - (code.astype(key.dtype) << jnp.asarray(shift, key.dtype))
            for key, code in zip(keys, codes, strict=True)
        ]
        levels.append([jax.lax.optimization_barrier(x) for x in codes] if n else codes)
    return [lambda _, codes=codes: codes for codes in levels]


def _cut(width: int) -> list[tuple[int, int]]:
    """The first bit and the number of bits of each level, for keys of so many bits."""
    cut = [(width - _CODE, _CODE)]
    while cut[-1][0]:
        shift = max(0, cut[-1][0] - _FINER)
        cut.append((shift, cut[-1][0] - shift))
    return cut


def _width(key, kind) -> int:
    """Bits of the keys: a float has none for its sign."""
    return 8 * jnp.dtype(key).itemsize - jnp.issubdtype(kind, jnp.floating)


def _bits(key: jax.Array, shift: int, bits: int) -> jax.Array:
    short = key >> jnp.asarray(shift, key.dtype)
    return (short & jnp.asarray(2**bits - 1, key.dtype)).astype(jnp.uint16)


def starts_of(parts: list) -> list[int]:
    """The places of the parts' first entries."""
    sizes = [math.prod(x.shape) for x in parts]
    return [sum(sizes[:n]) for n in range(len(parts))]
