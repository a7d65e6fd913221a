"""Bytes of messages against strings written codeword by codeword, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import (
    CODES,
    COSTS,
    DENSITIES,
    DTYPES,
    FORMATS,
    LENGTHS,
    as_bits,
    assert_same,
    product,
    random_message,
    round_trip,
)

from gdsec_jax.wire import Code, Format, Message, decode, encode


def field(number, width):
    return format(number, "b").zfill(width) if width else ""


def float_string(value):
    octets = value.tobytes()[::-1]  # the machines of these tests are little-endian
    return "".join(field(octet, 8) for octet in octets)


def value_string(value, l, code, every):
    if code.kind == "float":
        with np.errstate(all="ignore"):
            return float_string(value.astype(code.dtype or value.dtype))
    sign = "1" if value < 0 else "0"
    match code.kind:
        case "levels":
            return sign + field(abs(l), code.size.bit_length())
        case "ternary":
            return sign + (field(abs(l), 1) if every else "")
        case "grid":
            return field((l + 2**code.size - 1) // 2, code.size)
        case "bins":
            return field(l, code.size)
        case _:
            return sign + field(l + 127 if value != 0 else 0, 8)


def rice(run, low):
    return "1" * (run >> low) + "0" + field(run & ((1 << low) - 1), low)


def index_string(sent, form):
    length, where = len(sent), [i for i, is_sent in enumerate(sent) if is_sent]
    runs = [i - j - 1 for i, j in zip(where, [-1, *where[:-1]], strict=True)]
    number = oracle.elias_gamma(len(where) + 1)
    match form:
        case "coo":
            wide = oracle._field_width(length + 1)
            each = oracle._field_width(length)
            return field(len(where), wide) + "".join(field(i, each) for i in where)
        case "bitmap":
            return "".join("1" if is_sent else "0" for is_sent in sent)
        case "rle":
            return number + "".join(oracle.elias_gamma(run + 1) for run in runs)
        case _:
            choices = [("".join(rice(r, b) for r in runs), b) for b in range(32)]
            string, low = min(choices, key=lambda choice: (len(choice[0]), choice[1]))
            return number + field(low, 5) + string


def message_string(message, multiples, form):
    code = Code() if message.whole else message.code
    every = form == "dense" or message.whole or code.kind == "grid" or code.dense
    entries = [
        (value, l)
        for leaf, its in zip(message.values, multiples, strict=True)
        for value, l in zip(leaf.ravel(), its.ravel().tolist(), strict=True)
    ]
    sent = [bool(as_bits(value) != 0) for value, _ in entries]
    if not any(sent):
        return ""
    stream = [] if message.whole else [float_string(x) for x in message.scales]
    if not every:
        stream.append(index_string(sent, form))
    for is_sent, (value, l) in zip(sent, entries, strict=True):
        if every or is_sent:
            stream.append(value_string(value, l, code, every))
    return "".join(stream)


def as_bytes(string):
    string += "0" * (-len(string) % 8)
    return bytes(int(string[i : i + 8], 2) for i in range(0, len(string), 8))


def from_bits(string):
    return as_bytes(string.replace(" ", ""))


shapes = st.lists(
    st.sampled_from([(), (0,), (1,), (2,), (7,), (3, 3), (8,), (2, 5, 2), (40,)]),
    max_size=4,
)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("code", CODES, ids=str)
@settings(max_examples=8, deadline=None)
@given(
    shapes=st.one_of(shapes, st.sampled_from([[(n,)] for n in LENGTHS])),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
    density=st.sampled_from(DENSITIES),
    per_leaf=st.booleans(),
    whole=st.sampled_from([False, False, False, True]),
    seed=st.integers(0, 2**20),
)
def test_the_bytes_are_the_codewords_and_come_back(
    form, code, shapes, dtypes, density, per_leaf, whole, seed
):
    rng = np.random.default_rng(seed)
    message, multiples = random_message(
        rng, shapes, dtypes[: len(shapes)], code, density, per_leaf, whole
    )
    data = round_trip(message, form)
    assert data == as_bytes(message_string(message, multiples, form))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_length_is_the_formula(form, dtype):
    for length in LENGTHS:
        rng = np.random.default_rng(length)
        for density in DENSITIES:
            message, _ = random_message(rng, [(length,)], [dtype], Code(), density)
            width = 8 * jnp.dtype(dtype).itemsize
            # Bits: the oracles' comparisons with zero know nothing of NaNs' payloads.
            bits = COSTS[form](as_bits(message.values[0]), width)
            assert len(round_trip(message, form)) == -(-bits // 8)


@pytest.mark.parametrize("form", FORMATS)
def test_a_tree_of_jax_arrays(form):
    values = {
        "w": jnp.zeros((3, 5)).at[1, 2].set(-3.5),
        "b": jnp.asarray([0, 2], jnp.bfloat16),
        "scalar": jnp.asarray(7.0, jnp.float16),
    }
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), values)
    back = decode(encode(Message(values), form), like, form)
    assert_same(Message(values), back)
    assert jax.tree.structure(back.values) == jax.tree.structure(values)


def test_other_layouts_in_memory():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = encode(Message(values), "rle")
    assert encode(Message(np.asfortranarray(values)), "rle") == expected
    assert encode(Message(values.astype(">f4")), "rle") == expected
    for data in (bytearray(expected), memoryview(expected)):
        assert_same(Message(values), decode(data, values, "rle"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("density", [0.0001, 0.01, 0.5])
@pytest.mark.parametrize("code", [Code(), Code("levels", 5, None, 1)], ids=str)
def test_a_million_entries(form, density, code):
    """Longer than the window in which codewords are looked for."""
    rng = np.random.default_rng(0)
    message, _ = random_message(rng, [(10**6,)], ["float32"], code, density)
    round_trip(message, form)


@pytest.mark.parametrize("form", ["rle", "golomb"])
def test_clustered_entries_and_very_long_runs(form):
    """Rice codes with b = 0 of runs that are longer than the window."""
    rng = np.random.default_rng(1)
    for gap in (10, 32_760, 32_768, 33_000, 300_000):
        values = np.zeros(10**6, np.float32)
        values[:100_000] = 1
        values[100_000 + gap :: 200_000] = rng.uniform(1, 2)
        round_trip(Message(values), form)
    values = np.zeros(2**20, np.float32)
    values[-1] = 1  # one run
    round_trip(Message(values), form)


def test_nan_payloads_survive():
    for dtype, patterns in (
        ("float16", [0x7C01, 0xFE37, 0x7C00]),
        ("bfloat16", [0x7F81, 0xFFC3, 0xFF80]),
        ("float32", [0x7F800001, 0xFFC12345, 0x7F800000]),
        ("float64", [0x7FF0000000000001, 0xFFF8000000012345]),
    ):
        kind = f"u{jnp.dtype(dtype).itemsize}"
        round_trip(Message(np.array(patterns, kind).view(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["dense", "rle"])
@pytest.mark.parametrize("kind, size", [("levels", 1000), ("grid", 8), ("grid", 12)])
def test_multiples_that_rounding_makes_ambiguous(dtype, form, kind, size):
    """bfloat16 has 8 digits: one value then is the scale times any of several l."""
    rng = np.random.default_rng(0)
    code = Code(kind, size, None, 1)
    limit = size if kind == "levels" else 2**size - 1
    l = rng.integers(-limit, limit + 1, 500)
    l = l | 1 if kind == "grid" else l
    for scale in np.float32([1.2e-38, 1e-7, 3e-6, 0.37, 1.0, 17.3]):
        message = Message(product(scale, l, dtype), code, np.float32([scale]))
        data = round_trip(message, form)
        if np.any(message.values) and (form == "dense" or kind == "grid"):
            values = 500 * code.width(nonzero=False, dtype=dtype)
            assert len(data) == -(-(32 + values) // 8)


def test_wide_multiples():
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        l = 2 * rng.integers(0, 2**32, 400) - (2**32 - 1)
        scale = np.float32([0.3])
        values = product(scale[0], l, dtype)
        round_trip(Message(values, Code("grid", 32, None, 1), scale), "dense")
        round_trip(Message(values, Code("levels", 2**32 - 1, None, 1), scale))


def test_a_leaf_of_scale_zero():
    values = [np.zeros(3, np.float32), np.float32([0.5, -0.5])]
    scales = np.float32([0, 0.5])
    for code in (Code("levels", 3), Code("ternary"), Code("grid", 2)):
        message = Message(values, code._replace(num_scales=2), scales)
        round_trip(message)
    data = encode(message, "dense")
    assert data == from_bits("0" * 32 + float_string(scales[1]) + "000000 10 01")
    wrong = Message([np.float32([0, 1, 0]), values[1]], message.code, scales)
    with pytest.raises(ValueError, match=r"values\[0\] has the value 1.0, expected 0"):
        encode(wrong, "dense")


def test_an_entry_of_a_grid_flushed_to_zero():
    scale, code = np.float32([2.0**-15]), Code("grid", 3, None, 1)
    message = Message(product(scale[0], [1, -1, 3, -7], "float16"), code, scale)
    assert message.values[:2].tolist() == [0, 0]
    round_trip(message, "coo")


def test_powers_at_the_ends():
    values = np.float32([2.0**-126, -(2.0**127), 0, 1])
    message = Message(values, Code("power"))
    written = from_bits("0 00000001 1 11111110 0 00000000 0 01111111")
    assert encode(message, "dense") == written
    round_trip(message)


# What is refused


@pytest.mark.parametrize("name", ["entropy", "values", "coo_bare", "coo64"])
def test_conventions_have_no_bytes(name):
    with pytest.raises(ValueError, match=f"{name}', a convention for counts that has"):
        encode(Message(ONES), name)
    with pytest.raises(ValueError, match="a convention for counts that has no bytes"):
        decode(b"", ONES, name)


def test_a_width_of_convention_has_no_bytes():
    values, narrow = np.ones(3), Format("rle", value_bits=32)
    message = r"value_bits is 32, but .* 64 bits .*: compress with worker.cast\('float3"
    with pytest.raises(ValueError, match=message):
        encode(Message(values), narrow)
    with pytest.raises(ValueError, match=message):
        decode(b"", values, narrow)
    with pytest.raises(ValueError, match=r"are 64 bits wide.$"):
        encode(Message(values), Format("rle", value_bits=5))
    as_float32 = Message(values, Code("float", dtype="float32"))
    assert encode(as_float32, narrow) == encode(as_float32, "rle")
    quantised = Message(values, Code("ternary", num_scales=1), np.ones(1, np.float32))
    assert encode(quantised, narrow) == encode(quantised, "rle")
    whole = Message(values, quantised.code, quantised.scales, whole=True)
    with pytest.raises(ValueError, match="value_bits is 32"):
        encode(whole, narrow)


def test_a_grid_without_a_scale_has_that_of_1():
    code, values = Code("grid", 2), np.float32([3, -1, 1])
    for form in FORMATS:
        assert encode(Message(values, code), form) == from_bits("11 01 10")
        assert encode(Message(np.zeros_like(values), code), form) == b""
        again = decode(from_bits("11 01 10"), values, form, code)
        np.testing.assert_array_equal(again.values, values)


ONES, ONE = np.ones(3, np.float32), np.ones(1, np.float32)
LEVELS, TERNARY, GRID = (
    Code(kind, size, None, 1)
    for kind, size in (("levels", 3), ("ternary", 0), ("grid", 4))
)
UNWRITABLE = [
    (ONES, "message is a ndarray, expected a Message."),
    (Message(np.arange(3)), "values is of int64, expected an array of float16, "),
    (Message({"a": [1.0]}), r"values\['a'\]\[0\] is of float, expected an array"),
    (Message(np.float32([1, -0.0])), "values has subnormal numbers or -0.0, "),
    (Message(np.float32([1, 1e-40])), "values has subnormal numbers or -0.0, "),
    (Message(ONES, "float"), "code is 'float', expected a wire.Code"),
    (Message(ONES, Code("gird")), "code.kind is 'gird', did you mean grid. Exp"),
    (Message(ONES, Code("grid", 0, None, 1)), "code.size is 0, expected an int"),
    (Message(ONES, Code("levels", 2.0)), "code.size is 2.0, expected an integer"),
    (Message(ONES, Code(dtype="int8")), "code.dtype is 'int8', expected float16,"),
    (Message(ONES, Code(dtype="x")), "code.dtype is 'x', expected float16,"),
    (Message(ONES, Code(num_scales=1)), "num_scales is 1, expected 0 for 'float'"),
    (Message(2 * ONES, Code("grid", 1)), "2.0, expected 1.0 times an odd integer of"),
    (Message(ONES, Code("grid", 1, None, 2)), "is 2, expected 0 or 1 for 'grid'"),
    (Message(ONES, Code("ternary")), "num_scales is 0, expected 1 for 'ternary'"),
    (Message(ONES, TERNARY), r"float32 of shape \(0,\), expec"),
    (Message(ONES, TERNARY, np.ones(1)), r"scales are float64 of shape \(1,\), expect"),
    (Message(ONES, TERNARY, 2 * ONE), "1.0, expected 2.0 times an integer of at most"),
    (Message(ONES, LEVELS, ONE / 4), "1.0, expected 0.25 times an integer of at most"),
    (Message(ONES * np.nan, LEVELS, ONE / 4), "nan, expected 0.25 times an integer"),
    (Message(ONES, GRID, ONE / 2), "1.0, expected 0.5 times an odd integer of at most"),
    (Message(np.float32([1, 0]), GRID, ONE), "0.0, expected 1.0 times an odd integer"),
    (Message(3 * ONES, Code("power")), r"value 3.0, expected a power of two from 2\^-"),
    (Message(np.ones(1) * 2**200, Code("power")), r"expected a power of .* to 2\^127"),
    (Message(ONES + 1e-6, Code(dtype="bfloat16")), "expected a number that is exact"),
    (Message(ONES, whole=2), "whole is 2, expected True or False"),
]


@pytest.mark.parametrize("message, sentence", UNWRITABLE)
def test_messages_that_cannot_be_written(message, sentence):
    with pytest.raises(ValueError, match=sentence):
        encode(message, "rle")


@pytest.mark.parametrize("scale", [-1.0, -0.0, np.nan, np.inf, 1e-40])
def test_scales_are_normal_numbers(scale):
    scales = np.float32([scale])
    sentence = r"scales\[0\] is .*, expected 0 or a finite positive float32"
    with pytest.raises(ValueError, match=sentence):
        encode(Message(ONES, LEVELS, scales), "dense")
    data = from_bits(float_string(scales[0]) + 3 * "0 01")
    with pytest.raises(ValueError, match=sentence):
        decode(data, ONES, "dense", LEVELS)
    assert encode(Message(0 * ONES, LEVELS, scales), "dense") == b""


def test_too_many_entries():
    huge = jax.ShapeDtypeStruct((2**16, 2**15), np.float32)
    with pytest.raises(ValueError, match="like has 2147483648 entries, expected fewer"):
        decode(b"", huge, "rle")


BFLOAT = "0011111110000000"  # 1
TWO = Code("levels", 2, None, 1)
REFUSED = {
    "data are 8 bytes, expected 10 for the 80 bits": [("dense", Code(), 4 * BFLOAT)],
    "data are 12 bytes, expected 10 for the 80 b": [("dense", Code(), 6 * BFLOAT)],
    "4 bytes, expected 3": [("bitmap", Code(), "10000" + BFLOAT + 8 * "0")],
    "1 bytes, expected 3 for the 21 bits": [("bitmap", Code(), "10000")],
    "ones behind the 21 bits of this": [("bitmap", Code(), "10000" + BFLOAT + "1")],
    "bytes for a message that is all zeros, expected none": [
        ("dense", Code(), 5 * 16 * "0"),
        ("bitmap", Code(), "00000"),
        ("coo", Code(), "000"),
        ("rle", Code(), "1"),
        ("golomb", Code(), "1"),
    ],
    "data hold subnormal numbers or -0.0 as values of like, expected none": [
        ("dense", Code(), 4 * BFLOAT + "1" + 15 * "0"),
        ("dense", Code(), 4 * BFLOAT + 15 * "0" + "1"),
    ],
    "data hold zeros, subnormal numbers or -0.0 as values of like, expected none": [
        ("bitmap", Code(), "10000" + 16 * "0"),
        ("bitmap", Code(), "10000" + "1" + 15 * "0"),
        ("rle", Code(), "010 1" + 15 * "0" + "1"),
    ],
    "data hold positions of non-zeros that do not ascend strictly below 5": [
        ("coo", Code(), "001 101" + BFLOAT),
        ("coo", Code(), "010 011 011" + 2 * BFLOAT),
        ("rle", Code(), "010 00110" + BFLOAT),
        ("golomb", Code(), "010 00000 111110" + BFLOAT),
        ("golomb", Code(), "010 00001 1101" + BFLOAT),
        ("golomb", Code(), "010 11111 10" + 31 * "0" + BFLOAT),
    ],
    "data hold 6 non-zeros, expected at most 5": [
        ("coo", Code(), "110" + 6 * "000" + 4 * BFLOAT),
        ("rle", Code(), "00111" + 6 * "1" + 6 * BFLOAT),
    ],
    "data are 15 bytes, expected at most 13 for a message of 5 entries": [
        ("coo", Code(), "110" + 6 * "000" + 6 * BFLOAT)
    ],
    "end within the scales or the positions of the non-zeros, expected more": [
        ("coo", Code(), "101 000 0"),
        ("rle", Code(), 80 * "0"),
        ("rle", Code(), "011 1"),
        ("golomb", Code(), "010"),
        ("golomb", Code(), "010 00000 1111 1111"),
        ("bitmap", TWO, ""),
    ],
    "number 0 for a value of like, expected one for .* and not 0.": [
        ("bitmap", TWO, "10000 0 00"),
        ("bitmap", Code("power"), "10000 0 00000000"),
    ],
    "number 2 for a value of like": [("dense", TERNARY, "01 10 00 00 00")],
    "number 3 for a value of like": [("bitmap", TWO, "10000 0 11")],
    "number 4 for a value of like": [("dense", TWO, "001 100 000 000 000")],
    "255 for a value of like": [("bitmap", Code("power"), "10000 0 11111111")],
    "256 for": [("dense", Code("power"), 4 * "0 01111111" + "1 00000000")],
    "exact in float32": [("dense", Code(dtype="float32"), 5 * 32 * "1")],
}


@pytest.mark.parametrize(
    "sentence, form, code, string",
    [(sentence, *case) for sentence, cases in REFUSED.items() for case in cases],
    ids=lambda value: str(value)[:20],
)
def test_bytes_that_nothing_encodes(sentence, form, code, string):
    like = jnp.zeros(5, jnp.bfloat16)
    if code.num_scales:
        string = (float_string(np.float32(1)) if string else "0") + string
    with pytest.raises(ValueError, match=sentence):
        decode(from_bits(string), like, form, code)


def test_scales_of_zero_make_no_entries():
    with pytest.raises(ValueError, match="number 1 for a value of like, .* not 0"):
        decode(from_bits(32 * "0" + "10000 0 01"), jnp.zeros(5), "bitmap", TWO)
    with pytest.raises(ValueError, match="for a message that is all zeros"):
        decode(from_bits(32 * "0" + 5 * "0 01"), jnp.zeros(5), "dense", TWO)


@pytest.mark.parametrize("data", [None, "abc", 5, [1, 2], np.zeros(3, np.uint8)])
def test_data_are_bytes(data):
    with pytest.raises(ValueError, match="data are a .*, expected bytes"):
        decode(data, ONES, "rle")


def test_half_precision_holds_few_powers():
    like, code = np.zeros(1, np.float16), Code("power")
    for exponent in (-15, 16):
        data = from_bits("0" + field(exponent + 127, 8))
        with pytest.raises(ValueError, match="that its dtype holds"):
            decode(data, like, "dense", code)
