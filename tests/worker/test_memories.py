"""Memories, one worker, against their recursions."""

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


def test_beta_out_of_range():
    with pytest.raises(ValueError, match=r"beta is 2, expected a number in \[0, 1\]"):
        worker.gradient_difference(optax.identity(), 2.0)
