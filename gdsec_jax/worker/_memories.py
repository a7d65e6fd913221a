"""The two memories a worker can keep: of what it did not send, and of what it sent."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.worker._piece import Part, Piece, as_piece
from gdsec_jax.worker._vectors import arrived, as_it_travels


@_trees.state
class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`."""

    error: optax.Updates  # e: a leaf a parameter, its shape, in the state's dtype
    compressor: optax.OptState


@_trees.state
class GradientDifferenceState(NamedTuple):
    """State of `gradient_difference`."""

    memory: optax.Updates  # h: a leaf a parameter, its shape, in the state's dtype
    compressor: optax.OptState


@_trees.state
class AcknowledgedState(NamedTuple):
    """State of `gradient_difference` with a max_delay."""

    known: GradientDifferenceState
    under_way: optax.Updates  # [tau, *param]: by what h moves in 1, 2, … rounds


def error_feedback(
    compressor: optax.GradientTransformation,
    *,
    decay=1.0,
    damping=1.0,
    state_dtype=None,
) -> Piece:
    r"""Compress the gradient plus what earlier rounds left unsent.

    .. math:: e \leftarrow \delta e, \quad u = C(g + \eta e), \quad
       e \leftarrow e + g - u

    With :math:`\delta = \eta = 1`, the default, it is v = g + e, u = C(v),
    :math:`e \leftarrow v - u`. Where `delivered` is False the message is lost, as if u
    were 0. The message u travels in
    the parameter's dtype, without subnormal numbers; what that takes off goes into e
    with the rest.

    Args:
      compressor: :math:`C`, a transformation for one worker.
      decay: :math:`\delta` in [0, 1], how much of what was left unsent is kept from one
        round to the next; may be traced. Below 1 what stays unsent is forgotten, and
        nothing is conserved: e is then a momentum of which what is sent is taken off.
      damping: :math:`\eta` in [0, 1], how much of e is added to what is compressed; may
        be traced. What is not added is kept: all is sent in the end.
      state_dtype: dtype of e; by default the parameter's, but at least float32.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gdsec_jax import worker
      >>> piece = worker.error_feedback(worker.censor(xi=1.0))
      >>> params = jnp.zeros(2)
      >>> message, state = piece.update(
      ...     jnp.array([3.0, 0.5]), piece.init(params), params,
      ...     params_change=jnp.array([1.0, 1.0]), round=0)
      >>> message, state.error
      (Array([3., 0.], dtype=float32), Array([0. , 0.5], dtype=float32))

    References:
      Seide et al., 1-Bit Stochastic Gradient Descent, 2014; Stich et al., Sparsified
      SGD with Memory, 2018, https://arxiv.org/abs/1809.07599; the decay is that of DeMo
      and SparseLoCo, https://arxiv.org/abs/2411.19870 and 2508.15706, the damping that
      of EControl, https://arxiv.org/abs/2311.05645
    """
    _checks.number_in_range("decay", decay, 0.0, 1.0)
    _checks.number_in_range("damping", damping, 0.0, 1.0)
    plain = all(isinstance(x, int | float) and x == 1 for x in (decay, damping))

    def remember(e, v, u):
        left = _trees.sub(v, u)
        if not plain:  # e + g - u, of v = g + damping e
            left = _trees.add_scaled(left, decay * (1 - damping), e)
        return _trees.cast_like(left, e)

    return _with_memory(
        ErrorFeedbackState,
        compressor,
        state_dtype,
        enter=_trees.add if plain else functools.partial(_added, decay * damping),
        remember=remember,
        censored=lambda inside: (
            inside._replace(error=True) if plain and not inside.error else None
        ),
    )


def _added(scalar, g, e):
    """g + scalar e, in the wider dtype of both."""
    return _trees.add(g, jax.tree.map(lambda x: jnp.asarray(scalar, x.dtype) * x, e))


def gradient_difference(
    compressor: optax.GradientTransformation,
    beta=1.0,
    *,
    state_dtype=None,
    max_delay: int = 0,
) -> Piece:
    r"""Compress the gradient's difference from what the server already knows of it.

    .. math:: v = g - h, \quad u = C(v), \quad h \leftarrow h + \beta u

    Where `delivered` is False the message is lost, and h stays. The server adds its own
    h, the workers' sum, before it steps: `server_memory`, or `gradient_estimate`. C is
    handed g too, as the extra argument `gradient`.

    Args:
      compressor: :math:`C`, a transformation for one worker.
      beta: :math:`\beta` in [0, 1]; may be traced. 0 keeps h at zero. Or a function of
        the parameters' shapes, for a beta that depends on the message's length.
      state_dtype: dtype of h; by default the parameter's, but at least float32.
      max_delay: :math:`\tau`, that of `server.late`. Then h moves when the message has
        arrived, which the server acknowledges, with the server's own; until then the
        worker keeps what it sent, tau times the parameters. 0 moves h at once.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gdsec_jax import worker
      >>> piece = worker.gradient_difference(optax.identity(), beta=0.5)
      >>> params = jnp.zeros(2)
      >>> gradient = jnp.array([3.0, 0.5])
      >>> message, state = piece.update(gradient, piece.init(params), params)
      >>> message, _ = piece.update(gradient, state, params)
      >>> message
      Array([1.5 , 0.25], dtype=float32)

    References:
      Mishchenko et al., Distributed Learning with Compressed Gradient Differences,
      2019, https://arxiv.org/abs/1901.09269; Chen et al., 2022,
      https://doi.org/10.1109/JSTSP.2022.3162989
    """
    beta_for = _trees.by_shapes("beta", beta)
    _checks.integer("max_delay", max_delay, 0, 10_000)
    at_once = _with_memory(
        GradientDifferenceState,
        compressor,
        state_dtype,
        enter=_trees.sub,
        remember=lambda h, v, u: _trees.add_scaled(h, beta_for(v), u),
        alike=not callable(beta),
        hands_on=True,
        censored=lambda inside: None if callable(beta) else inside._replace(beta=beta),
    )
    return _acknowledged(at_once, beta_for, max_delay) if max_delay else at_once


def rested(state):
    """A worker's state after a round in which it computed nothing.

    What arrives of its earlier messages moves its h all the same, as the server's.
    """

    def waits(node):
        return isinstance(node, AcknowledgedState)

    def one(node):
        if not waits(node):
            return node
        now, later = _trees.due(node.under_way)
        memory = _trees.add(node.known.memory, now)
        return AcknowledgedState(node.known._replace(memory=memory), later)

    return jax.tree.map(one, state, is_leaf=waits)


def _acknowledged(at_once: Piece, beta_for, max_delay: int) -> Piece:
    """A memory h that moves when the message has arrived."""

    def init(params):
        known: Any = at_once.init(params)
        return AcknowledgedState(known, _trees.repeat(known.memory, max_delay))

    def update(updates, state, params=None, **extra_args):
        new: Any
        u, new = at_once.update(updates, state.known, params, **extra_args)
        known, under_way = rested(state)
        moves = optax.tree.zeros_like(known.memory)
        moves = _trees.add_scaled(moves, beta_for(u), arrived(u, extra_args))
        due = jnp.arange(max_delay + 1, dtype=jnp.int32) == extra_args.get("delay", 0)
        memory = optax.tree.where(due[0], _trees.add(known.memory, moves), known.memory)
        under_way = jax.tree.map(
            lambda p, x: p + jnp.multiply.outer(due[1:].astype(x.dtype), x),
            under_way,
            moves,
        )
        return u, AcknowledgedState(new._replace(memory=memory), under_way)

    return Piece(
        init,
        update,
        component_wise=at_once.component_wise,
        sums_over_workers=at_once.sums_over_workers,
        travels=True,
        most_entries=at_once.most_entries,
    )


def _with_memory(
    kind,
    compressor,
    state_dtype,
    *,
    enter,
    remember,
    censored,
    alike=True,
    hands_on=False,
) -> Piece:
    """C of what `enter` makes of gradient and memory, and what of it to `remember`."""
    _checks.state_dtype(state_dtype)
    compressor = as_piece(compressor)

    def init(params):
        return kind(_trees.zero_memory(params, state_dtype), compressor.init(params))

    def update(updates, state, params=None, **extra_args):
        memory, inner = state
        _checks.same_shapes("gradient", updates, memory)
        v = enter(updates, memory)
        told = extra_args | {"gradient": updates} if hands_on else extra_args
        u, inner = compressor.update(v, inner, params, **told)
        if not compressor.travels:
            u = as_it_travels(u, params, extra_args)
        return u, kind(remember(memory, v, arrived(u, extra_args)), inner)

    def measure(parts):
        def inside(part):
            updates, (memory, inner), _, told = part
            told = told | {"gradient": updates} if hands_on else told
            return Part(enter(updates, memory), inner, part.params, told)

        return compressor.measure(list(map(inside, parts)))  # pyright: ignore

    shared, inside = compressor.shared, compressor.censored
    if inside is not None:  # the memory h is the outermost
        inside = censored(inside) if inside.beta is None else None
    return Piece(
        init,
        update,
        component_wise=compressor.component_wise and alike,
        sums_over_workers=compressor.sums_over_workers,
        travels=True,
        most_entries=compressor.most_entries,
        shared=None if shared is None else lambda state: shared(state.compressor),
        measure=measure if compressor.measure is not None and alike else None,
        censored=inside,
    )
