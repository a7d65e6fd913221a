"""The audit's bound, against every way to answer, and against mechanisms that leak."""

import itertools
import math

import numpy as np
import pytest
import scipy

from gdsec_jax import privacy


def of_randomized_response(epsilon, delta, canaries, correct):
    """P[W >= v] of a mechanism that is just so private, by all that it can do.

    Each canary's bit is told as it is with probability delta, and else flipped with
    probability 1 / (1 + e^epsilon); who sees that a bit is told as it is knows it.
    """
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    total = 0.0
    for told in itertools.product((0, 1), repeat=2 * canaries):
        known, guessed = told[:canaries], told[canaries:]
        p = 1.0
        for revealed, is_right in zip(known, guessed, strict=True):
            p *= delta if revealed else 1 - delta
            q = 1.0 if revealed else right
            p *= q if is_right else 1 - q
        total += p * (sum(guessed) >= correct)
    return total


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 0.05])
def test_no_mechanism_that_is_private_beats_the_bound(epsilon, delta):
    for canaries in (1, 3, 5):
        for correct in range(canaries + 1):
            truth = of_randomized_response(epsilon, delta, canaries, correct)
            bound = privacy.most_correct(correct, canaries, canaries, epsilon, delta)
            assert truth <= bound + 1e-12
            if delta == 0:  # randomised response is the worst there is
                assert truth == pytest.approx(bound, abs=1e-12)


def test_the_bound_is_the_formula():
    v, r, m, epsilon, delta = 17, 20, 30, 1.2, 1e-3

    def f(v):
        p = math.exp(epsilon) / (1 + math.exp(epsilon))
        return sum(
            math.comb(r, k) * p**k * (1 - p) ** (r - k) for k in range(max(v, 0), r + 1)
        )

    expected = f(v) + 2 * m * delta * max(
        (f(v - i) - f(v)) / i for i in range(1, m + 1)
    )
    assert privacy.most_correct(v, r, m, epsilon, delta) == pytest.approx(expected)
    # More canaries than are guessed make a delta worth more.
    assert privacy.most_correct(v, r, 300, epsilon, delta) > expected


def test_equals_that_of_jax_privacy():
    auditing = pytest.importorskip("jax_privacy.auditing")
    for v, epsilon, delta in ((17, 1.2, 1e-3), (20, 0.0, 0.0), (11, 0.1, 1e-5)):
        theirs = auditing._one_run_p_value(30, 20, v, epsilon, delta)
        ours = privacy.most_correct(v, 20, 30, epsilon, delta)
        assert ours == pytest.approx(theirs)


def test_the_audit_of_a_known_mechanism_stays_below_it():
    """Randomised response at epsilon 2: the bound is below it in 95 of 100 runs."""
    rng, epsilon, canaries = np.random.default_rng(0), 2.0, 400
    found = []
    for _ in range(200):
        included = rng.random(canaries) < 0.5
        flips = rng.random(canaries) < 1 / (1 + math.exp(epsilon))
        scores = np.where(included ^ flips, 1.0, -1.0) + 1e-3 * rng.random(canaries)
        # As many guesses of either kind as there surely are.
        found.append(privacy.audited_epsilon(scores, included, 300, delta=0.0))
    above = sum(x > epsilon for x in found)
    # Each fails with at most 5 %: more than 24 of 200 would have one chance in 10^4.
    assert above <= scipy.stats.binom.isf(1e-4, 200, 0.05)
    assert np.median(found) > 1.5  # and it is no bound of nothing


def test_the_bound_is_where_the_probability_is_the_confidence():
    included = np.arange(200) < 100
    scores = included + 0.0
    scores[:20] = -1.0  # 20 of 200 are guessed wrong, and 20 more for them
    bound = privacy.audited_epsilon(scores, included, 200, delta=1e-5)
    p = privacy.most_correct(160, 200, 200, bound, 1e-5)
    assert p == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"guesses": 3}, "guesses is 3, expected an even"),
        ({"guesses": 12}, "guesses is 12"),
        ({"scores": np.zeros((2, 5))}, "scores is"),
        ({"included": np.zeros(10)}, "included .*float64"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"delta": -0.1}, "delta"),
    ],
)
def test_what_is_no_audit(given, words):
    whole = {
        "scores": np.arange(10.0),
        "included": np.arange(10) > 4,
        "guesses": 10,
        "delta": 1e-5,
    }
    with pytest.raises(ValueError, match=words):
        privacy.audited_epsilon(**(whole | given))
