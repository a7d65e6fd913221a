"""A round in blocks of components equals the round at once."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import methods, random_gradients, slow_but
from inside import _blocks, _parts

import gdsec_jax
from gdsec_jax import server as servers
from gdsec_jax import worker

# Whose pipelines go component by component, with the arguments of cases.METHODS.
COMPONENT_WISE = {"gd", "gdsec", "gdsoec", "iag"}
NUM_WORKERS = 3
ROUNDS = 4


class Blocks:
    """Sends rounds through blocks or not, and counts those that are traced."""

    def __init__(self, patch):
        self.taken = 0
        self._patch = patch
        patch.setattr(_parts, "PART_BYTES", {"cpu": 128, "tpu": 128})
        original = _blocks.in_blocks

        def spy(*args, **keywords):
            self.taken += args[5] == "cpu"  # others are traced, too
            return original(*args, **keywords)

        patch.setattr(_blocks, "in_blocks", spy)

    @contextlib.contextmanager
    def allowed(self, allowed: bool):
        self._patch.setattr(_parts, "LEAST_BYTES", 0 if allowed else 2**60)
        before, self.taken = self.taken, 0
        yield
        if not allowed:
            assert not self.taken
            self.taken = before


@pytest.fixture
def blocks(monkeypatch):
    return Blocks(monkeypatch)


def many(dtype=jnp.float32, other=None):
    """Parameters of several sizes and dtypes: some divide into blocks, some do not."""
    return {
        "matrix": jnp.ones((7, 5), dtype),
        "bias": jnp.full(16, 0.5, other or dtype),
        "scale": jnp.asarray(2.0, other or dtype),
    }


def moved(params, updates):
    return jax.tree.map(lambda p, u: (p - 0.1 * u).astype(p.dtype), params, updates)


def rounds_of(algorithm, params, grads, *, actives=None, with_params=True, extra=None):
    """Updates of all rounds, and the last state, each round jitted."""

    @jax.jit
    def one(grads, state, params, active):
        more = {} if active is None else {"active": active}
        updates, state = algorithm.update(
            grads, state, params if with_params else None, **more, **(extra or {})
        )
        return updates, state, moved(params, updates)

    state, out = algorithm.init(params), []
    for k in range(jax.tree.leaves(grads)[0].shape[0]):
        now = jax.tree.map(lambda g, k=k: g[k], grads)
        active = None if actives is None else actives[k]
        updates, state, params = one(now, state, params, active)
        out.append((updates, gdsec_jax.last_round(state)))
    return out, state


def both(blocks, algorithm, params, grads, **options):
    """The same in blocks and at once."""
    with blocks.allowed(False):
        direct = rounds_of(algorithm, params, grads, **options)
    with blocks.allowed(True):
        parts = rounds_of(algorithm, params, grads, **options)
    return parts, direct


def traced(blocks, algorithm, params, **extra):
    """How often a round goes through blocks; nothing is computed.

    Where it does not, the program is that of a round at once.
    """
    with blocks.allowed(True):
        state = jax.eval_shape(algorithm.init, params)
        grads = gradients(params, rounds=1)
        grads = jax.tree.map(lambda g: g[0], grads)
        update = jax.jit(lambda *args: algorithm.update(*args, **extra))
        update.trace(grads, state, params)
    return blocks.taken


def assert_same(a, b, tolerance=1e-12):
    """Equal up to rounding; what is not rounded, exactly."""
    chex.assert_trees_all_equal_structs(a, b)
    chex.assert_trees_all_equal_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if jnp.issubdtype(x.dtype, jnp.floating):
            x, y = (np.asarray(z, np.float64) for z in (x, y))
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(x, y)


def gradients(params, seed=0, rounds=ROUNDS, num_workers=NUM_WORKERS):
    return random_gradients(params, num_workers, seed, rounds)


@methods()
def test_which_methods_take_blocks(method, blocks):
    algorithm = method.make(NUM_WORKERS, **({"key": 0} if method.draws else {}))
    taken = traced(blocks, algorithm, many())
    assert taken == (method.name in COMPONENT_WISE)


@pytest.mark.usefixtures("x64")
@methods(lambda method: method.name in COMPONENT_WISE, dear=True)
def test_methods(method, blocks):
    params = many(jnp.float64)
    algorithm = method.make(NUM_WORKERS, **({"key": 0} if method.draws else {}))
    parts, direct = both(blocks, algorithm, params, gradients(params))
    assert blocks.taken == 1  # traced once
    assert_same(parts, direct)


OPTIONS = {
    "dense": {"wire": "dense"},
    "golomb": {"wire": "golomb"},
    "rle": {"wire": "rle", "server": servers.running(), "reduction": "mean"},
    "running": {"server": servers.running()},
    "bfloat16": {"state_dtype": "bfloat16"},
    "float16": {"state_dtype": "float16"},
    "weights": {"weights": np.array([0.5, 2.0, 1.0])},
    "mean": {"reduction": "mean", "weights": np.array([0.5, 2.0, 0.0])},
    "hold": {"on_standstill": "hold"},
    "propagate": {"on_nonfinite": "propagate"},
    "asks": {
        "key": 0,
        "server": servers.Server(
            asks=lambda key, round: jax.random.bernoulli(key, 0.5, (3,))
        ),
    },
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(("rle", "float16"), OPTIONS))
def test_options(name, blocks):
    params = many(jnp.float64, jnp.float32)
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=5.0, beta=0.1, **OPTIONS[name])
    parts, direct = both(blocks, algorithm, params, gradients(params))
    assert blocks.taken == 1
    # A memory in half precision may round a last bit otherwise.
    assert_same(parts, direct, 1e-6)
    entries = np.stack([sent.entries for _, sent in parts[0]])
    every = entries.size * sum(x.size for x in params.values())
    assert 0 < entries.sum() <= every
    assert (entries.sum() == every) == (name == "dense")


@pytest.mark.parametrize(
    "dtype", slow_but(("bfloat16",), ("float32", "bfloat16", "float16"))
)
def test_dtypes(dtype, blocks):
    params = many(jnp.dtype(dtype), jnp.float32)
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=5.0, beta=0.1)
    parts, direct = both(blocks, algorithm, params, gradients(params))
    assert blocks.taken == 1
    assert_same(parts, direct, 2e-6 if dtype == "float32" else 1e-2)


@pytest.mark.slow
def test_standstill_is_held(blocks):
    params = many()
    algorithm = gdsec_jax.gdsec(
        NUM_WORKERS,
        xi=5.0,
        beta=0.1,
        on_standstill="hold",
        server=servers.running(),
    )
    grads = gradients(params)
    # The parameters stand still in the rounds with zero gradients.
    grads = jax.tree.map(lambda g: g.at[1:3].set(0), grads)
    parts, direct = both(blocks, algorithm, params, grads)
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)


def test_masks(blocks):
    params = many()
    actives = jnp.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=5.0, beta=0.1)
    parts, direct = both(blocks, algorithm, params, gradients(params), actives=actives)
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)
    sent = [counts.participants for _, counts in parts[0]]
    np.testing.assert_array_equal(sent, actives)


@pytest.mark.slow
def test_without_params(blocks):
    params = many()
    grads = gradients(params)
    parts, direct = both(
        blocks, gdsec_jax.gd(NUM_WORKERS), params, grads, with_params=False
    )
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)


@pytest.mark.parametrize("server", slow_but((None,), (None, servers.running())))
@pytest.mark.parametrize("bad", slow_but((np.nan,), (np.nan, np.inf)))
def test_a_gradient_that_is_not_finite(bad, server, blocks):
    params = many()
    grads = gradients(params)
    # In the last block of a leaf: those before it have to know, too.
    grads["matrix"] = grads["matrix"].at[1, 2, 6, 4].set(bad)
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=5.0, beta=0.1, server=server)
    parts, direct = both(blocks, algorithm, params, grads)
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)
    sent = parts[0][1][1]
    assert sent.participants.tolist() == [True, True, False]
    assert int(sent.dropped) == 1
    assert sent.bits[2] == 0
    # Its state is as it was.
    before = jax.tree.map(lambda g: g[:1], grads)
    after = jax.tree.map(lambda g: g[:2], grads)
    with blocks.allowed(True):
        _, old = rounds_of(algorithm, params, before)
        _, new = rounds_of(algorithm, params, after)
    chex.assert_trees_all_equal(
        *(jax.tree.map(lambda x: x[2], state.workers) for state in (old, new))
    )


@pytest.mark.parametrize("jitted", [True, False])
def test_messages_that_overflow_lose_those_entries_alone(jitted, blocks):
    """Twice a finite gradient is not finite; the same in blocks, at once, op by op."""
    params = many()
    grads = jax.tree.map(lambda p: jnp.full((1, NUM_WORKERS, *p.shape), 1.5), params)
    grads["bias"] = grads["bias"].at[0, 1, 3].set(3.2e38)
    algorithm = gdsec_jax.federate(worker.error_feedback(DOUBLED), NUM_WORKERS)
    with blocks.allowed(jitted):
        ((update, sent),), state = rounds_of(algorithm, params, grads)
    assert blocks.taken == jitted
    assert sent.participants.all()
    assert int(sent.dropped) == 1  # it is said
    total = sum(p.size for p in params.values())
    assert sent.entries.tolist() == [total, total - 1, total]
    np.testing.assert_array_equal(update["bias"], np.where(np.arange(16) == 3, 6, 9))
    error = np.where(np.arange(16) == 3, 0, -1.5)
    np.testing.assert_array_equal(state.workers.error["bias"][1], error)


def test_messages_of_other_pipelines_that_overflow_leave_their_worker_out(blocks):
    params, grads = jnp.zeros(3), jnp.array([[1.0, 2.0, 3.0], [1.0, 3.2e38, 1.0]])
    pipeline = worker.chain(DOUBLED, worker.top_k(3))
    algorithm = gdsec_jax.federate(pipeline, 2)
    update, state = algorithm.update(grads, algorithm.init(params), params)
    np.testing.assert_array_equal(update, [2, 4, 6])
    assert gdsec_jax.last_round(state).participants.tolist() == [True, False]


def test_a_state_may_be_infinite(blocks):
    # What was sent is never sent again: infinite thresholds, on purpose.
    def init(params):
        return jax.tree.map(jnp.ones_like, params)

    def update(updates, state, params=None, **extra):
        sent = jax.tree.map(lambda u, t: jnp.abs(u) > t, updates, state)
        message = jax.tree.map(lambda s, u: jnp.where(s, u, 0), sent, updates)
        return message, jax.tree.map(lambda s, t: jnp.where(s, jnp.inf, t), sent, state)

    piece = worker.Piece(init, update, component_wise=True)
    algorithm = gdsec_jax.federate(piece, NUM_WORKERS)
    params = many()
    parts, direct = both(blocks, algorithm, params, gradients(params))
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)
    assert parts[0][1][1].entries.sum() < parts[0][0][1].entries.sum()


def test_many_leaves_are_not_cut(blocks):
    params = {f"{i}": jnp.ones(8) for i in range(_blocks.MOST_LEAVES + 1)}
    assert not traced(blocks, gdsec_jax.gd(NUM_WORKERS), params)
    del params["0"]
    assert traced(blocks, gdsec_jax.gd(NUM_WORKERS), params)


def _reads(name):
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: u * extra[name], updates), state

    return worker.Piece(optax.init_empty_state, update, component_wise=True)


DOUBLED = worker.declare(
    optax.stateless(lambda tree, _: jax.tree.map(lambda x: x * 2, tree)),
    component_wise=True,
)
MOMENTS = {
    "trace": optax.trace(0.9),
    "ema": optax.ema(0.9),
    "adam": optax.scale_by_adam(),
    "rms": optax.scale_by_rms(),
}
# What blocks could confuse: numbers beside the components, leaves of their own.
COMPONENT_WISE_PIECES = {
    "chain": worker.chain(optax.scale(2.0), worker.censor(xi=1.0)),
    "xi by leaves": worker.censor({"matrix": 1.0, "bias": 5.0, "scale": 2.0}),
    "momentum": worker.chain(worker.momentum(0.5), worker.censor(0.1)),
    "cast": worker.error_feedback(worker.cast("bfloat16")),
    "index": _reads("worker_index"),
    "adam": MOMENTS["adam"],
    "schedule": optax.scale_by_schedule(lambda k: 1.0 / (k + 1)),
}
OTHER_PIECES = {
    "a schedule may return arrays": worker.censor(lambda k: 2.0 / (k + 1)),
    "xi of entries": worker.censor({"matrix": jnp.ones(5), "bias": 1.0, "scale": 2.0}),
    "beta by the length": worker.gradient_difference(optax.identity(), lambda p: 0.5),
    "top_k inside": worker.error_feedback(worker.top_k(3)),
    "draws": worker.natural(),
    "a norm": optax.clip_by_global_norm(1.0),
    "unknown": optax.stateless(lambda tree, _: tree),
    "optax.chain": optax.chain(optax.scale(2.0)),
}


@pytest.mark.parametrize(
    "name", slow_but(("chain", "cast", "adam"), COMPONENT_WISE_PIECES)
)
def test_a_component_wise_piece_does_the_same_in_blocks(name, blocks):
    params = many()
    algorithm = gdsec_jax.federate(COMPONENT_WISE_PIECES[name], NUM_WORKERS)
    parts, direct = both(blocks, algorithm, params, gradients(params, rounds=3))
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)


def test_other_pieces_are_not_cut(blocks):
    for name, piece in OTHER_PIECES.items():
        algorithm = gdsec_jax.federate(piece, NUM_WORKERS, key=0)
        assert not traced(blocks, algorithm, many()), name


@pytest.mark.parametrize("name", slow_but(("trace", "adam"), MOMENTS))
def test_states_that_change_their_dtype_are_not_cut(name, blocks):
    """Moments in bfloat16 become float32 in the first round; both sizes take it."""
    piece = worker.error_feedback(MOMENTS[name])
    params = many(jnp.bfloat16)
    algorithm = gdsec_jax.federate(piece, NUM_WORKERS)
    with blocks.allowed(True):
        ((update, sent),), _ = rounds_of(algorithm, params, gradients(params, rounds=1))
    assert update["bias"].dtype == jnp.bfloat16
    assert sent.participants.all()


def test_arguments_of_the_caller(blocks):
    params = many()
    grads = gradients(params, rounds=2)
    algorithm = gdsec_jax.federate(_reads("value"), NUM_WORKERS)
    extra = {"value": jnp.asarray(7.0)}
    parts, direct = both(blocks, algorithm, params, grads, extra=extra)
    assert blocks.taken
    assert_same(parts, direct, 1e-6)


def test_partition_around(blocks):
    params = many()
    parts = {
        "a": gdsec_jax.gdsec(NUM_WORKERS, 5.0, beta=0.1),
        "b": gdsec_jax.gd(NUM_WORKERS),
    }
    labels = {"matrix": "a", "bias": "b", "scale": "b"}
    optimizer = optax.partition(parts, labels)
    grads = jax.tree.map(lambda g: g[0], gradients(params))
    out = []
    for allowed in (False, True):
        with blocks.allowed(allowed):
            update = jax.jit(lambda *args: optimizer.update(*args))
            _, state = update(grads, optimizer.init(params), params)
            theta = jax.tree.map(lambda p: p + 0.1, params)
            out.append(update(grads, state, theta))
    assert blocks.taken == 2
    assert_same(*out, 1e-5)


def test_hyperparameters_in_the_state(blocks):
    params = many()
    optimizer = optax.inject_hyperparams(
        gdsec_jax.gdsec, static_args=("num_workers", "beta")
    )(num_workers=NUM_WORKERS, xi=lambda k: 5.0 / (k + 1), beta=0.1)
    grads = gradients(params, rounds=3)
    out = []
    for allowed in (False, True):
        with blocks.allowed(allowed):
            update = jax.jit(lambda *args: optimizer.update(*args))
            state, theta = optimizer.init(params), params
            for k in range(3):
                now = jax.tree.map(lambda g, k=k: g[k], grads)
                updates, state = update(now, state, theta)
                theta = moved(theta, updates)
            out.append((theta, state.inner_state))
    assert blocks.taken == 1
    assert_same(*out, 1e-5)


@pytest.mark.usefixtures("x64")
def test_a_sweep_over_thresholds(blocks):
    params = many(jnp.float64)
    grads = gradients(params)

    def final(xi):
        algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=xi, beta=0.1)

        def one(carry, now):
            theta, state = carry
            updates, state = algorithm.update(now, state, theta)
            theta = moved(theta, updates)
            return (theta, state), (updates, state.sent)

        return jax.lax.scan(one, (params, algorithm.init(params)), grads)

    xis = jnp.array([0.0, 1.0, 20.0])
    with blocks.allowed(False):
        direct = jax.jit(jax.vmap(final))(xis)
    with blocks.allowed(True):
        parts = jax.jit(jax.vmap(final))(xis)
    assert blocks.taken
    assert_same(parts, direct)
    entries = parts[1][1].uploads.entries.sum((1, 2, 3))
    assert entries[0] > entries[1] > entries[2]


@pytest.mark.slow
def test_derivatives(blocks):
    params = many()
    now = jax.tree.map(lambda g: g[0], gradients(params))
    algorithm = gdsec_jax.gd(NUM_WORKERS)

    def total(grads):
        updates, _ = algorithm.update(grads, algorithm.init(params), params)
        return sum(jnp.square(u).sum() for u in jax.tree.leaves(updates))

    out = []
    for allowed in (False, True):
        with blocks.allowed(allowed):
            out.append(jax.jit(lambda g: jax.grad(total)(g))(now))
    assert_same(*out, 1e-5)


def test_where_nothing_is_gained(blocks, monkeypatch):
    params = many()
    algorithm = gdsec_jax.gd(NUM_WORKERS)
    now = jax.tree.map(lambda g: g[0], gradients(params))
    with blocks.allowed(True):
        algorithm.update(now, algorithm.init(params), params)  # without jit
        assert not blocks.taken
        size = sum(4 * g.size for g in now.values())
        for least, taken in ((size + 1, 0), (size, 1)):
            monkeypatch.setattr(_parts, "LEAST_BYTES", least)
            jax.jit(lambda *args: algorithm.update(*args)).lower(
                now, algorithm.init(params), params
            )
            assert blocks.taken == taken


@pytest.mark.parametrize("name", slow_but(("gdsec",), ("gd", "gdsec", "gdsoec")))
def test_large_arrays_change_in_place(name, blocks, monkeypatch):
    monkeypatch.setitem(_parts.PART_BYTES, "cpu", 2**18)
    own = {} if name == "gd" else {"xi": 1.0, "beta": 0.1}
    algorithm = getattr(gdsec_jax, name)(4, **own)
    params = jax.ShapeDtypeStruct((10**6,), jnp.float32)
    grads = jax.ShapeDtypeStruct((4, 10**6), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)
    with blocks.allowed(True):
        update = jax.jit(algorithm.update, donate_argnums=1)
        memory = update.lower(grads, state, params).compile().memory_analysis()
    assert blocks.taken == 1
    handed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.temp_size_in_bytes < 0.15 * handed
