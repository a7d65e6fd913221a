"""Bit counts against strings of codewords, and exactness past 32 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_rivals
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _formats, _runs, _trees, _uploads
from messages import COSTS

from gdsec_jax import wire

Uploads, layout_of = _uploads.Uploads, _uploads.layout_of
EVERY = tuple(COSTS)
ALL = wire.Format("rle", also=EVERY)
count = jax.jit(_uploads.count, static_argnames="layout")


def bits(message, form):
    return count(message, layout_of(message, form)).bits().item()


def bits_of_all(message):
    """What a message costs in each format and convention, counted at once."""
    uploads = count(message, layout_of(message, ALL))
    assert uploads.bits() == uploads.bits("rle")
    return {name: uploads.bits(name).item() for name in EVERY}


def costs(vector):
    return {name: cost(vector, 32) for name, cost in COSTS.items()}


def test_every_name_has_an_oracle():
    assert EVERY == _formats.FORMATS + _formats.CONVENTIONS


@settings(max_examples=80, deadline=None)
@given(
    length=st.sampled_from([1, 2, 3, 7, 8, 9, 64, 300]),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_counts_equal_the_oracles(length, density, seed):
    rng = np.random.default_rng(seed)
    message = np.where(rng.random(length) < density, rng.standard_normal(length), 0)
    message = message.astype(np.float32)
    assert bits_of_all(message) == costs(message)


def test_a_tree_is_its_leaves_concatenated():
    rng = np.random.default_rng(0)
    leaves = [np.where(rng.random(n) < 0.3, 1, 0).astype("f4") for n in (5, 1, 8)]
    tree = {"a": leaves[0], "b": [leaves[1][0]], "c": leaves[2].reshape(2, 4)}
    assert bits_of_all(tree) == costs(np.concatenate(leaves))


@pytest.mark.parametrize("form", EVERY)
def test_a_format_alone_a_whole_message_and_silence(form):
    """A format costs the same counted alone; one program serves whole messages too."""
    message = np.zeros(300, np.float32)
    message[[17, 40]] = 1
    layout = layout_of(message, form)
    assert count(message, layout, False).bits() == costs(message)[form]
    whole = count(message, layout, True)
    assert whole.bits() == 300 * 32 and whole.entries.tolist() == [300]
    assert count(0 * message, layout, False).bits() == 0
    assert count(0 * message, layout, True).bits() == 0
    assert bits({}, form) == 0


def test_leaves_of_several_widths():
    tree = [np.array([1, 0], jnp.bfloat16), np.float32([0, 2])]
    uploads = count(tree, layout_of(tree, "coo"))
    assert uploads.entries.tolist() == [1, 1]
    assert uploads.bits() == 3 + (16 + 2) + (32 + 2)
    assert bits(tree, "dense") == 2 * 16 + 2 * 32
    assert bits(tree, wire.Format("coo", value_bits=8)) == 3 + 2 * (8 + 2)


def test_flush():
    tiny = float(np.finfo(np.float32).tiny)
    flushed = wire.flush(np.float32([-0.0, tiny / 2, -tiny / 2, tiny, np.nan, -np.inf]))
    expected = np.float32([0.0, 0.0, 0.0, tiny, np.nan, -np.inf])
    np.testing.assert_array_equal(
        np.asarray(flushed).view(np.uint32), expected.view(np.uint32)
    )
    assert bits(flushed, "coo") == 3 + 3 * (32 + 3)


def test_gamma_length_is_exact():
    numbers = [1, 2, 3, 4, 8191, 8192, 2**24 - 1, 2**24 + 1, 2**31 - 1]
    lengths = _runs.gamma_length(jnp.asarray(numbers, jnp.int32)).tolist()
    assert lengths == [2 * (x.bit_length() - 1) + 1 for x in numbers]
    assert lengths[:6] == [len(oracle.elias_gamma(x)) for x in numbers[:6]]


def test_totals_pass_32_bits_without_x64():
    assert not jax.config.jax_enable_x64
    length = 2**31 - 1
    shape = jax.ShapeDtypeStruct((length,), jnp.float32)
    sizes = np.int32([[length], [1], [0]])
    runs, no = (np.uint32([2**32 - 1, 7, 1]),), np.zeros(3, bool)

    def uploads(form, sizes=sizes):
        return Uploads(sizes, runs, no, _trees.as_structure(layout_of(shape, form)))

    assert uploads("dense").bits().dtype == np.int64
    coo = [31 + length * (32 + 31), 31 + 32 + 31, 0]
    assert uploads("coo").bits().tolist() == coo
    assert uploads("rle").bits().tolist() == [length * 32 + 2**32 - 1, 32 + 7, 0]
    with pytest.raises(ValueError, match=r"can cost \d+ bits, more than uint32 holds"):
        jax.jit(lambda n: uploads("coo", n).bits())(sizes)


def test_bits_inside_a_compiled_function():
    message = np.float32([1, 0, 2])

    def inside(form):
        layout = layout_of(message, form)
        return jax.jit(lambda m: _uploads.count(m, layout).bits())(message)

    assert inside("rle").dtype == jnp.uint32
    assert inside("rle") == bits(message, "rle")
    with jax.enable_x64(True):
        assert inside("rle").dtype == jnp.int64
        assert inside("rle") == bits(message, "rle")
    with pytest.raises(ValueError, match="entropy is computed on the host: return"):
        inside("entropy")


@pytest.mark.parametrize("length", [1, 2, 8, 1000, 2**20, 2**31 - 1])
def test_entropy_of_one_entry_is_its_index(length):
    layout = layout_of(jax.ShapeDtypeStruct((length,), jnp.float32), "entropy")
    one, no = np.ones(1, np.int32), np.zeros((), bool)
    uploads = Uploads(one, (), no, _trees.as_structure(layout))
    assert uploads.bits() == 32 + (length - 1).bit_length()


@pytest.mark.parametrize(
    ("code", "width", "dense_width"),
    [
        (wire.Code("levels", 8, num_scales=1), 5, 5),  # a sign, and 0 to 8
        (wire.Code("ternary", num_scales=1), 1, 2),
        (wire.Code("power"), 9, 9),
        (wire.Code("float", dtype="bfloat16"), 16, 16),
        (wire.Code("grid", 4, num_scales=1), None, 4),
        (wire.Code(dense=True), None, 32),
    ],
    ids=str,
)
def test_codes_have_widths_and_scales_of_their_own(code, width, dense_width):
    """Without a width of its non-zeros a message is dense in every format."""
    message = np.zeros(300, np.float32)
    message[[0, 17, 40]] = 1, -2, 1
    layout = layout_of(message, ALL, code)
    uploads, whole = count(message, layout, False), count(message, layout, True)
    silent = count(0 * message, layout, False)
    for name, cost in COSTS.items():
        v, of_name = (width, cost) if width and name != "dense" else (dense_width, None)
        expected = oracle_rivals.quantised_bits(
            message, of_name or COSTS["dense"], v, code.num_scales
        )
        assert uploads.bits(name) == expected, name
        assert whole.bits(name) == 300 * 32
        assert silent.bits(name) == 0


def test_what_is_refused():
    as_format = _formats.as_format
    with pytest.raises(ValueError, match=r"wire is 'zip', expected one of dense"):
        as_format("zip")
    with pytest.raises(ValueError, match="wire is 3, expected a name or a wire.Format"):
        as_format(3)
    with pytest.raises(ValueError, match="value_bits is 0, expected an integer"):
        as_format(wire.Format("coo", 0))
    with pytest.raises(ValueError, match=r"2147483648 entries, expected fewer than"):
        layout_of(jax.ShapeDtypeStruct((2**31,), jnp.float32), "coo")
    one = np.float32([1])
    alone = count(one, layout_of(one, "coo"))
    with pytest.raises(ValueError, match="'golomb' was not counted: name it in wire"):
        alone.bits("golomb")
    with pytest.raises(ValueError, match="format is 'zip', expected one of dense"):
        alone.bits("zip")
    with pytest.raises(ValueError, match=r"values of \[16\] bits does not fit a layou"):
        _uploads.count(one.astype(jnp.float16), layout_of(one, "coo"))


def test_names_that_are_no_longer_public_warn():
    for name in ("CONVENTIONS", "count", "whole_of"):
        with pytest.warns(DeprecationWarning, match=rf"wire\.{name} is no longer publ"):
            getattr(wire, name)
    with pytest.raises(AttributeError, match="'gdsec_jax.wire' has no attribute 'zip'"):
        _ = wire.zip
