"""A controller of GD-SEC's threshold that needs to know nothing of the problem."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._controller import Controller

CUT = 0.25  # kappa is cut to this part of itself
BELOW = 0.7  # its limit from then on is this part of the kappa that was cut
RECOVERY = 0.7  # by which log kappa grows in 1/beta rounds, on its way to the limit
LIMIT_GROWTH = 0.2  # the limit grows at this part of `growth`
RISE = 1.25  # kappa is cut where the mean step is so many times the least mean
WARM = 2.0  # but not before so many times 1/beta rounds: the memories are filling
ALARM, IN_A_ROW = 2.0, 5  # and at once after 5 steps, each over twice the first one
STEP_RATE = 0.1  # weight of a round in the estimate of the step size
LEAST_BETA = 1e-3  # a smaller beta counts as this


@_trees.state
class AdaptiveXiState(NamedTuple):
    """State of `adaptive_xi`; every field is float []."""

    kappa: jax.Array  # xi = kappa / (alpha beta)
    limit: jax.Array  # of kappa, since it was last cut; inf before
    step: jax.Array  # log alpha, estimated
    level: jax.Array  # mean log |theta^k - theta^{k-1}| of about the last 1/beta rounds
    least: jax.Array  # the least level since kappa was cut
    longest: jax.Array  # |theta^k - theta^{k-1}| of the first step, or of an alarm
    wait: jax.Array  # rounds after a cut until the level is looked at again
    share: jax.Array  # mean share of entries sent in about the last 1/beta rounds


def adaptive_xi(*, start=1.5, growth=0.07, budget=None) -> Controller:
    r"""Choose GD-SEC's threshold in each round from what the server has seen.

    .. math:: \xi^k = \kappa^k / (\hat\alpha \beta), \quad
       \log \hat\alpha \approx \text{mean} \log
         \frac{|\theta^k - \theta^{k-1}|}{|h + \sum_m \hat\Delta_m|}

    The scale is an argument, not a theorem. An entry that has passed the threshold
    moves the memory h by about
    :math:`\beta \xi |\theta^k - \theta^{k-1}| = \kappa |h|`, since between messages the
    step is :math:`\alpha h`. With one worker h then shrinks if kappa < 2, and swings
    ever wider beyond; where workers do not send at the same time the edge lies higher.
    So it was in what we have run, with beta from 0.001 to 1: at 2 to 6. It may lie far
    lower, and was seen at 0.1, with steps above 1/L, with beta above 0.1, and where
    gradient descent is done in less than 1/beta rounds.

    Kappa starts at `start` and grows by a factor exp(`growth`) in 1/beta rounds. It is
    cut to a quarter when the mean of :math:`\log |\theta^k - \theta^{k-1}|` over about
    the last 1/beta rounds has risen by log 1.25 above its least since the last cut, and
    at once when five steps in a row are more than twice as long as the first. It stays
    there for 1/beta rounds, so that what was stirred up can settle, and then returns
    to 0.7 of the value that was too large, its limit, which grows five times slower
    than kappa did. With cut after cut it tends to 0, which is gradient descent.

    Guarantees: xi is finite and at least 0. None of convergence: that of GD-SEC is
    known for small xi only, and a cut comes after the steps have grown. It takes about
    1/beta rounds to see anything: where gradient descent is done in 5/beta rounds it
    may take a third more, where in 2/beta twice as many, and where in less it is no
    use; a larger beta is the remedy. Noise of minibatches can pass for growth and make
    xi smaller than it need be. It wants steps that are multiples of the direction, as
    of optax.sgd: behind optax.adam it did not keep the rate in what we have run. Steps
    above 1/L, and start or growth well above their defaults, may cost most of the
    savings, and a start far above 2 the run. Without error correction (`gdsoec`) what
    is censored for good leaves no trace in the steps: there a budget is needed, and a
    small one stalls.

    Cost: the server sends xi along with theta, one number more a round, which
    `History.broadcast_bits` does not count.

    Args:
      start: the first kappa, above 0; may be traced.
      growth: of log kappa in 1/beta rounds, at least 0; may be traced. 0 leaves kappa
        at `start` until it is cut.
      budget: the share of entries, in (0, 1], that the workers are to send on average;
        may be traced. Kappa then falls while the mean share of about the last 1/beta
        rounds is smaller; else it grows, and is cut, as without. So where the problem
        does not bear a xi for so small a budget, more is sent.

    Returns:
      A `Controller`, for the argument xi of `gdsec`, `gdsoec` and `qsgdsec`.

    Raises:
      ValueError: an argument is out of range; update: without error correction there
        is no budget.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import data, problems
      >>> digits = data.load("digits")
      >>> problem = problems.ridge(digits.features, digits.targets, num_workers=5)
      >>> optimizer = optax.chain(
      ...     gdsec_jax.gdsec(5, xi=gdsec_jax.adaptive_xi()),
      ...     optax.sgd(1 / problem.smoothness))
      >>> history = gdsec_jax.simulate(problem, optimizer, 500)
      >>> bool(history.objective_error[-1] < 0.05 * history.initial_error)
      True
      >>> bool(history.entries.sum() < 0.05 * 500 * 5 * 64)
      True
    """
    _checks.positive("start", start)
    _checks.number_in_range("growth", growth, 0.0, _checks.LARGEST)
    if budget is not None:
        _checks.number_in_range("budget", budget, 0.0, 1.0)
        _checks.positive("budget", budget)

    def init(params):
        dtype = _trees.norm_dtype(params)
        state = dict.fromkeys(AdaptiveXiState._fields, 0.0)
        state |= {"kappa": start, "limit": jnp.inf}
        state |= {} if budget is None else {"share": budget}
        return AdaptiveXiState(**{n: jnp.asarray(x, dtype) for n, x in state.items()})

    def update(
        state,
        *,
        beta,
        round,
        past_changes,
        direction,
        share,
        error_correction=True,
        **others,
    ):
        del others
        if budget is None and not error_correction:
            raise ValueError(
                "budget is None, expected a number in (0, 1]: without error correction "
                "the server cannot see when xi is too large."
            )
        dtype = state.kappa.dtype
        beta = jnp.maximum(jnp.asarray(beta, dtype), LEAST_BETA)
        moved = _sound(past_changes[0]) & _sound(direction)
        begun = state.longest > 0
        change = jnp.log(jnp.where(moved, past_changes[0], 1.0)) / 2
        ratio = change - jnp.log(jnp.where(moved, direction, 1.0)) / 2
        rate = jnp.maximum(beta, 1 / jnp.maximum(round, 1).astype(dtype))
        seen = state._replace(
            step=_mean(state.step, ratio, jnp.where(begun, STEP_RATE, 1.0)),
            level=_mean(state.level, change, jnp.where(begun, rate, 1.0)),
            longest=jnp.where(begun, state.longest, jnp.exp(change)),
            share=_mean(state.share, share, beta),
        )
        pace = jnp.where(seen.limit < jnp.inf, RECOVERY, growth)
        if budget is not None:
            to_budget = jnp.log(jnp.maximum(seen.share, 1e-9) / budget) / 2
            pace = jnp.minimum(pace, to_budget)
        new = _grown_or_cut(seen, past_changes, beta, round, pace, growth)
        new = jax.tree.map(lambda x, old: jnp.where(moved, x, old), new, state)
        xi = new.kappa * jnp.exp(-new.step) / beta
        return jnp.where(begun | moved, jnp.minimum(xi, jnp.finfo(dtype).max), 0), new

    return Controller(init, update)


def _grown_or_cut(state, past_changes, beta, round, pace, growth) -> AdaptiveXiState:
    """The next kappa, and what is remembered of it."""
    shortest = jnp.sqrt(past_changes[:IN_A_ROW].min())
    alarm = shortest > ALARM * state.longest
    waiting = state.wait > 0
    settled = (beta * round.astype(beta.dtype) > WARM) & ~waiting
    cut = alarm | (settled & (state.level > state.least + math.log(RISE)))
    pace = jnp.where(waiting, jnp.minimum(pace, 0), pace)
    limit = state.limit * jnp.exp(beta * LIMIT_GROWTH * growth)
    grown = jnp.minimum(state.kappa * jnp.exp(beta * pace), limit)
    lower = jnp.minimum(state.least, state.level)
    return state._replace(
        kappa=jnp.where(cut, CUT * state.kappa, grown),
        limit=jnp.where(cut, BELOW * state.kappa, limit),
        least=jnp.where(settled & ~cut, lower, state.level),
        longest=jnp.where(alarm, shortest, state.longest),
        wait=jnp.where(cut, 1 / beta, jnp.maximum(state.wait - 1, 0)),
    )


def _mean(mean, value, rate):
    """A running mean that gives the new value this weight."""
    return mean + rate * (value - mean)


def _sound(square):
    """Neither 0 nor overflowed, so that it has a logarithm."""
    return (square > 0) & (square < jnp.inf)
