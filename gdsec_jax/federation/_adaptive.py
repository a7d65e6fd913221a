"""A controller of GD-SEC's threshold that needs to know nothing of the problem."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._controller import Controller

# The watch, in which everything is sent: until so many rounds in a row are calm, in
# which the step changes so slowly that changing by its own length takes CALM rounds.
CALM, IN_A_ROW = 4.0, 2.0
START = 0.25  # the first lag is so much of that time
# A window, at whose end the next lag is chosen; of as many rounds as the lag, or of
SHORTEST = 4.0
ROOM, OF_LAG, OF_TIME = 0.25, 1.5, 0.3  # for kicks
LASTS = 0.5  # the lag is at most so much of the time, or all of it if that is 1/beta
GROW, CUT = 3.0, 0.5  # the lag changes by these factors at most
LEAST_LAG = 0.25  # and grows from here
KAPPA = 1.28  # beta lag is at most this
QUIET, KAPPA_QUIET, TIME_QUIET = 0.05, 5.0, 3.0  # where kicks are at most so much of
# the lag, though all was sent once, beta lag is at most this, and time counts so much
# An alarm, which ends a window and begins a watch: the mean energy of a round is so
# many times the usual one, or the square of the mean step so many times the least one.
ENERGY, DRIFT = 4.0, 9.0
LIMIT, LIMIT_GROWTH = 0.5, 1.5  # of the lag at an alarm; a window
JUMP = 0.2  # or the log of the step size changes by more than this in a round
LEAST_BETA = 1e-3  # a smaller beta counts as this


@_trees.state
class AdaptiveXiState(NamedTuple):
    """State of `adaptive_xi`; every field but `moved` is float []."""

    lag: jax.Array  # xi = lag / alpha
    limit: jax.Array  # of the lag, since an alarm; inf before
    step: jax.Array  # log alpha of the last step
    calm: jax.Array  # rounds of the watch in a row
    length: jax.Array  # rounds that the window is to have; 0 in a watch
    rounds: jax.Array  # that it has had
    # Sum of theta^k - theta^{k-1} in it, in a watch the last; leaves [*param].
    moved: Any
    reach: jax.Array  # |moved|^2
    energy: jax.Array  # sum of |theta^k - theta^{k-1}|^2 in the window
    shares: jax.Array  # sum of the shares of entries that were sent
    age: jax.Array  # rounds since the watch
    time: jax.Array  # in which the step changed by its own length, at the watch's end
    usual: jax.Array  # energy of a round
    least: jax.Array  # drift of a window; inf: there was none
    level: jax.Array  # mean log of the drift, of about the last half of `age`


def adaptive_xi(*, budget=None, start=None, growth=None) -> Controller:
    r"""Choose GD-SEC's threshold in each round from what the server has seen.

    .. math:: \xi^k = q^k / \alpha^k, \quad
       \alpha^k = |s^k| / |h + \sum_m \hat\Delta_m|, \quad
       s^k = \theta^k - \theta^{k-1}

    q is a lag: an entry waits until it would move theta by q/M of its last steps. That
    is harmless while the step lasts for longer than q rounds, and what is sent then
    kicks theta by less than is still ahead of it. The server sees both.

    A watch, in which q = 0 and all is gradient descent's, ends when in two rounds on
    end the step has changed by itself in no fewer than T = 4 rounds,
    :math:`1/T = |1 - \langle s^k, s^{k-1} \rangle / |s^{k-1}|^2|`: while it swings, as
    at first with a learning rate near 2/L, nothing is censored. Then come windows of
    max(4, q) rounds, the first with q = T/4. At the end of each, with the mean step
    :math:`\bar s` of its rounds, and T the rounds in which :math:`|\bar s|` falls by a
    factor e, on average over about the last half of the windows,

    .. math:: r = \text{mean} |s|^2 / |\bar s|^2 - 1

    is the energy of the kicks. q is multiplied by (1/4 + min(0.3 T, 1.5 q))/r, by 1/2
    at least and by 3 at most. It is kept below T/2, or T where that is 1/beta or more:
    until then the memories still hold gradients of before. And it is kept below
    1.28/beta: the memory of one worker, which a message moves by q beta times itself,
    swings from about twice that on. Where r is below q/20, though in the window each
    entry was sent once on average, as with many workers, the bounds are 3 and 4 times
    as high.

    An alarm ends a window at once, and begins a watch: the energy is four times the
    usual, the square of the mean step nine times the least so far (gradient descent's
    own steps do not grow on convex f), or :math:`\alpha` jumps by a fifth. q is then
    limited to half of what it was, and the limit grows by half a window.

    Guarantees: xi is finite and at least 0. None of convergence: the proof in
    docs/theory.md is for far smaller xi, and an alarm comes after the harm. What we
    have run: on the 14 problems of `gdsec figures adaptive` it took at most 1.13 times
    gradient descent's rounds to a thousandth of the first error, which was never
    exceeded. Of 636 that were drawn anew, half of them from a random start, with
    learning rates up to 1.95/L and beta from 0.001 to 1, it took more than 1.5 times in
    1 of 476 convex ones, done in less than 40 rounds, and in 13 of 160 with the squared
    norm of the gradient as the error, 2.2 times at most. The error exceeded twice
    gradient descent's largest in 1 and 3 of them, 2.6 times at most, and of the lasso
    in other draws 3.0 times. Slow tests draw half of them.

    With beta = 0.01 it sent about twice what the best of 12 xi does that do no harm
    either, and seldom more than 2.5 times: 3.4 times with 200 workers. Of a learning
    rate near 2/L one xi damps the swings, after an error of 2,500 times the first, and
    sends an 18th of what this does. Where gradient descent takes some
    dozens of rounds it sends about as much, at worst twice.

    It wants steps that are multiples of the direction, as of optax.sgd with any
    schedule. Behind momentum, clipping or optax.adam :math:`\alpha` jumps as soon as
    there are kicks, so that q stays small: little is saved, and nothing lost. So it is
    where the noise of minibatches outweighs the gradient: the watch does not end.
    Without error correction (`gdsoec`) what is censored for good leaves no trace in
    the steps: there a budget is needed, and a small one stalls.

    Cost: the server sends xi along with theta, one number more a round, which
    `History.broadcast_bits` does not count, and it remembers one vector like theta.

    Args:
      budget: the share of entries, in (0, 1], that the workers are to send on average;
        may be traced. q then grows no further while they send less. So where the
        problem does not bear a xi for so small a budget, more is sent.
      start, growth: deprecated, and without effect.

    Returns:
      A `Controller`, for the argument xi of `gdsec`, `gdsoec` and `qsgdsec`.

    Raises:
      ValueError: budget is out of range; update: without error correction there is
        none.

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
    _ignored(start=start, growth=growth)
    if budget is not None:
        _checks.number_in_range("budget", budget, 0.0, 1.0)
        _checks.positive("budget", budget)

    def init(params):
        dtype = _trees.norm_dtype(params)
        state = dict.fromkeys(AdaptiveXiState._fields, 0.0) | {"limit": jnp.inf}
        state = {name: jnp.asarray(x, dtype) for name, x in state.items()}
        moved = jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params)
        return AdaptiveXiState(**state | {"moved": moved})

    def update(
        state,
        *,
        beta,
        round,
        change,
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
        if change is None:  # without params: whoever needs them says so
            change = jax.tree.map(jnp.zeros_like, state.moved)
        dtype, square = state.lag.dtype, past_changes[0]
        beta = jnp.maximum(jnp.asarray(beta, dtype), LEAST_BETA)
        moves = _sound(square) & _sound(direction)
        number = round.astype(dtype)
        square, direction = (jnp.where(moves, x, 1.0) for x in (square, direction))
        step = (jnp.log(square) - jnp.log(direction)) / 2
        new = _next(state, change, square, step, number, beta, share, budget)
        new = jax.tree.map(lambda x, old: jnp.where(moves, x, old), new, state)
        xi = new.lag * jnp.exp(-new.step)
        return jnp.minimum(xi, jnp.finfo(dtype).max), new

    return Controller(init, update)


def _next(state, change, square, step, number, beta, share, budget) -> AdaptiveXiState:
    """The state behind theta's last change."""
    watching = state.length == 0
    along = _along(change, state.moved, square.dtype)
    # Of the watch: how fast the step changes, which is gradient descent's own.
    still = along / jnp.where(state.reach > 0, state.reach, 1.0)
    time = jnp.minimum(1 / jnp.maximum(jnp.abs(1 - still), 1e-6), 1 + 2 * number)
    jumps = jnp.abs(step - state.step) > JUMP
    calm = jnp.where(watching & (time >= CALM) & ~jumps, state.calm + 1, 0)
    opens = calm >= IN_A_ROW
    # Of the window so far.
    kept = jnp.where(watching, 0.0, 1.0)
    rounds, age = kept * state.rounds + 1, kept * (state.age + 1)
    energy, shares = kept * state.energy + square, kept * state.shares + share
    reach = kept * (state.reach + 2 * along) + square
    ends = ~watching & (rounds >= state.length)
    drift = jnp.maximum(reach, 1e-6 * rounds * energy) / rounds**2
    kicks = energy / rounds / drift - 1
    excess = energy > ENERGY * state.length * state.usual
    alarm = ~watching & (excess | jumps | (ends & (drift > DRIFT * state.least)))
    # What is borne next.
    part = jnp.minimum(2 * rounds / jnp.maximum(age, 1), 1)
    known, log_drift = state.least < jnp.inf, jnp.log(drift)
    fall = jnp.where(known, state.level - log_drift, 0)
    lasts = jnp.where(fall > 0, 2 * rounds / part / jnp.maximum(fall, 1e-9), jnp.inf)
    lasts = jnp.minimum(lasts, state.time + age)
    room = ROOM + jnp.minimum(OF_TIME * lasts, OF_LAG * state.lag)
    factor = jnp.clip(room / jnp.maximum(kicks, 1e-9), CUT, GROW)
    if budget is not None:
        factor = jnp.minimum(factor, jnp.clip(shares / rounds / budget, CUT, GROW))
    quiet = (kicks <= QUIET * state.lag) & (shares >= 1)
    kappa = jnp.where(quiet, KAPPA_QUIET, KAPPA)
    limit = jnp.where(alarm, LIMIT * jnp.minimum(state.lag, state.limit), state.limit)
    borne = lasts * jnp.clip(beta * lasts, LASTS, 1) * jnp.where(quiet, TIME_QUIET, 1.0)
    grown = jnp.minimum(factor * jnp.maximum(state.lag, LEAST_LAG), borne)
    later = jnp.minimum(jnp.minimum(grown, kappa / beta), limit)
    begun = jnp.minimum(jnp.minimum(START * time, KAPPA / beta), limit)
    lag = jnp.where(opens, begun, jnp.where(ends, later, state.lag))
    lag = jnp.where(alarm, 0, lag)
    usual = jnp.maximum(energy / rounds, state.usual / 2)
    watches, anew = alarm | (watching & ~opens), alarm | opens | ends
    length = jnp.maximum(jnp.maximum(lag, kept * state.lag), SHORTEST)
    length = jnp.where(watches, 0, jnp.where(anew, length, state.length))
    here = jnp.where(anew, 0, kept)  # what of the window so far is kept

    def moved(before, now):
        now = now.astype(before.dtype)
        return jnp.where(watches, now, jnp.where(anew, 0, before * kept + now))

    return AdaptiveXiState(
        lag=lag,
        limit=jnp.where(ends & ~alarm, LIMIT_GROWTH * limit, limit),
        step=step,
        calm=jnp.where(opens, 0, calm),
        length=length,
        rounds=here * rounds,
        moved=jax.tree.map(moved, state.moved, change),
        reach=jnp.where(watches, square, here * reach),
        energy=here * energy,
        shares=here * shares,
        age=jnp.where(opens, 0, age),
        time=jnp.where(opens, time, state.time),
        usual=jnp.where(
            opens, (1 + begun) * square, jnp.where(ends, usual, state.usual)
        ),
        least=jnp.where(
            opens,
            jnp.inf,
            jnp.where(ends, jnp.minimum(drift, 2 * state.least), state.least),
        ),
        level=jnp.where(
            ends,
            jnp.where(known, state.level + part * (log_drift - state.level), log_drift),
            state.level,
        ),
    )


def _along(one: Any, other: Any, dtype) -> jax.Array:
    """Their inner product."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return sum(((x.astype(dtype) * y).sum() for x, y in leaves), jnp.zeros((), dtype))


def _sound(square):
    """Neither 0 nor overflowed, so that it has a logarithm."""
    return (square > 0) & (square < jnp.inf)


def _ignored(**given) -> None:
    for name, value in given.items():
        if value is not None:
            _checks.deprecated(f"adaptive_xi({name}=...)", "adaptive_xi()", 4)
