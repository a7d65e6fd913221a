"""A lower bound on epsilon, from a run in which canaries were hidden."""

from typing import Any

import numpy as np
import scipy

from gdsec_jax import _checks

_MOST = 50.0  # an epsilon beyond which nothing is told apart


def most_correct(correct: int, guesses: int, canaries: int, epsilon, delta) -> float:
    r"""How likely so many right guesses are, at most, if a run is as private as said.

    Of m canaries each is in the data with probability 1/2, by coins of its own; of r of
    them an attacker guesses from the messages whether it was. If the run is
    :math:`(\epsilon, \delta)` differentially private, W right guesses are no more
    probable than

    .. math:: P[W \ge v] \le f(v) + 2 m \delta \max_{1 \le i \le m}
       \frac{f(v - i) - f(v)}{i}, \quad
       f(v) = P\Big[\text{Binomial}\Big(r, \frac{e^\epsilon}{1 + e^\epsilon}\Big)
       \ge v\Big]

    Args:
      correct: v.
      guesses: r.
      canaries: m, at least r.
      epsilon: :math:`\epsilon \ge 0`.
      delta: :math:`\delta` in [0, 1].

    Returns:
      The bound, at most 1.

    Raises:
      ValueError: an argument is out of range.

    Examples:
      A coin is guessed right 8 times in 8 with probability 1/256:

      >>> from gdsec_jax import privacy
      >>> privacy.most_correct(8, 8, 8, epsilon=0.0, delta=0.0)
      0.00390625

    References:
      Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run, 2023,
      https://arxiv.org/abs/2305.08846
    """
    canaries = _checks.integer("canaries", canaries, 1)
    guesses = _checks.integer("guesses", guesses, 1, canaries)
    correct = _checks.integer("correct", correct, 0, guesses)
    _checks.number_in_range("epsilon", epsilon, 0.0, _checks.LARGEST)
    _checks.number_in_range("delta", delta, 0.0, 1.0)
    one = scipy.special.expit(float(epsilon))
    steps = np.arange(1, canaries + 1)
    # P[B >= v] is 1 for v <= 0.
    tails = scipy.stats.binom.sf(correct - np.arange(canaries + 1) - 1, guesses, one)
    gained = np.max((tails[1:] - tails[0]) / steps)
    return float(min(tails[0] + 2 * canaries * float(delta) * max(gained, 0.0), 1.0))


def audited_epsilon(
    scores: Any, included: Any, guesses: int, *, delta: float, confidence: float = 0.95
) -> float:
    r"""An epsilon that a run surely exceeds, by how well its canaries are found.

    The r/2 canaries with the highest scores are guessed to have been in the data, the
    r/2 with the lowest not; the bound is the least epsilon with which so many right
    guesses have at least the probability 1 - confidence. It is 0 where an attack finds
    nothing, which proves nothing: another attack may.

    Args:
      scores: [m], of the canaries, by an attack that has seen the messages alone.
      included: bool [m], whether each canary was in the data, by a fair coin.
      guesses: r, even, from 2 to m; chosen before the run.
      delta: of the guarantee that is audited.
      confidence: that the bound holds.

    Returns:
      The lower bound on :math:`\epsilon`.

    Raises:
      ValueError: shapes differ, or an argument is out of range.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import privacy
      >>> included = np.arange(100) % 2 == 0
      >>> found = privacy.audited_epsilon(1.0 * included, included, 100, delta=0.0)
      >>> round(found, 2)  # all are found: 0.95 = 1 - p^100
      3.49
      >>> privacy.audited_epsilon(np.zeros(100), included, 100, delta=0.0)
      0.0

    References:
      Steinke, Nasr, Jagielski, 2023, https://arxiv.org/abs/2305.08846
    """
    scores, included = np.asarray(scores, float), np.asarray(included)
    if scores.ndim != 1 or included.shape != scores.shape or included.dtype != bool:
        raise ValueError(
            f"scores is {scores.dtype}{list(scores.shape)} and included "
            f"{included.dtype}{list(included.shape)}, expected float [m] and bool [m]."
        )
    guesses = _checks.integer("guesses", guesses, 2, scores.size)
    if guesses % 2:
        raise ValueError(f"guesses is {guesses}, expected an even number.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}, expected a number in (0, 1).")
    order = np.argsort(scores, kind="stable")
    lowest, highest = order[: guesses // 2], order[scores.size - guesses // 2 :]
    correct = int((~included[lowest]).sum() + included[highest].sum())

    def refuted(epsilon: float) -> bool:
        bound = most_correct(correct, guesses, scores.size, epsilon, delta)
        return bound < 1 - confidence

    low, high = 0.0, _MOST
    if not refuted(low):
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
