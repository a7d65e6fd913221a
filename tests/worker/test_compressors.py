"""Compressors, one worker, no federation."""

import jax.numpy as jnp
import numpy as np
import pytest

from gdsec_jax import worker


def censored(v, change, xi, **extra):
    piece = worker.censor(xi)
    v = jnp.asarray(v)
    out, _ = piece.update(v, piece.init(v), v, params_change=change, **extra)
    return out.tolist()


def test_censor_compares_each_entry_with_its_own_change():
    change = jnp.asarray([0.1, -0.1, 0.0, 0.0])
    assert censored([0.9, -1.1, 0.0, 1e-9], change, 10.0) == pytest.approx(
        [0.0, -1.1, 0.0, 1e-9]
    )


def test_equality_is_censored():
    change = jnp.asarray([0.5, 0.5])
    above = float(np.nextafter(np.float32(2.0), np.float32(3.0)))
    assert censored([2.0, above], change, 4.0) == [0.0, above]


def test_nan_and_infinity_are_sent():
    out = censored([jnp.nan, jnp.inf], jnp.ones(2), 1e30)
    assert np.isnan(out[0])
    assert out[1] == np.inf


def test_infinite_change_and_zero_threshold_make_no_nan_of_a_number():
    assert censored([1.0], jnp.asarray([jnp.inf]), 0.0) == [1.0]
    assert censored([1.0], jnp.asarray([jnp.inf]), 1.0) == [0.0]


def test_xi_for_each_coordinate_and_by_round():
    change, v = jnp.ones(3), [1.0, 1.0, 1.0]
    assert censored(v, change, jnp.asarray([0.5, 1.0, 2.0])) == [1.0, 0.0, 0.0]
    by_round = lambda k: 2.0 * k  # noqa: E731
    assert censored(v, change, by_round, round=0) == v
    assert censored(v, change, by_round, round=1) == [0.0] * 3


def test_bad_input():
    with pytest.raises(ValueError, match="xi is -1, expected"):
        worker.censor(-1.0)
    with pytest.raises(
        ValueError, match=r"got none: call update\(gradients, state, para"
    ):
        worker.censor(1.0).update(jnp.ones(2), worker.censor(1.0).init(jnp.ones(2)))
