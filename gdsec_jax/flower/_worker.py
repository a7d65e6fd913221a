"""The worker's half of any method of this package, as the protocol wants it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees, numpy_worker, wire
from gdsec_jax.federation._halves import parts_of, server_half, worker_half
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._down import after_step
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
    packing = wire.packing_of(worker_half(algorithm).init(like))
    code = wire.Code() if packing is None else packing.code
    beta = _beta(parts.federation.server.apart, like)
    weights = parts.federation.weights
    text = described(
        algorithm.name, like, parts.wire.name, code, beta, _shares(algorithm),
        None if weights is None else np.asarray(weights).tolist(),
    )  # fmt: skip
    return Agreed(like, parts.wire, code, text)


def _beta(apart: Any, like: Any) -> float | None:
    """By how much of a message the memory of it moves."""
    if apart is None:
        return None
    ones = jax.tree.map(np.ones_like, like)
    _, state = apart.update(ones, apart.init(like), like)
    leaves = map(np.asarray, jax.tree.leaves(state))
    return next((float(x.flat[0]) for x in leaves if x.size), None)


def _shares(algorithm: Any) -> int | None:
    """How many workers share xi: all where f is a sum, each has all of it in a mean.

    None: a worker of the method in NumPy does not know.
    """
    known = numpy_worker.METHODS.get(algorithm.name)
    if known is not None and "num_workers" not in known._fields:
        return None
    federation = parts_of(algorithm).federation
    return federation.num_workers if federation.reduction == "sum" else 1


def worker_of(algorithm: Any, params: Any, index: int) -> protocol.Worker:
    """One worker of a method, for `protocol.respond`.

    Args:
      algorithm: of this package.
      params: the parameters, or others of their shapes and dtypes.
      index: which of the workers.
    """
    known = agreed(algorithm, params)
    half = worker_half(algorithm)
    _checks.integer("index", index, 0, parts_of(algorithm).federation.num_workers - 1)
    clock = jax.eval_shape(server_half(algorithm).init, known.like).clock
    update = jax.jit(half.update)

    def params_of(clock, step, whole):
        return thetas.read(step) if whole else after_step(clock.previous_params, step)

    thetas = layout_of(known.like)

    def answer(gradient, state, clock, params, fresh, round):
        del round  # the clock's
        _checks.same_shapes("gradient", gradient, known.like)
        gradient = _trees.cast_like(jax.tree.map(jnp.asarray, gradient), known.like)
        made = update(index, gradient, state, clock, params, fresh)
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
