"""Methods whose workers train, and compress how far they went.

As in `_local.py` they are of the mean convention, and their outer step is
`optax.sgd(1.0)`.
"""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.algorithms import _said
from gdsec_jax.algorithms._local import LocalOptions
from gdsec_jax.algorithms._options import Aggregator, algorithm
from gdsec_jax.federation import federate
from gdsec_jax.federation._train import LocalSteps, train
from gdsec_jax.worker import perm_k
from gdsec_jax.worker._permuted import owned, ranks
from gdsec_jax.worker._piece import (
    Piece,
    check_unbiased,
    joint_variance_of,
    variance_of,
)
from gdsec_jax.worker._vectors import lengths, tree_of


@_trees.state
class TamunaState(NamedTuple):
    """State of `tamuna`."""

    federation: Any
    own: Any  # h_m: leaves [M, *param], whose sum is 0
    steps: LocalSteps
    coin_data: jax.Array  # of the key of the common coin
    deal_data: jax.Array  # of the key that deals out the entries


@algorithm(LocalOptions)
def tamuna(
    num_workers: int,
    local_learning_rate,
    probability,
    owners: int = 2,
    cohort: int | None = None,
    *,
    key: Any = 0,
    **options: Unpack[LocalOptions],
) -> Aggregator:
    r"""TAMUNA: Scaffnew of a cohort, of which a few send each entry.

    .. math::
       \theta_m &\leftarrow \theta_m - \gamma (\nabla \tilde f_m(\theta_m) - h_m)
         \quad T \text{ times from } \theta_m = \theta^k, \quad
         T \sim \text{Geometric}(p) \\
       \theta^{k+1}_i &= \frac1s \sum_{m \text{ owns } i} \theta_{m,i}, \quad
         h_{m,i} \leftarrow h_{m,i} + \frac\eta\gamma (\theta^{k+1}_i - \theta_{m,i})
         \text{ where m owns } i, \quad \eta = p \frac{M (s - 1)}{s (M - 1)}

    A round is a communication. A cohort of c of the M workers is drawn for it; each
    entry belongs to s of these, dealt out by a common key, so that places need not
    travel: a worker sends :math:`\lceil s D/c \rceil` values, not D. The others rest.
    With s = c = M it is `scaffnew`, with s = c Scaffnew of a part of the workers. On
    smooth strongly convex f it converges linearly.

    Args:
      local_learning_rate: :math:`\gamma`, 1/L_max; may be traced.
      probability: p in (0, 1]; may be traced.
      owners: s, from 2 to c.
      cohort: c; by default all workers.
      key: of the coin and of what is dealt out, an int or a random key.

    Returns:
      :math:`\theta^k - \theta^{k+1}`, of `WorkerLosses`. The step is 1, with
      :math:`p = \min(1, \sqrt{M / (s \kappa)})`.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.tamuna(5, local_learning_rate=0.1, probability=0.2)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Condat, Agarský, Malinovsky, Richtárik, TAMUNA, 2023,
      https://arxiv.org/abs/2302.09832; with all workers it is CompressedScaffnew, 2022,
      https://arxiv.org/abs/2210.13277. How entries are dealt out, and the memory's
      change, are those of a public baseline, which changes it by the parameters of the
      worker's next round; eta is stated from memory of the paper.
    """
    rate = _checks.positive("local_learning_rate", local_learning_rate)
    _checks.number_in_range("probability", probability, _said.LEAST_PROBABILITY, 1.0)
    _checks.number_of_workers(num_workers)
    if num_workers < 2:
        raise ValueError("num_workers is 1, expected at least 2 for tamuna's owners.")
    cohort = _said.cohort_of(cohort, num_workers, 2)
    if _checks.integer("owners", owners, 2) > cohort:
        raise ValueError(f"owners is {owners}, expected at most the cohort, {cohort}.")
    deals = perm_k(num_workers, owners, cohort)
    summed = federate(deals, num_workers, reduction="mean", **options)
    inner, coin, dealer = optax.sgd(rate), _said.stream(key, 0), _said.stream(key, 1)
    chi = num_workers * (owners - 1) / (owners * (num_workers - 1))

    def init(params):
        steps, coin_data = _said.thrown(jax.random.key_data(coin), coin, probability)
        own = _trees.repeat(_trees.zero_memory(params), num_workers)
        deal_data = jax.random.key_data(dealer)
        return TamunaState(summed.init(params), own, steps, coin_data, deal_data)

    def update(updates, state, params=None, **extra_args):
        words = "the cohort is drawn by itself: cohort="
        _said.all_take_part("tamuna", extra_args, words)
        deal, deal_data = _said.split(state.deal_data, dealer)
        rank = ranks(deal, num_workers)
        shifts = jax.tree.map(jnp.negative, state.own)
        number = state.steps.number
        moved, _ = train(updates, params, inner, number, num_workers, shifts=shifts)
        extra_args |= {"active": rank < cohort, "round_key": deal}
        sums, federation = summed.update(moved, state.federation, params, **extra_args)

        def owns(rank):  # bool, in the shape of the parameters
            (size,) = lengths(params, "message")
            own = owned(deal, size, rank, owners, cohort)
            return tree_of([own], params, "message")

        # s owners of each entry, or as many as were heard: of them it adds up to 0.
        masks = jax.vmap(owns)(rank)
        masks = _trees.where(
            _said.heard(federation), masks, jax.tree.map(jnp.zeros_like, masks)
        )
        mean = jax.tree.map(
            lambda x, mask: x * (owners / jnp.maximum(mask.sum(0), 1)).astype(x.dtype),
            sums,
            masks,
        )
        beside = jax.tree.map(
            lambda d, m, mask: jnp.where(mask, d - m[None], 0), moved, mean, masks
        )
        own = _trees.add_scaled(state.own, probability * chi / rate, beside)
        steps, coin_data = _said.thrown(state.coin_data, coin, probability)
        return mean, TamunaState(federation, own, steps, coin_data, deal_data)

    return Aggregator(init, update)


@_trees.state
class LocodlState(NamedTuple):
    """State of `locodl`."""

    federation: Any
    points: Any  # x_m: leaves [M, *param]
    own: Any  # u_m: leaves [M, *param]
    steps: LocalSteps
    key_data: jax.Array  # of the common coin


@algorithm(LocalOptions)
def locodl(
    num_workers: int,
    compressor: Piece,
    local_learning_rate,
    probability,
    strong_convexity,
    *,
    key: Any = 0,
    **options: Unpack[LocalOptions],
) -> Aggregator:
    r"""LoCoDL: local steps, and any unbiased compressor of how far apart they lead.

    Half of the strong convexity is a part that all know, :math:`g = \frac\mu4
    \|\cdot\|^2`, and :math:`\tilde f_m - g` stays each worker's. T times, T ~
    Geometric(p), from its own :math:`x_m` and from the common :math:`y = \theta^k`,

    .. math::
       x_m &\leftarrow x_m - \gamma \big(\nabla (\tilde f_m - g)(x_m) - u_m\big), \quad
         y \leftarrow y - \gamma (\nabla g(y) - v), \quad v = -\frac1M \sum_m u_m

    and then they meet, :math:`\rho = 1/(1 + \bar\omega/M)`:

    .. math::
       d_m &= C(x_m - y), \quad \bar d = \frac1{2M} \sum_m d_m, \quad
         u_m \leftarrow u_m + \frac{p \rho}{\gamma (1 + 2 \omega)} (\bar d - d_m) \\
       x_m &\leftarrow (1 - \rho) x_m + \rho (y + \bar d), \quad
         \theta^{k+1} = y + \rho \bar d

    A round is a communication. On smooth strongly convex f it converges linearly.

    Args:
      local_learning_rate: :math:`\gamma`, 1/L_max; may be traced.
      probability: p in (0, 1]; may be traced.
      strong_convexity: :math:`\mu > 0` of every :math:`\tilde f_m`; may be traced.
      key: of the coin and the compressor, an int or a random key.

    Returns:
      :math:`\theta^k - \theta^{k+1}`, of `WorkerLosses`. The step is 1, with
      :math:`p = \sqrt{(1 + \omega)(1 + \bar\omega/M) \mu / (2 L_{max})}`, at most 1.
      All workers take part in every round.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.locodl(
      ...     5, worker.random_k(0.1), local_learning_rate=0.1, probability=0.2,
      ...     strong_convexity=0.01)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Condat, Maranjyan, Richtárik, LoCoDL, 2024, https://arxiv.org/abs/2403.04348. The
      formulas are stated from memory of it.
    """
    rate = _checks.positive("local_learning_rate", local_learning_rate)
    _checks.number_in_range("probability", probability, _said.LEAST_PROBABILITY, 1.0)
    half = _checks.positive("strong_convexity", strong_convexity) / 2
    check_unbiased(compressor)
    summed = federate(
        _said.remembered(compressor),
        num_workers,
        reduction="mean",
        key=_said.stream(key, 1),
        **options,
    )
    inner = optax.chain(optax.add_decayed_weights(-half), optax.sgd(rate))
    coin = _said.stream(key, 0)

    def init(params):
        steps, key_data = _said.thrown(jax.random.key_data(coin), coin, probability)
        points = _trees.repeat(params, num_workers)
        own = _trees.repeat(_trees.zero_memory(params), num_workers)
        return LocodlState(summed.init(params), points, own, steps, key_data)

    def update(updates, state, params=None, **extra_args):
        _said.all_take_part("locodl", extra_args)
        omega = variance_of(compressor, params)
        rho = 1 / (1 + joint_variance_of(compressor, params) / num_workers)
        number, shifts = state.steps.number, jax.tree.map(jnp.negative, state.own)
        moved, _ = train(
            updates, params, inner, number, num_workers,
            shifts=shifts, points=state.points,
        )  # fmt: skip
        x = _trees.sub(state.points, moved)
        v = jax.tree.map(jnp.negative, _said.mean(state.own, num_workers))
        y = jax.lax.fori_loop(
            0, number, lambda _, y: _said.mixed((1 - rate * half, y), (rate, v)),
            _trees.cast_like(params, v),
        )  # fmt: skip
        apart = jax.tree.map(lambda x, y: x - y[None].astype(x.dtype), x, y)
        mean, federation = summed.update(apart, state.federation, params, **extra_args)

        middle = _said.mixed((0.5, _trees.cast_like(mean, y)))
        met = _said.everyones(_trees.add(y, middle))
        points = jax.tree.map(
            lambda x, met: (1 - rho) * x + rho * met.astype(x.dtype), x, met
        )
        points = _trees.where(_said.present(federation), points, state.points)
        beside = jax.tree.map(lambda d, u: d[None] - u, middle, _said.said(federation))
        own = _trees.add_scaled(
            state.own, probability * rho / (rate * (1 + 2 * omega)), beside
        )
        steps, key_data = _said.thrown(state.key_data, coin, probability)
        direction = _trees.sub(params, _said.mixed((1.0, y), (rho, middle)))
        direction = _trees.cast_like(direction, params)
        return direction, LocodlState(federation, points, own, steps, key_data)

    return Aggregator(init, update)
