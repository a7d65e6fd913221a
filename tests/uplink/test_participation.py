"""The rules of participation: who comes how often, and what that does to methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdsec_jax
from gdsec_jax import participation
from gdsec_jax.participation import Offers

ROUNDS = 400
KEYS = jax.random.split(jax.random.key(0), ROUNDS)
sizes = st.sampled_from((1, 3, 8))
shares = st.floats(0.0, 1.0, width=32)


def masks(rule, rounds=ROUNDS):
    """bool [rounds, M]."""
    return np.asarray(jax.vmap(rule)(KEYS[:rounds], jnp.arange(rounds)))


@functools.cache
def with_share(name, num_workers, rounds):
    """From a share and a first round to bool [rounds, M]; compiled once."""
    make = getattr(participation, name)

    @jax.jit
    def drawn(share, first):
        numbers = first + jnp.arange(rounds)
        return jax.vmap(make(num_workers, share))(KEYS[:rounds], numbers)

    return lambda share, first=0: np.asarray(drawn(share, first))


def number(share, num_workers):
    return min(max(round(share * num_workers), 1), num_workers)


def near_a_tie(share, num_workers):
    """Whether float32 may round to the other number."""
    return abs(share * num_workers % 1 - 0.5) < 1e-4


@settings(max_examples=25, deadline=None)
@given(sizes, shares)
def test_uniform_and_round_robin_take_their_share(num_workers, share):
    for name in ("uniform", "round_robin"):
        counts = with_share(name, num_workers, 8)(share).sum(1)
        assert (counts == counts[0]).all()
        if not near_a_tie(share, num_workers):
            assert counts[0] == number(share, num_workers)


@settings(max_examples=25, deadline=None)
@given(sizes, shares, st.integers(0, 10**9))
def test_round_robin_comes_round_to_all_alike(num_workers, share, start):
    start -= start % num_workers
    drawn = with_share("round_robin", num_workers, num_workers)(share, start)
    assert (drawn.sum(0) == drawn[0].sum()).all()
    # Nobody waits longer than it takes to come to all.
    longest = -(-num_workers // drawn[0].sum())
    for m in range(num_workers):
        came = np.flatnonzero(np.tile(drawn[:, m], 2))
        assert np.diff(came).max(initial=1) <= longest


def test_uniform_takes_all_alike():
    drawn = masks(participation.uniform(5, 0.4))
    # Each comes in 2 of 5 rounds: 160 times, give or take 10; pairs in 1 of 10.
    np.testing.assert_allclose(drawn.sum(0), 160, atol=45)
    both = drawn.T.astype(int) @ drawn
    np.testing.assert_allclose(both[~np.eye(5, dtype=bool)], 40, atol=27)


def test_bernoulli_takes_each_for_itself():
    drawn = masks(participation.bernoulli(5, 0.3))
    np.testing.assert_allclose(drawn.sum(0), 120, atol=42)
    counts = np.bincount(drawn.sum(1), minlength=6) / ROUNDS
    assert counts[0] > 0.1  # 0.7^5 = 0.17: some rounds have nobody
    assert abs(np.corrcoef(drawn.T)[~np.eye(5, dtype=bool)]).max() < 0.2
    for probability in (0.0, 1.0):
        assert (masks(participation.bernoulli(5, probability)) == probability).all()


@pytest.mark.parametrize("name", ["uniform", "bernoulli", "round_robin"])
def test_a_traced_share_is_the_number_itself(name):
    make = getattr(participation, name)
    values = jnp.array([0.0, 0.2, 0.5, 1.0])
    traced = jax.vmap(lambda share: make(5, share)(KEYS[3], 3))(values)
    for share, drawn in zip(values.tolist(), traced, strict=True):
        np.testing.assert_array_equal(drawn, make(5, share)(KEYS[3], 3))


# Grants


offers = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 200)), min_size=6, max_size=6
)


@jax.jit
def granted_of(energy, bits, budget):
    return participation.largest_energy(budget)(Offers(energy, bits))


@settings(max_examples=100, deadline=None)
@given(offers, st.integers(0, 600))
def test_the_largest_energies_within_the_budget(pairs, budget):
    """Who has the larger energy goes first; of equal ones the first."""
    energy, bits = map(np.array, zip(*pairs, strict=True))
    granted = np.asarray(granted_of(energy.astype(np.float32), bits, budget))
    order = sorted(range(len(pairs)), key=lambda m: (-energy[m], m))
    spent, expected = 0, set(np.flatnonzero(bits == 0))
    for place, m in enumerate(order):
        spent += bits[m]
        if place == 0 or spent <= budget:
            expected.add(m)
    assert set(np.flatnonzero(granted)) == expected
    assert granted[order[0]] and granted[bits == 0].all()
    beyond = bits[granted].sum() - bits[order[0]]
    assert beyond <= max(budget - bits[order[0]], 0)


def test_a_traced_budget():
    told = Offers(jnp.array([3.0, 2.0, 1.0, 0.0]), jnp.array([50.0, 40.0, 30.0, 0.0]))
    budgets = jnp.array([0.0, 90.0, 119.0, 120.0])
    granted = jax.vmap(lambda bits: participation.largest_energy(bits)(told))(budgets)
    assert granted.sum(1).tolist() == [2, 3, 3, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: participation.uniform(3, 1.5), r"share is 1.5, expected .* \[0, 1\]"),
        (lambda: participation.round_robin(3, -1), "share is -1, expected"),
        (lambda: participation.bernoulli(3, np.nan), "probability is nan, expected"),
        (lambda: participation.uniform(0, 0.5), "num_workers is 0, expected"),
        (lambda: participation.largest_energy(-1.0), "budget_bits is -1, expected"),
    ],
)
def test_what_is_no_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The memory of the absent


@pytest.mark.usefixtures("x64")
def test_without_a_memory_it_stalls_and_with_all_of_it_diverges():
    """One worker of ten a round, in turn, with gradient descent's step 1/L.

    With beta = 0 the absent count for nothing, and every round steps towards the
    solution of one worker. With beta = 1 their gradients are up to ten rounds old.
    """
    num_workers, length, rounds = 10, 3, 400
    rng = np.random.default_rng(0)
    curvatures = jnp.asarray(rng.uniform(0.5, 1.5, (num_workers, length)))
    targets = jnp.asarray(rng.normal(size=(num_workers, length)))
    solution = targets.sum(0) / curvatures.sum(0)
    step = 1 / curvatures.sum(0).max()
    rule = participation.round_robin(num_workers, 1 / num_workers)

    def error(beta):
        algorithm = gdsec_jax.gdsec(num_workers, xi=0.0, beta=beta)

        def one(carry, k):
            theta, state = carry
            gradients, active = curvatures * theta - targets, rule(None, k)
            update, state = algorithm.update(gradients, state, theta, active=active)
            return (theta - step * update, state), None

        start = jnp.zeros(length), algorithm.init(jnp.zeros(length))
        (theta, _), _ = jax.lax.scan(one, start, jnp.arange(rounds))
        return jnp.linalg.norm(theta - solution) / jnp.linalg.norm(solution)

    none, some, all_of_it = jax.jit(jax.vmap(error))(jnp.array([0.0, 0.5, 1.0]))
    assert 0.05 < none < 1
    assert some < 1e-7
    assert all_of_it > 1e6
