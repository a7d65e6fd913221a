"""Bit counts against strings of codewords, and exactness past 32 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_rivals
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdsec_jax import wire

ORACLES = {
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
EVERY = wire.FORMATS + wire.CONVENTIONS
count = jax.jit(wire.count, static_argnames="layout")


def bits(message, form):
    return count(message, layout=wire.layout_of(message, form)).bits().item()


@pytest.mark.parametrize("form", EVERY)
@settings(max_examples=60, deadline=None)
@given(
    length=st.sampled_from([1, 2, 3, 7, 8, 9, 64, 300]),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_equals_the_oracle(form, length, density, seed):
    rng = np.random.default_rng(seed)
    message = np.where(rng.random(length) < density, rng.standard_normal(length), 0)
    message = message.astype(np.float32)
    assert bits(jnp.asarray(message), form) == ORACLES[form](message, 32)


@pytest.mark.parametrize("form", EVERY)
def test_a_tree_is_its_leaves_concatenated(form):
    rng = np.random.default_rng(0)
    leaves = [np.where(rng.random(n) < 0.3, 1.0, 0.0) for n in (5, 1, 8)]
    tree = {
        "a": jnp.asarray(leaves[0], jnp.float32),
        "b": [jnp.asarray(leaves[1][0], jnp.float32)],
        "c": jnp.asarray(leaves[2].reshape(2, 4), jnp.float32),
    }
    assert bits(tree, form) == ORACLES[form](np.concatenate(leaves), 32)


def test_leaves_of_several_widths():
    tree = [jnp.asarray([1.0, 0.0], jnp.bfloat16), jnp.asarray([0.0, 2.0], jnp.float32)]
    uploads = wire.count(tree, wire.layout_of(tree, "coo"))
    assert uploads.entries.tolist() == [1, 1]
    assert uploads.bits() == 3 + (16 + 2) + (32 + 2)
    assert bits(tree, "dense") == 2 * 16 + 2 * 32
    assert bits(tree, wire.Format("coo", value_bits=8)) == 3 + 2 * (8 + 2)


def test_the_published_conventions_differ_for_one_entry_of_300():
    message = jnp.zeros(300).at[17].set(1.0)
    assert bits(message, "bitmap") == 332
    assert bits(message, "coo") == 9 + 41
    assert bits(message, "rle") == 3 + 9 + 32
    assert bits(message, "values") == 32
    assert bits(message, "coo_bare") == 41
    assert bits(message, "coo64") == 64


@pytest.mark.parametrize("form", EVERY)
def test_silence_is_free(form):
    assert bits(jnp.zeros(7), form) == 0
    assert bits({}, form) == 0


def test_flush():
    tiny = float(np.finfo(np.float32).tiny)
    message = jnp.asarray([-0.0, tiny / 2, -tiny / 2, tiny, jnp.nan, -jnp.inf])
    flushed = wire.flush(message)
    expected = np.float32([0.0, 0.0, 0.0, tiny, np.nan, -np.inf])
    np.testing.assert_array_equal(
        np.asarray(flushed).view(np.uint32), expected.view(np.uint32)
    )
    assert bits(flushed, "coo") == 3 + 3 * (32 + 3)


@pytest.mark.parametrize("x", [1, 2, 3, 4, 8191, 8192, 2**24 - 1, 2**24 + 1, 2**31 - 1])
def test_gamma_length_is_exact(x):
    expected = 2 * (x.bit_length() - 1) + 1
    assert wire.gamma_length(jnp.asarray(x)).item() == expected
    if x < 2**15:
        assert expected == len(oracle.elias_gamma(x))


def test_totals_pass_32_bits_without_x64():
    assert not jax.config.jax_enable_x64
    length = 2**31 - 1
    shape = jax.ShapeDtypeStruct((length,), jnp.float32)
    sizes = jnp.asarray([[length], [1], [0]], jnp.int32)
    runs = jnp.asarray([2**32 - 1, 7, 1], jnp.uint32)

    def uploads(form):
        layout, nobody = wire.layout_of(shape, form), jnp.zeros(3, bool)
        return wire.Uploads(sizes, runs[:, None], nobody, layout)

    assert uploads("dense").bits().dtype == np.int64
    coo = [31 + length * (32 + 31), 31 + 32 + 31, 0]
    assert uploads("coo").bits().tolist() == coo
    assert uploads("rle").bits().tolist() == [length * 32 + 2**32 - 1, 32 + 7, 0]
    with pytest.raises(ValueError, match=r"can cost \d+ bits, more than uint32 holds"):
        layout = uploads("coo").layout
        no = jnp.zeros(3, bool)
        jax.jit(lambda n: wire.Uploads(n, runs, no, layout).bits())(sizes)


def test_bits_inside_a_compiled_function():
    message = jnp.asarray([1.0, 0.0, 2.0])
    layout = wire.layout_of(message, "rle")
    inside = jax.jit(lambda m: wire.count(m, layout).bits())(message)
    assert inside.dtype == jnp.uint32
    assert inside == bits(message, "rle")
    with jax.enable_x64(True):
        inside = jax.jit(lambda m: wire.count(m, layout).bits())(message)
        assert inside.dtype == jnp.int64
        assert inside == bits(message, "rle")


def test_several_formats_of_one_count():
    message = jnp.zeros(300).at[jnp.array([17, 40])].set(1.0)
    also = (*wire.FORMATS, *wire.CONVENTIONS)
    uploads = count(
        message, layout=wire.layout_of(message, wire.Format("rle", also=also))
    )
    assert {name: uploads.bits(name) for name in EVERY} == {
        name: bits(message, name) for name in EVERY
    }
    assert uploads.bits() == uploads.bits("rle")
    alone = count(message, layout=wire.layout_of(message, "coo"))
    with pytest.raises(ValueError, match="'golomb' was not counted: name it in wire"):
        alone.bits("golomb")
    with pytest.raises(ValueError, match="format is 'zip', expected one of dense"):
        alone.bits("zip")


@pytest.mark.parametrize("length", [1, 2, 8, 1000, 2**20, 2**31 - 1])
def test_entropy_of_one_entry_is_its_index(length):
    message = jax.ShapeDtypeStruct((length,), jnp.float32)
    layout = wire.layout_of(message, "entropy")
    one, no = jnp.ones(1, jnp.int32), jnp.zeros((), bool)
    uploads = wire.Uploads(one, jnp.zeros(0, jnp.uint32), no, layout)
    assert uploads.bits() == 32 + (length - 1).bit_length()


def test_a_whole_message_costs_its_floats_in_any_format():
    message = jnp.asarray([1.0, 0.0, 2.0])
    for name in EVERY:
        uploads = wire.count(message, wire.layout_of(message, name), whole=True)
        assert uploads.bits() == 96
        assert uploads.entries.tolist() == [3]


def test_codes_have_widths_and_scales_of_their_own():
    message = jnp.asarray([1.0, 0.0, -2.0])
    levels = wire.layout_of(message, "coo", wire.Code("levels", 4, num_scales=1))
    assert wire.count(message, levels).bits() == 32 + 2 + 2 * (4 + 2)
    grid = wire.layout_of(message, "coo", wire.Code("grid", 4, num_scales=1))
    assert wire.count(message, grid).bits() == 32 + 3 * 4
    ternary = wire.Code("ternary", num_scales=1)
    sparse = wire.layout_of(message, "bitmap", ternary)
    assert wire.count(message, sparse).bits() == 32 + 3 + 2
    dense = wire.layout_of(message, "dense", ternary)
    assert wire.count(message, dense).bits() == 32 + 3 * 2
    power = wire.layout_of(message, "bitmap", wire.Code("power"))
    assert wire.count(message, power).bits() == 3 + 2 * 9
    assert wire.count(message, power, whole=True).bits() == 96
    assert wire.count(0 * message, grid).bits() == 0


def test_bad_formats():
    with pytest.raises(ValueError, match=r"wire is 'zip', expected one of dense"):
        wire.as_format("zip")
    with pytest.raises(ValueError, match="wire is 3, expected a name or a wire.Format"):
        wire.as_format(3)  # pyright: ignore
    with pytest.raises(ValueError, match="value_bits is 0, expected an integer"):
        wire.as_format(wire.Format("coo", 0))
    with pytest.raises(
        ValueError, match=r"2147483648 entries, expected fewer than 2\*\*31"
    ):
        wire.layout_of(jax.ShapeDtypeStruct((2**31,), jnp.float32), "coo")


def test_entropy_is_read_outside_compiled_functions():
    message = jnp.asarray([1.0, 0.0, 2.0])
    layout = wire.layout_of(message, "entropy")
    with pytest.raises(ValueError, match="entropy is computed on the host: return"):
        jax.jit(lambda m: wire.count(m, layout).bits())(message)
