"""Whose numbers are finite, in few passes over them."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gdsec_jax._devices import unless_on_tpu

OnNonfinite = Literal["drop", "propagate"]
SHORTEST, LONGEST = 2**10, 2**16  # pieces of a row: see `piece_of`


def all_finite(tree: Any, *, in_pieces: bool = True) -> jax.Array:
    """bool [M], of leaves [M, ...]; rows are cut `in_pieces`, see `piece_of`."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.ones((), bool)
    by_sums = functools.partial(_no_nan_in_sums, in_pieces=in_pieces)
    return unless_on_tpu(leaves, tpu=_all_finite, default=by_sums)


def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    others = jnp.zeros(leaves[0].shape[:1], jnp.float32)
    for leaf in leaves:
        # A sum, as other passes over the leaf are: the compiler makes one of them all.
        bad = jnp.where(jnp.isfinite(leaf), jnp.float32(0), jnp.float32(1))
        others += bad.sum(axis=tuple(range(1, leaf.ndim)))
    return others == 0


def _no_nan_in_sums(leaves: list[jax.Array], in_pieces: bool = True) -> jax.Array:
    finite = jnp.ones(leaves[0].shape[:1], bool)
    for leaf in leaves:
        # 0 x is 0, or NaN where x is not finite. XLA's CPU backend computes a product
        # with a vector several times faster than "all".
        rows = leaf.reshape(leaf.shape[0], -1)
        if rows.shape[0] == 1:  # for which it would make the zeros in memory first
            finite &= jnp.abs(rows).max(axis=1, initial=0) < jnp.inf
        else:
            piece = piece_of(rows.shape[1]) if in_pieces else rows.shape[1]
            number = rows.shape[1] // max(piece, 1)  # there may be no entries
            pieces, zeros = (
                rows.reshape(len(rows), number, piece),
                jnp.zeros(piece, rows.dtype),
            )
            finite &= (pieces @ zeros == 0).all(axis=1)
    return finite


def piece_of(length: int) -> int:
    """How long the pieces are into which a row is cut for a product with zeros.

    A long one's zeros would be read from memory, too. Itself if it has no such divisor.
    """
    numbers = range(-(-length // LONGEST), length // SHORTEST + 1)
    fitting = (length // n for n in numbers if length % n == 0)
    return length if length <= LONGEST else next(fitting, length)


def is_narrow(state: jax.Array, messages: Any) -> bool:
    """Whether what a message holds may overflow in a state: in float16, say."""
    if not jnp.issubdtype(state.dtype, jnp.floating):
        return False
    most = [float(jnp.finfo(leaf.dtype).max) for leaf in jax.tree.leaves(messages)]
    narrower = float(jnp.finfo(state.dtype).max) < max(most, default=0.0)
    return narrower or state.dtype == jnp.float16
