"""How trees of arrays lie in bytes."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gdsec_jax import _plain
from gdsec_jax.flower import _protocol as protocol


def leaves_of(tree: Any) -> list[tuple[str, tuple[int, ...], np.dtype]]:
    """Path, shape and dtype of every leaf."""
    found, _ = _plain.flatten(tree)
    return [(path, tuple(np.shape(x)), _dtype(x)) for path, x in found]


def layout_of(like: Any) -> protocol.Layout:
    """Of trees of these shapes: their leaves in order, as they lie in memory."""
    _, structure = _plain.flatten(like)
    kinds = [(shape, dtype) for _, shape, dtype in leaves_of(like)]
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in kinds]
    starts = np.cumsum([0, *sizes]).tolist()

    def write(tree):
        return b"".join(map(_bytes_of, _plain.leaves(tree)))

    def read(data):
        if len(data) != starts[-1]:
            raise ValueError(
                f"the arrays are {len(data)} bytes, expected {starts[-1]} for these "
                "parameters."
            )
        found = [
            np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
            for (shape, dtype), start in zip(kinds, starts[:-1], strict=True)
        ]
        return _plain.unflatten(structure, found)

    return protocol.Layout(starts[-1], write, read)


def described(
    name: str,
    params: Any,
    wire: str,
    code: Any,
    beta: float | None,
    shares: int | None = None,
    weights: Sequence[float] | None = None,
) -> str:
    """What a server and its clients must agree on, as one line of text.

    Args:
      name: of the method.
      params: trees of their shapes and dtypes.
      wire: the name of the format.
      code: how values are written, a `wire.Code`.
      beta: of the memory h, or None.
      shares: how many workers share xi, or None: the method has none.
      weights: w_m of every worker, or None.
    """
    sizes = ", ".join(
        f"{path or 'an array'} {'x'.join(map(str, shape)) or 'scalar'} {dtype.name}"
        for path, shape, dtype in leaves_of(params)
    )
    values = f"{'all ' if code.always_dense else ''}{code.kind} {code.size or ''}"
    memory = "" if beta is None else f", beta {beta:.6g}"
    part = "" if shares is None else f", xi/{shares}"
    if weights is not None:
        # Two lists that begin alike differ in their sum.
        exact = zlib.crc32(np.asarray(weights, "<f4").tobytes())
        few = ", ".join(f"{w:.6g}" for w in weights[:3])
        part += f", weights {few} ... (sum {exact:08x})"
    return f"{name} ({wire}, {values.strip()}{memory}{part}) on {sizes}"


def _bytes_of(leaf: Any) -> Any:
    """Its bytes, where they lie."""
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


def _dtype(leaf: Any) -> np.dtype:
    return np.dtype(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)
