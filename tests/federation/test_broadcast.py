"""Compressed broadcasts: the oracle's iterates and bits, and a worker's own counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from cases import random_gradients, tree_params
from inside import _STREAM

import gdsec_jax
from gdsec_jax import broadcast, last_broadcast, last_round, problems, wire, worker

LAMBDA = 0.1


def samples():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 12))
    return x, x @ rng.standard_normal(12)


def ridge():
    return problems.ridge(*samples(), 4, split="contiguous", regularization=LAMBDA)


def top(v, k):
    """The k entries of largest magnitude."""
    kept = np.argsort(-np.abs(v), kind="stable")[:k]
    out = np.zeros_like(v)
    out[kept] = v[kept]
    return out


def error_top(k):
    return worker.error_feedback(worker.top_k(k))


def run(optimizer, problem, rounds):
    """[rounds, D] steps, and what went up and down in each round."""

    update, gradients = jax.jit(optimizer.update), jax.jit(problem.gradients)
    params, state = problem.init_params, jax.jit(optimizer.init)(problem.init_params)
    steps, states = [], []
    for _ in range(rounds):
        step, state = update(gradients(params), state, params)
        params = np.asarray(params) + np.asarray(step)
        steps.append(np.asarray(step))
        states.append(state)
    return np.array(steps), states


def test_top_j_with_error_memories_on_both_sides(x64):
    problem, alpha = ridge(), 0.05
    parts = np.split(np.arange(40), 4)
    gradient = oracle.ridge_gradient(*samples(), parts, LAMBDA)
    optimizer = optax.chain(
        gdsec_jax.top_j(4, 3, wire="rle"), optax.sgd(alpha), broadcast(error_top(2))
    )
    steps, states = run(optimizer, problem, 60)
    theta, own, error = np.zeros(12), np.zeros((4, 12)), np.zeros(12)
    for k in range(60):
        total, up = np.zeros(12), []
        for m in range(4):
            v = gradient(m, theta) + own[m]
            u = top(v, 3)
            own[m], total = v - u, total + u
            up.append(oracle.rle_bits(u, 64))
        v = -alpha * total + error
        sent = top(v, 2)
        error, theta = v - sent, theta + sent
        np.testing.assert_allclose(steps[: k + 1].sum(0), theta, rtol=0, atol=1e-12)
        assert last_round(states[k]).bits.tolist() == up
        down = last_broadcast(states[k])
        assert int(down.bits) == oracle.rle_bits(sent, 64)
        assert int(down.entries) == 2


def test_it_reaches_the_solution():
    problem = ridge()
    optimizer = optax.chain(
        gdsec_jax.gdsec(4, xi=1.0),
        optax.sgd(0.3 / problem.smoothness),
        broadcast(error_top(3)),
    )
    history = gdsec_jax.simulate(problem, optimizer, 1000)
    assert history.objective_error[-1] < 1e-5 * history.initial_error


@pytest.mark.slow
def test_the_identity_changes_nothing():
    problem = ridge()
    plain = optax.chain(gdsec_jax.gdsec(4, xi=5.0), optax.adam(0.1))
    optimizer = optax.chain(plain, broadcast(optax.identity(), wire="dense"))
    expected, _ = run(plain, problem, 30)
    steps, states = run(optimizer, problem, 30)
    np.testing.assert_array_equal(steps, expected)
    assert all(int(last_broadcast(state).bits) == 12 * 32 for state in states)
    first = gdsec_jax.simulate(problem, plain, 30)
    second = gdsec_jax.simulate(problem, optimizer, 30)
    # Compiled into one loop, the two may contract products and sums differently.
    np.testing.assert_allclose(first.params, second.params, rtol=1e-5, atol=1e-6)


PIECES = {
    "top_k": worker.top_k(2),
    "top_k with memory": error_top(2),
    "random_k": worker.random_k(2),
    "whole": worker.whole(),
    "cast": worker.cast("float16"),
    "qsgd": worker.qsgd(4),
    "terngrad": worker.terngrad(scope="leaf"),
    "natural": worker.natural(),
    "sign": worker.error_feedback(worker.sign()),
    "low_rank": worker.error_feedback(worker.low_rank(1)),
    "power_sgd": worker.error_feedback(worker.power_sgd(1)),
    "first_whole": worker.first_whole(worker.top_k(1)),
    "censor": worker.error_feedback(worker.censor(xi=0.5)),
    "censor_whole": worker.censor_whole(xi=0.5),
    "momentum": optax.chain(worker.momentum(0.5), worker.top_k(2)),
}


QUICK = ("top_k with memory", "low_rank")


@pytest.mark.parametrize(
    "name, form",
    [
        pytest.param(
            name,
            wire.Format("golomb", also=("rle",)),
            marks=[] if name in QUICK else [pytest.mark.slow],
        )
        for name in PIECES
    ]
    + [
        pytest.param(name, form, marks=pytest.mark.slow)
        for name, form in (("top_k", "rle"), ("qsgd", "coo"), ("low_rank", "dense"))
    ],
)
def test_it_is_a_federation_of_one(name, form):
    """Also what it counts: payloads, whole messages, scales, and silence."""
    key = jax.random.key(3)
    piece = broadcast(PIECES[name], wire=form, key=key)
    alone = gdsec_jax.federate(
        PIECES[name], 1, wire=form, key=jax.random.fold_in(key, _STREAM)
    )
    params = tree_params()
    state, expected_state = piece.init(params), alone.init(params)
    assert int(last_broadcast(state).bits) == 0
    update, expected_update = jax.jit(piece.update), jax.jit(alone.update)
    bits = []
    for k in range(4):
        grads = random_gradients(params, 1, seed=k)
        if k == 3:
            grads = jax.tree.map(jnp.zeros_like, grads)
        step, state = update(jax.tree.map(lambda g: g[0], grads), state, params)
        expected, expected_state = expected_update(grads, expected_state, params)
        jax.tree.map(np.testing.assert_array_equal, step, expected)
        down, up = last_broadcast(state), last_round(expected_state)
        assert (down.bits, down.entries) == (up.bits[0], up.entries[0])
        bits.append(int(down.bits))
        if not isinstance(form, str):
            assert down.bits_in("rle") == up.bits_in("rle")[0]
        params = optax.apply_updates(params, step)
    assert bits[0] > 0
    if name in ("top_k", "whole", "qsgd", "natural"):  # they remember nothing
        assert bits[3] == 0


def test_what_the_compressor_is_handed():
    handed = []

    def update(updates, state, params=None, **extra_args):
        handed.append(extra_args)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    piece = broadcast(spy, key=0)
    theta = [jnp.asarray([1.0, 2.0]), jnp.asarray([2.0, 4.0])]
    state = piece.init(theta[0])
    for k in range(2):
        _, state = piece.update(
            jnp.ones(2), state, theta[k], active=jnp.zeros(5, bool), own=7
        )
    last = handed[-1]
    assert sorted(last) == [
        *(
            "active",
            "key",
            "like",
            "own",
            "params_change",
            "past_changes",
            "past_norms",
            "round",
        ),
        *("round_key", "worker_index"),
    ]
    np.testing.assert_array_equal(last["params_change"], [1.0, 2.0])
    assert last["past_changes"].tolist() == [5.0] + [0.0] * 9
    assert (int(handed[0]["round"]), int(last["round"]), last["own"]) == (0, 1, 7)
    assert last["active"].shape == () and bool(last["active"])


@pytest.mark.slow
def test_its_draws_are_its_own():
    """A key shared with the algorithm, for one worker and a step of 1."""
    piece = worker.random_k(8, scaled=False)
    params, grads = jnp.zeros(64), jnp.ones((1, 64))
    algorithm = gdsec_jax.federate(piece, 1, key=0)
    step = broadcast(piece, key=0)
    state, own_state = algorithm.init(params), step.init(params)
    for _ in range(3):
        up, state = algorithm.update(grads, state, params)
        down, own_state = step.update(grads[0], own_state, params)
        assert np.count_nonzero(up) == np.count_nonzero(down) == 8
        assert not np.array_equal(up, down)
    first, _ = step.update(grads[0], step.init(params), params)
    assert not np.array_equal(first, down)


def test_it_leaves_a_scan_and_a_vmap_as_a_pytree():
    problem = ridge()

    def rounds(step_size, seed):
        optimizer = optax.chain(
            gdsec_jax.gdsec(4, xi=1.0),
            optax.sgd(step_size),
            broadcast(worker.random_k(3), key=seed),
        )

        def one(carry, _):
            params, state = carry
            step, state = optimizer.update(problem.gradients(params), state, params)
            return (optax.apply_updates(params, step), state), last_broadcast(state)

        params = problem.init_params
        carry = (params, optimizer.init(params))
        (params, _), sent = jax.lax.scan(one, carry, length=5)
        return params, sent

    sizes, seeds = jnp.asarray([0.01, 0.01, 0.02]), jnp.asarray([0, 1, 0])
    params, sent = jax.jit(jax.vmap(rounds))(sizes, seeds)
    assert sent.bits.shape == sent.entries.shape == (3, 5)
    assert sent.bits.dtype == np.int64 and (sent.entries == 3).all()
    for i in range(3):
        alone, own = jax.jit(rounds)(sizes[i], seeds[i])
        np.testing.assert_allclose(params[i], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(sent.bits[i], own.bits)
    assert np.unique(sent.bits[:2]).size > 1


def test_without_a_broadcast_there_is_nothing_to_report():
    optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(0.1))
    sent = last_broadcast(optimizer.init(jnp.zeros(2)))
    assert (sent.bits, sent.entries, sent.bits_in("rle")) == (None, None, None)
    assert jax.tree.leaves(sent) == []


@pytest.mark.slow
def test_parts_of_the_parameters_add_up():
    def chain(k):
        return optax.chain(gdsec_jax.gd(2), optax.sgd(0.1), broadcast(worker.top_k(k)))

    optimizer = optax.partition({"a": chain(1), "b": chain(2)}, {"u": "a", "v": "b"})
    params = {"u": jnp.zeros(3), "v": jnp.zeros(4)}
    grads = jax.tree.map(lambda p: jnp.ones((2, *p.shape)), params)
    step, state = optimizer.update(grads, optimizer.init(params), params)
    sent = last_broadcast(state)
    expected = oracle.rle_bits(np.asarray(step["u"]), 32)
    expected += oracle.rle_bits(np.asarray(step["v"]), 32)
    assert (int(sent.bits), int(sent.entries)) == (expected, 3)


def test_the_message_travels_in_the_parameters_dtype():
    piece = broadcast(worker.error_feedback(optax.identity()))
    params = {"w": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(1)}
    step = {"w": jnp.asarray([1.001, 2.0]), "b": jnp.asarray([1e-40])}
    step, state = piece.update(step, piece.init(params), params)
    assert (step["w"].dtype, step["w"].tolist()) == (jnp.bfloat16, [1.0, 2.0])
    assert step["b"].tolist() == [0.0]
    np.testing.assert_allclose(state.compressor.error["w"], [0.001, 0.0], atol=1e-6)
    assert int(last_broadcast(state).entries) == 2


def test_params_may_be_left_out_where_no_piece_needs_them():
    piece = broadcast(error_top(1))
    step, _ = piece.update(jnp.asarray([1.0, 3.0]), piece.init(jnp.zeros(2)))
    assert step.tolist() == [0.0, 3.0]


def test_a_proximal_step_stands_before_it(x64):
    """Before it, a solution is reached and stays; behind it, one round leads away."""
    problem = problems.lasso(*samples(), 4, regularization=LAMBDA, proximal=True)
    step = 1 / problem.smoothness
    down, shrink = broadcast(error_top(2)), problems.proximal_l1(step * LAMBDA)

    def optimizer(*last):
        return optax.chain(gdsec_jax.gd(4), optax.sgd(step), *last)

    history = gdsec_jax.simulate(problem, optimizer(shrink, down), 1000)
    assert abs(history.objective_error[-1]) < 1e-12
    solved = dataclasses.replace(problem, init_params=history.params)
    (stays,), _ = run(optimizer(shrink, down), solved, 1)
    assert np.abs(stays).max() < 1e-7
    (away,), _ = run(optimizer(down, shrink), solved, 1)
    # Every entry is shrunk, and the gradient that would undo it is let through for two.
    moved = problem.error(history.params + away)
    assert moved > 1e-3


def test_what_is_refused():
    with pytest.raises(ValueError, match="is 'zip', expected one of"):
        broadcast(optax.identity(), wire="zip")
    with pytest.raises(ValueError, match="key is 'x', expected an int or a random key"):
        broadcast(optax.identity(), key="x")
    memory = worker.gradient_difference(worker.top_k(1))
    with pytest.raises(ValueError, match="holds a gradient_difference, whose message"):
        broadcast(memory).init(jnp.zeros(2))
    piece = broadcast(worker.top_k(1))
    with pytest.raises(ValueError, match=r"step has shape \(3, 2\), expected \(2,\)"):
        piece.update(jnp.ones((3, 2)), piece.init(jnp.zeros(2)), jnp.zeros(2))
    with pytest.raises(ValueError, match="params has dtype int32, expected a real"):
        piece.init(jnp.zeros(2, jnp.int32))
    drawing = broadcast(worker.random_k(1))
    with pytest.raises(ValueError, match="key is None, expected an int or a random"):
        drawing.update(jnp.ones(2), drawing.init(jnp.zeros(2)), jnp.zeros(2))
    first = optax.chain(broadcast(worker.top_k(1)), gdsec_jax.gd(2))
    with pytest.raises(ValueError, match="the stage broadcast cannot take gradients"):
        gdsec_jax.check(first, jnp.zeros(3), 2)
