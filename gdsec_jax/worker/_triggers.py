"""Rules on whole messages: whether to send at all, and when to send all of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.wire import Whole
from gdsec_jax.worker._piece import Piece, as_piece
from gdsec_jax.worker._quantisers import grid
from gdsec_jax.worker._sparsifiers import whole
from gdsec_jax.worker._vectors import (
    Scope,
    arrived,
    as_it_travels,
    needed,
    some,
)

MOST_SKIPS = 100  # rounds in a row without an upload, in LAQ
EXCESSIVE = 1e3  # times the last gradient's norm, in LAQ


@_trees.state
class FirstWholeState(NamedTuple):
    """State of `first_whole`."""

    whole: Whole  # whether the last message was whole
    begun: jax.Array  # bool []: whether a message was sent
    compressor: optax.OptState


@_trees.state
class LAQState(NamedTuple):
    """State of `laq`."""

    skips: jax.Array  # int32 []: rounds in a row without an upload
    error: jax.Array  # float []: norm of the last upload's quantisation error
    gradient: jax.Array  # float []: norm of the last gradient
    excessive: jax.Array  # bool []: h has yet to forget an excessive one
    quantiser: optax.OptState


@_trees.state
class CLAGState(NamedTuple):
    """State of `clag`."""

    gradient: optax.Updates  # p: the previous gradient
    begun: jax.Array  # bool []: whether a message was sent
    compressor: optax.OptState


def censor_whole(xi) -> Piece:
    r"""Send the whole vector, unless it is small against the last change.

    .. math:: C(v) = 0 \text{ if } \|v\|_2 \le \xi \|\theta^k - \theta^{k-1}\|_2,
       \text{ else } v

    Its update needs `params_change`, and for a schedule `round`.

    Args:
      xi: :math:`\xi \ge 0` as this worker uses it: a number, or a schedule of the
        round; may be traced.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.censor_whole(xi=2.0)
      >>> v = jnp.array([3.0, 0.0])
      >>> piece.update(v, piece.init(v), params_change=jnp.array([0.0, 1.5]))[0]
      Array([0., 0.], dtype=float32)
    """
    if not callable(xi):
        _checks.number_in_range("xi", xi, 0.0, _checks.LARGEST)

    def update(updates, state, params=None, **extra_args):
        del params
        change = needed(extra_args, "params_change", "censor_whole")
        value = xi(extra_args.get("round", 0)) if callable(xi) else xi
        norm = _trees.norm(change, _trees.norm_dtype(change))
        limit = jnp.asarray(value, norm.dtype) * norm  # pyright: ignore
        return _unless(_at_most(updates, limit), updates), state

    return Piece(whole().init, update)


def lag(*, learning_rate, zeta) -> Piece:
    r"""Send the whole vector, unless the parameters moved more in the last rounds.

    .. math:: C(v) = 0 \text{ if } \|v\|^2 \le \frac{\zeta}{\alpha^2}
       \sum_{d=1}^{10} \|\theta^{k+1-d} - \theta^{k-d}\|^2, \text{ else } v

    Its update needs `past_norms`, or their squares `past_changes`, and for a schedule
    `round`.

    Args:
      learning_rate: :math:`\alpha`, the step behind the federation: a number above 0 or
        a schedule of the round; may be traced.
      zeta: :math:`\zeta \ge 0` as this worker uses it; may be traced.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.lag(learning_rate=1.0, zeta=0.6)
      >>> v = jnp.array([1.0, 1.0])
      >>> piece.update(v, piece.init(v), past_changes=jnp.array([3.0, 1.0]))[0]
      Array([0., 0.], dtype=float32)

    References: Chen, Giannakis, Sun, Yin, LAG, 2018, https://arxiv.org/abs/1805.09965
    """
    moved = _movement("lag", learning_rate, zeta)

    def update(updates, state, params=None, **extra_args):
        del params
        return _unless(_at_most(updates, moved(extra_args)), updates), state

    return Piece(whole().init, update)


def laq(*, learning_rate, bits: int, zeta, scope: Scope = "message") -> Piece:
    r"""Send the quantised vector, unless it is small against movement and errors.

    .. math:: C(v) = 0 \text{ if } \|Q(v)\|^2 \le \frac{\zeta}{\alpha^2}
       \sum_{d=1}^{10} \|\theta^{k+1-d} - \theta^{k-d}\|^2
       + 3 (\|\varepsilon\|^2 + \|\hat\varepsilon\|^2), \text{ else } Q(v)

    with Q of `grid`, :math:`\varepsilon = v - Q(v)`, and :math:`\hat\varepsilon` the
    same at the last upload. The first round uploads, and so does every one after 100
    that did not. After a gradient a thousand times as long as the one before, which a
    `gradient_difference` hands on, :math:`\hat\varepsilon` counts as 0 until an upload
    is at most twice as long as the gradient: its error would silence the worker.

    Args:
      learning_rate, zeta: as in `lag`, and the update needs the same.
      bits, scope: as in `grid`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.laq(learning_rate=1.0, bits=2, zeta=0.5)
      >>> v = jnp.array([3.0, 0.5])
      >>> piece.update(v, piece.init(v), past_changes=jnp.zeros(10), round=0)[0]
      Array([3., 1.], dtype=float32)

    References: Sun, Chen, Giannakis, Yang, 2019, https://arxiv.org/abs/1909.07588
    """
    quantiser = grid(bits, scope=scope)
    moved = _movement("laq", learning_rate, zeta)

    def init(params):
        dtype = _trees.norm_dtype(params)
        return LAQState(
            skips=jnp.zeros((), jnp.int32),
            error=jnp.zeros((), dtype),
            gradient=jnp.zeros((), dtype),
            excessive=jnp.zeros((), bool),
            quantiser=quantiser.init(params),
        )

    def update(updates, state, params=None, *, round=0, **extra_args):
        extra_args |= {"round": round}
        message, inner = quantiser.update(
            updates, state.quantiser, params, **extra_args
        )
        dtype = state.error.dtype
        error = _trees.norm(_trees.sub(updates, message), dtype)
        gradient = _trees.norm(extra_args.get("gradient", updates), dtype)
        grown = (gradient > EXCESSIVE * state.gradient) & (state.gradient > 0)
        excessive = state.excessive | grown
        known = jnp.where(excessive, 0, state.error)
        sides = jnp.stack([moved(extra_args).astype(dtype), error, known])
        size = _trees.norm(message, dtype)
        scale = _trees.power_of_two(jnp.maximum(size, sides.max()))
        movement, *errors = jnp.square(sides / scale)
        limit = movement + 3 * sum(errors)
        silent = (jnp.square(size / scale) <= limit) & (state.skips < MOST_SKIPS)
        silent &= round > 0
        # A lost upload is none: the server still has the last one.
        missing = silent | ~jnp.asarray(extra_args.get("delivered", True))
        return _unless(silent, message), LAQState(
            skips=jnp.where(missing, state.skips + 1, 0),
            error=jnp.where(missing, state.error, error),
            gradient=gradient,
            # Until an upload is no more than this worker's gradient makes it.
            excessive=excessive & (missing | grown | (size > 2 * gradient)),
            quantiser=inner,
        )

    return Piece(init, update)


def clag(compressor: optax.GradientTransformation, zeta, *, state_dtype=None) -> Piece:
    r"""Compress, unless the vector is small against the last change of the gradient.

    .. math:: u = C(v) \text{ if } \|v\|^2 > \zeta \|g - p\|^2, \text{ else } 0;
       \quad p \leftarrow g

    Stands in a `gradient_difference`, which hands it g, as `gradient`. The first round
    sends.

    Args:
      compressor: C, a transformation for one worker.
      zeta: :math:`\zeta \ge 0`; may be traced. 0 sends always.
      state_dtype: dtype of p; by default the parameter's, but at least float32.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.gradient_difference(worker.clag(worker.top_k(1), zeta=1.0))
      >>> g = jnp.array([3.0, 1.0])
      >>> _, state = piece.update(g, piece.init(g), g)
      >>> piece.update(g + 2.0, state, g)[0]
      Array([0., 3.], dtype=float32)

    References: Richtárik et al., 3PC: Three Point Compressors, 2022,
      https://arxiv.org/abs/2202.00998
    """
    _checks.number_in_range("zeta", zeta, 0.0, _checks.LARGEST)
    _checks.state_dtype(state_dtype)
    compressor = as_piece(compressor)

    def init(params):
        return CLAGState(
            gradient=_trees.zero_memory(params, state_dtype),
            begun=jnp.zeros((), bool),
            compressor=compressor.init(params),
        )

    def update(updates, state, params=None, **extra_args):
        gradient = needed(extra_args, "gradient", "clag")
        change = _trees.sub(gradient, state.gradient)
        norm = _trees.norm(change, _trees.norm_dtype(change))
        limit = jnp.sqrt(jnp.asarray(zeta, norm.dtype)) * norm
        silent = state.begun & _at_most(updates, limit)
        message, inner = compressor.update(
            updates, state.compressor, params, **extra_args
        )
        travels = as_it_travels(message, params, extra_args)
        return _unless(silent, message), CLAGState(
            gradient=_trees.cast_like(gradient, state.gradient),
            begun=state.begun | some(arrived(travels, extra_args)),
            compressor=optax.tree.where(silent, state.compressor, inner),
        )

    return Piece(
        init,
        update,
        sums_over_workers=compressor.sums_over_workers,
        most_entries=compressor.most_entries,
    )


def first_whole(
    compressor: optax.GradientTransformation, *, rounds: int | None = None
) -> Piece:
    """Send this worker's first message as it is, and compress from then on.

    The first message that is not zero and arrives, that is: the server can tell. It
    costs the dense vector in any format. The compressor's state moves on from the
    second message.

    Args:
      compressor: a transformation for one worker.
      rounds: all messages of the first so many rounds, in the place of the first one;
        the update then needs `round`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.first_whole(worker.top_k(1))
      >>> v = jnp.array([2.0, 1.0])
      >>> first, state = piece.update(v, piece.init(v))
      >>> first, piece.update(v, state)[0]
      (Array([2., 1.], dtype=float32), Array([2., 0.], dtype=float32))
    """
    compressor = as_piece(compressor)
    if rounds is not None:
        _checks.integer("rounds", rounds, 0)

    def init(params):
        no = jnp.zeros((), bool)
        return FirstWholeState(Whole(no), no, compressor.init(params))

    def update(updates, state, params=None, **extra_args):
        message, inner = compressor.update(
            updates, state.compressor, params, **extra_args
        )
        message = _trees.cast_like(message, updates)
        if "measured" in extra_args:
            sent = arrived(extra_args["measured"].some, extra_args)
        else:
            sent = some(arrived(as_it_travels(updates, params, extra_args), extra_args))
        begun = state.begun
        if rounds is not None:
            begun = jnp.asarray(extra_args.get("round", 0)) >= rounds
        return optax.tree.where(begun, message, updates), FirstWholeState(
            whole=Whole(~begun),
            begun=begun | sent,
            compressor=optax.tree.where(begun, inner, state.compressor),
        )

    def measure(parts):
        return compressor.measure(  # pyright: ignore
            [part._replace(state=part.state.compressor) for part in parts]
        )

    return Piece(
        init,
        update,
        sums_over_workers=compressor.sums_over_workers,
        most_entries=compressor.most_entries,
        measure=None if compressor.measure is None else measure,
    )


def _movement(piece: str, learning_rate, zeta):
    """The right side of LAG's rule, its root: a function of an update's arguments."""
    _checks.number_in_range("zeta", zeta, 0.0, _checks.LARGEST)
    if not callable(learning_rate):
        _checks.positive("learning_rate", learning_rate)

    def moved(extra_args):
        if "params_change" in extra_args:
            needed(extra_args, "params_change", piece)
        past = extra_args.get("past_norms")
        if past is None:
            past = jnp.sqrt(extra_args["past_changes"])
        alpha = learning_rate
        if callable(learning_rate):
            alpha = learning_rate(extra_args.get("round", 0))
        zeta_root = jnp.sqrt(jnp.asarray(zeta, past.dtype))
        norm = _trees.norm(past, past.dtype)
        return zeta_root * norm / jnp.asarray(alpha, past.dtype)  # pyright: ignore

    return moved


def _at_most(v, limit):
    """Whether |v| is at most a limit; no vector is small against no movement."""
    small = _trees.norm(v, limit.dtype) <= limit
    return small & (limit >= jnp.finfo(limit.dtype).tiny)


def _unless(silent, message):
    """The message, or 0 if `silent`. A NaN is sent: comparisons with it are false."""
    return jax.tree.map(lambda x: jnp.where(silent, jnp.zeros_like(x), x), message)
