"""Every method: laws that all of them obey, and what they do inside optax."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS, methods, random_gradients, run, slow_but, tree_params
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _trees
from optax.experimental import aggregating

import gdsec_jax
from gdsec_jax import server, worker

M, ROUNDS = 4, 6
BY_NAME = {method.name: method for method in METHODS}


@functools.cache
def chain(name, **options):
    """A method's optimizer. One object for the same options, so one program."""
    step = optax.sgd(0.05)
    return optax.chain(BY_NAME[name].make(M, wire="rle", **options), step)


def grads_of(params, seed=0, num_workers=M):
    """NumPy's, [ROUNDS, M, *param]."""
    grads = random_gradients(params, num_workers, seed, rounds=ROUNDS)
    return jax.tree.map(np.asarray, grads)


def scaled(tree, factors):
    """Each worker's gradients times its factor, in their dtype."""
    return jax.tree.map(
        lambda g: g * np.reshape(factors, (-1, *[1] * (g.ndim - 2))).astype(g.dtype),
        tree,
    )


def jitted(algorithm, params):
    """A compiled update, and the first state."""
    return jax.jit(algorithm.update), jax.jit(algorithm.init)(params)


# Conventions.


@methods(dear=True, core=("gdsec",))
def test_weights_and_means_give_the_same_iterates(method):
    """Of f = sum of w_m f_m, and of a mean of other f_m with the same sum."""
    params, weights = tree_params(), np.array([1.0, 2.0, 1.0, 0.0])
    grads = grads_of(params)
    array = jnp.asarray(weights)
    step = optax.sgd(0.05)
    of_sum = run(
        optax.chain(method.make(M, weights=array, wire="rle"), step), params, grads
    )
    mean = method.make(M, weights=array, wire="rle", reduction="mean")
    of_mean = run(optax.chain(mean, step), params, scaled(grads, [weights.sum()]))
    plain = run(chain(method.name), params, scaled(grads, weights))
    for other in (of_mean, plain):
        chex.assert_trees_all_close(of_sum[0], other[0], rtol=1e-5)
        np.testing.assert_array_equal(of_sum[2].entries, other[2].entries)
    if method.whole_first:
        first = np.average(4 * grads["scale"][0], weights=weights)
        np.testing.assert_allclose(of_mean[3]["scale"][0], -0.05 * first, rtol=1e-5)
    if method.name == "gdsec":  # without weights, too
        of_mean = run(chain("gdsec", reduction="mean"), params, scaled(grads, [M]))
        chex.assert_trees_all_close(
            of_mean[0], run(chain("gdsec"), params, grads)[0], rtol=1e-5
        )


def test_a_mean_divides_by_all_workers_whoever_is_there():
    algorithm = gdsec_jax.gd(4, reduction="mean")
    params, grads = jnp.zeros(1), jnp.full((4, 1), 4.0)
    active = jnp.asarray([True, False, True, False])
    update, state = jitted(algorithm, params)
    assert update(grads, state, params, active=active)[0].tolist() == [2.0]


@methods(lambda method: not method.draws, dear=True)
def test_the_order_of_workers_does_not_matter(method):
    params, order = tree_params(), np.array([2, 0, 3, 1])
    grads = grads_of(params, seed=4)
    ours = run(chain(method.name), params, grads)
    shuffled = jax.tree.map(lambda g: g[:, order], grads)
    permuted = run(chain(method.name), params, shuffled)
    chex.assert_trees_all_close(ours[0], permuted[0], rtol=1e-5)
    np.testing.assert_array_equal(ours[2].bits[:, order], permuted[2].bits)


@methods(dear=True)
def test_zeros_give_zeros_and_silence(method):
    params = tree_params()
    zeros = jax.tree.map(np.zeros_like, grads_of(params))
    final, _, sent, _ = run(chain(method.name), params, zeros)
    chex.assert_trees_all_equal(final, params)
    assert not np.any(sent.bits)


# One program, compiled as anybody likes.


@methods(dear=True, core=())  # what examples do, each time
def test_jit_equals_eager(method):
    params = {"w": jnp.ones((3, 2))}
    grads = random_gradients(params, 3, seed=2)
    algorithm = method.make(3, wire="rle")
    state = jax.jit(algorithm.init)(params)
    moved = {"w": jnp.full((3, 2), 1.1)}
    eager = algorithm.update(grads, state, moved)
    compiled = jax.jit(algorithm.update)(grads, state, moved)
    chex.assert_trees_all_close(eager, compiled, rtol=1e-6)


@pytest.mark.parametrize("name", slow_but(["gdsec"], ["gdsec", "gdsoec"]))
def test_vmap_over_hyper_parameters_equals_a_loop(name):
    params = tree_params()
    grads = random_gradients(params, 3, seed=3, rounds=10)

    def final(xi, beta):
        algorithm = getattr(gdsec_jax, name)(3, xi=xi, beta=beta, wire="rle")
        out = run(optax.chain(algorithm, optax.sgd(0.05)), params, grads)
        return out[0], out[2]

    xis, betas = np.float32([0.0, 1.0, 30.0]), np.float32([0.0, 0.5, 1.0])
    batched, sent = jax.jit(jax.vmap(final))(xis, betas)
    assert sent.bits.shape == (3, 10, 3)
    assert len(set(np.sum(sent.entries, axis=(1, 2)).tolist())) == 3
    one_by_one = jax.jit(final)
    for i in range(3):
        one, alone = one_by_one(xis[i], betas[i])
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], batched), one, rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(sent.entries[i], alone.entries)


@methods(dear=True, core=("gdsec",))
def test_one_compilation_and_donated_buffers_from_an_eager_init(method):
    params = tree_params()
    chex.clear_trace_counter()
    step = optax.sgd(optax.exponential_decay(0.1, 5, 0.9))
    optimizer = optax.chain(method.make(M, wire="rle"), step)
    grads = grads_of(params, seed=15)
    expected, after, _, _ = run(optimizer, params, grads)

    @chex.assert_max_traces(n=1)
    def one(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    donated = jax.jit(one, donate_argnums=(0, 1))
    state = optimizer.init(params)
    for k in range(ROUNDS):
        these = jax.tree.map(lambda g, k=k: g[k], grads)
        params, state = donated(params, state, these)
    chex.assert_trees_all_close(params, expected, rtol=1e-5)
    chex.assert_trees_all_close(state, after, rtol=1e-4, atol=1e-5)


# Dtypes.


@pytest.mark.parametrize(
    "dtype", slow_but(["bfloat16"], ["float32", "float64", "bfloat16"])
)
@methods(dear=True)
def test_keeps_dtypes_and_memories_at_least_in_float32(method, dtype, x64):
    params = tree_params(dtype)
    grads = random_gradients(params, 3, seed=5, rounds=3)
    algorithm = method.make(3)
    state = jax.eval_shape(algorithm.init, params)
    with jax.numpy_dtype_promotion("strict"):
        final, after, sent, updates = run(optax.chain(algorithm), params, grads)
    chex.assert_trees_all_equal_dtypes(final, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after[0], state)
    assert {x.dtype.name for x in jax.tree.leaves(updates)} == {dtype}
    wide = _trees.widest(dtype, jnp.float32)
    if method.memory:
        assert {x.dtype for x in _memories(state)} == {wide}
        small = method.make(3, state_dtype=jnp.bfloat16)
        small = jax.eval_shape(small.init, params)
        assert {x.dtype.name for x in _memories(small)} == {"bfloat16"}
    if method.name not in ("gd", "gdsec", "gdsoec"):
        return
    width = {"float32": 32, "float64": 64, "bfloat16": 16}[dtype]
    index = {"gd": 0}.get(method.name, 4)  # 9 entries: 4 bits an index, 4 their number
    entries = np.asarray(sent.entries)
    cost = np.where(entries, index + entries * (width + index), 0)
    np.testing.assert_array_equal(sent.bits, cost)


def _memories(state):
    """The leaves of all memories of the workers, wherever they stand."""
    kinds = {
        worker.ErrorFeedbackState: "error",
        worker.GradientDifferenceState: "memory",
        worker.GradientChangeState: "gradient",
        worker.CLAGState: "gradient",
        worker.MomentumState: "average",
    }
    return [
        leaf
        for kind, field in kinds.items()
        for node in _trees.of_type(state.workers, kind)
        for leaf in jax.tree.leaves(getattr(node, field))
    ]


def test_bfloat16_messages_are_exact_and_their_rounding_is_remembered():
    params = jnp.zeros(50, jnp.bfloat16)
    grads = np.asarray(random_gradients(params, 2, seed=6))
    update, state = jitted(gdsec_jax.gdsec(2, xi=0.0, beta=0.5), params)
    _, state = update(grads, state, params)
    total, state = update(2 * grads, state, params)
    v = 2 * grads.astype(np.float32) - 0.5 * grads.astype(np.float32)
    error = np.asarray(state.workers.compressor.error)
    assert error.dtype == np.float32
    np.testing.assert_array_equal(error, v - v.astype(grads.dtype).astype(np.float32))
    assert np.abs(error).max() > 0
    assert total.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("grad", "param"), [("bfloat16", "float32"), ("float32", "bfloat16")]
)
@methods(dear=True, core=("gdsec",))
def test_messages_travel_in_the_parameters_dtype(method, grad, param):
    params = jnp.zeros(4, param)
    update, state = jitted(method.make(2, wire="dense"), params)
    total, state = update(jnp.ones((2, 4), grad), state, params)
    assert total.dtype == params.dtype
    sent = gdsec_jax.last_round(state)
    if not method.whole_first:
        return
    assert sent.entries.tolist() == [4, 4]
    assert sent.bits.tolist() == [4 * 8 * params.dtype.itemsize] * 2


def test_what_a_dtype_cannot_carry_waits_in_the_error_memory():
    params = jnp.zeros(1, jnp.float16)
    tiny = jnp.full((1, 1), 3e-5, jnp.float16)  # subnormal in float16
    update, state = jitted(gdsec_jax.gdsec(1, xi=0.0, beta=0.5), params)
    total = 0.0
    for _ in range(9):
        sent, state = update(tiny, state, params)
        total += float(sent[0])
    error = float(state.workers.compressor.error[0, 0])
    assert total > 2e-4
    assert total + error == pytest.approx(9 * float(tiny[0, 0]), rel=1e-2)


def test_an_entry_of_a_message_that_overflows_is_lost_alone():
    params = jnp.zeros(2, jnp.float16)
    update, state = jitted(gdsec_jax.gdsec(2, xi=0.0, beta=1.0), params)
    grads = np.asarray([[6e4, 2.0], [1.0, 1.0]], np.float16)
    _, state = update(grads, state, params)
    total, after = update(-grads, state, params)
    assert total.tolist() == [np.float16(6e4 - 1.0), -3.0]
    assert int(gdsec_jax.last_round(after).dropped) == 1
    kept, memory = state.workers.memory, after.workers.memory
    assert (memory[0, 0], memory[0, 1]) == (kept[0, 0], -2.0)


def test_an_entry_of_a_memory_that_overflows_is_lost_alone():
    params, grads = jnp.zeros(2), jnp.asarray([[1e5, 1.0], [1.0, 1.0]])
    algorithm = gdsec_jax.gdsec(2, xi=0.0, beta=1.0, state_dtype=jnp.float16)
    update, state = jitted(algorithm, params)
    for _ in range(3):
        total, state = update(grads, state, params)
        assert total.tolist() == [1.0, 2.0]
        assert int(gdsec_jax.last_round(state).dropped) == 1
        assert state.workers.memory[0].tolist() == [0.0, 1.0]


# Nothing is lost.


# See test_fault_laws, too: the same law of many methods, whatever is lost or late.
@pytest.mark.parametrize(
    ("dtype", "tolerance", "make_server"),
    [
        ("float16", 2e-2, server.total),
        ("bfloat16", 1e-1, server.running),
        pytest.param("float16", 2e-2, server.running, marks=pytest.mark.slow),
        pytest.param("bfloat16", 1e-1, server.total, marks=pytest.mark.slow),
        pytest.param("float32", 1e-5, server.total, marks=pytest.mark.slow),
        pytest.param("float32", 1e-5, server.running, marks=pytest.mark.slow),
    ],
)
@pytest.mark.has_nans
def test_conservation_in_few_bits_with_absent_and_dropped_workers(
    dtype, tolerance, make_server
):
    """The gradient of an absent worker counts as its h_m; nothing else is lost."""
    rounds, params = 60, jnp.zeros(20, dtype)
    rng = np.random.default_rng(3)
    # Some entries are subnormal in float16: they cannot be sent, nor may they be lost.
    scale = np.where(np.arange(20) < 5, 2e-5, 1.0)
    grads = scale * rng.standard_normal((rounds, 3, 20))
    grads[::7, 1, 4] = np.nan
    grads = jnp.asarray(grads, dtype)
    active = jnp.asarray(rng.random((rounds, 3)) < 0.7)
    algorithm = gdsec_jax.gdsec(3, xi=3.0, beta=0.3, server=make_server())

    def one(carry, this):
        theta, state = carry
        h = state.workers.memory
        update, state = algorithm.update(this[0], state, theta, active=this[1])
        present = gdsec_jax.last_round(state).participants
        counted = jnp.where(present[:, None], this[0].astype(h.dtype), h).sum(0)
        theta = theta - (0.05 * update).astype(theta.dtype)
        return (theta, state), (update.astype(jnp.float32), counted, present)

    @jax.jit
    def all_rounds():
        start = params, algorithm.init(params)
        (_, state), seen = jax.lax.scan(one, start, (grads, active))
        return state.workers.compressor.error, seen

    error, (updates, counted, present) = jax.device_get(all_rounds())
    assert 0.3 < present.mean() < 0.9
    total, expected = updates.sum(0) + error.sum(0), counted.sum(0)
    size = np.abs(counted).sum(0)
    assert (np.abs(total - expected) <= tolerance * size).all()
    small = np.abs(total - expected)[:5] / size[:5]
    assert small.max() < 1, "what is too small to send was lost"


# A worker whose gradient is not finite.


@methods(dear=True, core=("gdsec",))
def test_a_worker_that_is_not_finite_is_absent(method):
    params = tree_params()
    algorithm = method.make(M, wire="rle")
    _, (state,), _, _ = run(optax.chain(algorithm), params, grads_of(params, seed=8))
    previous = state.clock.previous_params
    moved = jax.tree.map(lambda p: np.asarray(p) + np.float32(0.01), previous)
    last = jax.tree.map(lambda g: g[0], grads_of(params, seed=9))
    update = jax.jit(algorithm.update)
    present = np.asarray([True, False, True, True])
    # The others do what they would have done beside a worker with any gradient.
    healthy = update(last, state, moved)[1].workers
    absent = update(last, state, moved, active=jnp.asarray(present))
    assert int(gdsec_jax.last_round(absent[1]).dropped) == 0
    for bad in (np.nan, -np.inf):
        scale = last["scale"].copy()
        scale[1] = bad
        total, after = update({**last, "scale": scale}, state, moved)
        chex.assert_tree_all_finite((total, after.workers, after.server))
        sent = gdsec_jax.last_round(after)
        assert sent.participants.tolist() == present.tolist()
        assert int(sent.dropped) == 1
        assert sent.bits[1] == 0 and sent.bits[0] > 0
        for m in range(M):
            workers = healthy if present[m] else state.workers
            row = lambda tree, m=m: jax.tree.map(lambda x: np.asarray(x)[m], tree)  # noqa: E731
            chex.assert_trees_all_equal(row(after.workers), row(workers))
        chex.assert_trees_all_equal(total, absent[0])


@pytest.mark.has_nans
@methods(lambda method: method.whole_first, dear=True)
def test_a_nan_is_sent_if_one_asks_for_it(method):
    params = jnp.ones(3)
    update, state = jitted(method.make(2, on_nonfinite="propagate"), params)
    grads = jnp.asarray([[1.0, jnp.nan, 1.0], [1.0, 1.0, 1.0]])
    total, state = update(grads, state, jnp.full(3, 2.0))
    assert np.isnan(total)[1]
    assert np.all(gdsec_jax.last_round(state).participants)


@methods()
def test_an_unknown_option_is_said_of_its_method(method):
    meant = r"(, did you mean levels\? Expected|, expected) one of num_workers, .*wire,"
    match = f"^{method.name} has no option 'levls'{meant}"
    with pytest.raises(TypeError, match=match):
        method.make(M, levls=3)


# Inside optax.


@pytest.mark.promotes  # adam does
@methods(dear=True, core=("gdsec",))
def test_in_a_chain_with_clipping_and_adam(method):
    params = tree_params()
    alone = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    aggregator = method.make(M)
    optimizer = optax.chain(aggregator, alone)
    gdsec_jax.check(optimizer, params, M)
    grads = grads_of(params, seed=10)
    final, _, sent, _ = run(optimizer, params, grads)
    chex.assert_tree_all_finite(final)
    assert sent.entries.shape == (ROUNDS, M)

    @jax.jit
    def by_hand(params, grads):
        def one(carry, grads):
            params, memory, state = carry
            total, memory = aggregator.update(grads, memory, params)
            updates, state = alone.update(total, state, params)
            return (optax.apply_updates(params, updates), memory, state), None

        start = params, aggregator.init(params), alone.init(params)
        return jax.lax.scan(one, start, grads)[0][0]

    chex.assert_trees_all_close(final, by_hand(params, grads), rtol=1e-4, atol=1e-6)


def test_inject_hyperparams():
    params = tree_params()
    grads = random_gradients(params, 3, seed=11, rounds=6)
    make, static = gdsec_jax.gdsec, gdsec_jax.STATIC_ARGS.of(gdsec_jax.gdsec)
    schedule = optax.linear_schedule(0.0, 20.0, 5)
    given = {"num_workers": 3, "xi": schedule, "beta": 0.3, "wire": "rle"}
    injected = optax.inject_hyperparams(make, static_args=static)(**given)
    optimizer = optax.chain(injected, optax.sgd(0.1))
    gdsec_jax.check(optimizer, params, 3)
    ours, state, sent, _ = run(optimizer, params, grads)
    plain = optax.chain(make(**given), optax.sgd(0.1))
    theirs, _, expected, _ = run(plain, params, grads)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)
    np.testing.assert_array_equal(sent.bits, expected.bits)
    state[0].hyperparams["beta"] = jnp.asarray(0.0)
    chex.assert_trees_all_equal(gdsec_jax.last_round(state).bits, sent.bits[-1])


# What may change from round to round, beside the key of those that draw.
TRACED = {
    "gdsec": {"xi", "beta"},
    "gdsoec": {"xi", "beta"},
    "qsgdsec": {"xi", "beta"},
    "cgd": {"xi"},
    "lag": {"learning_rate", "zeta"},
    "laq": {"learning_rate", "zeta"},
    "ef21_sgdm": {"eta"},
    "diana": {"beta"},
    "marina": {"probability"},
    "clag": {"zeta"},
    "ef_bv": {"nu", "beta"},
    "threepc": {"probability"},
    "econtrol": {"eta"},
    "dasha": {"momentum"},
    "demo": {"decay"},
    "ef21_muon": {"eta"},
    "one_bit_adam": {"b1", "b2", "eps"},
}
GIVEN = {  # what has no number by default, or is not read
    "diana": {"beta": 0.5},
    "marina": {"probability": 0.5},
    "ef_bv": {"nu": 0.5, "beta": 0.5},
    "threepc": {"variant": "v5"},
    "dasha": {"momentum": 0.5},
}


@methods()
def test_static_args_leave_every_other_number_traced(method):
    """So that they may be injected; and the compiled round reads each of them."""
    factory = gdsec_jax.METHODS[method.name].factory
    static = gdsec_jax.STATIC_ARGS.of(factory)
    assert set(static) <= set(inspect.signature(factory).parameters)
    given = {"num_workers": 3} | method.arguments | GIVEN.get(method.name, {})
    optimizer = optax.inject_hyperparams(factory, static_args=static)(**given)
    params = {"w": jnp.ones((3, 2))}
    state = jax.eval_shape(optimizer.init, params)
    traced = TRACED.get(method.name, set())
    assert set(state.hyperparams) == traced | ({"key"} if method.draws else set())
    grads = {"w": jnp.ones((3, 3, 2))}
    jaxpr = jax.make_jaxpr(optimizer.update)(grads, state, params).jaxpr
    paths = jax.tree_util.tree_leaves_with_path((grads, state, params))
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    read = {id(x) for equation in jaxpr.eqns for x in equation.invars}
    for name, value in zip(names, jaxpr.invars, strict=True):
        for parameter in traced:
            assert f"'{parameter}'" not in name or id(value) in read


def test_static_args_are_of_pieces_too():
    static = gdsec_jax.STATIC_ARGS
    assert static.of(worker.random_k) == ("k", "scaled", "scope", "common")
    assert static.of(worker.laq) == ("bits", "scope")
    assert static.of(worker.gradient_change) == ("compressor", "state_dtype")
    assert static.of(worker.lag) == ()
    assert "xi" not in static and "key" not in static


def test_inject_hyperparams_without_static_args_says_what_to_do():
    injected = optax.inject_hyperparams(gdsec_jax.gdsec)(num_workers=3, xi=1.0)
    with pytest.raises(
        ValueError, match=r"num_workers is .*expected a Python int.*static_args"
    ):
        injected.init(jnp.zeros(2))


def test_partition_adds_up_the_parts():
    params = tree_params()
    grads = random_gradients(params, 3, seed=12, rounds=6)
    labels = {"layers": ["dense", "sparse"], "scale": "dense"}
    sparse, step = gdsec_jax.gdsec(3, xi=9.0), optax.sgd(0.1)
    parts = {"dense": gdsec_jax.gd(3), "sparse": sparse}
    optimizer = optax.chain(optax.partition(parts, labels), step)
    gdsec_jax.check(optimizer, params, 3)
    final, _, sent, _ = run(optimizer, params, grads)
    pick = lambda tree: tree["layers"][1]  # noqa: E731
    expected, _, part, _ = run(optax.chain(sparse, step), pick(params), pick(grads))
    chex.assert_trees_all_close(pick(final), expected, rtol=1e-6)
    np.testing.assert_array_equal(sent.entries, np.asarray(part.entries) + 7)
    np.testing.assert_array_equal(sent.bits, part.bits + 7 * 32)
    assert np.all(sent.participants)


@pytest.mark.promotes  # MultiSteps does
def test_apply_if_finite_and_multi_steps_behind():
    params = jnp.zeros(4)
    grads = random_gradients(params, 3, seed=13, rounds=4)
    algorithm, sgd = gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.1)
    behind = optax.chain(algorithm, optax.apply_if_finite(sgd, 2))
    steps = optax.chain(algorithm, optax.MultiSteps(sgd, 2).gradient_transformation())
    for optimizer in (behind, steps):
        gdsec_jax.check(optimizer, params, 3)
    plain = run(optax.chain(algorithm, sgd), params, grads)
    chex.assert_trees_all_close(run(behind, params, grads)[0], plain[0], rtol=1e-6)
    updates = np.asarray(run(steps, params, grads)[3])
    assert (np.abs(updates).min(axis=1) > 0).tolist() == [False, True] * 2
    assert not updates[::2].any()


@methods(dear=True, core=("gdsec",))
def test_aggregating_process(method):
    params = tree_params()
    grads = random_gradients(params, 3, seed=14)
    clip = jax.jit(jax.vmap(lambda g: optax.projections.projection_l2_ball(g, 1.0)))
    whole = aggregating.process(
        optax.with_extra_args_support(optax.stateless(lambda g, _: clip(g))),
        method.make(3),
        optax.with_extra_args_support(optax.sgd(0.1)),
    )
    gdsec_jax.check(whole, params, 3)
    update, state = jitted(whole, params)
    updates, state = update(grads, state, params)
    if method.whole_first:
        expected = jax.tree.map(lambda g: -0.1 * np.asarray(g).sum(0), clip(grads))
        chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    assert gdsec_jax.last_round(state).entries.shape == (3,)


def test_a_worker_may_clip_its_gradient():
    piece = optax.chain(
        optax.clip_by_global_norm(1.0),
        worker.gradient_difference(worker.error_feedback(worker.censor(0.0)), 0.1),
    )
    optimizer = gdsec_jax.federate(piece, 2, server=gdsec_jax.server_memory(0.1))
    params, grads = jnp.zeros(3), jnp.asarray([[3.0, 0.0, 4.0], [0.1, 0.0, 0.0]])
    update, state = jitted(optimizer, params)
    np.testing.assert_allclose(
        update(grads, state, params)[0], [0.7, 0.0, 0.8], rtol=1e-6
    )


# xi.


def test_xi_as_tree_array_and_schedule_agree_with_a_scalar():
    params = {"layers": [np.ones((3, 2)), np.ones(2)], "scale": np.ones(())}
    params = jax.tree.map(np.float32, params)
    grads = grads_of(params, seed=16)

    def final(xi):
        return run(
            optax.chain(gdsec_jax.gdsec(M, xi=xi), optax.sgd(0.05)), params, grads
        )[0]

    expected = final(7.0)
    full = jax.tree.map(lambda p: np.full(p.shape, 7.0, p.dtype), params)
    for xi in ({"layers": 7.0, "scale": np.float32(7.0)}, lambda round: full):
        chex.assert_trees_all_close(final(xi), expected, rtol=1e-6)


def test_a_schedule_is_called_with_the_round_from_zero():
    params = jnp.ones(2)
    grads = np.ones((4, 1, 2), np.float32) * np.float32([1, 2, 3, 4])[:, None, None]
    optimizer = optax.chain(
        gdsec_jax.gdsec(1, xi=lambda k: jnp.where(k == 2, 1e9, 0.0), beta=0.0),
        optax.sgd(0.1),
    )
    *_, sent, _ = run(optimizer, params, grads)
    assert sent.entries[:, 0].tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize("standstill", ["send", "hold"])
def test_where_theta_stands_still(standstill):
    params, moved, grads = jnp.zeros(3), jnp.full(3, -1.0), jnp.ones((1, 3))
    algorithm = gdsec_jax.gdsec(1, xi=10.0, on_standstill=standstill)
    update, state = jitted(algorithm, params)
    entries = []
    for theta in (params, moved, moved):  # it does not move the second time
        _, state = update(grads, state, theta)
        entries.append(int(gdsec_jax.last_round(state).entries[0]))
    assert entries == [3, 0, {"send": 3, "hold": 0}[standstill]]


# Bad input.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdsec_jax.gdsec(3, xi=-1.0), "xi is -1, expected a number at least 0"),
        (lambda: gdsec_jax.gdsec(3, xi=float("nan")), "xi is nan, expected"),
        (lambda: gdsec_jax.gdsec(3, xi={"a": 1.0, "b": -3.0}), "xi is -3, expected"),
        (
            lambda: gdsec_jax.gdsec(3, xi=1.0, beta=1.5),
            r"beta is 1.5, expected a number in \[0, 1\]",
        ),
        (lambda: gdsec_jax.gdsoec(3, xi=1.0, beta=-0.1), "beta is -0.1, expected"),
        (lambda: gdsec_jax.gd(0), "num_workers is 0, expected an integer at least 1"),
        (lambda: gdsec_jax.gd(2.5), "num_workers is 2.5, expected an integer"),  # pyright: ignore
        (
            lambda: gdsec_jax.gd(2, reduction="max"),
            "reduction is 'max', expected one of",
        ),  # pyright: ignore
        (lambda: gdsec_jax.gd(2, wire="zip"), "wire is 'zip', expected one of dense"),
        (lambda: gdsec_jax.gd(2, on_nonfinite="x"), "on_nonfinite is 'x'"),  # pyright: ignore
        (lambda: gdsec_jax.gdsec(2, 1.0, on_standstill="x"), "on_standstill is 'x'"),  # pyright: ignore
        (lambda: gdsec_jax.gd(2, weights=jnp.ones(3)), r"weights has shape \(3,\)"),
        (lambda: gdsec_jax.gd(2, weights=jnp.asarray([1.0, -1.0])), "weights is -1"),
        (lambda: gdsec_jax.gd(2, weights=[0, 0]), "weights is 0 for every worker"),
        (lambda: gdsec_jax.gd(True), "num_workers is True, expected an integer"),
        (lambda: gdsec_jax.gdsec(2, xi="1"), "xi is '1', expected real numbers"),
        (lambda: gdsec_jax.gdsec(2, xi=float("inf")), "xi is inf, expected"),
        (
            lambda: gdsec_jax.gdsec(2, xi="adaptive"),  # pyright: ignore
            r"is given 'adaptive', .* expected gdsec_jax.adaptive_xi\(\)",
        ),
        (
            lambda: gdsec_jax.top_j(2, k=gdsec_jax.adaptive_xi()),  # pyright: ignore
            r"k is Controller\(init=<function adaptive_xi.<locals>.init>, ",
        ),
        (
            lambda: gdsec_jax.federate(np.sign, 2),  # pyright: ignore
            "the transformation is <ufunc 'sign'>, expected .* optax.stateless makes",
        ),
        (
            lambda: gdsec_jax.gdsec(2, 1.0, beta=None),
            "beta is None, expected one number",
        ),
        (lambda: gdsec_jax.gdsec(2, 1.0, beta=lambda k: 1.0), "expected one number"),
        (lambda: gdsec_jax.gdsec(2, 1.0, state_dtype=int), "expected a floating-point"),
        (lambda: gdsec_jax.gdsec(2, 1.0, state_dtype="foo"), "state_dtype is 'foo'"),
        (lambda: gdsec_jax.gdsec(2, 1.0, server=3), "server is 3, expected"),  # pyright: ignore
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (jnp.zeros((4, 2)), r"gradients has shape \(4, 2\), expected \(3, 2\)"),
        (jnp.zeros(2), r"gradients has shape \(2,\), expected \(3, 2\)"),
        (jnp.zeros((3,)), r"gradients has shape \(3,\), expected \(3, 2\)"),
        ({"w": jnp.zeros((3, 2))}, "gradients is the tree"),
    ],
)
@methods(lambda method: method.name in ("gd", "gdsec"))
def test_wrong_gradients(method, grads, message):
    params = jnp.zeros(2)
    algorithm = method.make(3)
    with pytest.raises(ValueError, match=message):
        jax.jit(algorithm.update)(grads, algorithm.init(params), params)


def test_wrong_params_xi_and_active():
    algorithm = gdsec_jax.gdsec(3, xi=1.0)
    state, grads = algorithm.init(jnp.zeros(2)), jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params\)"):
        algorithm.update(grads, state)
    with pytest.raises(ValueError, match=r"params has shape \(3,\), expected \(2,\)"):
        algorithm.update(grads, state, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"active is int32\[3\], expected bool\[3\]"):
        algorithm.update(grads, state, jnp.zeros(2), active=jnp.ones(3, jnp.int32))
    with pytest.raises(
        ValueError, match=r"xi is the tree .* expected a scalar or a pre"
    ):
        wrong = gdsec_jax.gdsec(3, xi={"a": 1.0})
        wrong.update(grads, wrong.init(jnp.zeros(2)), jnp.zeros(2))
    with pytest.raises(
        ValueError, match=r"xi has shape \(3,\), expected one that broad"
    ):
        wrong = gdsec_jax.gdsec(3, xi=jnp.ones(3))
        wrong.update(grads, wrong.init(jnp.zeros(2)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"params\['n'\] has dtype int32"):
        algorithm.init({"n": jnp.zeros(2, jnp.int32)})


# Any tree, any sizes.

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "bfloat16", "float16"])
trees = st.recursive(
    st.tuples(shapes, dtypes).map(lambda leaf: jnp.full(leaf[0], 0.5, leaf[1])),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=2),
        st.tuples(inner),
    ),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    params=trees,
    num_workers=st.integers(1, 4),
    seed=st.integers(0, 9),
    method=st.sampled_from(METHODS),
    wire=st.sampled_from(gdsec_jax.wire.FORMATS),
)
def test_any_tree_and_dtype(params, num_workers, seed, method, wire):
    algorithm = method.make(num_workers, wire=wire)
    grads = random_gradients(params, num_workers, seed)
    state = algorithm.init(params)
    updates, after = jax.jit(algorithm.update)(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    if not method.whole_first:
        return
    # In the first round everything is sent, in its own dtype.
    total = jax.tree.map(lambda g: np.asarray(g, np.float64).sum(0), grads)
    as_float = jax.tree.map(lambda u: np.asarray(u, np.float64), updates)
    chex.assert_trees_all_close(as_float, total, rtol=2e-2, atol=2e-2)
    sent = gdsec_jax.last_round(after)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sent.entries.tolist() == [size] * num_workers
    value_bits = sum(8 * x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    assert (sent.bits >= value_bits).all()
    assert (sent.bits <= value_bits + size * 33 + 64).all()
