"""Three points and DASHA: what is lost, what is refused; iterates: test_rivals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdsec_jax
from gdsec_jax import worker

VARIANTS = {
    "v1": worker.three_point("v1", worker.top_k(2)),
    "v2": worker.three_point("v2", worker.top_k(2), worker.random_k(2)),
    "v4": worker.three_point("v4", worker.top_k(2), worker.sign()),
    "v5": worker.three_point("v5", worker.top_k(2), probability=0.3),
    "dasha": worker.dasha(worker.random_k(2)),
}


@pytest.mark.parametrize("name", [x for x in VARIANTS if x != "v4"])
def test_a_lost_message_leaves_both_memories(name):
    piece = worker.gradient_difference(VARIANTS[name])
    params, rng = jnp.zeros(5), np.random.default_rng(0)
    state = piece.init(params)
    for k, delivered in enumerate((False, True, False, True)):
        g = jnp.asarray(rng.standard_normal(5), jnp.float32)
        key = jax.random.key(k)
        message, after = piece.update(
            g, state, params, delivered=delivered, key=key, round_key=key
        )
        own = after.compressor
        if delivered:
            np.testing.assert_array_equal(own.gradient, g)
            np.testing.assert_array_equal(after.memory, state.memory + message)
        else:
            np.testing.assert_array_equal(own.gradient, state.compressor.gradient)
            np.testing.assert_array_equal(after.memory, state.memory)
        if name != "dasha" and not state.compressor.begun:
            np.testing.assert_allclose(message, g, rtol=1e-6)  # the first that arrives
            assert own.whole.flag
        state = after


def test_other_compressors():
    """Signs of what the gradient changed by, in v5."""
    piece = worker.gradient_difference(
        worker.three_point("v5", worker.sign(), probability=1e-9)
    )
    algorithm = gdsec_jax.federate(piece, 1, key=0, wire="rle")
    params, g = jnp.zeros(4), jnp.asarray([[1.0, -2.0, 3.0, 0.0]])
    _, state = algorithm.update(g, algorithm.init(params), params)
    assert gdsec_jax.last_round(state).bits.tolist() == [4 * 32]
    change = jnp.asarray([[1.0, -1.0, 3.0, 3.0]])
    _, state = algorithm.update(g + change, state, params)
    assert gdsec_jax.last_round(state).bits.tolist() == [32 + 4]
    np.testing.assert_array_equal(
        state.workers.memory, g + 2 * jnp.asarray([[1, -1, 1, 1]])
    )


def test_bad_input():
    top, unbiased = worker.top_k(1), worker.random_k(1)
    for arguments, text in (
        (("v3", top), "variant is 'v3', expected one of v1, v2, v4, v5"),
        (("v1", unbiased), "compressor is .*expected .*that declares its contraction"),
        (("v2", top), "second is None, expected a compressor for v2 and v4"),
        (("v5", top, top), "and None for v1 and v5: the variant is v5"),
        (("v2", top, top), "expected a worker.Piece that declares its variance"),
        (("v4", top, unbiased), "second is .*that declares its contraction"),
    ):
        with pytest.raises(ValueError, match=text):
            worker.three_point(*arguments)
    for value in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"probability is .*expected a number in"):
            worker.three_point("v5", top, probability=value)
        with pytest.raises(ValueError, match=r"momentum is .*expected a number in"):
            worker.dasha(unbiased, momentum=value)
    with pytest.raises(ValueError, match="declares its variance"):
        worker.dasha(top)
    with pytest.raises(ValueError, match="has a code of its own, expected two of flo"):
        VARIANTS["v4"].init(jnp.zeros(3))
    v = jnp.ones(3)
    with pytest.raises(ValueError, match="gradient is None, .*: three_point stands in"):
        VARIANTS["v1"].update(v, VARIANTS["v1"].init(v))
    with pytest.raises(ValueError, match="compressor is .*variance or its contraction"):
        gdsec_jax.ef_bv(2, worker.grid(3))
    gdsec_jax.ef_bv(2, worker.grid(3), nu=1.0, beta=0.5)
    with pytest.raises(ValueError, match=r"nu is 2, expected a number in \[0, 1\]"):
        gdsec_jax.ef_bv(2, unbiased, nu=2.0)
