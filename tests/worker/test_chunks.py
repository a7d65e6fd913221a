"""Chunked top-k: against NumPy and SciPy, its bytes, and the arithmetic of papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rivals
import pytest
import scipy.fft
from cases import mutated, slow_but
from inside import _uploads
from messages import assert_same, decode_like, round_trip

from gdsec_jax import federate, last_round, wire, worker

SHAPES = {"a": (7, 9), "b": (), "c": (4,), "d": (32,)}
VARIANTS = {
    "plain": {},
    "bits": {"bits": 2},
    "fine": {"bits": 5},
    "dct": {"dct": True},
    "dct, bits": {"dct": True, "bits": 2},
}
K, CHUNK = 3, 16


def tree_of(seed, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape), dtype)
        for name, shape in SHAPES.items()
    }


@functools.cache
def made(name):
    piece = worker.chunk_top_k(K, chunk=CHUNK, **VARIANTS[name])
    return piece, jax.jit(lambda v: piece.update(v, piece.init(v), v))


def to_bins(values, bits):
    """The mean of each value's bin: equal ones over six deviations, open outside."""
    number, mean = 2**bits, values.mean()
    width = 6 * values.std(ddof=1) / number if values.size > 1 else 1.0
    edges = mean + width * (np.arange(1, number) - number // 2)
    bins = np.searchsorted(edges, values, side="right")
    means = np.zeros(number, np.float32)
    for b in set(bins):
        means[b] = values[bins == b].mean()
    return means[bins].astype(np.float64), means


def oracle_of(leaf, bits=None, dct=False):
    """A leaf's message, its transform, and the means of its bins."""
    v = np.asarray(leaf, np.float64).ravel()
    length = min(CHUNK, v.size)
    padded = np.pad(v, (0, -v.size % length)) if dct else v
    parts = [padded[i : i + length] for i in range(0, padded.size, length)]
    if dct:
        parts = [scipy.fft.dct(part, norm="ortho") for part in parts]
    kept = [np.argsort(-np.abs(x), kind="stable")[:K] for x in parts]
    values = np.concatenate([x[own] for x, own in zip(parts, kept, strict=True)])
    means = None
    if bits is not None:
        values, means = to_bins(values, bits)
    sent, start = [], 0
    for part, own in zip(parts, kept, strict=True):
        one = np.zeros(part.size)
        one[own] = values[start : start + own.size]
        start += own.size
        sent.append(one)
    coefficients = np.concatenate(sent)
    if dct:
        sent = [scipy.fft.idct(one, norm="ortho") for one in sent]
    return np.concatenate(sent)[: v.size].reshape(np.shape(leaf)), coefficients, means


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_numpy(name):
    for seed in range(3):
        v = tree_of(seed)
        message, packing = made(name)[1](v)
        expected = [oracle_of(leaf, **VARIANTS[name]) for leaf in v.values()]
        for ours, (theirs, _, _) in zip(message.values(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
        if "bits" in VARIANTS[name]:
            means = np.concatenate([means for _, _, means in expected])
            np.testing.assert_allclose(packing.scales, means, rtol=1e-7)
        if "dct" in name:
            for ours, (_, theirs, _) in zip(packing.payload, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


# Of the leaves 63 = 3 x 16 + 15, 1, 4 and 32 = 2 x 16: entries that are written, and
# the bits of their places.
WRITTEN = (4 * 3, 1, 3, 2 * 3)
PLACES = (4, 0, 2, 4)
DTYPES = ("float64", "float32", "bfloat16")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", slow_but(["float32"], DTYPES))
@pytest.mark.parametrize("name", VARIANTS)
def test_its_bytes_are_those_that_are_counted(name, dtype):
    piece, update = made(name)
    v = tree_of(5, dtype)
    message, state = update(v)
    message = jax.tree.map(lambda x, like: x.astype(like.dtype), message, v)
    said = wire.message_of(message, state)
    bits = VARIANTS[name].get("bits")
    width = bits or 8 * jnp.dtype(dtype).itemsize
    cost = sum(n * (p + width) for n, p in zip(WRITTEN, PLACES, strict=True))
    cost += 32 * 4 * 2**bits if bits else 0
    for form in wire.FORMATS:
        assert len(round_trip(said, form)) == -(-cost // 8)
        assert wire.most_bytes(said.values, form, said.code) == -(-cost // 8)
    algorithm = federate(piece, 2, wire="rle")
    gradients = jax.tree.map(lambda x: jnp.stack([x, 0 * x]), v)
    sent = last_round(algorithm.update(gradients, algorithm.init(v), v)[1])
    assert sent.bits.tolist() == [cost, 0]
    assert sent.entries.tolist() == [sum(WRITTEN), 0]
    for convention in ("values", "coo64", "entropy", "golomb"):
        assert sent.bits_in(convention).tolist() == [cost, 0]


def test_zeros_are_written_where_there_is_nothing_else():
    v = jnp.zeros(20).at[jnp.array([3, 17])].set(jnp.array([2.0, -1.0]))
    for name in ("plain", "bits"):
        round_trip(wire.message_of(*made(name)[1](v)))
    silent = wire.message_of(*made("plain")[1](0 * v))
    assert round_trip(silent) == b""


def test_the_arithmetic_of_the_papers():
    """Of 4,096 entries: 64 of 12 and 2 bits; 32 of 16 and 32; 32 of 64 and 32."""
    params = jnp.zeros(1000 * 4096)

    def ratio(piece, extra=0):
        code = piece.init(params).code
        layout = _uploads.layout_of(params, "rle", code)
        bits = layout.dense_bits - 32 * code.num_scales
        return 32 * params.size / (bits + extra * code.written(params.size))

    sparse_loco = ratio(worker.chunk_top_k(64, bits=2))
    assert sparse_loco == 32 / (64 * 14 / 4096) and round(sparse_loco, 1) == 146.3
    demo = worker.chunk_top_k(32)
    assert round(ratio(demo), 1) == 93.1  # with our indices of 12 bits
    assert round(ratio(demo, extra=16 - 12), 1) == 85.3  # its claim: 16 bits each
    assert round(ratio(demo, extra=64 - 12), 1) == 42.7  # its public code: 64


@pytest.mark.parametrize("name", ["plain", "dct"])
def test_it_contracts(name):
    piece, update = made(name)
    for seed in range(5):
        v = tree_of(seed, jnp.float32)
        message, _ = update(v)
        pairs = zip(v.values(), message.values(), strict=True)
        left = sum(float(((x - y) ** 2).sum()) for x, y in pairs)
        total = sum(float((x**2).sum()) for x in v.values())
        assert left <= (1 - worker.contraction_of(piece, v)) * total
    assert worker.contraction_of(piece, v) == 3 / 16
    flat = jnp.ones(64)  # its worst, and its best after a transform
    left = float(((update(flat)[0] - flat) ** 2).sum())
    assert left == pytest.approx({"plain": 64 * (1 - 3 / 16), "dct": 0}[name], abs=1e-9)


def test_bins_of_one_value_and_of_none():
    piece = worker.chunk_top_k(2, chunk=4, bits=2)
    v = jnp.asarray([0.3, 0.3, 0.3, 0.3])
    assert piece.update(v, piece.init(v))[0].tolist() == v.at[2:].set(0).tolist()
    zeros = jnp.zeros(4)
    message, packing = piece.update(zeros, piece.init(zeros))
    assert not message.any() and not packing.scales.any()
    assert piece.update({}, piece.init({}))[0] == {}
    for size in (1e-30, 1e30):  # squares of neither are of float32
        message, _ = piece.update(size * jnp.arange(4.0), piece.init(v))
        np.testing.assert_allclose(message, [0, 0, 2 * size, 3 * size], rtol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_that_is_not_finite_is_hidden(name):
    for bad in (jnp.nan, jnp.inf):
        message, _ = made(name)[1](jnp.arange(20.0).at[3].set(bad))
        assert not np.isfinite(message).all()


def test_what_is_no_message_of_chunks_is_refused():
    piece = worker.chunk_top_k(2, chunk=4)
    v = jnp.asarray([0.0, 1.0, 0.0, 2.0, 3.0])
    message = wire.message_of(*piece.update(v, piece.init(v)))
    data = wire.encode(message, "coo")
    assert data[0] == 0b01_11_00_00  # places 1, 3; 0: of a chunk of one entry; a value
    for first, text in (
        (0b11_11_00_00, "places in chunks of like that do not ascend strictly below 4"),
        (0b11_01_00_00, "do not ascend"),
        (0b01_11_01_00, "or the chunk's end"),
    ):
        with pytest.raises(ValueError, match=text):
            decode_like(message, bytes([first]) + data[1:], "coo")
    one = wire.Message(np.float32([0, 0, 0, 5, 0]), message.code)
    data = wire.encode(one, "coo")
    assert data[0] == 0b00_11_00_00  # the first zero goes along
    with pytest.raises(ValueError, match="zeros of like that are not the first ones"):
        decode_like(one, bytes([0b01_11_00_00]) + data[1:], "coo")
    with pytest.raises(ValueError, match="more than 2 non-zeros in a chunk of 4"):
        wire.encode(wire.Message(np.ones(8, np.float32), message.code), "coo")
    for size, data in ((7, b"\0" * 40), (5, b"")):
        like = np.zeros(size, np.float32)
        if data:
            with pytest.raises(ValueError, match="data are 40 bytes"):
                wire.decode(data, like, "coo", message.code)
        else:
            assert not wire.decode(data, like, "coo", message.code).values.any()
    for code, text in (
        (
            message.code._replace(kept=5),
            "code.kept is 5, expected an integer from 1 to",
        ),
        (wire.Code("bins", 2), "code.num_scales is 0, expected 4 for 'bins' and 1"),
        (wire.Code("bins", 17), "code.size is 17, expected an integer from 1 to 16"),
    ):
        with pytest.raises(ValueError, match=text):
            wire.encode(wire.Message(np.zeros(8, np.float32), code), "coo")
    other = wire.Message(
        np.float32([1, 2]), wire.Code("bins", 1, num_scales=2), np.float32([1, 1.5])
    )
    with pytest.raises(ValueError, match="has the value 2.0, expected one of the leaf"):
        wire.encode(other, "coo")


@pytest.mark.parametrize("name", ["plain", "bits", "dct, bits"])
def test_damaged_bytes_are_refused_or_are_a_message(name):
    rng = np.random.default_rng(7)
    message, state = made(name)[1](tree_of(1, jnp.float32))
    said = wire.message_of(message, state)
    data = wire.encode(said, "rle")
    read = refused = 0
    for _ in range(400):
        damaged = mutated(rng, data)
        try:
            back = decode_like(said, damaged, "rle")
        except ValueError:
            refused += 1
            continue
        read += 1
        again = wire.encode(back, "rle")
        assert name != "plain" or again == damaged
        assert_same(decode_like(said, again, "rle"), back)
    assert read > 20 and refused > 20


def test_bad_input():
    for arguments, text in (
        ({"k": 0}, "k is 0, expected an int of at least 1, or"),
        ({"k": 9, "chunk": 8}, "k is 9, expected at most the chunk's 8 entries"),
        ({"k": 1, "chunk": 0}, "chunk is 0, expected an integer from 1"),
        ({"k": 1, "bits": 9}, "bits is 9, expected an integer from 1 to 8"),
        ({"k": 1, "dct": 1}, "dct is 1, expected True or False"),
    ):
        with pytest.raises(ValueError, match=text):
            worker.chunk_top_k(**arguments)


def test_bins_of_top_k_are_those_of_the_oracle_of_top_k():
    """One chunk of all: top-k, as elsewhere."""
    v = np.random.default_rng(3).standard_normal(40)
    piece = worker.chunk_top_k(5)
    message, _ = piece.update(jnp.asarray(v), piece.init(jnp.zeros(40)))
    expected = oracle_rivals.compress_top_k(np.float64(np.float32(v)), 5)
    np.testing.assert_array_equal(message, np.float32(expected))
