"""Memories of past gradients: their average, and the last one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.wire import Whole
from gdsec_jax.worker._piece import Piece, as_piece, check_unbiased, variance_of
from gdsec_jax.worker._vectors import needed


@_trees.state
class MomentumState(NamedTuple):
    """State of `momentum`."""

    average: optax.Updates  # v: a leaf a parameter, its shape, in the state's dtype
    begun: jax.Array  # bool []: whether a gradient was seen


@_trees.state
class GradientChangeState(NamedTuple):
    """State of `gradient_change`."""

    gradient: optax.Updates  # p: the previous gradient, in the state's dtype
    whole: Whole  # whether the last message was the whole difference
    compressor: optax.OptState


def momentum(eta, *, state_dtype=None) -> Piece:
    r"""Average this worker's gradients, starting at the first.

    .. math:: v^1 = g^1, \quad v^k = (1 - \eta) v^{k-1} + \eta g^k

    Args:
      eta: :math:`\eta` in [0, 1]; may be traced. 1 hands the gradient on.
      state_dtype: dtype of v; by default the parameter's, but at least float32.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.momentum(eta=0.25)
      >>> _, state = piece.update(jnp.array([4.0]), piece.init(jnp.zeros(1)))
      >>> piece.update(jnp.array([8.0]), state)[0]
      Array([5.], dtype=float32)

    References: Fatkhullin, Tyurin, Richtárik, Momentum Provably Improves Error
      Feedback!, 2023, https://arxiv.org/abs/2305.15155
    """
    _checks.number_in_range("eta", eta, 0.0, 1.0)
    _checks.state_dtype(state_dtype)

    def init(params):
        average = _trees.zero_memory(params, state_dtype)
        return MomentumState(average, jnp.zeros((), bool))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        gradient = _trees.cast_like(updates, state.average)
        step = _trees.sub(gradient, state.average)
        moved = _trees.add_scaled(state.average, eta, step)
        average = optax.tree.where(state.begun, moved, gradient)
        return average, MomentumState(average, jnp.ones((), bool))

    return Piece(init, update, component_wise=True)


def gradient_change(
    compressor: optax.GradientTransformation, probability=None, *, state_dtype=None
) -> Piece:
    r"""Compress the change of the gradient; now and then send the difference whole.

    .. math:: u = v \text{ in the first round, and with probability } p, \text{ else }
       C(g - p_m); \quad p_m \leftarrow g

    The worker's side of MARINA inside a `gradient_difference`, which hands it v = g - h
    and g, as `gradient`. One coin for all workers, drawn with `round_key`; a message
    that is lost (`delivered` is False) leaves p_m. Its update needs `round`, too.

    Args:
      compressor: C, unbiased.
      probability: p in (0, 1]: a number, perhaps traced, or a function of the
        parameters' shapes; by default :math:`1/(1 + \omega)`.
      state_dtype: dtype of p_m; by default the parameter's, but at least float32.

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> piece = worker.gradient_change(worker.random_k(1))
      >>> algorithm = gdsec_jax.federate(
      ...     worker.gradient_difference(piece), 1, key=0,
      ...     server=gdsec_jax.server.Server(prepare=gdsec_jax.gradient_estimate))
      >>> params, grads = jnp.zeros(2), jnp.array([[1.0, 2.0]])
      >>> algorithm.update(grads, algorithm.init(params), params)[0]
      Array([1., 2.], dtype=float32)

    References: Gorbunov et al., MARINA, 2021, https://arxiv.org/abs/2102.07845
    """
    check_unbiased(compressor)
    if probability is None:
        probability = lambda params: 1 / (1 + variance_of(compressor, params))  # noqa: E731
    chance = _trees.by_shapes("probability", probability, 1e-9)
    _checks.state_dtype(state_dtype)
    compressor = as_piece(compressor)

    def init(params):
        return GradientChangeState(
            gradient=_trees.zero_memory(params, state_dtype),
            whole=Whole(jnp.zeros((), bool)),
            compressor=compressor.init(params),
        )

    def update(updates, state, params=None, **extra_args):
        gradient = needed(extra_args, "gradient", "gradient_change")
        round_key = needed(extra_args, "round_key", "gradient_change")
        coin = jax.random.uniform(round_key) < chance(updates)  # pyright: ignore
        full = coin | (extra_args.get("round", 0) == 0)
        change, inner = compressor.update(
            _trees.sub(gradient, state.gradient), state.compressor, params, **extra_args
        )
        change = _trees.cast_like(change, updates)
        delivered = jnp.asarray(extra_args.get("delivered", True))
        gradient = _trees.cast_like(gradient, state.gradient)
        return optax.tree.where(full, updates, change), GradientChangeState(
            gradient=optax.tree.where(delivered, gradient, state.gradient),
            whole=Whole(full),
            compressor=inner,
        )

    return Piece(
        init,
        update,
        sums_over_workers=compressor.sums_over_workers,
        most_entries=compressor.most_entries,
    )
