"""The server's step where it goes down compressed: its bytes say how it is written."""

import json
import struct
from typing import Any

import numpy as np

from gdsec_jax import _plain, wire

_HEAD = struct.Struct("<H")  # bytes that say how


def write_step(message: wire.Message, form: wire.Format | str) -> bytes:
    """The bytes of a step."""
    name = form if isinstance(form, str) else form.name
    how = json.dumps([name, list(message.code), message.whole]).encode()
    return _HEAD.pack(len(how)) + how + wire.encode(message, form)


def after_step(params: Any, step: bytes) -> Any:
    """The parameters that a step leads to; no bytes are none."""
    if not step:
        return params
    (size,) = _HEAD.unpack_from(step)
    start = _HEAD.size + size
    name, code, whole = json.loads(step[_HEAD.size : start])
    like = _plain.map(np.asarray, params)
    message = wire.decode(step[start:], like, name, wire.Code(*code), whole)
    return _plain.map(np.add, like, message.values)
