"""Messages as words of a fixed number: what arrives is what was sent, bit for bit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _words

from gdsec_jax.wire import Code

LENGTHS = (1, 31, 65_536, 140_000)


def params_of(*leaves):
    return [jax.ShapeDtypeStruct((size,), dtype) for size, dtype in leaves]


@functools.partial(jax.jit, static_argnums=0)
def run(words, messages, scales):
    packed = jax.vmap(lambda v, s: _words.pack(words, v, s))(messages, scales)
    return packed, _words.total(words, packed)


def sums(words, messages, scales=None):
    """What comes out of messages [M, D] that were packed; uint32 [M, W], and [D]."""
    number = len(messages)
    scales = np.zeros((number, 0), np.float32) if scales is None else scales
    scales = jnp.asarray(scales, jnp.float32)
    packed, sum = run(words, jnp.asarray(messages), scales)
    assert packed.dtype == jnp.uint32
    assert packed.shape == (number, _words.num_words(words))
    return np.asarray(packed), np.asarray(sum)


def in_order(messages, capacity=None):
    """The first non-zeros of each, added up one after the other."""
    total = np.zeros_like(messages[0])
    for message in messages:
        kept = np.zeros_like(message)
        some = np.flatnonzero(message)[:capacity]
        kept[some] = message[some]
        total = total + kept
    return total


def sparse(rng, shape, share, dtype=np.float32):
    values = rng.standard_normal(shape).astype(dtype)
    return np.where(rng.random(shape) < share, values, 0).astype(dtype)


def fields(number, width):
    """Words for so many codes: powers of two of bits each lie by themselves."""
    planes = [2**i for i in range(6) if width >> i & 1]
    return sum(math.ceil(number / (32 // bits)) for bits in planes)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("part", [0.01, 2.0])
def test_the_non_zeros_of_floats(length, part):
    rng, capacity = np.random.default_rng(length), math.ceil(part * length)
    words = _words.words_of(params_of((length, "float32")), Code(), capacity)
    for share in (0.0, 0.005, 0.3, 1.0):  # fewer than there is room for, and more
        messages = sparse(rng, (2, length), share)
        packed, found = sums(words, messages)
        np.testing.assert_array_equal(found, in_order(messages, capacity))
        room = min(capacity, length)
        blocks = math.ceil(length / 65_536) if length > 65_536 else 0
        assert packed.shape[1] == blocks + fields(room, 16) + room


@pytest.mark.parametrize("capacity", [1, 100])
def test_non_zeros_at_the_edges_of_blocks(capacity):
    length = 5 * 65_536 + 7
    words = _words.words_of(params_of((length, "float32")), Code(), capacity)
    for places in (
        *([0], [length - 1], [0, length - 1], [65_535, 65_536, 131_071, 131_072]),
        [3 * 65_536 + 1, length - 2],  # with blocks that have none
    ):
        messages = np.zeros((2, length), np.float32)
        messages[0, places], messages[1, places] = 1.5, -4.0
        _, found = sums(words, messages)
        np.testing.assert_array_equal(found, in_order(messages, capacity))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_of_16_bits_take_half_a_word(dtype):
    rng = np.random.default_rng(1)
    wide = sparse(rng, (3, 70_001), 0.01)
    messages = np.asarray(jnp.asarray(wide).astype(dtype).astype(jnp.float32))
    room = 1_001
    cast = _words.words_of(params_of((70_001, "float32")), Code(dtype=dtype), room)
    packed, found = sums(cast, messages)
    np.testing.assert_array_equal(found, in_order(messages, room))
    assert packed.shape[1] == 2 + 2 * math.ceil(room / 2)
    # Parameters of that dtype need no cast; they are added up in float32.
    narrow = _words.words_of(params_of((70_001, dtype)), Code(), room)
    packed, found = sums(narrow, jnp.asarray(messages).astype(dtype))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, in_order(messages, room))
    assert packed.shape[1] == 2 + 2 * math.ceil(room / 2)


def test_float64_takes_two_words_and_is_added_up_in_it():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        messages = sparse(rng, (3, 1_000), 0.1, np.float64)
        words = _words.words_of(params_of((1_000, "float64")), Code(), 200)
        packed, found = sums(words, messages)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, in_order(messages, 200))
        assert packed.shape[1] == fields(200, 16) + 2 * 200


# Every width of a code, 1 to 12, by the codes that have it.
CODES = {
    **{f"grid {b}": Code("grid", b, num_scales=1) for b in range(1, 13)},
    **{
        f"levels {2**b - 1}": Code("levels", 2**b - 1, num_scales=1)
        for b in range(1, 12)
    },
    "levels 5": Code("levels", 5, num_scales=1),
    "ternary": Code("ternary", num_scales=1),
    "power": Code("power"),
}


def coded(rng, code, number, length, scales, share=0.5):
    """Messages [M, D] in such a code, float32."""
    chosen = rng.random((number, length)) < share
    if code.kind == "power":
        exponent = rng.integers(-126, 121, (number, length))
        sign = rng.choice([-1.0, 1.0], (number, length))
        powers = (sign * np.exp2(exponent.astype(np.float64))).astype(np.float32)
        return np.where(chosen, powers, np.float32(0))
    most = 1 if code.kind == "ternary" else code.size
    if code.kind == "grid":
        levels = 2 * rng.integers(0, 2**most, (number, length)) - (2**most - 1)
    else:
        levels = np.where(chosen, rng.integers(-most, most + 1, (number, length)), 0)
    return scales[:, :1] * levels.astype(np.float32)


@pytest.mark.parametrize("name", sorted(CODES))
def test_a_code_for_every_entry(name):
    code, length = CODES[name], 1_027
    rng = np.random.default_rng(length)
    scales = rng.random((3, 1)).astype(np.float32) + np.float32(0.1)
    messages = coded(rng, code, 3, length, scales)
    words = _words.words_of(params_of((length, "float32")), code, None)
    packed, found = sums(words, messages, scales[:, : code.num_scales])
    np.testing.assert_array_equal(found, in_order(messages))
    width = {"grid": code.size, "ternary": 2, "power": 9}.get(
        code.kind, 1 + code.size.bit_length()
    )
    assert packed.shape[1] == code.num_scales + fields(length, width)


def test_signs_without_a_scale():
    """A message that was not sent adds nothing: a word says so."""
    messages = np.random.default_rng(2).choice(np.float32([-1, 1]), (4, 100))
    messages[2] = 0
    words = _words.words_of(params_of((100, "float32")), Code("grid", 1), None)
    packed, found = sums(words, messages)
    np.testing.assert_array_equal(found, messages.sum(0))
    assert packed.shape[1] == 1 + fields(100, 1)


@pytest.mark.parametrize("name", ["levels 7", "levels 5", "ternary", "power"])
@pytest.mark.parametrize("length", [70_000])
def test_codes_of_the_non_zeros(name, length):
    code, rng = CODES[name], np.random.default_rng(length)
    scales = rng.random((2, 1)).astype(np.float32) + np.float32(0.1)
    messages = coded(rng, code, 2, length, scales, share=0.05)
    for room in (7, length // 2):
        words = _words.words_of(params_of((length, "float32")), code, room)
        _, found = sums(words, messages, scales[:, : code.num_scales])
        np.testing.assert_array_equal(found, in_order(messages, room))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 65_537])
def test_codes_of_any_number_of_entries(length):
    rng, code = np.random.default_rng(length), CODES["grid 7"]
    scales = np.ones((2, 1), np.float32)
    messages = coded(rng, code, 2, length, scales)
    words = _words.words_of(params_of((length, "float32")), code, None)
    packed, found = sums(words, messages, scales)
    np.testing.assert_array_equal(found, in_order(messages))
    assert packed.shape[1] == 1 + fields(length, 7)


def test_a_grid_ignores_a_capacity_for_it_has_no_zeros():
    words = _words.words_of(params_of((10, "float32")), CODES["grid 2"], 3)
    assert words.capacity is None


@pytest.mark.parametrize("capacity", [None, 200])
def test_every_leaf_has_its_scale(capacity):
    sizes, rng = (300, 1, 500), np.random.default_rng(3)
    code = Code("levels", 7, num_scales=3)
    scales = rng.random((2, 3)).astype(np.float32) + np.float32(0.1)
    levels = rng.integers(-7, 8, (2, 801)) * (rng.random((2, 801)) < 0.1)
    messages = np.repeat(scales, sizes, axis=1) * levels.astype(np.float32)
    params = params_of(*((size, "float32") for size in sizes))
    words = _words.words_of(params, code, capacity)
    _, found = sums(words, messages, scales)
    np.testing.assert_array_equal(found, in_order(messages, capacity))


@pytest.mark.parametrize("name", ["grid 1", "grid 4", "levels 7", "ternary", "power"])
def test_silence_is_silence(name):
    """A worker that sends nothing leaves its last scale behind, and is no sum of it."""
    code, rng = CODES[name], np.random.default_rng(4)
    scales = np.full((3, 1), 0.5, np.float32)
    messages = coded(rng, code, 3, 100, scales)
    messages[1] = 0
    for capacity in (None, 100):
        words = _words.words_of(params_of((100, "float32")), code, capacity)
        _, found = sums(words, messages, scales[:, : code.num_scales])
        np.testing.assert_array_equal(found, in_order(messages[[0, 2]]))


@pytest.mark.parametrize("number", [8, 9])
def test_many_messages_are_added_up_in_their_order(number):
    rng = np.random.default_rng(number)
    # Of sizes whose sum depends on the order.
    size = np.exp2(rng.integers(-20, 20, (number, 1))).astype(np.float32)
    messages = sparse(rng, (number, 200), 0.5) * size
    words = _words.words_of(params_of((200, "float32")), Code(), 150)
    _, found = sums(words, messages)
    np.testing.assert_array_equal(found, in_order(messages, 150))
    scales = size + np.float32(0.1)
    messages = coded(rng, CODES["grid 3"], number, 200, scales)
    words = _words.words_of(params_of((200, "float32")), CODES["grid 3"], None)
    _, found = sums(words, messages, scales)
    np.testing.assert_array_equal(found, in_order(messages))


def test_codes_of_narrow_parameters_are_rounded_as_the_worker_rounded_them():
    rng, code = np.random.default_rng(5), CODES["levels 7"]
    scales = rng.random((2, 1)).astype(np.float32) + np.float32(0.1)
    wide = coded(rng, code, 2, 500, scales)
    messages = jnp.asarray(wide).astype(jnp.bfloat16)
    words = _words.words_of(params_of((500, "bfloat16")), code, None)
    _, found = sums(words, messages, scales)
    np.testing.assert_array_equal(found, in_order(np.asarray(messages, np.float32)))


def test_what_saves_nothing_is_not_written():
    params = params_of((10, "float32"))
    assert _words.words_of(params, Code(), None) is None
    assert _words.words_of(params, Code(dense=True), 3) is None
    assert _words.words_of([], Code(), 3) is None


def told(code, dtypes, sizes, multiples, scales=(), capacity=None):
    """The entries of a message, in float32, and what comes of their words."""
    params = [jnp.zeros(n, d) for n, d in zip(sizes, dtypes, strict=True)]
    words = _words.words_of(params, code, capacity)
    per = np.repeat(np.broadcast_to(scales or (1.0,), len(sizes)), sizes)
    ends = np.cumsum(sizes)[:-1]
    exact = np.split(np.float32(per) * np.float32(multiples), ends)
    sent = [jnp.asarray(x, d) for x, d in zip(exact, dtypes, strict=True)]
    vector = jnp.concatenate([x.astype(jnp.float32) for x in sent])
    packed = _words.pack(words, vector, jnp.asarray(scales, jnp.float32))
    return vector, _words.total(words, packed[None])


@pytest.mark.parametrize(
    "capacity, scales",
    [(None, (0.1, 0.3)), pytest.param(4, (0.1,), marks=pytest.mark.slow)],
)
def test_leaves_of_several_dtypes_are_each_rounded_as_they_were(capacity, scales):
    code = Code("levels", 7, num_scales=len(scales))
    multiples = [3, 0, -7, 0, 5, 7]
    dtypes = ["bfloat16", "float32"]
    sent, found = told(code, dtypes, (3, 3), multiples, scales, capacity)
    np.testing.assert_array_equal(found, sent)
