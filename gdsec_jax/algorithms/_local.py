"""Methods whose workers take many steps between two messages, without drifting apart.

They are of the mean convention: f = (1/M) sum of f~_m, with f~_m the loss of
`WorkerLosses`, and their outer step is `optax.sgd(1.0)`.
"""

from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.algorithms import _said
from gdsec_jax.algorithms._options import Aggregator, algorithm
from gdsec_jax.federation import OnNonfinite, federate
from gdsec_jax.federation._train import LocalSteps, train
from gdsec_jax.wire import Format
from gdsec_jax.worker import whole


class LocalOptions(TypedDict, total=False):
    """Of a method whose workers train."""

    wire: str | Format
    on_nonfinite: OnNonfinite


@_trees.state
class ScaffoldState(NamedTuple):
    """State of `scaffold`."""

    federation: Any
    own: Any  # c_m: leaves [M, *param]
    common: Any  # c: leaves [*param], their mean
    steps: LocalSteps


@algorithm(LocalOptions)
def scaffold(
    num_workers: int, local_learning_rate, steps: int, **options: Unpack[LocalOptions]
) -> Aggregator:
    r"""SCAFFOLD: local steps, each corrected by what the others' gradients were.

    .. math::
       \theta_m &\leftarrow \theta_m - \eta (\nabla \tilde f_m(\theta_m) - c_m + c)
         \quad K \text{ times from } \theta_m = \theta^k, \quad
         \Delta_m = \theta^k - \theta_m \\
       c_m &\leftarrow c_m - c + \Delta_m / (K \eta), \quad
         \theta^{k+1} = \theta^k - \gamma \, \text{mean}_{m \in S} \Delta_m \\
       c &\leftarrow c + (|S|/M) (\text{mean}_{m \in S} \Delta_m / (K \eta) - c)

    S are the workers that are heard in a round; :math:`c = \frac1M \sum_m c_m` at all
    times. Where the workers' optima differ, local steps alone end beside the solution;
    these converge to it. The paper's worker sends two vectors, :math:`\Delta_m` and the
    change of :math:`c_m`; the second follows from the first and from c, which the
    server knows, so one travels here, and is counted.

    Args:
      local_learning_rate: :math:`\eta`, 1/(10 L_max) for ten steps; may be traced.
      steps: K.

    Returns:
      :math:`\text{mean}_{m \in S} \Delta_m`, of `WorkerLosses`. The step is
      :math:`\gamma = 1`.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.scaffold(5, local_learning_rate=0.01, steps=10)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Karimireddy et al., SCAFFOLD, 2020, https://arxiv.org/abs/1910.06378, option II;
      the recursion is that of a public code, the local step for ten steps is ours.
    """
    steps = _checks.integer("steps", steps, 1, 2**31 - 1)
    rate = _checks.positive("local_learning_rate", local_learning_rate)
    summed = federate(whole(), num_workers, reduction="senders", **options)
    inner = optax.sgd(rate)

    def init(params):
        common = _trees.zero_memory(params)
        own = _trees.repeat(common, num_workers)
        count = LocalSteps(jnp.int32(steps))
        return ScaffoldState(summed.init(params), own, common, count)

    def update(updates, state, params=None, **extra_args):
        every = jax.tree.map(lambda c: c[None], state.common)
        shifts = jax.tree.map(jnp.subtract, every, state.own)
        moved, _ = train(updates, params, inner, steps, num_workers, shifts=shifts)
        direction, federation = summed.update(
            moved, state.federation, params, **extra_args
        )
        heard = _said.heard(federation)
        number = heard.mean(dtype=_trees.norm_dtype(state.common))

        def change(d, c):  # of c_m, where it is heard, and of the mean's part
            return d.astype(c.dtype) / jnp.asarray(steps * rate, c.dtype) - c

        own = _trees.add(state.own, jax.tree.map(change, moved, every))
        own = _trees.where(heard, own, state.own)
        of_mean = jax.tree.map(change, direction, state.common)
        common = _trees.add_scaled(state.common, number, of_mean)
        return direction, ScaffoldState(federation, own, common, state.steps)

    return Aggregator(init, update)


@_trees.state
class ScaffnewState(NamedTuple):
    """State of `scaffnew`."""

    federation: Any
    own: Any  # h_m: leaves [M, *param], whose sum is 0
    steps: LocalSteps
    key_data: jax.Array  # of the common coin


@algorithm(LocalOptions)
def scaffnew(
    num_workers: int,
    local_learning_rate,
    probability,
    *,
    key: Any = 0,
    **options: Unpack[LocalOptions],
) -> Aggregator:
    r"""Scaffnew, or ProxSkip: local steps until a common coin says to meet.

    .. math::
       \theta_m &\leftarrow \theta_m - \gamma (\nabla \tilde f_m(\theta_m) - h_m)
         \quad T \text{ times from } \theta_m = \theta^k, \quad
         T \sim \text{Geometric}(p) \\
       \theta^{k+1} &= \frac1M \sum_m \theta_m, \quad
         h_m \leftarrow h_m + (p/\gamma) (\theta^{k+1} - \theta_m)

    A round is a communication; one coin with probability p is thrown for all after each
    step. On smooth strongly convex f with condition number :math:`\kappa` it converges
    linearly, in :math:`O(\sqrt\kappa \log 1/\epsilon)` rounds for
    :math:`p = 1/\sqrt\kappa`, an acceleration by local steps alone.

    Args:
      local_learning_rate: :math:`\gamma`, 1/L_max; may be traced.
      probability: p in (0, 1]; may be traced.
      key: of the coin, an int or a random key.

    Returns:
      :math:`\frac1M \sum_m (\theta^k - \theta_m)`, of `WorkerLosses`. The step is 1.
      All workers take part in every round; with a part of them it is `tamuna` with as
      many owners as the cohort has workers.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.scaffnew(5, local_learning_rate=0.1, probability=0.2)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Mishchenko et al., ProxSkip, 2022, https://arxiv.org/abs/2202.09357; the recursion
      is that of a public code, which changes :math:`h_m` at the next round's start.
    """
    rate = _checks.positive("local_learning_rate", local_learning_rate)
    _checks.number_in_range("probability", probability, _said.LEAST_PROBABILITY, 1.0)
    summed = federate(whole(), num_workers, reduction="senders", **options)
    inner, random_key = optax.sgd(rate), _trees.as_key(key)

    def thrown(key_data):
        return _said.thrown(key_data, random_key, probability)

    def init(params):
        steps, key_data = thrown(jax.random.key_data(random_key))
        own = _trees.repeat(_trees.zero_memory(params), num_workers)
        return ScaffnewState(summed.init(params), own, steps, key_data)

    def update(updates, state, params=None, **extra_args):
        _said.all_take_part("scaffnew", extra_args)
        shifts = jax.tree.map(jnp.negative, state.own)
        number = state.steps.number
        moved, _ = train(updates, params, inner, number, num_workers, shifts=shifts)
        mean, federation = summed.update(moved, state.federation, params, **extra_args)

        # theta^{k+1} - theta_m = Delta_m - their mean: of who is heard it adds up to 0.
        beside = jax.tree.map(lambda d, m: d - m[None], moved, mean)
        own = _trees.add_scaled(state.own, probability / rate, beside)
        own = _trees.where(_said.heard(federation), own, state.own)
        return mean, ScaffnewState(federation, own, *thrown(state.key_data))

    return Aggregator(init, update)
