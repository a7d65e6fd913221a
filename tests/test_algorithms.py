"""Every method: against the oracle, against its limit cases, and inside optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from cases import (
    METHODS,
    methods,
    random_gradients,
    real_problem,
    run,
    slow_but,
    tree_params,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _trees
from optax.experimental import aggregating

import gdsec_jax
from gdsec_jax import worker


def _library(problem, optimizer, rounds):
    """theta after each round, and what was sent, all rounds compiled."""

    @jax.jit
    def all_rounds(problem):
        def one(carry, _):
            params, state = carry
            grads = problem.gradients(params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, gdsec_jax.last_round(state))

        start = problem.init_params, optimizer.init(problem.init_params)
        (_, state), (thetas, sent) = jax.lax.scan(one, start, length=rounds)
        return state, thetas, sent

    return all_rounds(problem)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
@pytest.mark.parametrize(
    ("method", "xi_kind", "server"),
    [
        ("gd", None, None),
        ("gdsec", "scalar", "workers"),
        ("gdsec", "scalar", "running"),
        ("gdsec", "coordinate", "running"),
        ("gdsoec", "scalar", "workers"),
        ("gdsoec", "coordinate", "running"),
    ],
)
def test_equals_the_oracle_for_300_rounds(name, method, xi_kind, server):
    problem, x, y, parts = real_problem(name)
    gradient = {
        "digits": oracle.ridge_gradient,
        "breast_cancer": oracle.logistic_gradient,
    }[name](x, y, parts, 1 / y.size)
    alpha, beta = 1 / problem.smoothness, 0.02
    xi = 30.0
    if xi_kind == "coordinate":
        xi = 3.0 / np.maximum(problem.coordinate_smoothness, 1e-3)
    own = {} if method == "gd" else {"xi": xi, "beta": beta}
    theta = np.zeros(x.shape[1])
    expected = getattr(oracle, method)(gradient, theta, alpha, 300, 5, *own.values())

    if method != "gd":
        own["server"] = server
    algorithm = getattr(gdsec_jax, method)(5, **own, wire="rle")
    optimizer = optax.chain(algorithm, optax.sgd(alpha))
    state, thetas, sent = _library(problem, optimizer, 300)

    np.testing.assert_allclose(thetas, expected.thetas[1:], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(sent.entries, expected.entries)
    cost = oracle.dense_bits if method == "gd" else oracle.rle_bits
    bits = [[cost(u, 64) for u in messages] for messages in expected.messages]
    np.testing.assert_array_equal(sent.bits, bits)
    federation = state[0]
    if method != "gd":
        assert 0.001 < expected.entries.mean() / theta.size < 0.9, "censors nothing"
        memory = federation.workers.memory
        np.testing.assert_allclose(memory, expected.worker_memory[-1], atol=1e-12)
        if server == "running":
            np.testing.assert_allclose(
                federation.server.memory, expected.server_memory[-1], atol=1e-12
            )
    if method == "gdsec":
        error = federation.workers.compressor.error
        np.testing.assert_allclose(error, expected.errors[-1], atol=1e-12)


@pytest.mark.usefixtures("x64")
@methods(lambda method: method.as_gd is not None)
def test_its_limit_case_is_gradient_descent(method):
    problem, *_ = real_problem("digits")
    step = optax.sgd(1 / problem.smoothness)
    _, ours, _ = _library(problem, optax.chain(method.make_gd(5), step), 200)
    _, gd, _ = _library(problem, optax.chain(gdsec_jax.gd(5), step), 200)
    np.testing.assert_allclose(ours, gd, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weighted", slow_but([True], [False, True]))
@methods(dear=True)
def test_sum_and_mean_give_the_same_iterates(method, weighted):
    weights = jnp.asarray([1.0, 2.0, 0.5, 3.0]) if weighted else None
    total = 4.0 if weights is None else weights.sum()
    params = tree_params(jnp.float64)
    grads = random_gradients(params, 4, seed=0, rounds=30)
    summed = method.make(4, weights=weights, wire="rle")
    averaged = method.make(4, weights=weights, wire="rle", reduction="mean")
    step = optax.sgd(0.01)
    of_sum = run(optax.chain(summed, step), params, grads)
    scaled = jax.tree.map(lambda g: g * total, grads)  # f_m = w_m f~_m / sum of w
    of_mean = run(optax.chain(averaged, step), params, scaled)
    chex.assert_trees_all_close(of_sum[0], of_mean[0], rtol=1e-11)
    np.testing.assert_array_equal(of_sum[2].entries, of_mean[2].entries)


@pytest.mark.usefixtures("x64")
@methods(dear=True)
def test_weights_scale_each_worker(method):
    params, weights = jnp.zeros(6), jnp.asarray([0.5, 2.0, 0.0])
    grads = random_gradients(params, 3, seed=1, rounds=20)
    step = optax.sgd(0.1)
    ours = run(optax.chain(method.make(3, weights=weights), step), params, grads)
    scaled = grads * weights[:, None]
    plain = run(optax.chain(method.make(3), step), params, scaled)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-12)
    if not method.whole_first:
        return
    mean = method.make(3, weights=weights, reduction="mean")
    state = mean.init(params)
    first, _ = mean.update(grads[0], state, params)
    expected = np.average(grads[0], axis=0, weights=weights)
    np.testing.assert_allclose(first, expected, rtol=1e-12)


@methods(dear=True)
def test_jit_equals_eager(method):
    params = tree_params()
    grads = random_gradients(params, 3, seed=2)
    algorithm = method.make(3, wire="rle")
    state = algorithm.init(params)
    moved = jax.tree.map(lambda p: p + jnp.asarray(0.1, p.dtype), params)
    eager = algorithm.update(grads, state, moved)
    compiled = jax.jit(algorithm.update)(grads, state, moved)
    chex.assert_trees_all_close(eager, compiled, rtol=1e-6)


@pytest.mark.parametrize("name", ["gdsec", "gdsoec"])
def test_vmap_over_hyper_parameters_equals_a_loop(name):
    params = tree_params()
    grads = random_gradients(params, 3, seed=3, rounds=10)

    def final(xi, beta):
        algorithm = getattr(gdsec_jax, name)(3, xi=xi, beta=beta, wire="rle")
        out = run(optax.chain(algorithm, optax.sgd(0.05)), params, grads)
        return out[0], out[2]

    xis, betas = jnp.asarray([0.0, 1.0, 30.0]), jnp.asarray([0.0, 0.5, 1.0])
    batched, sent = jax.jit(jax.vmap(final))(xis, betas)
    assert sent.bits.shape == (3, 10, 3)
    assert len(set(sent.entries.sum(axis=(1, 2)).tolist())) == 3
    for i in range(3):
        one, alone = final(xis[i], betas[i])
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], batched), one, rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(sent.entries[i], alone.entries)


@methods(lambda method: not method.draws, dear=True)
def test_the_order_of_workers_does_not_matter(method):
    params = tree_params()
    grads = random_gradients(params, 4, seed=4, rounds=10)
    order = np.array([2, 0, 3, 1])
    optimizer = optax.chain(method.make(4, wire="rle"), optax.sgd(0.05))
    ours = run(optimizer, params, grads)
    permuted = run(optimizer, params, jax.tree.map(lambda g: g[:, order], grads))
    chex.assert_trees_all_close(ours[0], permuted[0], rtol=1e-5)
    np.testing.assert_array_equal(ours[2].bits[:, order], permuted[2].bits)


@methods(dear=True)
def test_compiles_once(method):
    params = tree_params()
    chex.clear_trace_counter()
    step = optax.sgd(optax.exponential_decay(0.1, 5, 0.9))
    optimizer = optax.chain(method.make(3), step)
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    state = optimizer.init(params)
    for seed in range(12):
        updates, state = update(random_gradients(params, 3, seed), state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    "dtype", slow_but(["bfloat16"], ["float32", "float64", "bfloat16"])
)
@methods(dear=True)
def test_keeps_dtypes_and_memories_at_least_in_float32(method, dtype, x64):
    params = tree_params(dtype)
    grads = random_gradients(params, 3, seed=5, rounds=3)
    algorithm = method.make(3)
    state = algorithm.init(params)
    with jax.numpy_dtype_promotion("strict"):
        final, after, sent, updates = run(optax.chain(algorithm), params, grads)
    chex.assert_trees_all_equal_dtypes(final, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after[0], state)
    assert {x.dtype.name for x in jax.tree.leaves(updates)} == {dtype}
    wide = jnp.promote_types(dtype, jnp.float32)
    if method.memory:
        assert {x.dtype for x in _memories(state)} == {wide}
        small = method.make(3, state_dtype=jnp.bfloat16).init(params)
        assert {x.dtype.name for x in _memories(small)} == {"bfloat16"}
    if method.name not in ("gd", "gdsec", "gdsoec"):
        return
    width = {"float32": 32, "float64": 64, "bfloat16": 16}[dtype]
    index = {"gd": 0}.get(method.name, 4)  # 9 entries: 4 bits an index, 4 their number
    cost = np.where(sent.entries, index + sent.entries * (width + index), 0)
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
    grads = random_gradients(params, 2, seed=6)
    algorithm = gdsec_jax.gdsec(2, xi=0.0, beta=0.5)
    state = algorithm.init(params)
    _, state = algorithm.update(grads, state, params)
    update, state = algorithm.update(2 * grads, state, params)
    v = 2 * grads.astype(jnp.float32) - 0.5 * grads.astype(jnp.float32)
    error = state.workers.compressor.error
    assert error.dtype == jnp.float32
    np.testing.assert_array_equal(error, v - v.astype(jnp.bfloat16).astype(jnp.float32))
    assert jnp.abs(error).max() > 0
    assert update.dtype == jnp.bfloat16


@methods(dear=True)
def test_zeros_give_zeros_and_silence(method):
    params = tree_params()
    algorithm = method.make(3, wire="rle")
    zeros = jax.tree.map(lambda p: jnp.zeros((3, *p.shape)), params)
    updates, state = algorithm.update(zeros, algorithm.init(params), params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    assert gdsec_jax.last_round(state).bits.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("beta", [0.0, 0.01, 1.0])
def test_conservation(beta):
    """sum over rounds of (h + sum of messages) + sum of e = sum of all gradients."""
    params = tree_params(jnp.float64)
    rounds = 200
    grads = random_gradients(params, 4, seed=7, rounds=rounds)
    algorithm = gdsec_jax.gdsec(4, xi=40.0, beta=beta, server="running")
    optimizer = optax.chain(algorithm, optax.sgd(0.01))
    _, state, sent, updates = run(optimizer, params, grads)
    assert 0.05 < sent.entries.mean() / 9 < 0.95
    applied = jax.tree.map(lambda u: u.sum(0) / -0.01, updates)
    unsent = jax.tree.map(lambda e: e.sum(0), state[0].workers.compressor.error)
    total = jax.tree.map(jnp.add, applied, unsent)
    expected = jax.tree.map(lambda g: g.sum((0, 1)), grads)
    tolerance = 100 * np.sqrt(rounds) * np.finfo(float).eps * rounds
    chex.assert_trees_all_close(total, expected, atol=tolerance)
    server = jax.tree.map(lambda h: h.sum(0), state[0].workers.memory)
    chex.assert_trees_all_close(state[0].server.memory, server, atol=tolerance)


@pytest.mark.parametrize("server", ["workers", "running"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 2e-2), ("bfloat16", 1e-1), ("float32", 1e-5)]
)
def test_conservation_in_few_bits_with_absent_and_dropped_workers(
    dtype, tolerance, server
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
    algorithm = gdsec_jax.gdsec(3, xi=3.0, beta=0.3, server=server)

    def one(carry, this):
        theta, state = carry
        h = state.workers.memory
        update, state = algorithm.update(this[0], state, theta, active=this[1])
        present = gdsec_jax.last_round(state).participants
        counted = jnp.where(present[:, None], this[0].astype(h.dtype), h).sum(0)
        theta = theta - (0.05 * update).astype(theta.dtype)
        return (theta, state), (update.astype(jnp.float32), counted, present)

    start = params, algorithm.init(params)
    (_, state), (updates, counted, present) = jax.lax.scan(one, start, (grads, active))
    assert 0.3 < present.mean() < 0.9
    unsent = state.workers.compressor.error.sum(0)
    total, expected = updates.sum(0) + unsent, counted.sum(0)
    size = jnp.abs(counted).sum(0)
    assert (jnp.abs(total - expected) <= tolerance * size).all()
    small = jnp.abs(total - expected)[:5] / size[:5]
    assert small.max() < 1, "what is too small to send was lost"


def test_what_a_dtype_cannot_carry_waits_in_the_error_memory():
    params = jnp.zeros(1, jnp.float16)
    tiny = jnp.full((1, 1), 3e-5, jnp.float16)  # subnormal in float16
    algorithm = gdsec_jax.gdsec(1, xi=0.0, beta=0.5)
    state, total = algorithm.init(params), 0.0
    for _ in range(9):
        update, state = algorithm.update(tiny, state, params)
        total += float(update[0])
    error = float(state.workers.compressor.error[0, 0])
    assert total > 2e-4
    assert total + error == pytest.approx(9 * float(tiny[0, 0]), rel=1e-2)


def test_a_message_that_overflows_drops_its_worker():
    params = jnp.zeros(1, jnp.float16)
    algorithm = gdsec_jax.gdsec(2, xi=0.0, beta=1.0)
    state = algorithm.init(params)
    grads = jnp.asarray([[6e4], [1.0]], jnp.float16)
    _, state = algorithm.update(grads, state, params)
    update, after = algorithm.update(-grads, state, params)
    sent = gdsec_jax.last_round(after)
    assert sent.participants.tolist() == [False, True]
    chex.assert_trees_all_equal(after.workers.memory[0], state.workers.memory[0])
    assert jnp.isfinite(update).all()


def test_a_memory_that_overflows_drops_its_worker():
    params, grads = jnp.zeros(2), jnp.asarray([[1e5, 1.0], [1.0, 1.0]])
    algorithm = gdsec_jax.gdsec(2, xi=0.0, beta=1.0, state_dtype=jnp.float16)
    state = algorithm.init(params)
    for _ in range(3):
        update, state = algorithm.update(grads, state, params)
        assert update.tolist() == [1.0, 1.0]
        assert gdsec_jax.last_round(state).participants.tolist() == [False, True]


@pytest.mark.parametrize(
    ("grad", "param"), [("bfloat16", "float32"), ("float32", "bfloat16")]
)
@methods(dear=True)
def test_messages_travel_in_the_parameters_dtype(method, grad, param):
    params = jnp.zeros(4, param)
    grads = jnp.ones((2, 4), grad)
    algorithm = method.make(2, wire="dense")
    update, state = algorithm.update(grads, algorithm.init(params), params)
    assert update.dtype == params.dtype
    sent = gdsec_jax.last_round(state)
    if not method.whole_first:
        return
    assert sent.entries.tolist() == [4, 4]
    assert sent.bits.tolist() == [4 * 8 * params.dtype.itemsize] * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_state_keeps_the_limit_case(dtype):
    problem, *_ = real_problem("digits")
    step = optax.sgd(1 / problem.smoothness)
    narrow = gdsec_jax.gdsec(5, xi=0.0, beta=0.1, state_dtype=jnp.dtype(dtype))
    _, ours, _ = _library(problem, optax.chain(narrow, step), 300)
    _, gd, _ = _library(problem, optax.chain(gdsec_jax.gd(5), step), 300)
    excess = problem.error(ours[-1]) - problem.error(gd[-1])
    assert abs(excess) < 1e-2 * problem.error(gd[-1])


def test_a_mean_divides_by_all_workers_whoever_is_there():
    algorithm = gdsec_jax.gd(4, reduction="mean")
    params, grads = jnp.zeros(1), jnp.full((4, 1), 4.0)
    active = jnp.asarray([True, False, True, False])
    update, _ = algorithm.update(grads, algorithm.init(params), params, active=active)
    assert update.tolist() == [2.0]


# A worker whose gradient is not finite.


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
@methods(lambda method: method.name not in ("iag", "power_sgd"), dear=True)
def test_a_worker_that_is_not_finite_is_absent(method, bad):
    params = tree_params()
    algorithm = method.make(3, wire="rle")
    grads = random_gradients(params, 3, seed=8, rounds=4)
    params, state, _, _ = run(optax.chain(algorithm), params, grads)
    state = state[0]
    moved = jax.tree.map(lambda p: p + 0.01, state.rounds.previous_params)
    last = random_gradients(params, 3, seed=9)
    broken = {**last, "scale": last["scale"].at[1].set(bad)}

    update, after = algorithm.update(broken, state, moved)
    chex.assert_tree_all_finite((update, after.workers, after.server))
    sent = gdsec_jax.last_round(after)
    assert sent.participants.tolist() == [True, False, True]
    assert int(sent.dropped) == 1
    assert sent.bits[1] == 0
    assert sent.bits[0] > 0 or method.name in ("cgd", "lag", "laq", "clag")
    row = lambda tree, m: jax.tree.map(lambda x: x[m], tree)  # noqa: E731
    chex.assert_trees_all_equal(row(after.workers, 1), row(state.workers, 1))

    # The others do what they would have done beside a worker with any gradient.
    _, healthy = algorithm.update(last, state, moved)
    for m in (0, 2):
        chex.assert_trees_all_equal(row(after.workers, m), row(healthy.workers, m))
    absent = algorithm.update(
        last, state, moved, active=jnp.asarray([True, False, True])
    )
    chex.assert_trees_all_equal(update, absent[0])
    assert int(gdsec_jax.last_round(absent[1]).dropped) == 0


@methods(lambda method: method.whole_first)
def test_a_nan_is_sent_if_one_asks_for_it(method):
    params = jnp.ones(3)
    algorithm = method.make(2, on_nonfinite="propagate")
    grads = jnp.asarray([[1.0, jnp.nan, 1.0], [1.0, 1.0, 1.0]])
    state = algorithm.init(params)
    update, state = algorithm.update(grads, state, params + 1)
    assert jnp.isnan(update)[1]
    assert gdsec_jax.last_round(state).participants.all()


# Inside optax.


@methods(dear=True)
def test_in_a_chain_with_clipping_and_adam(method):
    params = tree_params()
    optimizer = optax.chain(
        method.make(3), optax.clip_by_global_norm(1.0), optax.adam(1e-2)
    )
    gdsec_jax.check(optimizer, params, 3)
    grads = random_gradients(params, 3, seed=10, rounds=5)
    final, _, sent, _ = run(optimizer, params, grads)
    chex.assert_tree_all_finite(final)
    assert sent.entries.shape == (5, 3)
    alone = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    state, theirs = alone.init(params), params
    aggregator = method.make(3)
    memory = aggregator.init(params)
    for k in range(5):
        total, memory = aggregator.update(
            jax.tree.map(lambda g, k=k: g[k], grads), memory, theirs
        )
        updates, state = alone.update(total, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    chex.assert_trees_all_close(final, theirs, rtol=1e-4, atol=1e-6)


def test_inject_hyperparams():
    params = tree_params()
    grads = random_gradients(params, 3, seed=11, rounds=6)
    static = ("num_workers", "wire", "reduction")
    injected = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=static)
    schedule = optax.linear_schedule(0.0, 20.0, 5)
    optimizer = optax.chain(
        injected(num_workers=3, xi=schedule, beta=0.3, wire="rle"), optax.sgd(0.1)
    )
    gdsec_jax.check(optimizer, params, 3)
    ours, state, sent, _ = run(optimizer, params, grads)
    plain = gdsec_jax.gdsec(3, xi=schedule, beta=0.3, wire="rle")
    theirs, _, expected, _ = run(optax.chain(plain, optax.sgd(0.1)), params, grads)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)
    np.testing.assert_array_equal(sent.bits, expected.bits)
    state[0].hyperparams["beta"] = jnp.asarray(0.0)
    chex.assert_trees_all_equal(gdsec_jax.last_round(state).bits, sent.bits[-1])


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
    optimizer = optax.chain(
        optax.partition(
            {"dense": gdsec_jax.gd(3), "sparse": gdsec_jax.gdsec(3, xi=9.0)}, labels
        ),
        optax.sgd(0.1),
    )
    gdsec_jax.check(optimizer, params, 3)
    final, _, sent, _ = run(optimizer, params, grads)
    pick = lambda tree: tree["layers"][1]  # noqa: E731
    alone = optax.chain(gdsec_jax.gdsec(3, xi=9.0), optax.sgd(0.1))
    expected, _, part, _ = run(alone, pick(params), pick(grads))
    chex.assert_trees_all_close(pick(final), expected, rtol=1e-6)
    np.testing.assert_array_equal(sent.entries, part.entries + 7)
    np.testing.assert_array_equal(sent.bits, part.bits + 7 * 32)
    assert sent.participants.all()


def test_apply_if_finite_and_multi_steps_behind():
    params = jnp.zeros(4)
    grads = random_gradients(params, 3, seed=13, rounds=4)
    behind = optax.chain(
        gdsec_jax.gdsec(3, xi=1.0), optax.apply_if_finite(optax.sgd(0.1), 2)
    )
    gdsec_jax.check(behind, params, 3)
    plain = optax.chain(gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.1))
    chex.assert_trees_all_close(
        run(behind, params, grads)[0], run(plain, params, grads)[0], rtol=1e-6
    )
    steps = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=1.0), steps)
    gdsec_jax.check(optimizer, params, 3)
    final, *_ = run(optimizer, params, grads[:1])
    chex.assert_trees_all_equal(final, params)
    assert jnp.abs(run(optimizer, params, grads)[0]).min() > 0


@methods(dear=True)
def test_aggregating_process(method):
    params = tree_params()
    grads = random_gradients(params, 3, seed=14)
    clip = jax.vmap(lambda g: optax.projections.projection_l2_ball(g, 1.0))
    whole = aggregating.process(
        optax.with_extra_args_support(optax.stateless(lambda g, _: clip(g))),
        method.make(3),
        optax.with_extra_args_support(optax.sgd(0.1)),
    )
    gdsec_jax.check(whole, params, 3)
    updates, state = jax.jit(whole.update)(grads, whole.init(params), params)
    if method.whole_first:
        expected = jax.tree.map(lambda g: -0.1 * g.sum(0), clip(grads))
        chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    assert gdsec_jax.last_round(state).entries.shape == (3,)


@methods(dear=True)
def test_donation_of_params_and_state_after_an_eager_init(method):
    params = tree_params()
    optimizer = optax.chain(method.make(3), optax.sgd(0.1))
    state = optimizer.init(params)
    grads = random_gradients(params, 3, seed=15)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    expected, expected_state = jax.jit(step)(params, state, grads)
    donated = jax.jit(step, donate_argnums=(0, 1))
    final, state = donated(params, state, grads)
    chex.assert_trees_all_close(final, expected, rtol=1e-6)
    final, state = donated(final, state, grads)
    chex.assert_trees_all_close(
        state, jax.jit(step)(expected, expected_state, grads)[1], rtol=1e-5, atol=1e-6
    )


# xi.


def test_xi_as_tree_array_and_schedule_agree_with_a_scalar():
    params = tree_params()
    grads = random_gradients(params, 3, seed=16, rounds=8)

    def final(xi):
        optimizer = optax.chain(gdsec_jax.gdsec(3, xi=xi), optax.sgd(0.05))
        return run(optimizer, params, grads)[0]

    expected = final(7.0)
    full = jax.tree.map(lambda p: jnp.full(p.shape, 7.0), params)
    for xi in (
        jnp.asarray(7.0),
        {"layers": 7.0, "scale": 7.0},
        full,
        lambda round: 7.0,
        lambda round: full,
    ):
        chex.assert_trees_all_close(final(xi), expected, rtol=1e-6)
    rounds_seen = final(lambda round: jnp.where(round < 4, 0.0, 1e9))
    assert not np.allclose(rounds_seen["scale"], expected["scale"])


def test_a_schedule_is_called_with_the_round_from_zero():
    params = jnp.ones(2)
    grads = jnp.ones((4, 1, 2)) * jnp.asarray([1.0, 2.0, 3.0, 4.0])[:, None, None]
    optimizer = optax.chain(
        gdsec_jax.gdsec(1, xi=lambda k: jnp.where(k == 2, 1e9, 0.0), beta=0.0),
        optax.sgd(0.1),
    )
    *_, sent, _ = run(optimizer, params, grads)
    assert sent.entries[:, 0].tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize("standstill", ["send", "hold"])
def test_where_theta_stands_still(standstill):
    params = jnp.zeros(3)
    algorithm = gdsec_jax.gdsec(1, xi=10.0, on_standstill=standstill)
    grads = jnp.ones((1, 3))
    _, state = algorithm.update(grads, algorithm.init(params), params)
    moved = params - 1
    _, state = algorithm.update(grads, state, moved)
    assert int(gdsec_jax.last_round(state).entries[0]) == 0
    _, state = algorithm.update(grads, state, moved)  # theta did not move
    sent = int(gdsec_jax.last_round(state).entries[0])
    assert sent == {"send": 3, "hold": 0}[standstill]


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
            lambda: gdsec_jax.gdsec(2, 1.0, beta=None),
            "beta is None, expected one number",
        ),
        (lambda: gdsec_jax.gdsec(2, 1.0, beta=lambda k: 1.0), "expected one number"),
        (lambda: gdsec_jax.gdsec(2, 1.0, state_dtype=int), "expected a floating-point"),
        (lambda: gdsec_jax.gdsec(2, 1.0, state_dtype="foo"), "state_dtype is 'foo'"),
        (lambda: gdsec_jax.gdsec(2, 1.0, server="x"), "server is 'x', expected one of"),  # pyright: ignore
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


@settings(max_examples=6, deadline=None)
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


def test_a_worker_may_clip_its_gradient():
    piece = optax.chain(
        optax.clip_by_global_norm(1.0),
        worker.gradient_difference(worker.error_feedback(worker.censor(0.0)), 0.1),
    )
    optimizer = gdsec_jax.federate(piece, 2, server=gdsec_jax.server_memory(0.1))
    params, grads = jnp.zeros(3), jnp.asarray([[3.0, 0.0, 4.0], [0.1, 0.0, 0.0]])
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(update, [0.7, 0.0, 0.8], rtol=1e-6)
