"""Workers with gradients of excessive norm are left out, and nobody else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import methods, random_gradients
from inside import _attendance
from rounds import assert_same, scanned

import gdsec_jax
from gdsec_jax import participation
from gdsec_jax import server as servers

M, ROUNDS, BAD = 5, 9, 3


def judged(rows, known=None, computes=None, ratio=100.0):
    """Whose rows are accepted, bool [M], and the norms that are known then."""
    rows = jnp.asarray(rows, jnp.float32)
    count = rows.shape[0]
    known = _attendance.no_norms(count) if known is None else jnp.asarray(known)
    computes = jnp.ones(count, bool) if computes is None else jnp.asarray(computes)
    norms = _attendance.norms_of(rows)
    accepted, norms = _attendance.of_usual_norm(norms, known, computes, ratio)
    return accepted.tolist(), np.asarray(norms)


def rounds_of(algorithm, gradients, actives=None):
    """Every round's state."""
    faults = {} if actives is None else {"active": actives}
    _, states = scanned(algorithm, jnp.zeros(4), gradients, faults)
    return [jax.tree.map(lambda x, k=k: x[k], states) for k in range(len(gradients))]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_are_compared_where_their_squares_are_none(size):
    algorithm = gdsec_jax.gd(M, server=servers.total(max_norm_ratio=100.0))
    gradients = size * random_gradients(jnp.zeros((4,)), M, 0, 3)
    gradients = gradients.at[2, BAD].multiply(1000.0)
    states = rounds_of(algorithm, gradients)
    assert [int(gdsec_jax.last_round(state).dropped) for state in states] == [0, 0, 1]

    def second(offers):
        return participation.largest_energy(0)(offers)

    params, state = jnp.zeros(4), algorithm.init(jnp.zeros(4))
    given = gradients[0].at[1].multiply(3.0)
    _, state = algorithm.update(given, state, params, grant=second)
    assert np.flatnonzero(gdsec_jax.last_round(state).participants).tolist() == [1]


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
        gdsec_jax.gd(M, server=servers.total(max_norm_ratio=100.0)), gradients, actives
    )
    dropped = [int(gdsec_jax.last_round(state).dropped) for state in states]
    assert dropped == [0, 0, 1, 0]
    others = np.arange(M) != BAD
    np.testing.assert_array_equal(states[3].norms[others], states[0].norms[others])


def test_a_huge_ratio_judges_nobody():
    gradients = random_gradients(jnp.zeros(4), M, 0, ROUNDS).at[3, 1].multiply(1e6)
    plain = rounds_of(gdsec_jax.gdsec(M, 1.0), gradients)
    rule = rounds_of(
        gdsec_jax.gdsec(M, 1.0, server=servers.total(max_norm_ratio=1e30)), gradients
    )
    for one, other in zip(plain, rule, strict=True):
        for name in ("workers", "server", "clock"):
            assert_same(getattr(one, name), getattr(other, name), 1e-6)
        np.testing.assert_array_equal(one.sent.participants, other.sent.participants)


NAN, INF = np.nan, np.inf
NONE = -1.0  # of a norm: it is not known
# By name: the norms of a round, those known before, who computes; who is accepted, and
# the norms known then.
RULE = {
    "a median of zero judges nobody": (
        *([0.0, 0.0, 0.0, 1.0, 1e30], None, None),
        *([True] * 5, [0.0, 0.0, 0.0, 1.0, 1e30]),
    ),
    # By the tenfold of it, it would stay 0, and the rule sleep for ever.
    "a norm that was zero is known anew": (
        *([1.0, 1.0, 1e9], [0.0, 0.0, 1.0], None),
        *([True, True, False], [1.0, 1.0, 10.0]),
    ),
    "the first of all rounds": (
        *([1.0, 2.0, 201.0], None, None),
        *([True, True, False], [1.0, 2.0, 201.0]),
    ),
    "equality": ([1.0, 2.0, 200.0], None, None, [True] * 3, [1.0, 2.0, 200.0]),
    "alone, at first": ([1e10], None, None, [True], [1e10]),
    "alone, by its past": ([1e10], [1.0], None, [False], [10.0]),
    "alone, grown a little": ([900.0], [1.0], None, [True], [10.0]),
    "not finite": (  # the norms stay as they were
        *([1.0, 2.0, 3.0, NAN, INF], [9.0] * 5, None),
        *([True, True, True, True, False], [1.0, 2.0, 3.0, 9.0, 9.0]),
    ),
    "not finite, at first": (
        *([1.0, 2.0, 3.0, NAN, INF], None, None),
        *([True, True, True, True, False], [1.0, 2.0, 3.0, NONE, NONE]),
    ),
    "most not finite": (
        *([NAN, INF, 1.0], None, None),
        *([True, False, True], [NONE, NONE, 1.0]),
    ),
    "none finite": ([NAN] * 3, None, None, [True] * 3, [NONE] * 3),
    "who does not compute is known by its last norm": (
        *([1e9, 1.0, 1.0], [4.0, 2.0, NONE], [False, True, False]),
        *([False, True, True], [4.0, 1.0, NONE]),
    ),
    "a norm is held against those known of the others": (
        *([1e9, 1.0, 1.0], [0.001, 2.0, 0.001], [False, True, False]),
        *([False, False, False], [0.001, 1.0, 0.001]),
    ),
}


def test_the_rule_on_norms_made_by_hand():
    for name, (norms, known, computes, accepted, then) in RULE.items():
        got, norms = judged([[norm] for norm in norms], known, computes)
        assert got == accepted, name
        np.testing.assert_array_equal(norms, np.float32(then), name)


@pytest.mark.parametrize("on_nonfinite", ["drop", "propagate"])
def test_a_gradient_that_is_not_finite_leaves_no_trace_in_the_norms(on_nonfinite):
    gradients = random_gradients(jnp.zeros(4), M, 0, 3).at[1, BAD, 0].set(jnp.nan)
    algorithm = gdsec_jax.gd(
        M, server=servers.total(max_norm_ratio=100.0), on_nonfinite=on_nonfinite
    )
    first, second, _ = rounds_of(algorithm, gradients)
    assert second.norms[BAD] == first.norms[BAD]
    sent = gdsec_jax.last_round(second)
    assert int(sent.dropped) == (on_nonfinite == "drop")


def test_a_traced_ratio():
    norms = jnp.asarray([1.0, 2.0, 3.0, 30.0])
    known, everyone = _attendance.no_norms(4), jnp.ones(4, bool)
    ratios = jnp.array([1.0, 5.0, 20.0])
    accepted = jax.vmap(
        lambda r: _attendance.of_usual_norm(norms, known, everyone, r)[0]
    )(ratios)
    assert accepted.sum(1).tolist() == [2, 3, 4]


@pytest.mark.parametrize("ratio", [0.5, -1.0, np.nan, np.inf])
def test_what_is_no_ratio(ratio):
    with pytest.raises(ValueError, match="max_norm_ratio is .*, expected"):
        gdsec_jax.gd(2, server=servers.total(max_norm_ratio=ratio))
