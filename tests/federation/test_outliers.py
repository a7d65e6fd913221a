"""Workers with gradients of excessive norm are left out, and nobody else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import methods, random_gradients
from inside import _attendance

import gdsec_jax
from gdsec_jax import server as servers

M, ROUNDS, BAD = 5, 9, 3


def judged(rows, known=None, computes=None, ratio=100.0):
    """Whose rows are accepted, bool [M], and the norms that are known then."""
    rows = jnp.asarray(rows, jnp.float32)
    count = rows.shape[0]
    known = _attendance.no_norms(count) if known is None else jnp.asarray(known)
    computes = jnp.ones(count, bool) if computes is None else jnp.asarray(computes)
    accepted, norms = _attendance.of_usual_norm(rows, known, computes, ratio)
    return accepted.tolist(), np.asarray(norms)


def rounds_of(algorithm, gradients, actives=None):
    """Every round's state."""
    update = jax.jit(algorithm.update)
    params, out = jnp.zeros(gradients.shape[-1]), []
    state = algorithm.init(params)
    for k, now in enumerate(gradients):
        active = jnp.ones(M, bool) if actives is None else actives[k]
        direction, state = update(now, state, params, active=active)
        params = params - 0.01 * direction
        out.append(state)
    return out


@methods(lambda method: method.name != "iag", dear=True)
def test_one_worker_runs_away(method):
    options = {"key": 1} if method.draws else {}
    algorithm = method.make(M, server=servers.total(max_norm_ratio=100.0), **options)
    gradients = random_gradients(jnp.zeros((4,)), M, 0, ROUNDS)
    gradients = gradients.at[5:, BAD].multiply(1000.0)
    states = rounds_of(algorithm, gradients)
    for k, state in enumerate(states):
        sent = gdsec_jax.last_round(state)
        assert int(sent.dropped) == (k >= 5)
        assert bool(sent.participants[BAD]) == (k < 5)
        assert sent.participants.sum() == M - (k >= 5)
        assert sent.computed.all()
        if k >= 5:
            for now, before in zip(
                *(jax.tree.leaves(s.workers) for s in (state, states[4])), strict=True
            ):
                np.testing.assert_array_equal(now[BAD], before[BAD])
            most = states[4].norms[BAD] * 10.0 ** (k - 4)
            assert state.norms[BAD] <= most * (1 + 1e-6)
            assert sent.bits[BAD] == 0


def dropped_where_all_grow(factor, rounds=slice(5, None)):
    gradients = random_gradients(jnp.zeros(4), M, 0, ROUNDS)
    gradients = gradients.at[rounds].multiply(factor)
    states = rounds_of(
        gdsec_jax.gd(M, server=servers.total(max_norm_ratio=100.0)), gradients
    )
    return [int(gdsec_jax.last_round(state).dropped) for state in states]


def test_all_workers_grow_at_once():
    assert dropped_where_all_grow(100.0) == [0] * ROUNDS
    # What is known of a norm grows tenfold a round: for good, they are accepted then.
    assert dropped_where_all_grow(3e4) == [0] * 5 + [M, M, 0, 0]


def test_most_workers_run_away_for_a_round():
    assert dropped_where_all_grow(1e6, slice(5, 6)) == [0] * 5 + [M, 0, 0, 0]


def test_a_round_of_one_worker_is_judged_by_the_last_norms_of_the_others():
    gradients = random_gradients(jnp.zeros(4), M, 0, 4)
    gradients = gradients.at[2, BAD].multiply(1000.0)
    alone = jnp.arange(M) == BAD
    actives = jnp.stack([jnp.ones(M, bool), alone, alone, alone])
    states = rounds_of(
        gdsec_jax.gd(M, server=servers.total(max_norm_ratio=100.0)),
        gradients,
        actives,
    )
    dropped = [int(gdsec_jax.last_round(state).dropped) for state in states]
    assert dropped == [0, 0, 1, 0]
    others = np.arange(M) != BAD
    np.testing.assert_array_equal(states[3].norms[others], states[0].norms[others])


def test_a_huge_ratio_judges_nobody():
    gradients = random_gradients(jnp.zeros(4), M, 0, ROUNDS).at[3, 1].multiply(1e6)
    plain = rounds_of(gdsec_jax.gdsec(M, 1.0), gradients)
    rule = rounds_of(
        gdsec_jax.gdsec(M, 1.0, server=servers.total(max_norm_ratio=1e30)),
        gradients,
    )
    for one, other in zip(plain, rule, strict=True):
        for name in ("workers", "server", "clock"):
            pair = (jax.tree.leaves(getattr(state, name)) for state in (one, other))
            for x, y in zip(*pair, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(one.sent.participants, other.sent.participants)


def test_a_median_of_zero_judges_nobody():
    accepted, _ = judged([[0.0], [0.0], [0.0], [1.0], [1e30]])
    assert accepted == [True] * 5


def test_a_norm_that_was_zero_is_known_anew():
    """By the tenfold of it, it would stay 0, and the rule sleep for ever."""
    _, norms = judged([[0.0], [0.0], [1.0]])
    accepted, norms = judged([[1.0], [1.0], [1e9]], known=norms)
    assert accepted == [True, True, False]
    np.testing.assert_array_equal(norms, [1.0, 1.0, 10.0])


def test_the_first_of_all_rounds_is_judged_too():
    assert judged([[1.0], [2.0], [201.0]])[0] == [True, True, False]
    assert judged([[1.0], [2.0], [200.0]])[0] == [True] * 3


def test_a_worker_alone_is_judged_by_its_past():
    assert judged([[1e10]])[0] == [True]
    assert judged([[900.0]], known=[1.0])[0] == [True]
    accepted, norms = judged([[1e10]], known=[1.0])
    assert accepted == [False] and norms == [10.0]


def test_norms_that_are_not_finite():
    rows = [[1.0], [2.0], [3.0], [np.nan], [np.inf]]
    accepted, norms = judged(rows, known=[9.0] * 5)
    assert accepted == [True, True, True, True, False]
    np.testing.assert_array_equal(norms, [1, 2, 3, 9, 9])  # as they were
    assert judged([[np.nan], [np.inf], [1.0]])[0] == [True, False, True]
    assert judged([[np.nan]] * 3)[0] == [True] * 3
    # Without an earlier norm it stays unknown.
    assert np.isnan(judged(rows)[1][3:]).all()


@pytest.mark.parametrize("on_nonfinite", ["drop", "propagate"])
def test_a_gradient_that_is_not_finite_leaves_no_trace_in_the_norms(on_nonfinite):
    gradients = random_gradients(jnp.zeros(4), M, 0, 3).at[1, BAD, 0].set(jnp.nan)
    algorithm = gdsec_jax.gd(
        M,
        server=servers.total(max_norm_ratio=100.0),
        on_nonfinite=on_nonfinite,
    )
    first, second, _ = rounds_of(algorithm, gradients)
    assert second.norms[BAD] == first.norms[BAD]
    sent = gdsec_jax.last_round(second)
    assert int(sent.dropped) == (on_nonfinite == "drop")


def test_who_does_not_compute_is_known_by_its_last_norm():
    rows = [[1e9], [1.0], [1.0]]
    computes = [False, True, False]
    accepted, norms = judged(rows, known=[4.0, 2.0, np.nan], computes=computes)
    np.testing.assert_array_equal(norms, [4.0, 1.0, np.nan])
    assert accepted[1]
    assert judged(rows, [0.001, 2.0, 0.001], computes)[0][1] is False


def test_a_traced_ratio():
    rows = jnp.asarray([[1.0], [2.0], [3.0], [30.0]])
    known, everyone = _attendance.no_norms(4), jnp.ones(4, bool)
    ratios = jnp.array([1.0, 5.0, 20.0])
    accepted = jax.vmap(
        lambda r: _attendance.of_usual_norm(rows, known, everyone, r)[0]
    )(ratios)
    assert accepted.sum(1).tolist() == [2, 3, 4]


@pytest.mark.parametrize("ratio", [0.5, -1.0, np.nan, np.inf])
def test_what_is_no_ratio(ratio):
    with pytest.raises(ValueError, match="max_norm_ratio is .*, expected"):
        gdsec_jax.gd(2, server=servers.total(max_norm_ratio=ratio))
