"""Methods that ask for gradients elsewhere than at the parameters of the round.

At those of the last round, at points of each worker's own, or at two that the server
makes. They are of the mean convention: f = (1/M) sum of f~_m, with f~_m the loss of
`WorkerLosses`, which they take in the place of gradients.
"""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.algorithms import _said
from gdsec_jax.algorithms._local import LocalOptions
from gdsec_jax.algorithms._options import Aggregator, algorithm
from gdsec_jax.federation import federate
from gdsec_jax.federation._broadcast import BroadcastsState, WholeState, broadcasts
from gdsec_jax.federation._broadcast import whole as whole_down
from gdsec_jax.federation._counts import silence
from gdsec_jax.federation._train import LocalSteps, gradients_at
from gdsec_jax.wire._formats import as_format
from gdsec_jax.worker import perm_k, whole
from gdsec_jax.worker._piece import Piece, check_unbiased, variance_of


@_trees.state
class DashaPPState(NamedTuple):
    """State of `dasha_pp`."""

    federation: Any
    known: Any  # g_m, what the server knows: leaves [M, *param]
    own: Any  # h_m, of the gradients: leaves [M, *param]
    begun: jax.Array  # bool [M]: who has taken part
    steps: LocalSteps
    key_data: jax.Array  # of the cohorts


@algorithm(LocalOptions)
def dasha_pp(
    num_workers: int,
    compressor: Piece,
    cohort: int | None = None,
    momentum=None,
    *,
    key: Any = 0,
    **options: Unpack[LocalOptions],
) -> Aggregator:
    r"""DASHA-PP: DASHA where a part of the workers takes part.

    A cohort of c of the M workers is drawn for each round, a share :math:`p = c/M`;
    they take gradients at :math:`\theta^k` and at :math:`\theta^{k-1}`:

    .. math::
       k_m &= \nabla \tilde f_m(\theta^k) - \nabla \tilde f_m(\theta^{k-1})
         - b (h_m - \nabla \tilde f_m(\theta^{k-1})), \quad b = p / (2 - p) \\
       u_m &= C\Big(\frac{k_m - a (g_m - h_m)}p\Big), \quad
         h_m \leftarrow h_m + k_m / p, \quad g_m \leftarrow g_m + u_m, \quad
         \theta^{k+1} = \theta^k - \frac\gamma M \sum_m g_m

    The others rest. A worker that takes part for the first time begins with
    :math:`h_m = \nabla \tilde f_m(\theta^{k-1})`, which it need not send, and with
    :math:`g_m = 0`. With c = M it is `dasha`. On smooth strongly convex f it converges
    linearly.

    Args:
      cohort: c; by default all workers.
      momentum: a in (0, 1]; may be traced; by default :math:`p/(2 \omega + 1)`.
      key: of the cohorts and the compressor, an int or a random key.

    Returns:
      :math:`\frac1M \sum_m g_m`, of `WorkerLosses`. The step is
      :math:`1/(L + \tilde L \sqrt{48 \omega (2 \omega + 1) / (M p^2)
      + 16 (1 - p_2/p) / (M p^2)})` with :math:`p_2 = c (c - 1) / (M (M - 1))`, stated
      from memory of the paper.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.dasha_pp(5, worker.random_k(0.1), cohort=2)
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.01))

    References:
      Tyurin, Richtárik, A Computation and Communication Efficient Method for
      Distributed Nonconvex Problems in the Partial Participation Setting, 2022,
      https://arxiv.org/abs/2205.15580; the recursion, a and b are those of its public
      code, in which all workers take part at first.
    """
    cohort = _said.cohort_of(cohort, num_workers)
    check_unbiased(compressor)
    if momentum is not None:
        _checks.number_in_range("momentum", momentum, 1e-9, 1.0)
    p = cohort / num_workers
    b = p / (2 - p)
    of_cohorts = _said.stream(key, 0)
    summed = federate(
        _said.remembered(compressor),
        num_workers,
        key=_said.stream(key, 1),
        **options,
    )

    def init(params):
        none = _trees.repeat(_trees.zero_memory(params), num_workers)
        return DashaPPState(
            federation=summed.init(params),
            known=none,
            own=jax.tree.map(jnp.copy, none),
            begun=jnp.zeros(num_workers, bool),
            steps=LocalSteps(jnp.int32(2)),
            key_data=jax.random.key_data(of_cohorts),
        )

    def update(updates, state, params=None, **extra_args):
        words = "the cohort is drawn by itself: cohort="
        _said.all_take_part("dasha_pp", extra_args, words)
        a = momentum
        if a is None:
            a = p / (2 * variance_of(compressor, params) + 1)
        key, key_data = _said.split(state.key_data, of_cohorts)
        extra_args["active"] = jax.random.permutation(key, num_workers) < cohort
        last = state.federation.clock.previous_params
        new, old = gradients_at(updates, params, num_workers, params, last)
        old = _trees.cast_like(old, state.own)
        h = _trees.where(state.begun, state.own, old)
        k = _trees.sub(_trees.sub(new, old), _said.mixed((b, _trees.sub(h, old))))
        message = _said.mixed((1 / p, k), (-a / p, _trees.sub(state.known, h)))
        message = _trees.cast_like(message, new)
        _, federation = summed.update(message, state.federation, params, **extra_args)
        heard = _said.heard(federation)
        own = _trees.where(heard, _trees.add_scaled(h, 1 / p, k), state.own)
        known = _trees.add(state.known, _said.said(federation))
        direction = _trees.cast_like(_said.mean(known, num_workers), params)
        return direction, DashaPPState(
            federation, known, own, state.begun | heard, state.steps, key_data
        )

    return Aggregator(init, update)


@_trees.state
class MarinaPState(NamedTuple):
    """State of `marina_p`."""

    federation: Any
    points: Any  # w_m: leaves [M, *param]
    down: BroadcastsState  # what the server sent to each
    steps: LocalSteps
    key_data: jax.Array  # of the coin and the compressor


@algorithm(LocalOptions)
def marina_p(
    num_workers: int,
    probability=None,
    compressor: Piece | None = None,
    *,
    key: Any = 0,
    **options: Unpack[LocalOptions],
) -> Aggregator:
    r"""MARINA-P: the server sends each worker another part of how it moved.

    .. math::
       w_m &\leftarrow \theta^k \text{ with probability } p, \text{ else }
         w_m + C_m(\theta^k - \theta^{k-1}) \\
       \theta^{k+1} &= \theta^k - \frac\gamma M \sum_m \nabla \tilde f_m(w_m)

    One coin a round for all workers; the first round is whole. A whole round's
    parameters go down once for all, the others' messages to each worker by itself, and
    each is counted: together no fewer bits than a broadcast of everything, which goes
    down once. It saves where each worker has a link of its own, over which D/M values
    go. The way up is not compressed. With p = 1 it is gradient descent. On smooth
    strongly convex f it converges linearly.

    Args:
      probability: p in (0, 1]; may be traced; by default :math:`1/(1 + \omega)`.
      compressor: C, unbiased, of the way down; by default `worker.perm_k(M)`, whose M
        parts of a vector add up to M times it.
      key: an int or a random key.

    Returns:
      :math:`\frac1M \sum_m \nabla \tilde f_m(w_m)`, of `WorkerLosses`. The step is
      :math:`1/(L + L_{max} \sqrt{(1 - p) \omega / p})`, derived here for any f_m: of
      :math:`\|w_m - \theta^k\|^2`, which a round leaves with probability 1 - p, and to
      which it then adds at most :math:`\omega \|\theta^k - \theta^{k-1}\|^2`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.marina_p(5), optax.sgd(0.01))

    References:
      Gruntkowska, Tyurin, Richtárik, Improving the Worst-Case Bidirectional
      Communication Complexity, 2024, https://arxiv.org/abs/2402.06412. The formulas are
      stated from memory of it.
    """
    compressor = perm_k(num_workers) if compressor is None else compressor
    check_unbiased(compressor)
    if probability is not None:
        _checks.number_in_range("probability", probability, 1e-9, 1.0)
    summed = federate(whole(), num_workers, reduction="mean", **options)
    down = broadcasts(compressor, num_workers, wire=options.get("wire", "coo"))
    draws = _said.stream(key, 0)

    def init(params):
        return MarinaPState(
            federation=summed.init(params),
            points=_trees.repeat(params, num_workers),
            down=down.init(params),
            steps=LocalSteps(jnp.int32(1)),
            key_data=jax.random.key_data(draws),
        )

    def update(updates, state, params=None, **extra_args):
        _said.all_take_part("marina_p", extra_args)
        p = probability
        if p is None:
            p = 1 / (1 + variance_of(compressor, params))
        key, key_data = _said.split(state.key_data, draws)
        coin, key = jax.random.split(key)
        clock = state.federation.clock
        everything = (jax.random.uniform(coin) < p) | (clock.number == 0)
        change = jax.tree.map(jnp.subtract, params, clock.previous_params)
        messages, sent = down.update(
            change, state.down, params, everything, key, clock.number
        )
        points = jax.tree.map(
            lambda w, x, u: jnp.where(everything, x[None], w + u),
            state.points, params, messages,
        )  # fmt: skip
        (gradients,) = gradients_at(updates, params, num_workers, points, own=True)
        direction, federation = summed.update(
            gradients, state.federation, params, **extra_args
        )
        return direction, MarinaPState(federation, points, sent, state.steps, key_data)

    return Aggregator(init, update)


@_trees.state
class AdianaState(NamedTuple):
    """State of `adiana`."""

    federation: tuple[Any, Any]  # of the messages at x, and at w
    own: Any  # h_m: leaves [M, *param]
    z: Any  # leaves [*param]
    w: Any  # leaves [*param]
    down: WholeState
    steps: LocalSteps
    key_data: jax.Array  # of the coin


@algorithm(LocalOptions)
def adiana(
    num_workers: int,
    compressor: Piece,
    learning_rate,
    strong_convexity,
    probability=None,
    *,
    key: Any = 0,
    **options: Unpack[LocalOptions],
) -> Aggregator:
    r"""ADIANA: accelerated DIANA, with two messages a round.

    With :math:`y = \theta^k` and :math:`x = \theta_1 z + \frac12 w + (\frac12 -
    \theta_1) y`,

    .. math::
       u_m &= C(\nabla \tilde f_m(x) - h_m), \quad
         g = \frac1M \sum_m (h_m + u_m), \quad
         h_m \leftarrow h_m + \frac1{1 + \omega} C(\nabla \tilde f_m(w) - h_m) \\
       \theta^{k+1} &= x - \gamma g, \quad
         z \leftarrow \beta z + (1 - \beta) x - \alpha g, \quad
         w \leftarrow y \text{ with probability } p \\
       \theta_1 &= \min\big(\tfrac14, \sqrt{\gamma \mu / p}\big), \quad
         \alpha = \frac\gamma{2 (\theta_1 + \gamma \mu)}, \quad
         \beta = 1 - \alpha \mu

    On smooth strongly convex f it converges linearly, in a number of rounds that grows
    with the root of the condition number: it is made for large ones, and slower than
    `diana` for small ones.

    Args:
      learning_rate: :math:`\gamma`, that of the optimizer behind; may be traced.
      strong_convexity: :math:`\mu > 0` of f; may be traced.
      probability: p in (0, 1]; may be traced; by default
        :math:`\min(1, \max(1, \sqrt{M / (32 \omega)} - 1) / (2 + 2 \omega))`.
      key: an int or a random key.

    Returns:
      :math:`(\theta^k - \theta^{k+1}) / \gamma`, of `WorkerLosses`: plain
      `optax.sgd(learning_rate)` stands behind. The step is
      :math:`\gamma = \min\big(\frac1{2 L_{max}}, \frac M{64 \bar\omega
      (2 p (\omega + 1) + 1)^2 L_{max}}\big)`.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.adiana(
      ...     5, worker.random_k(0.1), learning_rate=0.01, strong_convexity=0.1)
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.01))

    References:
      Li, Kovalev, Qian, Richtárik, Acceleration for Compressed Gradient Descent, 2020,
      https://arxiv.org/abs/2002.11364; recursion and step are those of a public code.
    """
    rate = _checks.positive("learning_rate", learning_rate)
    mu = _checks.positive("strong_convexity", strong_convexity)
    check_unbiased(compressor)
    if probability is not None:
        _checks.number_in_range("probability", probability, 1e-9, 1.0)
    at_x, at_w = (
        federate(
            piece, num_workers, reduction="mean", key=_said.stream(key, n), **options
        )
        for n, piece in ((1, compressor), (2, _said.remembered(compressor)))
    )
    coin, wire = _said.stream(key, 0), as_format(options.get("wire", "coo"))

    def init(params):
        z, w = (_trees.add(_trees.zero_memory(params), params) for _ in range(2))
        return AdianaState(
            federation=(at_x.init(params), at_w.init(params)),
            own=_trees.repeat(_trees.zero_memory(params), num_workers),
            z=z,
            w=w,
            down=WholeState(silence(params, (), wire)),
            steps=LocalSteps(jnp.int32(2)),
            key_data=jax.random.key_data(coin),
        )

    def update(updates, state, params=None, **extra_args):
        _said.all_take_part("adiana", extra_args)
        omega = variance_of(compressor, params)
        p = (
            adiana_probability(omega, num_workers)
            if probability is None
            else probability
        )
        theta = jnp.minimum(0.25, jnp.sqrt(rate * mu / p))
        alpha = rate / (2 * (theta + rate * mu))
        beta = 1 - alpha * mu
        y = _trees.cast_like(params, state.z)
        x = _said.mixed((theta, state.z), (0.5, state.w), (0.5 - theta, y))
        points = (_trees.cast_like(each, params) for each in (x, state.w))
        new, old = gradients_at(updates, params, num_workers, *points)

        def difference(gradient):
            return _trees.cast_like(_trees.sub(gradient, state.own), gradient)

        first, second = state.federation
        u, first = at_x.update(difference(new), first, params, **extra_args)
        _, second = at_w.update(difference(old), second, params, **extra_args)
        g = _trees.add(_said.mean(state.own, num_workers), u)
        own = _trees.add_scaled(state.own, 1 / (1 + omega), _said.said(second))
        z = _said.mixed((beta, state.z), (1 - beta, x), (-alpha, g))
        toss, key_data = _said.split(state.key_data, coin)
        moves = jax.random.uniform(toss) < p
        w = jax.tree.map(lambda new, old: jnp.where(moves, new, old), y, state.w)
        down = WholeState(whole_down(params, state.down.all))
        away = _said.mixed((1 / rate, _trees.sub(y, x)), (1.0, g))
        return _trees.cast_like(away, params), AdianaState(
            (first, second), own, z, w, down, state.steps, key_data
        )

    return Aggregator(init, update)


def adiana_probability(omega: float, num_workers: int) -> float:
    """The paper's p."""
    if not omega:
        return 1.0
    return min(1.0, max(1.0, (num_workers / (32 * omega)) ** 0.5 - 1) / (2 + 2 * omega))
