"""Messages of every code and format, for the tests of what is written for them."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_rivals

from gdsec_jax.wire import Code, Message, decode, encode

# What a vector costs in bits, by strings written codeword by codeword: the vector, and
# the bits of a value.
COSTS = {
    "dense": oracle.dense_bits,
    "coo": oracle.coo_bits,
    "bitmap": oracle.bitmap_bits,
    "rle": oracle.rle_bits,
    "golomb": oracle_rivals.golomb_bits,
    "entropy": oracle_rivals.entropy_bits,
    "values": oracle.values_only_bits,
    "coo_bare": oracle.coo_bare_bits,
    "coo64": lambda message, value_bits: oracle.coo64_bits(message),
}
FORMATS = ("dense", "coo", "bitmap", "rle", "golomb")
DTYPES = ("float16", "bfloat16", "float32", "float64")
LENGTHS = (0, 1, 2, 7, 8, 9, 300)
DENSITIES = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)
CODES = (
    Code(),
    Code(dense=True),
    Code("float", dtype="bfloat16"),
    Code("float", dtype="float16"),
    Code("float", dtype="float32"),
    Code("levels", 1),
    Code("levels", 4),
    Code("levels", 60),
    Code("ternary"),
    Code("grid", 1),
    Code("grid", 5),
    Code("power"),
    Code("bins", 2),
)
SCALED = ("levels", "ternary", "grid")


def flushed(values):
    with np.errstate(invalid="ignore"):
        zero = np.abs(values) < jnp.finfo(values.dtype).tiny
    return np.where(zero, np.zeros_like(values), values)


def as_bits(array):
    return np.asarray(array).view(f"u{array.dtype.itemsize}")


def product(scale, l, dtype):
    wide = np.float64 if dtype == "float64" else np.float32
    with np.errstate(all="ignore"):
        return flushed((wide(scale) * np.asarray(l).astype(wide)).astype(dtype))


def random_leaf(rng, shape, dtype, code, density, scale):
    """Values of a code, and the integers they were made of, if they were."""
    dtype, l = jnp.dtype(dtype), np.zeros(shape, int)
    with np.errstate(all="ignore"):
        if code.kind == "float":  # all bits, so also infinities and NaNs
            shared = jnp.dtype(code.dtype or dtype)
            narrow = min(shared, dtype, key=lambda x: x.itemsize)
            raw = rng.integers(0, 256, (*shape, narrow.itemsize), np.uint8)
            values = raw.view(narrow)[..., 0].astype(dtype)
            exact = values.astype(shared).astype(dtype)
            values = np.where(as_bits(exact) == as_bits(values), values, 0)
            values = values.astype(dtype)
        elif code.kind == "bins":
            l = rng.integers(0, 2**code.size, shape)
            values = flushed(scale[l].astype(dtype))
        elif code.kind == "power":
            l = rng.integers(-14, 15, shape)
            values = (rng.choice([-1, 1], shape) * 2.0**l).astype(dtype)
        else:
            limit = {"ternary": 1, "grid": 2**code.size - 1}.get(code.kind, code.size)
            l = rng.integers(1, limit + 1, shape) * rng.choice([-1, 1], shape)
            if code.kind == "grid":
                l = 2 * rng.integers(0, 2**code.size, shape) - limit
                return product(scale, l, dtype), l
            values = product(scale, l, dtype)
    keep = rng.random(shape) < density
    return flushed(np.where(keep, values, 0).astype(dtype)), np.where(keep, l, 0)


def random_message(rng, shapes, dtypes, code, density, per_leaf=False, whole=False):
    number = (len(shapes) if per_leaf else 1) if code.kind in SCALED else 0
    code, order = code._replace(num_scales=number), range(len(shapes))
    scales = rng.uniform(0.01, 10, number).astype(np.float32)
    own = [scales[index if number > 1 else 0] if number else None for index in order]
    if code.kind == "bins":  # different ones in any dtype, and a zero
        own = [np.float32([0, 1, -2, 3]) * rng.uniform(0.5, 1.5) for _ in order]
        own = [scale.astype(np.float32) for scale in own]
        scales = np.concatenate([np.zeros(0, np.float32), *own])
        code = code._replace(num_scales=scales.size)
    leaves = []
    for scale, shape, dtype in zip(own, shapes, dtypes, strict=True):
        leaves.append(random_leaf(rng, shape, dtype, code, density, scale))
    values = [values for values, _ in leaves]
    multiples = [l for _, l in leaves]
    return Message(values, code, scales, whole), multiples


def assert_same(message, other):
    leaves, others = jax.tree.leaves(message.values), jax.tree.leaves(other.values)
    for leaf, its in zip(leaves, others, strict=True):
        assert leaf.dtype == its.dtype and leaf.shape == its.shape
        np.testing.assert_array_equal(as_bits(leaf), as_bits(its))
    assert message.code == other.code and message.whole == other.whole


def decode_like(message, data, form):
    return decode(data, message.values, form, message.code, message.whole)


def round_trip(message, *forms):
    """The bytes in the last of these formats, or of all: what comes back is equal."""
    for form in forms or FORMATS:
        data = encode(message, form)
        back = decode_like(message, data, form)
        assert_same(message, back)
        written = message.scales if data and not message.whole else 0 * message.scales
        np.testing.assert_array_equal(back.scales, written)
    return data
