"""Pieces for the server: what it adds up of the workers, and what it makes of that."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.worker import GradientDifferenceState, Piece


@_trees.state
class ServerMemoryState(NamedTuple):
    """State of `server_memory`."""

    memory: optax.Updates  # h = sum of h_m: a leaf a parameter, in the state's dtype


def server_memory(beta=1.0, *, state_dtype=None, weight=1.0) -> Piece:
    r"""The server's side of `worker.gradient_difference`: a running sum.

    .. math:: \text{update} = h + \nu u, \quad h \leftarrow h + \beta u

    All that a real server needs, but rounding makes its h drift from the workers' sum,
    without bound if their memories are narrower than float32; `gradient_estimate` has
    no such drift.

    Args:
      beta: the workers' :math:`\beta`, as in `worker.gradient_difference`.
      state_dtype: dtype of h; by default the parameter's, but at least float32.
      weight: :math:`\nu` in [0, 1], that of `ef_bv`: a number, or a function of the
        parameters' shapes; may be traced.

    Returns:
      A transformation of the workers' aggregated message u.

    Raises:
      ValueError: beta or weight lies outside [0, 1].

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> memory = gdsec_jax.server_memory(beta=0.5)
      >>> state = memory.init(jnp.zeros(2))
      >>> _, state = memory.update(jnp.array([2.0, 4.0]), state)
      >>> memory.update(jnp.array([1.0, 0.0]), state)[0]
      Array([2., 2.], dtype=float32)
    """
    beta_for = _trees.by_shapes("beta", beta)
    weighted = _weighted(weight)
    _checks.state_dtype(state_dtype)

    def init(params):
        return ServerMemoryState(_trees.zero_memory(params, state_dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return _trees.add(state.memory, weighted(updates)), ServerMemoryState(
            _trees.add_scaled(state.memory, beta_for(updates), updates)
        )

    alike = not callable(beta) and not callable(weight)
    return Piece(init, update, component_wise=alike)


def _weighted(weight):
    """A function that multiplies messages by a weight, but for 1."""
    weight_for = _trees.by_shapes("weight", weight)
    if isinstance(weight, int | float) and weight == 1:
        return lambda tree: tree

    def times(tree):
        factor = weight_for(tree)
        return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, tree)

    return times


@_trees.state
class LateMessagesState(NamedTuple):
    """State of `late_messages`."""

    under_way: optax.Updates  # [tau, *param]: the sums that arrive in 1, 2, … rounds


def late_messages(max_delay: int) -> Piece:
    r"""The messages that arrive in a round, of this one and of earlier ones.

    What stands before the server's step if messages may come late. With u_j the sum
    of those that are j rounds late,

    .. math:: \text{update} = u_0 + p_1, \quad p_j \leftarrow p_{j+1} + u_j

    Where the workers' memories move when a message has arrived, they are the server's:
    :math:`h = \sum_m h_m`; where they move when it is sent, it is
    :math:`h + \beta \sum_j p_j`.

    Args:
      max_delay: :math:`\tau`, the most rounds that a message is late.

    Returns:
      A transformation of leaves [tau + 1, *param], u_0 first, to leaves [*param].

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> piece = gdsec_jax.late_messages(1)
      >>> state = piece.init(jnp.zeros(1))
      >>> now, state = piece.update(jnp.array([[1.0], [5.0]]), state)
      >>> later, state = piece.update(jnp.array([[2.0], [0.0]]), state)
      >>> now, later
      (Array([1.], dtype=float32), Array([7.], dtype=float32))
    """
    _checks.integer("max_delay", max_delay, 1)

    def init(params):
        zeros = _trees.zero_memory(params)
        return LateMessagesState(_trees.repeat(zeros, max_delay))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        now, later = _trees.due(state.under_way)
        now = jax.tree.map(lambda u, p: u[0] + p, updates, now)
        later = jax.tree.map(lambda u, p: u[1:].astype(p.dtype) + p, updates, later)
        return now, LateMessagesState(later)

    return Piece(init, update)


def gradient_estimate(message, state):
    r"""What a server that keeps every worker's memory knows of a worker's gradient.

    .. math:: h_m + u_m

    A `prepare` of a `Server`: then the update is :math:`\sum_m h_m + u`, in exact
    arithmetic the same as `server_memory`; in floating point without its drift, for a
    simulation sees every worker's memory.

    Args:
      message: u_m of one worker.
      state: of its pipeline before the round, with a `worker.gradient_difference`.

    Returns:
      A tree like the message, in the wider dtype of both.

    Raises:
      ValueError: the pipeline holds no gradient_difference, or several, or one for a
        part of the parameters.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.federate(
      ...     worker.gradient_difference(optax.identity(), beta=0.5), 2,
      ...     server=gdsec_jax.server.Server(prepare=gdsec_jax.gradient_estimate))
      >>> params, grads = jnp.zeros(1), jnp.array([[1.0], [2.0]])
      >>> _, state = algorithm.update(grads, algorithm.init(params), params)
      >>> algorithm.update(grads, state, params)[0]
      Array([3.], dtype=float32)
    """
    memories = [
        known.memory for known in _trees.of_type(state, GradientDifferenceState)
    ]
    if len(memories) != 1:
        raise ValueError(
            f"the workers' pipeline holds {len(memories)} gradient_difference, "
            "expected 1 for gradient_estimate."
        )
    if jax.tree.structure(memories[0]) != jax.tree.structure(message):
        raise ValueError(
            "the workers' gradient_difference keeps a part of the parameters only, "
            "expected all for gradient_estimate: use server_memory."
        )
    return _trees.add(memories[0], message)


def weighted_estimate(weight):
    r"""`gradient_estimate` with :math:`h_m + \nu u_m`; itself where the weight is 1."""
    if isinstance(weight, int | float) and weight == 1:
        return gradient_estimate
    weighted = _weighted(weight)
    return lambda message, state: gradient_estimate(weighted(message), state)
