"""A round at once, in blocks of components, in batches of workers: the same round."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS, methods, random_gradients, slow_but, tree_params
from hypothesis import given
from hypothesis import strategies as st
from inside import _batches, _blocks, _layout, _native, _parts
from rounds import MAX_DELAY, assert_same, drawn_faults, rounds_of

import gdsec_jax
from gdsec_jax import WorkerBatches, participation, worker
from gdsec_jax import server as servers

# Whose pieces are component-wise, with the arguments of cases.METHODS.
COMPONENT_WISE = {"gd", "gdsec", "gdsoec", "iag", "ef21_p"}
M, ROUNDS = 5, 4


class Layouts:
    """Sends rounds one way or another, small as they are, and counts blocks."""

    def __init__(self, patch):
        self.patch, self.blocks, self.batches = patch, 0, []
        patch.setattr(_parts, "PART_BYTES", {"cpu": 128, "tpu": 128})
        in_blocks, in_batches = _blocks.in_blocks, _batches.in_batches

        def blocks(*args, **keywords):
            self.blocks += args[4] == "cpu"  # other platforms' are traced, too
            return in_blocks(*args, **keywords)

        def batches(*args, **keywords):
            self.batches.append(args[3])
            return in_batches(*args, **keywords)

        patch.setattr(_blocks, "in_blocks", blocks)
        patch.setattr(_batches, "in_batches", batches)
        self.cut(False)

    def cut(self, allowed: bool, least_workers=2**60):
        """Whether large arrays are cut; here all are large."""
        self.patch.setattr(_parts, "LEAST_BYTES", 0 if allowed else 2**60)
        self.patch.setattr(_batches, "LEAST_WORKERS", least_workers)


@pytest.fixture
def layouts(monkeypatch):
    with _native.native_kernels(False):  # a kernel takes all at once
        yield Layouts(monkeypatch)


def many(dtype=jnp.float32, other=None):
    """Parameters of several sizes and dtypes: some divide into blocks, some do not."""
    return {
        "matrix": jnp.ones((7, 5), dtype),
        "bias": jnp.full(16, 0.5, other or dtype),
        "scale": jnp.asarray(2.0, other or dtype),
    }


def all_layouts(
    layouts, optimizer, params, gradients, *, blocks, size=2, tolerance=1e-12, **said
):
    """The rounds at once, after the others were compared with them.

    Args:
      blocks: whether they are cut into blocks where that is allowed.
      size: of the batches; None where all workers are needed at once.
    """
    at_once = rounds_of(optimizer, params, gradients, **said)
    assert not layouts.blocks and not layouts.batches
    layouts.cut(True)
    cut = rounds_of(optimizer, params, gradients, **said)
    assert layouts.blocks == blocks  # traced once
    if blocks:
        assert_same(cut, at_once, tolerance)
    if size is not None:
        batched = rounds_of(optimizer, params, gradients, size, **said)
        assert layouts.batches
        assert_same(batched, at_once, tolerance)
    return at_once


def traced(layouts, algorithm, params):
    """Whether a round goes through blocks; nothing is computed."""
    layouts.cut(True)
    layouts.blocks = 0
    state = jax.eval_shape(algorithm.init, params)
    grads = jax.tree.map(lambda p: jnp.zeros((M, *p.shape), p.dtype), params)
    jax.jit(lambda *args: algorithm.update(*args)).trace(grads, state, params)
    return bool(layouts.blocks)


def with_nan(gradients, round, worker):
    """In the last entry of a leaf: the blocks before it have to know, too."""
    matrix = gradients["matrix"]
    at = (round, worker, *(size - 1 for size in matrix.shape[2:]))
    return gradients | {"matrix": matrix.at[at].set(jnp.nan)}


# Every method, every option


@methods()
def test_which_methods_take_blocks(method, layouts):
    algorithm = method.make(M, **({"key": 0} if method.draws else {}))
    assert traced(layouts, algorithm, many()) == (method.name in COMPONENT_WISE)


# And whether messages are late.
WITH_FAULTS = [
    *(("gdsec", False), ("gdsec", True), ("qsgdsec", False)),
    *(("low_rank", True), ("marina", True)),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", slow_but(WITH_FAULTS[:1], WITH_FAULTS), ids=str)
def test_methods_with_faults(case, layouts):
    name, late = case
    (method,) = (method for method in METHODS if method.name == name)
    options = {"key": 2} if method.draws else {}
    server = servers.late(MAX_DELAY) if late else None
    algorithm = method.make(M, server=server, **options)
    params = many(jnp.float64)
    at_once, _ = all_layouts(
        layouts,
        algorithm,
        params,
        with_nan(random_gradients(params, M, 3, ROUNDS), 2, 4),
        blocks=method.name in COMPONENT_WISE and not late,
        # Chaotic in rounding: a last bit of the sums grows.
        tolerance=1e-6 if method.name == "low_rank" else 1e-12,
        said=drawn_faults(4, late, (ROUNDS, M)),
        absent="accumulate",
    )
    assert any(sent.lost.any() for _, sent in at_once)
    assert int(at_once[2][1].dropped) == 1


# On a TPU these measure all components first, and then take them in blocks, too.
MEASURED = {
    *("top_j", "sign_ef", "qgd", "terngrad", "qsgdsec", "ef21", "ef21_sgdm"),
    *("econtrol", "sign_majority", "ef21_muon"),
}


@pytest.fixture
def as_on_tpu(monkeypatch):
    """Rounds go the way that they go on a TPU; the rounds that did."""
    ways, taken = _layout._ways, []

    def on_tpu(*arguments):
        found = ways(*arguments)
        taken.append("tpu" in found)
        return {"cpu": found["tpu"]} if "tpu" in found else {}

    monkeypatch.setattr(_layout, "_ways", on_tpu)
    monkeypatch.setattr(_blocks, "TPU_IS_KNOWN", True)
    monkeypatch.setattr(_blocks, "TILE", 4)
    monkeypatch.setattr(_parts, "PART_BYTES", {"cpu": 128, "tpu": 128})
    return taken


@pytest.mark.usefixtures("x64")
@methods(
    lambda method: (
        method.name in MEASURED - {"ef21_sgdm", "econtrol", "ef21_muon"}  # as ef21
    ),
    fast=("top_j", "sign_ef"),
)
def test_methods_that_measure_first_as_on_a_tpu(method, as_on_tpu, monkeypatch):
    options = {"key": 2} if method.draws else {}
    algorithm = method.make(M, **options)
    shape = (37,) if method.name in ("sign_ef", "qgd") else (7, 5)
    params = {"matrix": jnp.full(shape, 0.5), "v": jnp.full(16, 0.5)}
    gradients = with_nan(random_gradients(params, M, 3, ROUNDS), 2, 4)
    gradients["v"] = jnp.round(gradients["v"], 1)  # of equal ones the first
    said = drawn_faults(4, False, (ROUNDS, M))
    rounds = []
    for least in (2**60, 0):
        monkeypatch.setattr(_parts, "LEAST_BYTES", least)
        rounds.append(
            rounds_of(algorithm, params, gradients, said=said, absent="accumulate")
        )
    assert set(as_on_tpu) == {False, True}
    assert_same(*rounds, 1e-12)
    assert int(rounds[0][0][2][1].dropped) == 1


@pytest.mark.usefixtures("x64")
@methods(fast=("top_j", "ef21", "diana"))
def test_which_methods_measure_first(method, as_on_tpu, monkeypatch):
    monkeypatch.setattr(_parts, "LEAST_BYTES", 0)
    algorithm = method.make(M, **({"key": 0} if method.draws else {}))
    params = {"matrix": jnp.ones((7, 5)), "v": jnp.ones(16)}
    state = jax.eval_shape(algorithm.init, params)
    grads = jax.tree.map(lambda p: jnp.zeros((M, *p.shape), p.dtype), params)
    jax.jit(lambda *args: algorithm.update(*args)).trace(grads, state, params)
    assert set(as_on_tpu) == {method.name in MEASURED}


@pytest.mark.usefixtures("x64")
def test_a_server_that_takes_few_entries_as_on_a_tpu(as_on_tpu, monkeypatch):
    algorithm = gdsec_jax.gdsec(M, xi=0.5, beta=0.1, server=servers.sparse(9))
    params = {"matrix": jnp.full(37, 0.5)}
    gradients = with_nan(random_gradients(params, M, 3, ROUNDS), 1, 2)
    rounds = []
    for least in (2**60, 0):
        monkeypatch.setattr(_parts, "LEAST_BYTES", least)
        rounds.append(rounds_of(algorithm, params, gradients))
    assert set(as_on_tpu) == {False, True}
    assert_same(*rounds, 1e-12)


OPTIONS = {
    "rle, mean": {
        "wire": "rle",
        "reduction": "mean",
        "weights": np.array([0.5, 2.0, 1.0, 0.0, 3.0]),
        "server": servers.running(),
    },
    "float16": {"state_dtype": "float16"},
    "golomb, hold": {"wire": "golomb", "on_standstill": "hold"},
    "dense, propagate": {"wire": "dense", "on_nonfinite": "propagate"},
    "asks": {"key": 0, "server": servers.Server(asks=participation.bernoulli(M, 0.5))},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(("rle, mean", "float16"), OPTIONS))
def test_options(name, layouts):
    params = many(jnp.float64, jnp.float32)
    gradients = random_gradients(params, M, 0, ROUNDS)
    if name == "golomb, hold":  # the parameters stand still where gradients are zero
        gradients = jax.tree.map(lambda g: g.at[1:3].set(0), gradients)
    pipeline = {"xi": 5.0, "beta": 0.1} | OPTIONS[name]
    if name == "asks":  # an algorithm's own memory goes with what it is asked
        optimizer = gdsec_jax.gdsec(M, **pipeline)
    else:
        optimizer = optax.chain(gdsec_jax.gdsec(M, **pipeline))
    at_once, _ = all_layouts(
        layouts,
        optimizer,
        params,
        gradients,
        blocks=True,
        # A memory in half precision may round a last bit otherwise.
        tolerance=1e-2 if name == "float16" else 1e-6,
    )
    entries = np.stack([sent.entries for _, sent in at_once])
    every = entries.size * sum(x.size for x in params.values())
    assert 0 < entries.sum() <= every
    assert (entries.sum() == every) == name.startswith("dense")


@pytest.mark.parametrize("dtype", slow_but(("bfloat16",), ("bfloat16", "float16")))
def test_dtypes(dtype, layouts):
    params = many(jnp.dtype(dtype), jnp.float32)
    gradients = random_gradients(params, M, 0, ROUNDS)
    algorithm = gdsec_jax.gdsec(M, xi=5.0, beta=0.1)
    all_layouts(layouts, algorithm, params, gradients, blocks=True, tolerance=1e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", ["norms", "grant"])
def test_what_looks_at_all_workers(how, layouts):
    """Judged and granted messages are cut, but no batches are taken."""
    params = many(jnp.float64)
    ratio = {"server": servers.total(max_norm_ratio=3.0)} if how == "norms" else {}
    algorithm = gdsec_jax.gdsec(M, 5.0, beta=0.1, **ratio)
    gradients = random_gradients(params, M, 3, ROUNDS)
    gradients = jax.tree.map(lambda g: g.at[1:, 2].multiply(1e3), gradients)
    said = {}
    if how == "grant":
        said = {"grant": participation.largest_energy(4000), "absent": "accumulate"}
    at_once, _ = all_layouts(
        layouts, algorithm, params, gradients, blocks=True, size=None, **said
    )
    sent = [sent for _, sent in at_once]
    if how == "norms":
        assert sum(int(one.dropped) for one in sent) > 0
    else:
        assert 0 < sum(one.participants.sum() for one in sent) < M * ROUNDS


# What is not finite


@pytest.mark.slow
@pytest.mark.parametrize("jit", [True, False])
def test_who_is_left_out_keeps_its_state(jit, layouts):
    params = many()
    gradients = with_nan(random_gradients(params, M, 2, 2), 1, 4)
    algorithm = gdsec_jax.gdsec(M, xi=5.0, beta=0.1)
    active = jnp.array([[1] * M, [1, 0, 1, 1, 1]], bool)
    layouts.cut(True)
    for size in (None, 2):
        (*_, (_, sent)), state = rounds_of(
            algorithm, params, gradients, size, {"active": active}, jit
        )
        assert sent.participants.tolist() == [True, False, True, True, False]
        assert int(sent.dropped) == 1
        assert sent.bits[4] == 0
        first = jax.tree.map(lambda g: g[:1], gradients)
        _, before = rounds_of(algorithm, params, first, size, jit=jit)
        for m in (1, 4):
            chex.assert_trees_all_equal(
                *(jax.tree.map(lambda x, m=m: x[m], s.workers) for s in (before, state))
            )
    assert bool(layouts.blocks) == jit  # without jit nothing is gained


DOUBLED = worker.declare(
    optax.stateless(lambda tree, _: jax.tree.map(lambda x: x * 2, tree)),
    component_wise=True,
)


@pytest.mark.parametrize("layout", ["at once", "blocks", "batches"])
def test_messages_that_overflow_lose_those_entries_alone(layout, layouts):
    """Twice a finite gradient is not finite."""
    params = many()
    grads = jax.tree.map(lambda p: jnp.full((1, M, *p.shape), 1.5), params)
    grads["bias"] = grads["bias"].at[0, 1, 3].set(3.2e38)
    algorithm = gdsec_jax.federate(worker.error_feedback(DOUBLED), M)
    layouts.cut(layout == "blocks")
    size = 2 if layout == "batches" else None
    ((update, sent),), state = rounds_of(algorithm, params, grads, size)
    assert layouts.blocks == (layout == "blocks")
    assert sent.participants.all()
    assert int(sent.dropped) == 1  # it is said
    total = sum(p.size for p in params.values())
    assert sent.entries.tolist() == [total, total - 1, *[total] * (M - 2)]
    third = np.arange(16) == 3
    np.testing.assert_array_equal(update["bias"], np.where(third, 3 * (M - 1), 3 * M))
    error = np.where(third, 0, -1.5)
    np.testing.assert_array_equal(state.workers.error["bias"][1], error)


@pytest.mark.parametrize("size", [None, 1])
def test_messages_of_other_pipelines_that_overflow_leave_their_worker_out(size):
    params, grads = jnp.zeros(3), jnp.array([[[1.0, 2.0, 3.0], [1.0, 3.2e38, 1.0]]])
    algorithm = gdsec_jax.federate(worker.chain(DOUBLED, worker.top_k(3)), 2)
    ((update, sent),), _ = rounds_of(algorithm, params, grads, size)
    np.testing.assert_array_equal(update, [2, 4, 6])
    assert sent.participants.tolist() == [True, False]
    assert int(sent.dropped) == 1


# Pipelines of one's own


def _reads(name):
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: u * extra[name], updates), state

    return worker.Piece(optax.init_empty_state, update, component_wise=True)


def _sends_once():
    """What was sent is never sent again: infinite thresholds, on purpose."""

    def init(params):
        return jax.tree.map(jnp.ones_like, params)

    def update(updates, state, params=None, **extra):
        sent = jax.tree.map(lambda u, t: jnp.abs(u) > t, updates, state)
        message = jax.tree.map(lambda s, u: jnp.where(s, u, 0), sent, updates)
        return message, jax.tree.map(lambda s, t: jnp.where(s, jnp.inf, t), sent, state)

    return worker.Piece(init, update, component_wise=True)


def _keeps_past():
    """A state with an axis of its own in front of the components'."""

    def init(params):
        return jax.tree.map(lambda p: jnp.zeros((M, *p.shape), p.dtype), params)

    def update(updates, state, params=None, **extra):
        past = jax.tree.map(
            lambda s, u: jnp.concatenate([u[None].astype(s.dtype), s[:-1]]),
            state,
            updates,
        )
        return jax.tree.map(lambda s: s.sum(0), past), past

    return worker.Piece(init, update, component_wise=True)


MOMENTS = {
    "trace": optax.trace(0.9),
    "ema": optax.ema(0.9),
    "adam": optax.scale_by_adam(),
    "rms": optax.scale_by_rms(),
}
# What blocks could confuse: numbers beside the components, leaves of their own.
PIPELINES = {
    "chain": worker.chain(optax.scale(2.0), worker.censor(xi=1.0)),
    "xi by leaves": worker.censor({"matrix": 1.0, "bias": 5.0, "scale": 2.0}),
    "momentum": worker.chain(worker.momentum(0.5), worker.censor(0.1)),
    "cast": worker.error_feedback(worker.cast("bfloat16")),
    "index": _reads("worker_index"),
    "the caller's": _reads("value"),
    "infinite state": _sends_once(),
    "adam": MOMENTS["adam"],
    "schedule": worker.declare(
        optax.scale_by_schedule(lambda k: 1.0 / (k + 1)), component_wise=True
    ),
    "past gradients": _keeps_past(),
}
NOT_CUT = {
    "a schedule may return arrays": worker.censor(lambda k: 2.0 / (k + 1)),
    "xi of entries": worker.censor({"matrix": jnp.ones(5), "bias": 1.0, "scale": 2.0}),
    "top_k inside": worker.error_feedback(worker.top_k(3)),
    "unknown": optax.stateless(lambda tree, _: tree),
    "optax.chain": optax.chain(optax.scale(2.0)),
}


@pytest.mark.parametrize(
    "name", slow_but(("chain", "cast", "adam", "past gradients"), PIPELINES)
)
def test_pipelines(name, layouts):
    params = many()
    algorithm = gdsec_jax.federate(PIPELINES[name], M)
    gradients = random_gradients(params, M, 0, 3)
    all_layouts(
        layouts,
        algorithm,
        params,
        gradients,
        blocks=True,
        tolerance=1e-5,
        value=jnp.asarray(7.0),
    )


def test_what_is_not_cut(layouts, monkeypatch):
    for name, piece in NOT_CUT.items():
        algorithm = gdsec_jax.federate(piece, M, key=0)
        assert not traced(layouts, algorithm, many()), name
    gd = gdsec_jax.gd(M)
    leaves = {f"{i}": jnp.ones(8) for i in range(_blocks.MOST_LEAVES + 1)}
    assert not traced(layouts, gd, leaves)
    del leaves["0"]
    assert traced(layouts, gd, leaves)
    # Nor gradients below a size.
    size = sum(4 * M * p.size for p in many().values())
    monkeypatch.setattr(layouts, "cut", lambda allowed: None)
    for least, taken in ((size + 1, False), (size, True)):
        monkeypatch.setattr(_parts, "LEAST_BYTES", least)
        assert traced(layouts, gd, many()) == taken


@pytest.mark.parametrize("name", slow_but(("trace", "adam"), MOMENTS))
def test_states_that_change_their_dtype_are_not_cut(name, layouts):
    """Moments in bfloat16 become float32 in the first round; both sizes take it."""
    params = many(jnp.bfloat16)
    algorithm = gdsec_jax.federate(worker.error_feedback(MOMENTS[name]), M)
    layouts.cut(True)
    ((update, sent),), _ = rounds_of(
        algorithm, params, random_gradients(params, M, 0, 1)
    )
    assert not layouts.blocks
    assert update["bias"].dtype == jnp.bfloat16
    assert sent.participants.all()
    layouts.cut(True, least_workers=1)
    rounds_of(algorithm, params, random_gradients(params, M, 0, 1))
    assert not layouts.batches
    with pytest.raises(ValueError, match="state changes its dtypes in a round, expec"):
        rounds_of(algorithm, params, random_gradients(params, M, 0, 1), 2)


# Around the algorithm


def test_inside_optax(layouts):
    """Behind partition, injected hyper-parameters, and a step of Adam's."""
    params = many()
    make = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=("num_workers",))
    parts = {"a": make(num_workers=M, xi=lambda k: 5.0 / (k + 1)), "b": gdsec_jax.gd(M)}
    labels = {"matrix": "a", "bias": "b", "scale": "b"}
    optimizer = optax.chain(optax.partition(parts, labels), optax.adam(0.1))
    gradients = random_gradients(params, M, 0, 2)
    all_layouts(
        layouts, optimizer, params, gradients, blocks=2, size=None, tolerance=1e-5
    )
    layouts.cut(False)
    optimizer = optax.chain(make(num_workers=M, xi=2.0), optax.adam(0.1))
    assert_same(
        rounds_of(optimizer, params, gradients, 2),
        rounds_of(optimizer, params, gradients),
        1e-5,
    )


@pytest.mark.usefixtures("x64")
def test_a_sweep_over_thresholds(layouts):
    params = many(jnp.float64)
    grads = random_gradients(params, M, 0, ROUNDS)

    def final(xi):
        algorithm = gdsec_jax.gdsec(M, xi=xi, beta=0.1)

        def one(carry, now):
            theta, state = carry
            updates, state = algorithm.update(now, state, theta)
            theta = jax.tree.map(lambda p, u: p - 0.1 * u, theta, updates)
            return (theta, state), (updates, state.sent)

        return jax.lax.scan(one, (params, algorithm.init(params)), grads)

    xis = jnp.array([0.0, 1.0, 20.0])
    direct = jax.jit(jax.vmap(final))(xis)
    layouts.cut(True)
    parts = jax.jit(jax.vmap(final))(xis)
    assert layouts.blocks
    assert_same(parts, direct)
    entries = parts[1][1].uploads.entries.sum((1, 2, 3))
    assert entries[0] > entries[1] > entries[2]


@pytest.mark.slow
def test_derivatives(layouts):
    params = many()
    now = jax.tree.map(lambda g: g[0], random_gradients(params, M, 0, 1))
    algorithm = gdsec_jax.gd(M)

    def total(grads):
        updates, _ = algorithm.update(grads, algorithm.init(params), params)
        return sum(jnp.square(u).sum() for u in jax.tree.leaves(updates))

    out = []
    for allowed in (False, True):
        layouts.cut(allowed)
        out.append(jax.jit(lambda g: jax.grad(total)(g))(now))
    assert_same(*out, 1e-5)


# Where it pays


@pytest.mark.parametrize("name", slow_but(("gdsec",), ("gd", "gdsec", "gdsoec")))
def test_large_arrays_change_in_place(name, layouts, monkeypatch):
    monkeypatch.setitem(_parts.PART_BYTES, "cpu", 2**18)
    own = {} if name == "gd" else {"xi": 1.0, "beta": 0.1}
    algorithm = getattr(gdsec_jax, name)(4, **own)
    params = jax.ShapeDtypeStruct((10**6,), jnp.float32)
    grads = jax.ShapeDtypeStruct((4, 10**6), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)
    layouts.cut(True)
    update = jax.jit(algorithm.update, donate_argnums=1)
    memory = update.lower(grads, state, params).compile().memory_analysis()
    assert layouts.blocks == 1
    handed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.temp_size_in_bytes < 0.15 * handed


def test_memories_of_batches_change_in_place():
    size = 10**6
    algorithm = gdsec_jax.gdsec(4, xi=1.0, beta=0.1)
    params = jax.ShapeDtypeStruct((size,), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)

    def step(state, params):
        batches = WorkerBatches(
            lambda index, _: jnp.sin(params * (1.0 + index[:, None])), None, 1
        )
        return algorithm.update(batches, state, params)

    compiled = jax.jit(step, donate_argnums=0).lower(state, params).compile()
    # A gradient, what is made of it, and the sums: not a worker's memory more.
    assert compiled.memory_analysis().temp_size_in_bytes < 9 * 4 * size


def test_many_workers_of_small_models_go_in_batches(layouts):
    params = tree_params()
    gradients = random_gradients(params, M, 5, ROUNDS)
    top_j, power_sgd = gdsec_jax.top_j(M, 3), gdsec_jax.power_sgd(M, rank=1, key=0)
    at_once = rounds_of(top_j, params, gradients)
    layouts.cut(True)
    rounds_of(top_j, params, gradients)
    assert not layouts.batches  # too few workers
    layouts.cut(True, least_workers=1)
    batched = rounds_of(top_j, params, gradients)
    assert layouts.batches and all(number > 1 for number in layouts.batches)
    assert_same(batched, at_once, 1e-5)
    layouts.batches.clear()
    rounds_of(power_sgd, params, gradients)
    assert not layouts.batches  # they meet


@given(st.integers(1, 300), st.integers(1, 320))
def test_no_batch_is_larger_than_asked_for(num_workers, size):
    number = _batches.number_of_size(size, num_workers)
    each, rest = divmod(num_workers, number)
    assert 1 <= each <= size and rest <= size


def test_what_is_wrong_with_batches_is_said():
    params, algorithm = jnp.zeros(3), gdsec_jax.gd(M)

    def update(gradients, data, size=2, algorithm=algorithm, params=params):
        batches = WorkerBatches(gradients, data, size)
        return algorithm.update(batches, algorithm.init(params), params)

    def zeros(*shape):
        return lambda index, _: jnp.zeros((index.size, *shape))

    with pytest.raises(ValueError, match="size is 0, expected"):
        update(zeros(3), None, size=0)
    with pytest.raises(ValueError, match=r"gradients .*, 2\), expected .*, 3\)"):
        update(zeros(2), None)
    with pytest.raises(ValueError, match=rf"data of shape \(4, 3\), expected {M} work"):
        update(lambda index, own: own, jnp.zeros((4, 3)))
    sums = gdsec_jax.power_sgd(M, rank=1, key=0)
    with pytest.raises(ValueError, match="WorkerBatches.* sums over all workers"):
        update(zeros(3, 2), None, algorithm=sums, params=jnp.zeros((3, 2)))
