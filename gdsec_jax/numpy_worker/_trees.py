"""Arithmetic on trees, and the vectors that compressors work on."""

from typing import Any

import numpy as np

from gdsec_jax import _plain


def zeros(params: Any) -> Any:
    """Zeros in the parameters' dtypes, but float32 at least, as sums need."""

    def one(x):
        return np.zeros(np.shape(x), np.promote_types(np.result_type(x), np.float32))

    return _plain.map(one, params)


def moved(h: np.ndarray, beta: float, u: np.ndarray) -> np.ndarray:
    """h + beta u, in the dtype of h."""
    dtype = np.promote_types(h.dtype, u.dtype)
    return (h + np.asarray(beta, dtype) * u).astype(h.dtype)


def as_it_travels(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """In the gradient's dtype, with subnormal numbers and -0.0 as 0."""
    x = np.asarray(x).astype(np.result_type(gradient))
    return np.where(np.abs(x) < _plain.finfo(x.dtype).tiny, x.dtype.type(0), x)


def vectors(tree: Any, scope: str) -> list[np.ndarray]:
    """The entries in order, in float32 at least: [D], or [D_l] of each leaf."""
    leaves = _plain.leaves(tree)
    return [joined(x) for x in (leaves if scope == "leaf" else [leaves]) if leaves]


def joined(tree: Any) -> np.ndarray:
    """All entries in order, [D], in float32 at least."""
    leaves = [np.ravel(x) for x in _plain.leaves(tree)]
    return np.concatenate([np.zeros(0, np.float32), *leaves])


def tree_of(vectors: list[np.ndarray], tree: Any) -> Any:
    """The tree of which these are the entries in order."""
    found, structure = _plain.flatten(tree)
    sizes = [np.size(leaf) for _, leaf in found]
    own = np.split(joined(vectors), np.cumsum(sizes)[:-1])
    shaped = [x.reshape(np.shape(y)) for x, (_, y) in zip(own, found, strict=False)]
    return _plain.unflatten(structure, shaped)


def fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    """Whether one shape broadcasts to another."""
    try:
        return np.broadcast_shapes(shape, into) == into
    except ValueError:
        return False
