"""A round in blocks of components equals the round at once."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import methods, random_gradients, slow_but
from inside import _blocks, _columns

import gdsec_jax
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
        patch.setattr(_blocks, "BLOCK_BYTES", {"cpu": 128, "tpu": 128})
        original = _columns.in_blocks

        def spy(*args, **keywords):
            self.taken += keywords["platform"] == "cpu"  # others are traced, too
            return original(*args, **keywords)

        patch.setattr(_columns, "in_blocks", spy)

    @contextlib.contextmanager
    def allowed(self, allowed: bool):
        self._patch.setattr(_blocks, "LEAST_BYTES", 0 if allowed else 2**60)
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
    "rle": {"wire": "rle", "server": "running", "reduction": "mean"},
    "running": {"server": "running"},
    "bfloat16": {"state_dtype": "bfloat16"},
    "float16": {"state_dtype": "float16"},
    "weights": {"weights": np.array([0.5, 2.0, 1.0])},
    "mean": {"reduction": "mean", "weights": np.array([0.5, 2.0, 0.0])},
    "hold": {"on_standstill": "hold"},
    "propagate": {"on_nonfinite": "propagate"},
    "participation": {
        "key": 0,
        "participation": lambda key, round: jax.random.bernoulli(key, 0.5, (3,)),
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
        NUM_WORKERS, xi=5.0, beta=0.1, on_standstill="hold", server="running"
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


@pytest.mark.parametrize("server", slow_but(("workers",), ("workers", "running")))
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


def test_float32_messages_that_overflow(blocks):
    # Twice a finite gradient is not finite.
    params = many()
    grads = jax.tree.map(lambda p: jnp.full((1, NUM_WORKERS, *p.shape), 1.5), params)
    grads["bias"] = grads["bias"].at[0, 1, 3].set(3.2e38)
    algorithm = gdsec_jax.federate(
        worker.error_feedback(optax.stateless(_twice)), NUM_WORKERS
    )
    (parts, blocked), (direct, at_once) = both(blocks, algorithm, params, grads)
    assert blocks.taken == 1
    assert direct[0][1].participants.tolist() == [True, False, True]
    assert int(direct[0][1].dropped) == 1
    assert float(direct[0][0]["bias"][3]) == 6.0
    assert not at_once.workers.error["bias"][1].any()
    # In blocks its other entries travel.
    assert parts[0][1].participants.all()
    assert int(parts[0][1].dropped) == 0
    total = sum(p.size for p in params.values())
    assert parts[0][1].entries.tolist() == [total, total - 1, total]
    expected = np.full(16, 9.0)
    expected[3] = 6.0
    np.testing.assert_array_equal(parts[0][0]["bias"], expected)
    error = np.full(16, -1.5)
    error[3] = 0.0
    np.testing.assert_array_equal(blocked.workers.error["bias"][1], error)


def test_a_state_may_be_infinite(blocks):
    # What was sent is never sent again: infinite thresholds, on purpose.
    def init(params):
        return jax.tree.map(jnp.ones_like, params)

    def update(updates, state, params=None, **extra):
        sent = jax.tree.map(lambda u, t: jnp.abs(u) > t, updates, state)
        message = jax.tree.map(lambda s, u: jnp.where(s, u, 0), sent, updates)
        return message, jax.tree.map(lambda s, t: jnp.where(s, jnp.inf, t), sent, state)

    piece = optax.GradientTransformationExtraArgs(init, update)
    algorithm = gdsec_jax.federate(piece, NUM_WORKERS)
    params = many()
    parts, direct = both(blocks, algorithm, params, gradients(params))
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)
    assert parts[0][1][1].entries.sum() < parts[0][0][1].entries.sum()


def test_many_leaves_are_not_cut(blocks):
    params = {f"{i}": jnp.ones(8) for i in range(_columns.MOST_LEAVES + 1)}
    assert not traced(blocks, gdsec_jax.gd(NUM_WORKERS), params)
    del params["0"]
    assert traced(blocks, gdsec_jax.gd(NUM_WORKERS), params)


def test_a_piece_that_wants_matrices_is_not_cut(blocks):
    # On the vectors that blocks are made of it raises errors of all kinds.
    params = {"a": jnp.ones((7, 5)), "b": jnp.ones((6, 4))}

    def raises(x):
        if x.ndim != 3 and x.ndim != 2:
            raise RuntimeError("a matrix is wanted")
        return x / (1 + jnp.abs(x).sum(-1, keepdims=True))

    for function in (raises, lambda x: x - x.mean(axis=1, keepdims=True)):
        algorithm = gdsec_jax.federate(_by(function), NUM_WORKERS)
        parts, direct = both(blocks, algorithm, params, gradients(params, rounds=2))
        assert not blocks.taken
        assert_same(parts, direct, 1e-5)


def _twice(tree, _):
    return jax.tree.map(lambda x: x * 2, tree)


def test_float16_messages_that_overflow(blocks):
    params = many(jnp.float16)
    algorithm = gdsec_jax.federate(optax.stateless(_twice), NUM_WORKERS)
    grads = jax.tree.map(
        lambda p: jnp.ones((2, NUM_WORKERS, *p.shape), p.dtype), params
    )
    grads["bias"] = grads["bias"].at[1, 0, 15].set(5e4)
    parts, direct = both(blocks, algorithm, params, grads)
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-3)
    last = parts[0][1][1]
    assert last.participants.tolist() == [False, True, True]
    assert int(last.dropped) == 1


# Pipelines of one's own: (piece, whether it goes in blocks).


def _by(function):
    return optax.stateless(lambda tree, _: jax.tree.map(function, tree))


def _mean_of_workers(x):
    return x - jax.lax.psum(x, worker.WORKER_AXIS) / NUM_WORKERS


def _normed(row):
    return row / (1 + jnp.abs(row).sum())


def _by_length(row):
    return row / jnp.ones(row.shape).sum()


def _spread(x):
    return jnp.broadcast_to(x[..., None], (*x.shape, 3))


def _asserted(x):
    assert x.shape in ((7, 5), (16,), ())
    return x


def _reads(name):
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: u * extra[name], updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


PIPELINES = {
    "scale": (optax.chain(optax.scale(2.0), worker.censor(xi=1.0)), True),
    "stateless": (_by(lambda x: jnp.where(jnp.abs(x) > 1, x, 0)), True),
    "momentum": (optax.chain(worker.momentum(0.5), worker.censor(0.1)), True),
    "trace": (optax.trace(0.9), True),
    "adam": (optax.scale_by_adam(), True),
    "weight decay": (optax.add_decayed_weights(0.1), True),
    "clip": (optax.clip(0.5), True),
    "schedule": (optax.scale_by_schedule(lambda k: 1.0 / (k + 1)), True),
    "xi by rounds": (worker.censor(lambda k: 2.0 / (k + 1)), True),
    "xi by leaves": (
        worker.censor({"matrix": 1.0, "bias": 5.0, "scale": 2.0}),
        True,
    ),
    "index": (_reads("worker_index"), True),
    "round": (_reads("round"), True),
    "cast": (worker.error_feedback(worker.cast("bfloat16")), True),
    "partition": (
        optax.partition(
            {"x": worker.error_feedback(optax.scale(0.5)), "y": optax.identity()},
            {"matrix": "x", "bias": "y", "scale": "y"},
        ),
        True,
    ),
    "psum": (_by(_mean_of_workers), False),
    "norm": (optax.clip_by_global_norm(1.0), False),
    "block norm": (optax.clip_by_block_rms(1.0), False),
    "xi of entries": (
        worker.censor({"matrix": jnp.arange(5.0), "bias": 1.0, "scale": 2.0}),
        False,
    ),
    "draws": (optax.add_noise(0.1, 0.5, 0), False),
    "mean": (optax.centralize(), False),
    # What depends on the parameters' sizes and shapes.
    "rank": (_by(lambda x: x * 2.0 if x.ndim > 1 else x), False),
    "masked by rank": (
        optax.masked(optax.scale(2.0), lambda t: jax.tree.map(lambda x: x.ndim > 1, t)),
        False,
    ),
    "size": (_by(lambda x: x / x.size), False),
    "counted": (_by(lambda x: x / jnp.ones_like(x).sum()), False),
    "row norm": (
        _by(lambda x: x / (1 + (x**2).sum(range(1, x.ndim), keepdims=True))),
        False,
    ),
    "largest of a row": (
        _by(lambda x: jnp.where(x == x.max(range(1, x.ndim), keepdims=True), x, 0)),
        False,
    ),
    "all but the last": (_by(lambda x: x - x.sum(range(x.ndim - 1))), False),
    "rows": (_by(lambda x: jax.vmap(_normed)(x) if x.ndim else x), False),
    "spread and summed": (_by(lambda x: _spread(x).sum(min(x.ndim, 1))), False),
    "a constant's length": (_by(lambda x: x / jnp.ones(x.shape[1:]).sum()), False),
    "a product's length": (
        _by(lambda x: x * jnp.vdot(jnp.ones(x.shape[:-1]), jnp.ones(x.shape[:-1]))),
        False,
    ),
    "a row's length": (
        _by(
            lambda x: (
                jax.vmap(lambda r: r / jnp.ones(r.shape).sum())(x) if x.ndim else x
            )
        ),
        False,
    ),
    "as many as axes": (
        _by(lambda x: jnp.broadcast_to(x, (x.ndim + 1, *x.shape)).sum(0)),
        False,
    ),
    "a norm of ones": (
        _by(lambda x: x / jax.nn.logsumexp(jnp.zeros(x.shape[:1]))),
        False,
    ),
    "one entry": (_by(lambda x: x if x.size == 1 else x * 2), False),
    "first column": (_by(lambda x: x.at[:, 0].set(0) if x.ndim > 1 else x), False),
    "by shape": (_by(lambda x: x * {(7, 5): 2, (16,): 3, (): 4}[x.shape]), False),
    "asserts": (_by(lambda x: _asserted(x)), False),
    "large leaves": (_by(lambda x: x * 2.0 if x.size > 20 else x + 2.0), False),
    "capped size": (_by(lambda x: x * min(x.size, 12)), False),
    "power": (_by(lambda x: x ** min(x.size, 3)), False),
}


# Dear are those that are compiled.
FAST = ("scale", "xi by leaves", "partition")


@pytest.mark.parametrize(
    "name",
    slow_but(
        (*FAST, *(n for n, (_, taken) in PIPELINES.items() if not taken)), PIPELINES
    ),
)
def test_pipelines(name, blocks):
    piece, taken = PIPELINES[name]
    params = many()
    algorithm = gdsec_jax.federate(piece, NUM_WORKERS)
    if not taken:
        assert not traced(blocks, algorithm, params)
        return
    parts, direct = both(blocks, algorithm, params, gradients(params, rounds=3))
    assert blocks.taken == 1
    assert_same(parts, direct, 1e-5)


def test_a_size_in_the_rest_alone(blocks):
    # The blocks have 7 entries or more, the rest has 2.
    params = jnp.ones(37)
    assert _blocks.number_of_blocks(gradients(params), "cpu") > 1
    algorithm = gdsec_jax.federate(_by(lambda x: x * min(5, x.size)), NUM_WORKERS)
    assert not traced(blocks, algorithm, params)


def test_arguments_of_the_caller(blocks):
    params = many()
    piece = optax.GradientTransformationExtraArgs(
        optax.init_empty_state,
        lambda updates, state, params=None, *, noise, **extra: (
            jax.tree.map(jnp.add, updates, noise),
            state,
        ),
    )
    algorithm = gdsec_jax.federate(piece, NUM_WORKERS)
    grads = gradients(params, rounds=2)
    noise = jax.tree.map(lambda p: p * 3, params)
    assert not traced(blocks, algorithm, params, noise=noise)  # it is not cut
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
            monkeypatch.setattr(_blocks, "LEAST_BYTES", least)
            jax.jit(lambda *args: algorithm.update(*args)).lower(
                now, algorithm.init(params), params
            )
            assert blocks.taken == taken


@pytest.mark.parametrize("name", slow_but(("gdsec",), ("gd", "gdsec", "gdsoec")))
def test_large_arrays_change_in_place(name, blocks, monkeypatch):
    monkeypatch.setitem(_blocks.BLOCK_BYTES, "cpu", 2**18)
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
