"""How quantisers round: norms, scales in float32, powers of two, and their draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from gdsec_jax import _trees
from gdsec_jax._devices import unless_on_tpu
from gdsec_jax.worker._vectors import places


def uniform(key: jax.Array, part: jax.Array, start, size: int) -> jax.Array:
    """For a part of a vector, the draws that its entries have in all of it."""
    if part.size == size:
        return jax.random.uniform(key, part.shape, part.dtype)
    if part.dtype != jnp.float32:
        whole = jax.random.uniform(key, (size,), part.dtype)
        return _cut(whole, start, part.shape)
    # What jax.random.uniform does, of the part's words.
    one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.uint32)
    fraction = (words(key, part.shape, start, size) >> np.uint32(9)) | one
    return jax.lax.bitcast_convert_type(fraction, jnp.float32) - 1


def words(key: jax.Array, shape: tuple[int, ...], start, size: int) -> jax.Array:
    """For a part of a vector, the random words that its entries have in all of it."""
    threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    if not (threefry and jax.config.jax_threefry_partitionable):  # pyright: ignore
        return _cut(jax.random.bits(key, (size,), jnp.uint32), start, shape)
    # What jax.random.bits does, counted from another start.
    place = places(shape, start)
    first, second = jax.random.key_data(key)
    both = (jnp.broadcast_to(x, shape) for x in (first, second))
    high, low = threefry2x32_p.bind(*both, jnp.zeros_like(place), place)
    return high ^ low


def _cut(whole: jax.Array, start, shape: tuple[int, ...]) -> jax.Array:
    part = jax.lax.dynamic_slice_in_dim(whole, start, math.prod(shape))
    return part.reshape(shape)


def norm(parts):
    """The Euclidean norm of a vector's parts; no square overflows, or vanishes."""

    def in_two_passes(parts):
        unit = positive(largest(parts))
        shares = [over(v, unit) for v in parts]
        squares = (jnp.vdot(share, share) for share in shares)
        return unit * jnp.sqrt(functools.reduce(jnp.add, squares))

    def in_one_pass(parts):
        return _trees.norm(parts, parts[0].dtype)

    return unless_on_tpu(parts, tpu=in_one_pass, default=in_two_passes)


def largest(parts):
    """The largest magnitude in a vector's parts."""
    return functools.reduce(jnp.maximum, (jnp.abs(v).max(initial=0) for v in parts))


def as_written(x: jax.Array, most: float, dtype=None) -> jax.Array:
    """Integers of at most this magnitude, on a TPU kept in as few bytes.

    They are read several times: to count them, to add them up, and for what they leave.
    Where one is no number their scale is none.
    """
    if dtype is None:
        fits = [n for n in (jnp.int8, jnp.int16) if most <= jnp.iinfo(n).max]
        if not fits:
            return x
        dtype = fits[0]

    def narrow(x):
        return jax.lax.optimization_barrier(x.astype(dtype)).astype(x.dtype)

    return unless_on_tpu(x, tpu=narrow, default=lambda x: x)


def over(x, scale):
    """x / scale, also where XLA's CPU backend takes 1 / scale for 0: of a subnormal."""
    large = scale > 1 / float(jnp.finfo(x.dtype).tiny)
    return jnp.where(large, x / 4, x) / jnp.where(large, scale / 4, scale)


def positive(scale):
    """The scale, or 1 in the place of 0, to divide by."""
    return jnp.where(scale > 0, scale, 1)


def as_float32(x: jax.Array) -> jax.Array:
    """Rounded to float32, also where XLA drops casts there and back, as on GPUs."""

    def rounded(x):
        return jax.lax.reduce_precision(x, 8, 23).astype(jnp.float32)

    def kept_apart(x):  # TPUs have no reduce_precision of float64, exported or not
        return jax.lax.optimization_barrier(x.astype(jnp.float32))

    if x.dtype != jnp.float64:
        return rounded(x)
    return jax.lax.platform_dependent(x, tpu=kept_apart, default=rounded)


def round_up(x: jax.Array) -> jax.Array:
    """The least normal float32 of at least x; 0 of 0."""
    nearest = as_float32(x)
    above = jnp.nextafter(nearest, jnp.float32(jnp.inf))
    up = jnp.where(nearest.astype(x.dtype) < x, above, nearest)
    return jnp.where(x > 0, jnp.maximum(up, jnp.finfo(jnp.float32).tiny), up)


def power_below(x: jax.Array) -> jax.Array:
    """The largest power of two of at most x > 0, not subnormal: x without fraction.

    By its bits, since powers of two that GPUs compute are not exact in float64.
    """
    fraction = jnp.finfo(x.dtype).nmant
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(bits >> fraction << fraction, x.dtype)


def to_power_of_two(v, u):
    """A power of two beside each entry, by draws u in [0, 1): unbiased."""
    tiny = jnp.asarray(2.0**-126, v.dtype)
    size = jnp.abs(v)
    small = size < tiny
    low = jnp.where(small, 0, power_below(size))
    gap = jnp.where(small, tiny, low)
    rounded = jnp.where(u < (size - low) / gap, low + gap, low)
    beyond = ~jnp.isfinite(size) | (rounded > 2.0**127)  # nothing has a code for these
    return jnp.where(beyond, v * jnp.inf, jnp.sign(v) * rounded)
