"""The worker's half of any method of this package, as the protocol wants it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks, _trees, wire
from gdsec_jax.federation._broadcast import BroadcastState
from gdsec_jax.federation._halves import parts_of, server_half, worker_half
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._layout import described, layout_of


class Agreed(NamedTuple):
    """What a server and its clients know of messages beforehand."""

    like: Any  # the parameters
    form: wire.Format
    code: wire.Code
    text: str  # all that both must agree on

    def decode(self, payload: bytes, whole: bool) -> Any:
        """The values of a message whose bytes may come from anywhere."""
        return wire.decode(
            payload, self.like, self.form, self.code, whole, finite=True
        ).values


def agreed(algorithm: Any, params: Any) -> Agreed:
    """What follows of the method, and of the shapes of the parameters."""
    _checks.floating(params)
    parts = parts_of(algorithm)
    like = jax.tree.map(
        lambda x: np.zeros(jnp.shape(x), np.dtype(jnp.result_type(x))), params
    )
    packing = wire.packing_of(worker_half(algorithm, 0).init(like))
    code = wire.Code() if packing is None else packing.code
    beta = _beta(parts.federation.server.apart, like)
    text = described(algorithm.name, like, parts.wire.name, code, beta)
    return Agreed(like, parts.wire, code, text)


def _beta(apart: Any, like: Any) -> float | None:
    """By how much of a message the memory of it moves."""
    if apart is None:
        return None
    ones = jax.tree.map(np.ones_like, like)
    _, state = apart.update(ones, apart.init(like), like)
    return float(np.asarray(jax.tree.leaves(state)[0]).flat[0])


def worker_of(
    algorithm: Any,
    params: Any,
    index: int,
    broadcast: optax.GradientTransformation | None = None,
) -> protocol.Worker:
    """One worker of a method, for `protocol.respond`.

    Args:
      algorithm: of this package.
      params: the parameters, or others of their shapes and dtypes.
      index: which of the workers.
      broadcast: the piece by which the server compresses its step; None: it does not.
    """
    known = agreed(algorithm, params)
    half = worker_half(algorithm, index)
    clock = jax.eval_shape(server_half(algorithm).init, known.like).clock
    update = jax.jit(half.update)

    def params_of(clock, step, whole):
        if whole:
            return thetas.read(step)
        return added(clock.previous_params, step)

    down = None if broadcast is None else Down(broadcast, known.like)
    thetas = layout_of(known.like)

    def added(before, step):
        if down is None:
            raise ValueError(
                "the server sends its step compressed, and this client has no "
                "broadcast piece, expected the server's."
            )
        return down.add(before, step)

    def answer(gradient, state, clock, params, fresh):
        _checks.same_shapes("gradient", gradient, known.like)
        gradient = _trees.cast_like(jax.tree.map(jnp.asarray, gradient), known.like)
        made = update(gradient, state, clock, params, fresh)
        if not made.present:
            return None, made.clock
        message = wire.message_of(made.message, made.heard)
        payload = wire.encode(message, known.form)
        own = protocol.Answer(
            payload, message.whole, made.heard, made.lost, bool(made.dropped)
        )
        return own, made.clock

    return protocol.Worker(
        method=protocol.digest(known.text),
        describe=known.text,
        init=half.init,
        clock=layout_of(clock).read,
        params=params_of,
        answer=answer,
        clocks=layout_of(clock),
        states=layout_of(jax.eval_shape(half.init, known.like)),
    )


class Down:
    """The bytes of a compressed step, and what they add to the parameters."""

    def __init__(self, piece: Any, like: Any):
        state = piece.init(like)
        (own,) = _trees.of_type(state, BroadcastState)
        packing = wire.packing_of(own.compressor)
        if packing is not None and packing.payload is not None:
            raise ValueError(
                "the broadcast's compressor sends factors in the place of its message, "
                "expected one whose message travels itself: worker.top_k, say."
            )
        self._like, self._form = like, own.sent.layout.format
        self._code = wire.Code() if packing is None else packing.code
        self._add = jax.jit(optax.apply_updates)

    def write(self, step: Any, state: Any) -> bytes:
        """The bytes of a step, behind one that says whether it is not compressed."""
        (own,) = _trees.of_type(state, BroadcastState)
        message = wire.message_of(step, own.compressor)
        return bytes([message.whole]) + wire.encode(message, self._form)

    def add(self, params: Any, step: bytes) -> Any:
        """The parameters after the step."""
        whole, payload = bool(step[:1] == b"\1"), step[1:]
        message = wire.decode(payload, self._like, self._form, self._code, whole)
        return self._add(params, message.values)
