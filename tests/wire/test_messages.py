"""Every method's messages, from state to bytes and back, and counts past 53 bits."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS, Method
from inside import (
    _both_ways,
    _error_feedback,
    _memoryless,
    _options,
    _packing,
    _signs,
    _trees,
    _whole_vectors,
)
from messages import COSTS, round_trip

import gdsec_jax
from gdsec_jax import History, problems, wire, worker
from gdsec_jax.federation import federate

slow = pytest.mark.slow
WORKERS, ROUNDS = 4, 5
CONVENTIONS = tuple(COSTS)
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
    modules = _error_feedback, _memoryless, _options, _whole_vectors, _signs, _both_ways
    for module in modules:
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
            ((pipelines, messages),) = _trees.of_type(state, Recorded)
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
    + cases_of(OTHERS, ("bfloat16",), marks=slow)
    + cases_of(named("marina"), ("float16", "float64"), marks=slow),
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
            data = round_trip(wire.message_of(update, state), name)
            assert len(data) == -(-int(bits[k, m]) // 8), (name, k, m)
    if method.name != "one_bit_adam":  # the momentum is that of all
        assert not sends[:, SILENT].any()
    assert not sends[3, BROKEN]
    assert sends.sum() >= 3, "next to nothing was sent"


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("method", named(*PAYLOADS), ids=lambda method: method.name)
def test_silent_factors_have_no_bytes(method):
    messages, states, sent = rounds_of(method)
    for silent in ((0, SILENT), (3, BROKEN)):
        assert sent.bits[silent] == 0
        message = wire.message_of(part(messages, *silent), part(states, *silent))
        assert round_trip(message, "rle") == b""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_message_is_flushed_as_a_round_does_it(dtype, x64):
    update = (
        jnp.asarray([-0.0, 1.0, -3.0], dtype)
        .at[2]
        .set(-jnp.finfo(dtype).tiny / jnp.asarray(2, dtype))
    )
    message = wire.message_of(update, ())
    assert message.values.tobytes() == np.asarray([0, 1, 0], dtype).tobytes()
    assert round_trip(message, "bitmap")


@pytest.mark.usefixtures("recorded")
@slow
@pytest.mark.parametrize("name", ["coo", "golomb"])
def test_the_format_that_last_round_reports_is_the_one_asked_for(name):
    method = named("qsgdsec")[0]
    _, _, alone = rounds_of(method, form=name)
    _, _, all_of_them = rounds_of(method)
    bits = all_of_them.parts[0].uploads.bits(name)
    np.testing.assert_array_equal(alone.bits, bits)


# Counts that follow from the method: of dense messages, and of whole ones


# What every message costs that is dense: the parameters have 20 + 7 + 1 = 28 entries.
DENSE = (
    (named("gd")[0], 28 * 32),
    (named("laq")[0], 32 + 28 * 4),
    (named("power_sgd")[0], (5 + 4 + 8) * 32),
    (named("sign_ef")[0], 32 + 28),
    (named("sign_majority")[0], 28),
    (VARIANTS[1], 3 * 32 + 28 * 3),
    (VARIANTS[6], (3 * (5 + 4) + 8) * 32),
    *((method, 28 * 32) for method in named("cgd", "lag", "iag")),
)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("method", "cost"),
    [
        pytest.param(*row, id=row[0].name, marks=() if i < 3 else slow)
        for i, row in enumerate(DENSE)
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
    ["marina", *(pytest.param(x, marks=slow) for x in ("ef21", "ef21_sgdm", "clag"))],
)
def test_whole_messages_cost_their_floats_in_every_convention(name):
    method = named(name)[0]
    messages, states, sent = rounds_of(method)
    flags = np.asarray(_packing.whole_of(states))
    assert flags[0, 1] and not flags.all()
    for k, m in np.argwhere(flags):
        update = part(messages, k, m)
        sends = any(leaf.any() for leaf in jax.tree.leaves(update))
        for convention in CONVENTIONS:
            bits = sent.parts[0].uploads.bits(convention)[k, m]
            assert bits == (28 * 32 if sends else 0)


# Counts past the integers that 32 bits, and float64, hold


WIDE = 2**24 - 1  # of a value, in bits: a convention, since nothing is so wide


def steady_loss(params, slope):
    return slope * params.sum()


def wide_run(name, length, rounds):
    """A run of 7 workers, each of whose messages costs an odd number above 2^32."""
    assert not jax.config.jax_enable_x64
    form = wire.Format(name, value_bits=WIDE)
    algorithm = {
        "dense": gdsec_jax.gd(7, wire=form),
        "coo": gdsec_jax.gdsec(7, xi=0.0, beta=0.0, wire=form),
    }[name]
    problem = problems.from_loss(
        steady_loss, jnp.arange(1.0, 8.0), jnp.zeros(length, jnp.float32)
    )
    optimizer = optax.chain(algorithm, optax.sgd(1e-12))
    stop = gdsec_jax.Stop(divergence_factor=1e30)
    return gdsec_jax.simulate(problem, optimizer, rounds, eval_every=5, stop=stop)


@pytest.mark.parametrize(
    ("name", "power", "rounds", "times"),
    [
        ("dense", 10, 5, 30_001),
        pytest.param("coo", 20, 75, 1, marks=slow),
    ],
)
def test_counts_stay_exact_past_53_bits(name, power, rounds, times, tmp_path):
    """In a long run, or in a short one with each message counted many times."""
    length = 2**power + 1
    history = wide_run(name, length, rounds)
    index = power + 1  # bits of a number of entries, and of a position
    one = length * WIDE if name == "dense" else index + length * (WIDE + index)
    assert history.bits.tolist() == [[one] * 7] * rounds
    history = dataclasses.replace(history, bits=history.bits * times)
    assert one > 2**32 and 2**53 < times * rounds * 7 * one < 2**63
    totals = [times * k * 7 * one for k in range(5, rounds + 1, 5)]
    assert any(int(float(total)) != total for total in totals), "float64 would do"
    history.save(tmp_path / "long.nc")
    for run in (history, History.load(tmp_path / "long.nc")):
        assert run.bits.dtype == run.total_bits.dtype == np.int64
        assert run.total_bits.tolist() == totals
        assert int(run.bits.sum()) == totals[-1]
        assert run.entries.tolist() == [[length] * 7] * rounds
        assert run.broadcast_bits.tolist() == [length * WIDE] * rounds
        assert run.cost_to(float(run.objective_error[-1])).bits in totals
    assert f"{totals[-1]:,} bits uploaded" in history.summary()
