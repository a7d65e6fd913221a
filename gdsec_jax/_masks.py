"""Where a mask is set, found by its bits: 32 flags a word, without a sort.

Where the n-th set bit is follows from how many are set before each word.

What a CPU is fast at shapes the rest. Sums over an axis of 32 that is not the last are
unrolled and vectorised, others are some ten times slower; so vectors are taken in
blocks of 32 x 32, and 32 flags become the bits of a word.
"""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 32  # bits of a word, words of a block
BLOCK = SIDE * SIDE

_BITS = np.left_shift(np.uint32(1), np.arange(SIDE, dtype=np.uint32))


def reaching(keys: jax.Array, places: jax.Array, key, last) -> jax.Array:
    """Which are above a key, or are it and stand no later than a place."""
    return (keys > key) | ((keys == key) & (places <= last))


def where_set(mask: jax.Array, size: int) -> jax.Array:
    """The indices of the first `size` entries that are set, int32 [size], ascending.

    As `jax.numpy.nonzero` with a size; D stands in the place of those that are missing.

    Args:
      mask: bool [D].
      size: static.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import _masks
      >>> _masks.where_set(jnp.array([False, True, True]), 3)
      Array([1, 2, 3], dtype=int32)
    """
    words = packed(mask)
    before, own = set_before(words)
    # Every word with a set bit writes its place at the rank of its first; its others,
    # 31 at most, take it over from there.
    first = jnp.where(own > 0, before, size)
    places = jnp.arange(words.size, dtype=jnp.int32)
    word = jnp.zeros(size, jnp.int32).at[first].max(places, mode="drop")
    for distance in (1, 2, 4, 8, 16):
        shifted = jnp.pad(word, (distance, 0))[:size]
        word = jax.lax.optimization_barrier(jnp.maximum(word, shifted))
    rank = jnp.arange(size, dtype=jnp.int32)
    index = _index_in(words, before, word, rank)
    return jnp.where(rank < before[-1] + own[-1], index, mask.size)


def blocks(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A vector's whole blocks, [n, 32, 32], and what is left, [1, fewer than 1024]."""
    whole = x.size // BLOCK * BLOCK
    return x[:whole].reshape(-1, SIDE, SIDE), x[None, whole:]


def packed(mask: jax.Array) -> jax.Array:
    """32 flags a word, from its lowest bit on, uint32 [whole blocks x 32]."""
    head, tail = blocks(mask)
    tail = jnp.pad(tail, ((0, 0), (0, BLOCK - tail.shape[1])))
    bits = _BITS[None, :, None]

    def packed(flags):
        # Bit i of word j is entry (i, j) of the block, fast to make; then turned over.
        turned = jnp.where(flags, bits, np.uint32(0)).sum(1, dtype=jnp.uint32)
        turned = jax.lax.optimization_barrier(turned)[:, :, None]
        flags = turned & _BITS[None, None, :]
        return jnp.where(flags != 0, bits, np.uint32(0)).sum(1, dtype=jnp.uint32)

    parts = [packed(part) for part in (head, tail.reshape(-1, SIDE, SIDE))]
    return jnp.concatenate(jax.lax.optimization_barrier(parts)).ravel()


def set_before(words: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many bits are set before each word, and in it, int32."""
    own = jax.lax.population_count(words).astype(jnp.int32).reshape(-1, SIDE)
    earlier = np.arange(SIDE)[:, None] < np.arange(SIDE)
    inner = jnp.where(earlier[None], own[:, :, None], 0).sum(1, dtype=jnp.int32)
    in_block = inner[:, -1] + own[:, -1]
    before = (jnp.cumsum(in_block, dtype=jnp.int32) - in_block)[:, None] + inner
    return before.ravel(), own.ravel()


def nth(words, rank):
    """The index of the set bit of a rank, int32 []."""
    before, _ = set_before(words)
    word = jnp.searchsorted(before, rank, side="right").astype(jnp.int32) - 1
    return _index_in(words, before, word, rank)


def _index_in(words, before, word, rank):
    """The index of the bit of a rank, given the place of its word."""
    bits, first = jax.lax.optimization_barrier((words[word], before[word]))
    rank, place = rank - first, jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        lower = bits & np.uint32((1 << half) - 1)
        number = jax.lax.population_count(lower).astype(jnp.int32)
        above = rank >= number
        rank = jnp.where(above, rank - number, rank)
        bits = jnp.where(above, bits >> np.uint32(half), bits)
        place = jnp.where(above, place + half, place)
    return SIDE * word + place
