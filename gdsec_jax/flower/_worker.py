"""The worker's half of any method of this package, as the protocol wants it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks, _trees, wire
from gdsec_jax.federation._broadcast import BroadcastState
from gdsec_jax.federation._halves import parts_of, server_half, worker_half
from gdsec_jax.flower import _protocol as protocol


def layout_of(like: Any) -> protocol.Layout:
    """Of trees of these shapes: their leaves in order, as they lie in memory."""
    leaves, structure = jax.tree.flatten(like)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    dtypes = [np.dtype(jnp.result_type(leaf)) for leaf in leaves]
    sizes = [math.prod(shape) for shape in shapes]
    own = [size * dtype.itemsize for size, dtype in zip(sizes, dtypes, strict=True)]
    starts = np.cumsum([0, *own]).tolist()

    def write(tree):
        return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))

    def read(data):
        if len(data) != starts[-1]:
            raise ValueError(
                f"an array tree is {len(data)} bytes, expected {starts[-1]}."
            )
        found = [
            np.frombuffer(data, dtype, size, start).reshape(shape)
            for dtype, size, start, shape in zip(
                dtypes, sizes, starts[:-1], shapes, strict=True
            )
        ]
        return jax.tree.unflatten(structure, found)

    return protocol.Layout(starts[-1], write, read)


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
    paths = jax.tree_util.tree_leaves_with_path(like)
    text = protocol.described(
        algorithm.name,
        parts.federation.num_workers,
        [(jax.tree_util.keystr(path), x.shape, x.dtype.name) for path, x in paths],
        parts.wire.name,
        code.kind,
        _beta(parts.federation.server.apart, like),
    )
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
