"""The k entries of largest magnitude, without a sort.

A float's bits without its sign, read as an unsigned integer, are its key: they grow
with its magnitude. The k-th largest key is found by counting how many lie at or above a
few thresholds, which a sample chooses at first, until a small window of keys is left.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _masks, _native, _trees
from gdsec_jax.worker import _counting, _rounding
from gdsec_jax.worker._counting import LEAST, keys_of

WAYS = 8  # thresholds that a pass over the vector counts
SAMPLE = 2**14  # entries that choose the first thresholds
WINDOW = 2**16  # entries that are taken out of the vector to finish among them
# Of the sample's k-th entry, in standard deviations of its rank; beside it and the key
# above it, which find a key that very many entries have: 0, say.
AROUND = (-4.0, -1.5, -0.5, 0.5, 1.5, 4.0)
# So few of a vector's entries `jax.lax.top_k` keeps in a heap on a CPU, which is faster
# (`gdsec bench select`).
FEW = 2**11
# Entries of a vector below which XLA's `top_k` of as few is faster than the kernel: it
# looks at no sample there.
SHORT = 2**13


def largest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k entries of largest magnitude; of equal ones the lower index.

    The same entries as `jax.lax.top_k` of their magnitudes, in the vector's order: NaN
    is larger than infinity, -0.0 equals 0.0, and subnormal numbers are told apart. Of
    NaNs the larger payload counts as the larger.

    Args:
      x: [D], floats or unsigned integers, D below 2^31.
      k: from 0 to D, static.

    Returns:
      Their values, [k], and their indices, int32 [k], ascending.

    Raises:
      ValueError: x is no vector, or k is not from 0 to D.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax.worker import _select
      >>> _select.largest(jnp.array([1.0, -3.0, 2.0]), 2)
      (Array([-3.,  2.], dtype=float32), Array([1, 2], dtype=int32))
    """
    _checked(x, k)
    index = _by_platform(
        x,
        k,
        sort=lambda x: jnp.sort(jax.lax.top_k(_magnitudes(x), k)[1]),
        select=lambda x, kth: _masks.where_set(_mask(x, *kth), k),
        by_counting=lambda x: _masks.where_set(_counting.masks([x], k)[0], k),
    )
    return x.at[index].get(mode="promise_in_bounds"), index


def mask_of_largest(x: jax.Array, k: int) -> jax.Array:
    """Where the entries of `largest` are, bool [D].

    Args:
      x: see `largest`.
      k: see `largest`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax.worker import _select
      >>> _select.mask_of_largest(jnp.array([1.0, -3.0, 2.0]), 2)
      Array([False,  True,  True], dtype=bool)
    """

    _checked(x, k)

    def sort(x):
        _, index = jax.lax.top_k(_magnitudes(x), k)
        return jnp.zeros(x.shape, bool).at[index].set(True)

    return _by_platform(
        *(x, k, sort, lambda x, kth: _mask(x, *kth)),
        lambda x: _counting.masks([x], k)[0],
    )


def masks_of_largest(parts: list[jax.Array], k: int) -> list[jax.Array]:
    """`mask_of_largest` of a vector on a TPU, whose parts stay shaped as they are."""
    if k and sum(x.size for x in parts) >= LEAST:
        return _counting.masks(parts, k)
    return _cut(mask_of_largest(_joined(parts), k), parts)


def masks_of_drawn(key: jax.Array, parts: list[jax.Array], k: int) -> list[jax.Array]:
    """The same by a random word for each entry: k of them, without replacement."""
    size = sum(x.size for x in parts)
    if k and size >= LEAST:
        impl, starts = jax.random.key_impl(key), _counting.starts_of(parts)
        like = [jax.ShapeDtypeStruct(x.shape, jnp.uint32) for x in parts]

        def words(data, n):
            typed = jax.random.wrap_key_data(data, impl=impl)
            return _rounding.words(typed, like[n].shape, starts[n], size)

        return _counting.masks_by(words, jax.random.key_data(key), like, k)
    return _cut(mask_of_drawn(key, size, k), parts)


def mask_of_drawn(key: jax.Array, size: int, k: int) -> jax.Array:
    """k of so many entries, drawn at random without replacement, bool [size]."""
    # The largest of as many random words: a uniform subset.
    return mask_of_largest(jax.random.bits(key, (size,), jnp.uint32), k)


def _joined(parts: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([jnp.ravel(x) for x in parts])


def _cut(mask: jax.Array, parts: list[jax.Array]) -> list[jax.Array]:
    cut = jnp.split(mask, np.cumsum([x.size for x in parts])[:-1])
    return [own.reshape(x.shape) for own, x in zip(cut, parts, strict=True)]


def _checked(x: jax.Array, k: int) -> None:
    if x.ndim != 1:
        raise ValueError(f"x has shape {x.shape}, expected a vector.")
    if not 0 <= k <= x.size:
        raise ValueError(f"k is {k}, expected 0 to the {x.size} entries of x.")


def _magnitudes(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        return x
    return jnp.abs(x.astype(_trees.widest(x.dtype, jnp.float32)))


def _by_platform(x, k, sort, select, by_counting):
    """By `jax.lax.top_k` where it is the faster, by a compiled kernel where one is."""
    ways = {"default": sort}
    if k > FEW:
        ways["cpu"] = lambda x: select(x, _kth(x, k, _window(x)))
    if k and x.size >= LEAST:
        ways["tpu"] = by_counting

    def by_xla(x):
        return jax.lax.platform_dependent(x, **ways) if len(ways) > 1 else sort(x)

    few = k <= FEW and x.size < SHORT and x.dtype != jnp.uint32
    known = k and not few and x.dtype.name in _native.KEYS
    if not (known and _checks.is_traced(x) and _native.used()):
        return by_xla(x)
    kernel = functools.partial(_native.kth_largest, k=k)
    return _native.on_cpu(lambda x: select(x, kernel(x)[:2]), by_xla)(x)


def rank_of_sum(x: jax.Array, y: jax.Array, k: int) -> _native.Rank:
    """Of x + y, [D], in a program that may have kernels; k from 1."""

    def by_xla(x, y):
        keys = keys_of(x + y)
        kth = _kth(x + y, k, _window(x))
        return _native.Rank(*kth, keys.max())

    kernel = functools.partial(_native.kth_largest, k=k)
    return _native.on_cpu(lambda x, y: kernel(x, added=y), by_xla)(x, y)


def _mask(x: jax.Array, key: jax.Array, last: jax.Array) -> jax.Array:
    return _masks.reaching(keys_of(x), jax.lax.iota(jnp.int32, x.size), key, last)


def _window(x: jax.Array) -> int:
    """Candidates that the guess mostly leaves."""
    return min(WINDOW, max(1, x.size // 128))


class Bounds(NamedTuple):
    """Where the k-th largest key is."""

    low: jax.Array  # the least that it can be
    high: jax.Array  # the greatest
    reach: jax.Array  # int32 [], how many keys are at or above low, k or more
    above: jax.Array  # int32 [], how many are above high, fewer than k


def _kth(x: jax.Array, k: int, window: int) -> tuple[jax.Array, jax.Array]:
    """The k-th largest key, and the index of the last of the k entries that have it."""
    keys = keys_of(x)
    zero = jnp.zeros((), keys.dtype)
    bounds = Bounds(zero, ~zero, jnp.int32(x.size), jnp.int32(0))
    bounds = _tighter(x, k, bounds, _guess(keys, k))
    bounds = _narrowed(x, k, bounds, window)
    if window:
        bounds = _finished(keys, k, bounds, window)

    def nth():
        words = _masks.packed(keys_of(x) == bounds.low)
        return _masks.nth(words, k - bounds.above - 1)

    last = jax.lax.cond(bounds.reach == k, lambda: jnp.int32(x.size), nth)
    return bounds.low, last


def _finished(keys, k, bounds: Bounds, window: int) -> Bounds:
    """One key alone between the bounds, found among the few entries there.

    Where more than the window's are between them, they have one key already.
    """
    index = _masks.where_set((keys >= bounds.low) & (keys <= bounds.high), window)
    inside = keys.at[index].get(mode="fill", fill_value=0)
    inside = jax.lax.optimization_barrier(inside)  # read once, not by every count
    above = bounds.above
    own = bounds._replace(reach=bounds.reach - above, above=jnp.int32(0))
    own = _narrowed(inside, k - above, own, 0)
    return own._replace(reach=own.reach + above, above=own.above + above)


def _narrowed(x, k, bounds: Bounds, enough: int) -> Bounds:
    """Bounds with so few entries, or one key alone, between them."""

    def wide(bounds):
        return (bounds.low < bounds.high) & (bounds.reach - bounds.above > enough)

    def again(bounds):
        # The barrier keeps the keys of all x from being made once, before the loop.
        here, bounds = jax.lax.optimization_barrier((x, bounds))
        return _tighter(here, k, bounds, _between(bounds.low, bounds.high))

    return jax.lax.while_loop(wide, again, bounds)


def _tighter(x, k, bounds: Bounds, thresholds: jax.Array) -> Bounds:
    """Bounds by a pass over x, which counts the keys at or above each threshold."""
    counts = _at_or_above(keys_of(x), thresholds)
    enough, zero = counts >= k, jnp.zeros((), thresholds.dtype)
    at_most = jnp.where(enough, ~zero, thresholds - 1)
    return Bounds(
        jnp.maximum(bounds.low, jnp.where(enough, thresholds, zero).max()),
        jnp.minimum(bounds.high, at_most.min()),
        jnp.minimum(bounds.reach, jnp.where(enough, counts, x.size).min()),
        jnp.maximum(bounds.above, jnp.where(enough, 0, counts).max()),
    )


def _between(low: jax.Array, high: jax.Array) -> jax.Array:
    """Thresholds above low and up to high, evenly spaced."""
    step = (high - low) // (WAYS + 1) + 1
    return low + jnp.minimum(
        step * jnp.arange(1, WAYS + 1, dtype=low.dtype), high - low
    )


def _guess(keys: jax.Array, k: int) -> jax.Array:
    """Thresholds around the k-th largest key, [WAYS], by a sample."""
    size = min(SAMPLE, keys.size)
    stride = keys.size // size
    place = np.arange(size, dtype=np.uint32)
    # One entry of every stretch of the vector, where in it by a hash: what repeats in
    # the vector, such as a matrix's columns, does not meet the sample's steps.
    within = (place * np.uint32(2654435769) >> np.uint32(8)) % np.uint32(stride)
    index = (place * np.uint32(stride) + within).astype(np.int32)
    sample = jnp.sort(keys.at[index].get(mode="promise_in_bounds"))
    share = k / keys.size
    rank = share * size
    deviation = math.sqrt(size * share * (1 - share)) + 1
    ranks = [round(rank + a * deviation) for a in (0.0, *AROUND)]
    chosen = sample[size - 1 - np.clip(ranks, 0, size - 1)]
    return jnp.concatenate([chosen[:1] + 1, chosen])


def _at_or_above(keys: jax.Array, thresholds: jax.Array) -> jax.Array:
    """How many keys are at or above each threshold, int32 [T]."""
    head, tail = _masks.blocks(keys)
    count = (tail >= thresholds[:, None]).sum(1, dtype=jnp.int32)
    if not head.size:
        return count
    flags = head[:, None] >= thresholds[None, :, None, None]
    # The barriers keep the three sums apart: one over all these axes is slow.
    once = jax.lax.optimization_barrier(flags.sum(2, dtype=jnp.int32))
    twice = jax.lax.optimization_barrier(once.sum(0, dtype=jnp.int32))
    return count + twice.sum(1, dtype=jnp.int32)
