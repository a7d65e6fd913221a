"""Memories, one worker, against their recursions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdsec_jax import worker

halve = optax.stateless(lambda v, _: v / 2)
big_only = optax.stateless(lambda v, _: jnp.where(jnp.abs(v) > 1, v, 0))


def test_error_feedback_sends_everything_in_the_end():
    piece = worker.error_feedback(big_only)
    params = jnp.zeros(4)
    state, sent = piece.init(params), jnp.zeros(4)
    gradients = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    for gradient in gradients:
        message, state = piece.update(jnp.asarray(gradient), state, params)
        sent += message
    np.testing.assert_allclose(sent + state.error, gradients.sum(0), atol=1e-5)
    assert jnp.abs(state.error).max() <= 1


@pytest.mark.parametrize(("decay", "damping"), [(0.9, 1.0), (1.0, 0.3), (0.8, 0.5)])
def test_decay_and_damping_follow_their_recursion(decay, damping):
    """One round in three the message is lost; traced numbers give the same."""
    rng = np.random.default_rng(2)
    gradients = jnp.asarray(rng.standard_normal((30, 4)), jnp.float32)
    params, arrives = jnp.zeros(4), jnp.arange(30) % 3 > 0

    @jax.jit
    def rounds(decay, damping):
        piece = worker.error_feedback(big_only, decay=decay, damping=damping)

        def one(state, given):
            gradient, delivered = given
            message, state = piece.update(gradient, state, params, delivered=delivered)
            return state, (message, state.error)

        return jax.lax.scan(one, piece.init(params), (gradients, arrives))[1]

    messages, errors = rounds(jnp.float32(decay), jnp.float32(damping))
    piece = worker.error_feedback(big_only, decay=decay, damping=damping)
    state, e, sent = piece.init(params), np.zeros(4), np.zeros(4)
    for k, g in enumerate(np.asarray(gradients, np.float64)):
        message, state = piece.update(gradients[k], state, params, delivered=arrives[k])
        e = decay * e
        v = g + damping * e
        u = np.where(np.abs(v) > 1, v, 0)
        np.testing.assert_allclose(message, u, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(messages[k], u, rtol=1e-5, atol=1e-6)
        e = e + g - arrives[k] * u
        sent += arrives[k] * u
        np.testing.assert_allclose(state.error, e, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(errors[k], e, rtol=1e-5, atol=1e-5)
    total = np.asarray(gradients, np.float64).sum(0)
    conserved = np.allclose(sent + e, total, atol=1e-4)
    assert conserved == (decay == 1)


def test_decay_and_damping_of_1_change_nothing():
    params, g = jnp.zeros(3), jnp.asarray([0.3, 2.0, -0.7])
    pieces = [
        worker.error_feedback(big_only),
        worker.error_feedback(big_only, decay=jnp.float32(1), damping=jnp.float32(1)),
    ]
    states = [piece.init(params) for piece in pieces]
    for _ in range(5):
        made = [
            piece.update(g, state, params)
            for piece, state in zip(pieces, states, strict=True)
        ]
        states = [state for _, state in made]
        np.testing.assert_array_equal(*(message for message, _ in made))
        np.testing.assert_array_equal(*(state.error for state in states))


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_gradient_difference_follows_its_recursion(beta):
    piece = worker.gradient_difference(halve, beta)
    params = jnp.zeros(3)
    state, h = piece.init(params), np.zeros(3, np.float32)
    for gradient in np.random.default_rng(1).standard_normal((9, 3)).astype(np.float32):
        message, state = piece.update(jnp.asarray(gradient), state, params)
        np.testing.assert_allclose(message, (gradient - h) / 2, rtol=1e-6)
        h = h + np.float32(beta) * np.asarray(message)
        np.testing.assert_allclose(state.memory, h, rtol=1e-6)


def test_state_dtype_and_message_dtype():
    params = jnp.zeros(3, jnp.bfloat16)
    for piece in (
        worker.error_feedback(optax.identity()),
        worker.gradient_difference(optax.identity(), 0.5),
    ):
        state = piece.init(params)
        assert state[0].dtype == jnp.float32
        message, after = piece.update(jnp.ones(3, jnp.bfloat16), state, params)
        assert message.dtype == jnp.bfloat16
        assert after[0].dtype == jnp.float32
    small = worker.error_feedback(optax.identity(), state_dtype=jnp.float16)
    assert small.init(jnp.zeros(3)).error.dtype == jnp.float16


@pytest.mark.parametrize("make", [worker.error_feedback, worker.gradient_difference])
def test_wrong_gradients(make):
    piece = make(optax.identity())
    params = {"w": jnp.zeros(3)}
    state = piece.init(params)
    with pytest.raises(
        ValueError, match=r"gradient\['w'\] has shape \(2,\), expected \(3"
    ):
        piece.update({"w": jnp.zeros(2)}, state, params)
    with pytest.raises(ValueError, match="gradient is the tree"):
        piece.update(jnp.zeros(3), state, params)


def test_decay_and_damping_out_of_range():
    for name in ("decay", "damping"):
        for value in (-0.1, 1.1, None):
            with pytest.raises(
                ValueError, match=rf"{name} is .*, expected .*number in"
            ):
                worker.error_feedback(big_only, **{name: value})


def test_beta_out_of_range():
    with pytest.raises(ValueError, match=r"beta is 2, expected a number in \[0, 1\]"):
        worker.gradient_difference(optax.identity(), 2.0)
