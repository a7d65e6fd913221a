"""Bytes from anywhere: a message or one sentence, in bounded memory and work."""

import itertools
import tracemalloc

import cases
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _bits
from messages import (
    CODES,
    DENSITIES,
    DTYPES,
    FORMATS,
    assert_same,
    decode_like,
    random_message,
    round_trip,
)

from gdsec_jax import wire


def peak_of(call, *arguments):
    """What a call returns, and the most bytes it held at once."""
    tracemalloc.start()
    try:
        return call(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def decoded_or_refused(message, data, form):
    try:
        return decode_like(message, data, form)
    except ValueError:
        return None


def assert_sound(back, message, data, form):
    """What was decoded of these bytes is a message like the one expected."""
    for leaf, its in zip(back.values, message.values, strict=True):
        assert leaf.shape == its.shape and leaf.dtype == its.dtype
    again = round_trip(back, form)
    if message.code == wire.Code() and form != "golomb":  # whose b may be another
        assert again == data


@pytest.mark.parametrize("form", FORMATS)
def test_long_broken_bytes(form):
    """Runs that never end, counts that nothing backs, and noise, of a megabyte."""
    like = wire.Message(jax.ShapeDtypeStruct((2**31 - 1,), np.float32))
    noise = np.random.default_rng(0).bytes(10**6)
    ones, zeros = b"\xff" * 10**6, b"\0" * 10**6
    for data in (noise, ones, zeros, b"\x40" + ones, b"\x40" + zeros, zeros + ones):
        assert decoded_or_refused(like, data, form) is None


def check_mutations(seed, times, sizes):
    """Messages of every format and code, cut, gone on with, and mutated."""
    rng = np.random.default_rng(seed)
    found = number = 0
    for form, code in times * list(itertools.product(FORMATS, CODES)):
        shapes, dtypes = [(int(rng.choice(sizes)),), (2, 2)], rng.choice(DTYPES, 2)
        density, per_leaf = rng.choice(DENSITIES), rng.random() < 0.5
        whole = rng.random() < 0.1
        message, _ = random_message(rng, shapes, dtypes, code, density, per_leaf, whole)
        data = wire.encode(message, form)
        ends = rng.integers(1, len(data), 20) if len(data) > 1 else []
        for broken in (*(data[:end] for end in ends), data + b"\0"):
            if data:
                assert decoded_or_refused(message, broken, form) is None
        entries = sum(leaf.size for leaf in message.values)
        for bad in (rng.bytes(40), *(cases.mutated(rng, data) for _ in range(10))):
            back, peak = peak_of(decoded_or_refused, message, bad, form)
            assert peak < 2**21 + 64 * entries + 4 * len(bad)
            if back is not None:
                found += 1
                assert_sound(back, message, bad, form)
        number += 1
    assert found > number  # of ten times as many


def test_mutated_messages():
    check_mutations(0, 2, [1, 9, 100, 1000])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_mutated_messages(seed):
    check_mutations(seed, 8, [1, 2, 9, 100, 3000, 40_000])


@pytest.mark.parametrize("form", FORMATS)
def test_memory_is_that_of_the_message_expected(form):
    """Whatever the length of the data, and what they claim."""
    like = np.zeros(100_000, np.float32)
    rng = np.random.default_rng(0)
    message = wire.Message(rng.standard_normal(like.size).astype(np.float32))
    data = wire.encode(message, form)
    kinds = [b"\xff", b"\0", b"\x55", rng.bytes(1000)]
    long = [kind * (10**7 // len(kind)) for kind in kinds]
    for bad in (data[:-1], data + bytes(10**7), data[:9] + long[3], *long):
        back, peak = peak_of(decoded_or_refused, message, bad, form)
        assert back is None
        assert peak < 12 * like.nbytes + 2**21


@pytest.mark.parametrize("form", ["rle", "golomb"])
def test_work_is_that_of_the_bits_there_are(form, monkeypatch):
    """A window of bits is looked at a few times at most."""
    looked = []
    chain = _bits._chain

    def counted(window, *others):
        looked.append(window.size)
        return chain(window, *others)

    monkeypatch.setattr(_bits, "_chain", counted)
    rng = np.random.default_rng(0)
    like = wire.Message(np.zeros(60_000, np.float32))
    kinds = [b"\xff", b"\0", b"\x55", b"\x80", b"\x7f" + b"\xff" * 8, rng.bytes(999)]
    for kind in kinds:
        for head in (b"", b"\x40", b"\0\x01", b"\x00\x00\x80", rng.bytes(8)):
            bad = (head + kind * 10**5)[: wire.most_bytes(like.values, form)]
            looked.clear()
            decoded_or_refused(like, bad, form)
            assert len(looked) <= 2 + 8 * len(bad) / 64
            assert sum(looked) <= 3 * 8 * len(bad) + 2**16


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("code", CODES, ids=str)
@settings(max_examples=6, deadline=None)
@given(
    size=st.sampled_from([0, 1, 2, 3, 9, 100]),
    every=st.sampled_from([1, 2, 3, 4, 50]),
    dtype=st.sampled_from(DTYPES),
    whole=st.booleans(),
)
def test_no_message_is_longer_than_most_bytes(form, code, size, every, dtype, whole):
    """Runs of 1 cost most in Elias' code: 3 bits for 2 entries."""
    rng = np.random.default_rng(0)
    message, _ = random_message(rng, [(size,)], [dtype], code, 1.0, whole=whole)
    dense = message.code.always_dense or whole or form == "dense"
    if message.code.kind != "grid":
        message.values[0][np.arange(size) % every > 0] = 0
    data = wire.encode(message, form)
    most = wire.most_bytes(message.values, form, message.code, whole)
    assert len(data) in (0, most) if dense else len(data) <= most
    with pytest.raises(ValueError, match="data are .* bytes, expected"):
        decode_like(message, data + bytes(most + 1), form)


def test_most_bytes_of_a_full_message_in_the_elias_code():
    values = np.zeros(1000, np.float32)
    values[1::2] = 1
    bits = 500 * 32 + 500 * 3 + 2 * 8 + 1  # gamma(2) each, gamma(501)
    assert len(wire.encode(wire.Message(values), "rle")) == -(-bits // 8)
    assert wire.most_bytes(values, "rle") == -(-(32_000 + 1500 + 63) // 8)


@pytest.mark.parametrize("form", FORMATS)
def test_finite_messages(form):
    """Floats, and products with a scale, may be none; who adds up asks."""
    nothing, huge = np.zeros(0, np.float32), np.float32([3e38])
    sentence = r"infinities or NaNs as values of like\['w'\], expected none"
    for values, code, scales in (
        ([1, np.nan], wire.Code(), nothing),
        ([1, np.inf], wire.Code(dtype="bfloat16"), nothing),
        ([np.inf, -np.inf], wire.Code("levels", 4, None, 1), huge),
    ):
        message = wire.Message({"w": np.float32(values)}, code, scales)
        data = round_trip(message, form)
        with pytest.raises(ValueError, match=sentence):
            wire.decode(data, message.values, form, code, finite=True)
    sound = wire.Message({"w": np.float32([0, 1])})
    data = wire.encode(sound, form)
    assert_same(sound, wire.decode(data, sound.values, form, finite=True))
