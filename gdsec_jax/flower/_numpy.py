"""The worker's half of `gdsec_jax.numpy_worker`, as the protocol wants it: no JAX."""

from typing import Any

import numpy as np

from gdsec_jax import _checks, _plain, numpy_worker
from gdsec_jax import wire as wires
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._down import after_step
from gdsec_jax.flower._layout import described, layout_of
from gdsec_jax.numpy_worker._methods import Told, both

_NAMES = {kind: name for name, kind in numpy_worker.METHODS.items()}


def worker_of(method: Any, params: Any, wire: str = "coo") -> protocol.Worker:
    """One worker of a method, for `protocol.respond`.

    What is drawn at random it draws by itself.

    Args:
      method: of `gdsec_jax.numpy_worker`.
      params: the parameters, or others of their shapes and dtypes.
      wire: the format of the server's algorithm.
    """
    _checks.one_of("wire", wire, wires.FORMATS)
    like = _plain.map(np.asarray, params)
    text = described(
        _NAMES[type(method)], like, wire, _code(method, like), _beta(method),
        getattr(method, "num_workers", None),
    )  # fmt: skip
    thetas, draws = layout_of(like), np.random.default_rng()
    length = sum(leaf.size for leaf in _plain.leaves(like))

    def clock(base):  # the parameters, which is all that is of use, stand in front
        return thetas.read(base[: thetas.size])

    def params_of(clock, step, whole):
        return thetas.read(step) if whole else after_step(clock, step)

    def answer(gradient, state, clock, params, fresh, round):
        _checks.same_shapes("gradient", gradient, like)
        gradient = _plain.map(lambda g, x: np.asarray(g, x.dtype), gradient, like)
        if not all(np.isfinite(g).all() for g in _plain.leaves(gradient)):
            return None, params
        before = params if fresh else clock
        change = _plain.map(np.subtract, params, before)
        uniforms = draws.random(length) if hasattr(method, "levels") else None
        told = Told(change, round, uniforms, state.begun)
        message, heard, lost = both(method, gradient, state, told)
        payload = wires.encode(message, wire)
        return protocol.Answer(payload, message.whole, heard, lost), params

    return protocol.Worker(
        method=protocol.digest(text),
        describe=text,
        init=method.init,
        clock=clock,
        params=params_of,
        answer=answer,
        clocks=thetas,
        states=_memories(method.init(like)),
    )


def _memories(memory: numpy_worker.Memory) -> protocol.Layout:
    """How what a worker keeps lies in bytes: its flag is no array."""
    arrays = layout_of(memory[:2])

    def write(memory):
        return arrays.write(memory[:2]) + bytes([memory.begun])

    def read(data):
        h, e = arrays.read(data[:-1])
        return numpy_worker.Memory(h, e, data[-1:] == b"\1")

    return protocol.Layout(arrays.size + 1, write, read)


def _code(method: Any, params: Any) -> wires.Code:
    """How its values are written."""
    if hasattr(method, "levels"):
        each = method.scope == "leaf"
        scales = len(_plain.leaves(params)) if each else 1
        return wires.Code("levels", method.levels, num_scales=scales)
    whole = isinstance(method, numpy_worker.GD | numpy_worker.CGD)
    return wires.Code(dense=whole)


def _beta(method: Any) -> float | None:
    """Of its memory h, if it has one."""
    kept = isinstance(method, numpy_worker.CGD | numpy_worker.EF21)
    return 1.0 if kept else getattr(method, "beta", None)
