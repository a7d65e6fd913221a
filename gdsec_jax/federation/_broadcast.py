"""The way down: the server sends a compressed step in place of the parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._attendance import Said
from gdsec_jax.federation._clock import ClockState, indices
from gdsec_jax.federation._clock import clock as make_clock
from gdsec_jax.federation._counts import entries, plain, silence, total, uploads_of
from gdsec_jax.federation._round import Answers, only
from gdsec_jax.wire import Format, flush
from gdsec_jax.wire._formats import as_format
from gdsec_jax.wire._uploads import Uploads, count, nonzeros_of
from gdsec_jax.worker import WORKER_AXIS, GradientDifferenceState, Piece

_STREAM = 2**31 - 1  # folded into the key: an algorithm with the same one draws apart


@_trees.state
class BroadcastState(NamedTuple):
    """State of `broadcast`."""

    clock: ClockState  # theta^{k-1}, k, the random key
    compressor: optax.OptState
    sent: Uploads  # counts of the last round


def broadcast(
    compressor: optax.GradientTransformation, *, wire: str | Format = "rle", key=None
) -> optax.GradientTransformationExtraArgs:
    r"""Let the server send its step compressed, and all parties take that step.

    .. math:: \hat u = C(u), \quad \theta^{k+1} = \theta^k + \hat u

    u is the step that the chain before this piece has made. Every worker adds
    :math:`\hat u` to its own copy of the parameters, so all copies stay equal, and
    nothing but :math:`\hat u` goes down. With an error memory, v = u + e,
    :math:`\hat u = C(v)`, :math:`e \leftarrow v - \hat u`, what a round leaves out is
    sent later. With error memories of the workers too, and a C with C(cv) = c C(v) at a
    fixed learning rate, it is DoubleSqueeze.

    It stands last in a chain, behind the proximal step too, if there is one: u is then
    the whole way from :math:`\theta^k` to the proximal point, 0 at a solution. A
    proximal step behind this piece shrinks every entry in every round, while C lets the
    gradient's part through for a few: it moves away even from a solution.

    The compressor is handed what `federate` hands to the pipeline of one worker, whose
    index is 0. Its message travels in the parameters' dtype, without subnormal numbers.

    Args:
      compressor: C, a transformation for one worker, such as
        ``worker.error_feedback(worker.top_k(10))``.
      wire: the bit format that `last_broadcast` reports: a name of `wire.FORMATS` or a
        `wire.Format`.
      key: an int or a random key, for a compressor that draws; may be traced. Its draws
        differ from those of an algorithm with the same key.

    Returns:
      A transformation of the step, leaves [*param], in the parameters' dtype.

    Raises:
      ValueError: the wire format is unknown or the key none; the compressor holds a
        gradient_difference, whose message is no step; the step or the params have other
        shapes than at init; params are not real floating-point numbers.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> piece = gdsec_jax.broadcast(worker.error_feedback(worker.top_k(1)))
      >>> optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(1.0), piece)
      >>> params, grads = jnp.zeros(2), jnp.array([[1.0, 2.0], [1.0, 1.0]])
      >>> step, state = optimizer.update(grads, optimizer.init(params), params)
      >>> step, gdsec_jax.last_broadcast(state).bits.item()
      (Array([ 0., -3.], dtype=float32), 38)

    References:
      Tang et al., DoubleSqueeze, 2019, https://arxiv.org/abs/1905.05957
    """
    wire = as_format(wire)
    if key is not None:
        key = jax.random.fold_in(_trees.as_key(key), _STREAM)
    compressor = optax.with_extra_args_support(compressor)
    clock = make_clock(1, key=key)

    def init(params):
        known, inner = clock.init(params), compressor.init(params)
        if _trees.of_type(inner, GradientDifferenceState):
            raise ValueError(
                "the compressor of broadcast holds a gradient_difference, whose "
                "message is what changed of the step, expected a step: use "
                "error_feedback."
            )
        return BroadcastState(known, inner, silence(params, inner, wire))

    def update(updates, state, params=None, **extra_args):
        like = state.clock.previous_params
        _checks.same_shapes("step", updates, like)
        common, own, known = clock.begin(state.clock, params)
        # Masks of the workers' uploads mean nothing to the server's one message.
        kept = {name: x for name, x in extra_args.items() if name not in Said._fields}
        shared = kept | common | {"active": jnp.ones((), bool)}

        def run(own):
            return compressor.update(
                updates, state.compressor, params, **(shared | own)
            )

        # Some pieces sum over the axis of workers, so there must be one.
        messages, inner = jax.vmap(run, axis_name=WORKER_AXIS)(own)
        messages = flush(_trees.cast_like(messages, like))
        nonzeros = jax.vmap(nonzeros_of)(messages)
        said = Answers(messages, inner, (), (), nonzeros=nonzeros)
        sent = uploads_of(state.sent.layout, said, messages, like)
        everything = messages, inner, sent
        message, inner, sent = jax.tree.map(lambda x: x[0], everything)
        return message, BroadcastState(known, inner, sent)

    return optax.GradientTransformationExtraArgs(init, update)


@_trees.state
class WholeState(NamedTuple):
    """In the state of a method with several messages: that parameters go down once."""

    all: Uploads


def whole(params: Any, before: Uploads, goes: Any = True) -> Uploads:
    """What it costs that parameters go down as they are, if they do, bool []."""
    ones = jax.tree.map(lambda x: jnp.full_like(x, goes), params)
    return count(ones, before.layout, goes)


@_trees.state
class BroadcastsState(NamedTuple):
    """What the server sent to each worker by itself, or to all at once."""

    compressor: optax.OptState  # leaves [M, ...]
    each: Uploads  # counts of the last round's messages, leaves [M, ...]
    all: Uploads  # of whole parameters, which go down once


class Broadcasts(NamedTuple):
    """Two pure functions of what goes down to each worker."""

    init: Callable[[Any], BroadcastsState]
    update: Callable[..., tuple[Any, BroadcastsState]]


def broadcasts(
    compressor: Piece, num_workers: int, *, wire: str | Format
) -> Broadcasts:
    """A way down that differs by worker, for methods that have one.

    Its update takes how the parameters changed, its state, the parameters, whether
    these go down whole, bool [], and a random key; it returns a message to each worker,
    leaves [M, *param], which counts where they do not.
    """
    wire = as_format(wire)

    def init(params):
        inner = compressor.init(params)
        return BroadcastsState(
            _trees.repeat(inner, num_workers),
            _trees.repeat(silence(params, inner, wire), num_workers),
            silence(params, (), wire),
        )

    def update(change, state, params, everything, key, round):
        common, others = jax.random.split(key)

        def to_one(inner, index):
            message, inner = compressor.update(
                change, inner, params,
                key=jax.random.fold_in(others, index), round_key=common,
                worker_index=index, num_workers=num_workers, round=round,
                like=params,
            )  # fmt: skip
            return flush(_trees.cast_like(message, params)), inner

        messages, inner = jax.vmap(to_one)(state.compressor, indices(num_workers))
        sent = only(messages, jnp.broadcast_to(~everything, (num_workers,)))
        nonzeros = jax.vmap(nonzeros_of)(sent)
        said = Answers(sent, inner, (), (), nonzeros=nonzeros)
        return messages, BroadcastsState(
            inner,
            uploads_of(state.each.layout, said, sent, params),
            whole(params, state.all, everything),
        )

    return Broadcasts(init, update)


@_trees.state
class LastBroadcast(NamedTuple):
    """What the server sent in a round; a pytree, so it may leave a scan as an output.

    As in `LastRound`, totals are formed when they are asked for, in 64-bit integers on
    the host, and leading axes come first. Without a `broadcast` in the optimizer there
    is nothing to report, and each attribute is None: all parameters go down, whole.

    Attributes:
      entries: int [], the values sent.
      bits: int64 [], what they cost in the piece's `wire` format; read inside a
        compiled function without x64, uint32 if that holds them, else an error.
    """

    parts: tuple[Uploads, ...]  # several behind optax.partition: they add up
    each: tuple[Uploads, ...] = ()  # [M]: of what differs by worker, which adds up, too

    @property
    def entries(self) -> Any:
        return self._total(entries)

    @property
    def bits(self) -> Any:
        return self.bits_in(None)

    def bits_in(self, name: str | None) -> Any:
        """Bits in another format or convention of `wire`, as in `LastRound`."""
        return self._total(lambda sent: sent.bits(name))

    def _total(self, cost: Callable[[Uploads], Any]) -> Any:
        common, own = total(self.parts, cost), total(self.each, cost)
        return common if own is None else common + own.sum(-1)


def last_broadcast(state: Any) -> LastBroadcast:
    """What the server sent in the round that made this state.

    Args:
      state: of any optax optimizer, with `broadcast` in it or without.

    Returns:
      A `LastBroadcast`: `.entries`, `.bits`; both None where no `broadcast` stands in
      the optimizer. Behind optax.partition they add up over the parts. Zeros in a state
      that has seen no round.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> piece = gdsec_jax.broadcast(worker.top_k(1), wire="coo64")
      >>> params = jnp.zeros(3)
      >>> _, state = piece.update(jnp.ones(3), piece.init(params), params)
      >>> gdsec_jax.last_broadcast(state).bits.item()
      64
      >>> gdsec_jax.last_broadcast(optax.sgd(0.1).init(params)).bits is None
      True
    """
    states = _trees.of_type(state, BroadcastState)
    own = _trees.of_type(state, BroadcastsState)
    once = own + _trees.of_type(state, WholeState)
    parts = (*(each.sent for each in states), *(each.all for each in once))
    return LastBroadcast(plain(parts), plain(tuple(each.each for each in own)))
