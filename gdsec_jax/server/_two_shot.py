"""A sum in two shots: each part of it is somebody's, who rounds it again for all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax.wire import _words as wire_words
from gdsec_jax.wire import packing_of
from gdsec_jax.worker import Piece, error_feedback
from gdsec_jax.worker._vectors import tree_of, vectors


@_trees.state
class TwoShotState(NamedTuple):
    """State of the second rounding, each leaf [parts, ...]."""

    parts: Any  # of an error memory, [parts, ceil(D / parts)], and of the compressor


def by_parts(function, state: Any) -> Any:
    """A function of the states of parts, wherever they are in a server's state."""

    def one(node):
        return function(node) if isinstance(node, TwoShotState) else node

    return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, TwoShotState))


def cut(tree: Any, parts: int) -> jax.Array:
    """Leaves [*param] as [parts, ceil(D / parts)], the last ones padded by zeros."""
    (vector,) = vectors(tree, "message")
    return jnp.pad(vector, (0, -vector.size % parts)).reshape(parts, -1)


def length_of(params: Any, parts: int) -> int:
    """The entries of a part, ceil(D / parts)."""
    return -(-sum(map(jnp.size, jax.tree.leaves(params))) // parts)


def second_rounding(compressor: Piece, parts: int) -> Piece:
    """From the parts of a sum, [parts, C] or one device's, to the whole, [*param]."""
    piece = error_feedback(compressor)

    def init(params):
        part = jnp.zeros(length_of(params, parts), _trees.norm_dtype(params))
        return TwoShotState(_trees.repeat(piece.init(part), parts))

    def update(updates, state, params=None, *, like, worker_axes=(), **extra_args):
        del params, extra_args
        rounded: Any
        rounded, inner = jax.vmap(lambda v, s: piece.update(v, s))(updates, state.parts)
        if worker_axes:
            rounded = _of_all(rounded, inner, worker_axes)
        length = sum(leaf.size for leaf in jax.tree.leaves(like))
        return tree_of([rounded.reshape(-1)[:length]], like, "message"), TwoShotState(
            inner
        )

    return Piece(init, update)


def _of_all(own: jax.Array, state: Any, axes) -> jax.Array:
    """The parts of all devices, [parts, C], from those that are here."""
    packing: Any = packing_of(state)
    words = packing and wire_words.words_of(own[0], packing.code, None)
    if words is None:
        return jax.lax.all_gather(own, axes, tiled=True, to="invarying")
    packed = jax.vmap(lambda v, s: wire_words.pack(words, v, s))(own, packing.scales)
    packed = jax.lax.all_gather(packed, axes, tiled=True, to="invarying")
    return jax.vmap(lambda one: wire_words.total(words, one[None]))(packed)
