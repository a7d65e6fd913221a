"""Messages as vectors of 32-bit words whose length is known before: for collectives.

What `bytes` writes on the host has the length that the message needs. A collective of
a compiled program has one length for all rounds, so here the non-zeros have room for
so many, and codes are written for every entry.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _masks, _trees
from gdsec_jax.wire._codes import Code

BLOCK = 2**16  # entries that an index of 16 bits tells apart
_PLANES = (32, 16, 8, 4, 2, 1)  # bits of a field that 32 are a multiple of
_FEW = 8  # messages whose terms are written out


class Words(NamedTuple):
    """How a message is written into words. Static."""

    code: Code
    sizes: tuple[int, ...]  # entries of each leaf
    dtypes: tuple[str, ...]  # of each leaf
    capacity: int | None  # the most non-zeros there may be; None: all have a code

    @property
    def length(self) -> int:
        """D."""
        return sum(self.sizes)

    @property
    def dtype(self) -> Any:
        """In which entries are added up."""
        return _trees.widest(jnp.float32, *self.dtypes)

    @property
    def value_dtype(self) -> Any:
        """Of a value that is written as a float."""
        return jnp.dtype(self.code.dtype or _trees.widest(*self.dtypes))

    @property
    def width(self) -> int:
        """Bits of a code: all values of the kind, with zero where there is one."""
        return 9 if self.code.kind == "power" else self.code.width(False, "float32")


def words_of(params: Any, code: Code, capacity: int | None) -> Words | None:
    """How messages like the parameters are written; None if nothing is saved by it.

    Floats of which there may be any number are best left as they are.
    """
    leaves = jax.tree.leaves(params)
    sizes = tuple(int(np.prod(jnp.shape(leaf))) for leaf in leaves)
    if code.kind == "bins":
        code = Code()  # their values are floats here
    if code.always_dense:
        capacity = None
    if code.kind == "grid" and not code.num_scales:
        code = code._replace(num_scales=1)  # of 1, or of 0 for what was not sent
    if not sum(sizes) or (code.kind == "float" and capacity is None):
        return None
    dtypes = tuple(jnp.result_type(leaf).name for leaf in leaves)
    capacity = None if capacity is None else min(capacity, sum(sizes))
    return Words(code, sizes, dtypes, capacity)


def pack(words: Words, vector: jax.Array, scales: Any, sent: Any = None) -> jax.Array:
    """A message, entries [D] in order, as uint32 [W].

    Of more non-zeros than there is room for the first ones are written. `sent` says
    whether this is a part of a message that was; by default it is all, and one of zeros
    was not.
    """
    # A grid has no zero: a message that was not sent has scales of 0.
    sent = (vector != 0).any() if sent is None else sent
    if words.code.num_scales:
        own = scales if len(scales) else jnp.ones(1, jnp.float32)
        scales = jnp.where(sent, own, 0)
    parts = [_to_words(scales)] if words.code.num_scales else []
    if words.capacity is None:
        return jnp.concatenate(
            [*parts, _fields(_codes(words, vector, scales), words.width)]
        )
    index = _masks.where_set(vector != 0, words.capacity)
    values = vector.at[index].get(mode="fill", fill_value=0)
    if words.length > BLOCK:
        blocks = np.arange(1, _num_blocks(words) + 1)
        ends = jnp.asarray(np.minimum(blocks * BLOCK, 2**31 - 1), jnp.int32)
        parts.append(_to_words(jnp.searchsorted(index, ends).astype(jnp.int32)))
    parts.append(_fields(index.astype(jnp.uint32) % BLOCK, 16))
    if words.code.kind == "float":
        parts.append(_to_words(values.astype(words.value_dtype)))
    else:
        own = _own(words, index, scales)
        parts.append(_fields(_codes_of(words, values, own), words.width))
    return jnp.concatenate(parts)


def total(words: Words, packed: jax.Array) -> jax.Array:
    """The sum of messages, from uint32 [M, W] to [D], in their order.

    Every one is what it was before it was packed, bit for bit.
    """
    number = packed.shape[0]
    add = _add_sparse if words.capacity is not None else _add_dense
    zeros = jnp.zeros(words.length, words.dtype)
    if number <= _FEW:
        return functools.reduce(
            lambda sum, m: add(words, sum, packed[m]), range(number), zeros
        )
    return jax.lax.scan(lambda sum, own: (add(words, sum, own), None), zeros, packed)[0]


def part_of(words: Words, parts: int) -> Words:
    """How a part of the entries of such messages is written."""
    if words.capacity is not None or words.code.num_scales > 1:
        raise ValueError(
            f"the messages are {words.code.kind}s with {words.code.num_scales} scales, "
            'expected codes of every entry with scope="message" for a sum in parts.'
        )
    each = -(-words.length // parts)
    return words._replace(sizes=(each,), dtypes=(words.value_dtype.name,))


def num_words(words: Words) -> int:
    """W."""
    scales = jax.ShapeDtypeStruct((words.code.num_scales,), jnp.float32)
    vector = jax.ShapeDtypeStruct((words.length,), words.dtype)
    return jax.eval_shape(functools.partial(pack, words), vector, scales).shape[0]


def _add_dense(words: Words, sum: jax.Array, packed: jax.Array) -> jax.Array:
    scales, packed = _scales(words, packed)
    codes = _from_fields(packed, words.width, words.length)
    return sum + _values(words, codes, _spread_scales(words, scales), None)


def _add_sparse(words: Words, sum: jax.Array, packed: jax.Array) -> jax.Array:
    scales, packed = _scales(words, packed)
    room, blocks = words.capacity, _num_blocks(words)
    assert room is not None
    block = 0
    if words.length > BLOCK:
        ends, packed = _from_words(packed[:blocks], jnp.int32, blocks), packed[blocks:]
        # How many blocks end at or before a place is the number of its block.
        steps = jnp.zeros(room + 1, jnp.int32).at[ends].add(1)
        block = jnp.cumsum(steps)[:room]
    used = _num_words(room, 16)
    low = _from_fields(packed[:used], 16, room).astype(jnp.int32)
    index, packed = block * BLOCK + low, packed[used:]
    if words.code.kind == "float":
        values = _from_words(packed, words.value_dtype, room).astype(words.dtype)
    else:
        codes = _from_fields(packed, words.width, room)
        values = _values(words, codes, _own(words, index, scales), index)
    return sum.at[index].add(values, mode="drop")


def _codes(words: Words, vector: jax.Array, scales) -> jax.Array:
    return _codes_of(words, vector, _spread_scales(words, scales))


def _codes_of(words: Words, values: jax.Array, scales) -> jax.Array:
    """uint32, of values that are multiples of these scales, or powers of two."""
    kind, size = words.code.kind, words.code.size
    if kind == "power":
        bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
        return bits >> 23  # the sign and the exponent: there is nothing else
    scales = scales.astype(values.dtype)
    some = scales > 0
    levels = jnp.where(some, jnp.round(values / jnp.where(some, scales, 1)), 0)
    levels = levels.astype(jnp.int32)
    if kind == "grid":
        return ((levels + (2**size - 1)) >> 1).astype(jnp.uint32)
    most = size if kind == "levels" else 1
    return (levels + most).astype(jnp.uint32)


def _values(words: Words, codes: jax.Array, scales, index) -> jax.Array:
    """What `_codes_of` was made of, in the dtype that is summed in.

    Of the entries of an index, or None for all.
    """
    kind, size = words.code.kind, words.code.size
    if kind == "power":
        return jax.lax.bitcast_convert_type(codes << 23, jnp.float32).astype(
            words.dtype
        )
    levels = codes.astype(jnp.int32)
    if kind == "grid":
        levels = 2 * levels - (2**size - 1)
    else:
        levels = levels - (size if kind == "levels" else 1)
    values = scales.astype(words.dtype) * levels.astype(words.dtype)
    return _as_sent(words, values, index)


def _as_sent(words: Words, values: jax.Array, index) -> jax.Array:
    """As it left the worker: in its parameter's dtype, without subnormal numbers."""

    def one(x, dtype):
        return _trees.flush(x.astype(dtype)).astype(words.dtype)

    if len(set(words.dtypes)) == 1:
        return one(values, words.dtypes[0])
    ends = np.cumsum(words.sizes)[:-1]
    if index is None:
        parts = jnp.split(values, ends)
        return jnp.concatenate(
            [one(x, dtype) for x, dtype in zip(parts, words.dtypes, strict=True)]
        )
    leaf = jnp.searchsorted(jnp.asarray(ends, jnp.int32), index, side="right")
    for dtype in dict.fromkeys(words.dtypes):
        here = jnp.asarray([other == dtype for other in words.dtypes])[leaf]
        values = jnp.where(here, one(values, dtype), values)
    return values


def _spread_scales(words: Words, scales) -> jax.Array | None:
    """The scale of each entry, [D], or one for all."""
    if not words.code.num_scales:
        return None
    if len(words.sizes) == 1 or words.code.num_scales == 1:
        return scales[0]
    return jnp.repeat(scales, np.array(words.sizes), total_repeat_length=words.length)


def _own(words: Words, index: jax.Array, scales) -> jax.Array | None:
    """The scale of some entries."""
    if not words.code.num_scales:
        return None
    ends = jnp.asarray(np.cumsum(words.sizes)[:-1], jnp.int32)
    many = words.code.num_scales > 1
    leaf = jnp.searchsorted(ends, index, side="right") if many else 0
    return scales.at[leaf].get(mode="clip")


def _scales(words: Words, packed: jax.Array) -> tuple[Any, jax.Array]:
    number = words.code.num_scales
    return _from_words(packed[:number], jnp.float32, number), packed[number:]


def _num_blocks(words: Words) -> int:
    return -(-words.length // BLOCK)


def _num_words(number: int, width: int) -> int:
    """Of so many fields of so many bits."""
    return sum(-(-number // (32 // bits)) for bits in _PLANES if width & bits)


def _fields(codes: jax.Array, width: int) -> jax.Array:
    """Codes of so many bits, uint32 [n], side by side: by powers of two of bits."""
    parts, shift = [], 0
    for bits in _PLANES:
        if not width & bits:
            continue
        lanes, plane = 32 // bits, (codes >> shift) & jnp.uint32(2**bits - 1)
        plane = jnp.pad(plane, (0, -codes.size % lanes)).reshape(lanes, -1)
        # Far entries share a word, so that neighbours are handled alike.
        parts.append(
            functools.reduce(
                jnp.bitwise_or,
                (plane[lane] << jnp.uint32(bits * lane) for lane in range(lanes)),
            )
        )
        shift += bits
    return jnp.concatenate(parts)


def _from_fields(words: jax.Array, width: int, number: int) -> jax.Array:
    codes, shift, begin = jnp.zeros(number, jnp.uint32), 0, 0
    for bits in _PLANES:
        if not width & bits:
            continue
        lanes = 32 // bits
        end = begin + math.ceil(number / lanes)
        plane = [
            (words[begin:end] >> jnp.uint32(bits * lane)) & jnp.uint32(2**bits - 1)
            for lane in range(lanes)
        ]
        codes |= jnp.concatenate(plane)[:number] << jnp.uint32(shift)
        begin, shift = end, shift + bits
    return codes


def _to_words(x: jax.Array) -> jax.Array:
    """The bits of an array, uint32."""
    each = 4 // x.dtype.itemsize
    if each > 1:  # several a word
        narrow = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
        return _fields(narrow.astype(jnp.uint32), 8 * x.dtype.itemsize)
    return jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)


def _from_words(words: jax.Array, dtype: Any, number: int) -> jax.Array:
    dtype = jnp.dtype(dtype)
    if dtype.itemsize < 4:
        width = 8 * dtype.itemsize
        narrow = _from_fields(words, width, number).astype(f"uint{width}")
        return jax.lax.bitcast_convert_type(narrow, dtype)
    if dtype.itemsize == 8:
        words = words.reshape(number, 2)
    return jax.lax.bitcast_convert_type(words, dtype)
