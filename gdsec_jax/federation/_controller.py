"""A threshold that the server chooses anew in each round, from what it has seen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax.federation._clock import Tick
from gdsec_jax.federation._counts import RoundCounts
from gdsec_jax.federation._spread import Spread


class Controller(NamedTuple):
    """Two pure functions, which choose xi for all workers; `adaptive_xi` makes one.

    `init(params)` makes its state. `update(state, **seen)` is called before each round
    and returns xi, a scalar, and the next state. It is handed what the server knows,
    and swallows what it does not use: `round` (int32, the first is 0), `change` (the
    last one of theta, leaves [*param]), `past_norms` (the norms of the last 10, latest
    first, zero-padded), `past_changes` (their squares, which overflow or vanish where
    norms do not), `direction` (the squared norm of what the last round
    returned for the step), `share` (of the participants' entries, how many they sent in
    the last round), and by `gdsec` and its kin `beta` and `error_correction` (whether
    there is one).

    Examples:
      Half the threshold in every round:

      >>> import gdsec_jax, jax.numpy as jnp, optax
      >>> halving = gdsec_jax.Controller(
      ...     init=lambda params: jnp.array(8.0),
      ...     update=lambda xi, **seen: (xi, xi / 2))
      >>> optimizer = optax.chain(gdsec_jax.gdsec(2, xi=halving), optax.sgd(0.1))
      >>> params, state = jnp.zeros(2), optimizer.init(jnp.zeros(2))
      >>> for _ in range(3):
      ...     updates, state = optimizer.update(jnp.ones((2, 2)), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> gdsec_jax.last_xi(state)
      Array(2., dtype=float32)
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[jax.Array, Any]]


@_trees.state
class ControlState(NamedTuple):
    """What a federation keeps for its controller."""

    xi: jax.Array  # float []: of the last round
    direction: jax.Array  # float []: squared norm of what the last round returned
    controller: Any


def init(controller: Controller | None, params: Any) -> ControlState | tuple[()]:
    """Before the first round."""
    if controller is None:
        return ()
    zero = jnp.zeros((), _trees.norm_dtype(params))
    return ControlState(zero, zero, controller.init(params))


def begin(
    controller: Controller | None,
    state: Any,
    tick: Tick,
    sent: RoundCounts,
    spread: Spread,
) -> tuple[Any, jax.Array | None]:
    """The next state, and xi, which the workers are handed; `sent` last round."""
    if controller is None:
        return (), None
    xi, own = controller.update(
        state.controller,
        round=tick.number,
        change=tick.change,
        past_norms=tick.past_norms,
        past_changes=jnp.square(tick.past_norms),
        direction=state.direction,
        share=_share(sent, state.xi.dtype, spread),
    )
    if jnp.shape(xi) != ():
        raise ValueError(
            f"xi of the controller has shape {jnp.shape(xi)}, expected a scalar."
        )
    xi = jnp.asarray(xi, state.xi.dtype)
    return state._replace(xi=xi, controller=own), xi


def end(state: Any, aggregate: Any) -> Any:
    """The state behind a round that returned this."""
    if not isinstance(state, ControlState):
        return state
    return state._replace(direction=_trees.squares(aggregate, state.direction.dtype))


def last_xi(state: Any) -> jax.Array:
    """The threshold xi that a controller chose for the last round.

    Args:
      state: of an optimizer with one federation that has a controller.

    Returns:
      A scalar, in the units in which the algorithm takes xi.

    Raises:
      ValueError: there is no controller in it, or there are several.

    Examples:
      >>> import gdsec_jax, jax.numpy as jnp
      >>> optimizer = gdsec_jax.gdsec(2, xi=gdsec_jax.adaptive_xi())
      >>> gdsec_jax.last_xi(optimizer.init(jnp.zeros(3)))
      Array(0., dtype=float32)
    """
    found = _trees.of_type(state, ControlState)
    if len(found) != 1:
        raise ValueError(
            f"the state holds {len(found)} controllers of xi, expected 1: take "
            "xi=adaptive_xi()."
        )
    return found[0].xi


def _share(sent: RoundCounts, dtype, spread: Spread) -> jax.Array:
    """Of the entries of the last round's participants, how many were sent."""
    length = sent.uploads.layout.length
    entries = sent.uploads.entries.sum(-1).astype(dtype)
    number = sent.participants.sum().astype(dtype)
    entries, number = spread.summed((entries.sum(), number))
    return entries / (jnp.maximum(number, 1) * length)
