"""Every method's messages, from state to bytes and back, and counts past 53 bits."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_rivals
import pytest
from cases import METHODS, Method
from inside import _error_feedback, _memoryless, _options, _whole_vectors

import gdsec_jax
from gdsec_jax import History, problems, wire, worker
from gdsec_jax.federation import federate

WORKERS, ROUNDS = 4, 5
CONVENTIONS = wire.FORMATS + wire.CONVENTIONS
ALL = wire.Format("rle", also=CONVENTIONS)
SILENT, BROKEN = 2, 0  # the worker whose gradient is 0, and the one with NaN in round 3
VARIANTS = (
    Method("qsgdsec", {"xi": 2.0, "levels": 5, "scope": "leaf"}, None),
    Method("laq", {"learning_rate": 0.05, "bits": 3, "scope": "leaf"}, None),
    Method("sign_ef", {"scope": "leaf"}, None),
    Method("terngrad", {"scope": "leaf"}, None),
    Method("qgd", {"levels": 1, "scope": "leaf"}, None),
    Method("rand_k", {"k": 0.3, "error_feedback": True, "scope": "leaf"}, None),
    Method("low_rank", {"rank": 3}, None),
    Method("power_sgd", {"rank": 10_000}, None),
    Method("diana", {"compressor": worker.qsgd(3)}, None),
    Method("diana", {"compressor": worker.natural()}, None),
    Method("diana", {"compressor": worker.whole()}, None),
    Method("marina", {"compressor": worker.qsgd(3), "probability": 0.4}, None),
    Method("marina", {"compressor": worker.terngrad(), "probability": 0.4}, None),
    Method("marina", {"compressor": worker.natural(), "probability": 0.4}, None),
)
EVERY = METHODS + VARIANTS
# What `wire.message_of` makes of factors, when the message they stand for is all zeros.
PAYLOADS = ("low_rank", "power_sgd")


def named(*names):
    """These methods."""
    return [method for method in METHODS if method.name in names]


SHORT = named("gdsec", "qsgdsec", "laq", "power_sgd", "natural", "terngrad", "marina")
OTHERS = [method for method in EVERY if method not in SHORT]


def params_of(dtype):
    return {
        "w": jnp.full((5, 4), 0.5, dtype),
        "b": [jnp.ones(7, dtype), jnp.asarray(2.0, dtype)],
    }


def gradients_of(params, seed):
    rng = np.random.default_rng(seed)

    def one(p):
        values = rng.standard_normal((ROUNDS, WORKERS, *p.shape))
        values[:, SILENT] = 0.0
        values[3, BROKEN] = np.nan
        return jnp.asarray(values, p.dtype)

    return jax.tree.map(one, params)


class Recorded(NamedTuple):
    """A pipeline's state, and the message that it made last."""

    pipeline: Any
    message: Any


def recording(worker, num_workers, **options):
    """`federate`, with the messages of the round in the states of its workers."""
    worker = optax.with_extra_args_support(worker)

    def init(params):
        return Recorded(worker.init(params), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, **extra_args):
        message, pipeline = worker.update(updates, state.pipeline, params, **extra_args)
        sent = jax.tree.map(
            lambda x, like: x.astype(like.dtype), message, state.message
        )
        return message, Recorded(pipeline, wire.flush(sent))

    piece = optax.GradientTransformationExtraArgs(init, update)
    return federate(piece, num_workers, **options)


def _or_silent(present, message):
    # The absent keep their state, the last message that they sent in it.
    return jax.tree.map(lambda x: jnp.where(present, x, jnp.zeros_like(x)), message)


@pytest.fixture
def recorded(monkeypatch):
    for module in (_error_feedback, _memoryless, _options, _whole_vectors):
        monkeypatch.setattr(module, "federate", recording)


@functools.cache
def _rounds_of(name, arguments, dtype, form):
    method = next(m for m in EVERY if (m.name, str(m.arguments)) == (name, arguments))
    optimizer = optax.chain(method.make(WORKERS, wire=form), optax.sgd(0.05))

    @jax.jit
    def all_rounds(params, gradients):
        def one(carry, grads):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            sent = gdsec_jax.last_round(state)
            params = optax.apply_updates(params, updates)
            pipelines, messages = state[0].workers
            messages = jax.vmap(_or_silent)(sent.participants, messages)
            return (params, state), (messages, pipelines, sent)

        start = params, optimizer.init(params)
        return jax.lax.scan(one, start, gradients)[1]

    with jax.enable_x64(dtype == "float64"):
        params = params_of(dtype)
        out = all_rounds(params, gradients_of(params, seed=len(name)))
        return jax.tree.map(np.asarray, out)


def rounds_of(method, dtype="float32", form=ALL):
    """Messages, pipelines' states and counts of all workers in all rounds."""
    return _rounds_of(method.name, str(method.arguments), dtype, form)


def part(tree, round, m):
    return jax.tree.map(lambda x: x[round, m], tree)


def as_bits(array):
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def round_trip(update, state, name):
    """Bytes of a worker's message, which `decode` turns back bit for bit."""
    message = wire.message_of(update, state)
    data = wire.encode(message, name)
    again = wire.decode(data, message.values, name, message.code, message.whole)
    leaves, others = jax.tree.leaves(message.values), jax.tree.leaves(again.values)
    for one, other in zip(leaves, others, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(as_bits(one), as_bits(other))
    assert again.code == message.code and again.whole == message.whole
    if data and not message.whole:
        np.testing.assert_array_equal(again.scales, message.scales)
    return data


def cases_of(methods, dtypes, **marks):
    return [
        pytest.param(method, dtype, id=f"{method.name}-{dtype}-{i}", **marks)
        for i, method in enumerate(methods)
        for dtype in dtypes
    ]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("method", "dtype"),
    cases_of(SHORT, ("float32",))
    + cases_of(OTHERS, ("bfloat16",), marks=pytest.mark.slow)
    + cases_of(named("marina"), ("float16", "float64"), marks=pytest.mark.slow),
)
def test_messages_survive_as_bytes_of_the_counted_length(method, dtype):
    messages, states, sent = rounds_of(method, dtype)
    uploads = sent.parts[0].uploads
    counted = {name: uploads.bits(name) for name in wire.FORMATS}
    np.testing.assert_array_equal(sent.bits, counted["rle"])
    sends = np.zeros((ROUNDS, WORKERS), bool)
    for k, m in np.ndindex(ROUNDS, WORKERS):
        update, state = part(messages, k, m), part(states, k, m)
        sends[k, m] = any(leaf.any() for leaf in jax.tree.leaves(update))
        if not sends[k, m]:
            assert not any(bits[k, m] for bits in counted.values())
            if method.name in PAYLOADS:
                continue  # see test_silent_factors_have_no_bytes
        for name, bits in counted.items():
            data = round_trip(update, state, name)
            assert len(data) == -(-int(bits[k, m]) // 8), (name, k, m)
    assert not sends[:, SILENT].any() and not sends[3, BROKEN]
    assert sends.sum() >= 3, "next to nothing was sent"


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("method", named(*PAYLOADS), ids=lambda method: method.name)
def test_silent_factors_have_no_bytes(method):
    messages, states, sent = rounds_of(method)
    silent = (0, SILENT), (3, BROKEN)
    assert [sent.bits[k, m] for k, m in silent] == [0, 0]
    data = [round_trip(part(messages, *i), part(states, *i), "rle") for i in silent]
    assert data == [b"", b""]


@pytest.mark.usefixtures("recorded")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["coo", "golomb"])
def test_the_format_that_last_round_reports_is_the_one_asked_for(name):
    method = named("qsgdsec")[0]
    _, _, alone = rounds_of(method, form=name)
    _, _, all_of_them = rounds_of(method)
    bits = all_of_them.parts[0].uploads.bits(name)
    np.testing.assert_array_equal(alone.bits, bits)


# Counts of every format and convention, against strings written codeword by codeword


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


def widths_of(code, dtype_bits, every):
    """Bits of a value and number of scales, as the table of messages has them."""
    match code:
        case "levels":
            return 5, 1  # a sign, and 0 to 8
        case "power":
            return 9, 0
        case "ternary":
            return (2 if every else 1), 1
        case _:
            return dtype_bits, 0


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    "method",
    named("qsgdsec", "natural", "terngrad", "gdsec")
    + [
        pytest.param(method, marks=pytest.mark.slow)
        for method in named("gdsoec", "top_j", "qgd", "rand_k", "diana")
    ],
    ids=lambda method: method.name,
)
def test_counts_equal_the_strings(method):
    messages, _, sent = rounds_of(method)
    uploads = sent.parts[0].uploads
    counted = {name: uploads.bits(name) for name in CONVENTIONS}
    for k, m in np.ndindex(ROUNDS, WORKERS):
        leaves = jax.tree.leaves(part(messages, k, m))
        message = np.concatenate([leaf.ravel() for leaf in leaves])
        for name, bits in counted.items():
            width, scales = widths_of(method.code, 32, every=name == "dense")
            expected = oracle_rivals.quantised_bits(message, COSTS[name], width, scales)
            assert bits[k, m] == expected, (name, k, m)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("method", "cost"),
    [
        pytest.param(named("gd")[0], 28 * 32, id="gd"),
        pytest.param(named("laq")[0], 32 + 28 * 4, id="laq"),
        pytest.param(
            named("sign_ef")[0], 32 + 28, id="sign_ef", marks=pytest.mark.slow
        ),
        pytest.param(named("power_sgd")[0], (5 + 4 + 8) * 32, id="power_sgd"),
        pytest.param(
            VARIANTS[1],
            3 * 32 + 28 * 3,
            id="laq-leaf",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            VARIANTS[6],
            (3 * (5 + 4) + 8) * 32,
            id="low_rank-3",
            marks=pytest.mark.slow,
        ),
        pytest.param(named("cgd")[0], 28 * 32, id="cgd", marks=pytest.mark.slow),
        pytest.param(named("lag")[0], 28 * 32, id="lag", marks=pytest.mark.slow),
        pytest.param(named("iag")[0], 28 * 32, id="iag", marks=pytest.mark.slow),
    ],
)
def test_dense_messages_cost_the_same_in_every_convention(method, cost):
    messages, _, sent = rounds_of(method)
    leaves = jax.tree.leaves(messages)
    sends = sum(leaf.reshape(ROUNDS, WORKERS, -1).any(-1) for leaf in leaves) > 0
    assert sends.any()
    for name in CONVENTIONS:
        bits = sent.parts[0].uploads.bits(name)
        np.testing.assert_array_equal(bits, np.where(sends, cost, 0))


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    "name",
    [
        "marina",
        pytest.param("ef21", marks=pytest.mark.slow),
        pytest.param("ef21_sgdm", marks=pytest.mark.slow),
        pytest.param("clag", marks=pytest.mark.slow),
    ],
)
def test_whole_messages_cost_their_floats_in_every_convention(name):
    method = named(name)[0]
    messages, states, sent = rounds_of(method)
    flags = np.asarray(wire.whole_of(states))
    assert flags[0, 1] and not flags.all()
    for k, m in np.argwhere(flags):
        update = part(messages, k, m)
        sends = any(leaf.any() for leaf in jax.tree.leaves(update))
        for convention in CONVENTIONS:
            bits = sent.parts[0].uploads.bits(convention)[k, m]
            assert bits == (28 * 32 if sends else 0)


# Counts past the integers that 32 bits, and float64, hold


LENGTH = 2**20 + 1
WIDE = 2**24 - 1  # of a value, in bits: a convention, since nothing is so wide


def steady_loss(params, slope):
    return slope * params.sum()


@functools.cache
def long_run(name):
    """75 rounds of 7 workers, whose bits add up to an odd number above 2^53."""
    assert not jax.config.jax_enable_x64
    form = wire.Format(name, value_bits=WIDE)
    algorithm = {
        "dense": gdsec_jax.gd(7, wire=form),
        "coo": gdsec_jax.gdsec(7, xi=0.0, beta=0.0, wire=form),
    }[name]
    problem = problems.from_loss(
        steady_loss, jnp.arange(1.0, 8.0), jnp.zeros(LENGTH, jnp.float32)
    )
    optimizer = optax.chain(algorithm, optax.sgd(1e-12))
    return gdsec_jax.simulate(
        problem,
        optimizer,
        75,
        eval_every=5,
        stop=gdsec_jax.Stop(divergence_factor=1e30),
    )


@pytest.mark.parametrize("name", ["dense", pytest.param("coo", marks=pytest.mark.slow)])
def test_counts_stay_exact_past_53_bits(name, tmp_path):
    history = long_run(name)
    one = LENGTH * WIDE if name == "dense" else 21 + LENGTH * (WIDE + 21)
    assert one > 2**32 and 2**53 < 75 * 7 * one < 2**63
    totals = [rounds * 7 * one for rounds in range(5, 76, 5)]
    assert any(int(float(total)) != total for total in totals), "float64 would do"
    history.save(tmp_path / "long.nc")
    for run in (history, History.load(tmp_path / "long.nc")):
        assert run.bits.dtype == run.total_bits.dtype == np.int64
        assert run.bits.tolist() == [[one] * 7] * 75
        assert run.total_bits.tolist() == totals
        assert int(run.bits.sum()) == 75 * 7 * one
        assert run.entries.tolist() == [[LENGTH] * 7] * 75
        assert run.broadcast_bits.tolist() == [LENGTH * WIDE] * 75
        error = float(run.objective_error[-1])
        assert run.cost_to(error).bits in totals
    assert f"{75 * 7 * one:,} bits uploaded" in history.summary()
    changed = dataclasses.replace(history, bits=history.bits * 900)
    assert int(changed.total_bits[-1]) == 900 * 75 * 7 * one < 2**63
