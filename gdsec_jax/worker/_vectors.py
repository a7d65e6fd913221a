"""A message as the vectors that a compressor works on: one in all, or one a leaf."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.wire import Code, Packing

Scope = Literal["message", "leaf"]
# With more of them, each taken by itself, it takes a compiler minutes.
MOST_LEAVES = 16


def vectors(tree: Any, scope: Scope) -> list[jax.Array]:
    """The tree's entries in order, in float32 at least: [D], or [D_l] for each leaf."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    if scope == "leaf":
        return [leaf.astype(_trees.widest(leaf.dtype, jnp.float32)) for leaf in leaves]
    dtype = _trees.norm_dtype(tree)
    return [jnp.concatenate([leaf.astype(dtype) for leaf in leaves])] if leaves else []


def groups(tree: Any, scope: Scope) -> list[list[jax.Array]]:
    """The leaves of each of `vectors(tree, scope)`, shaped as they are."""
    leaves = jax.tree.leaves(tree)
    if scope == "leaf":
        return [[x.astype(_trees.widest(x.dtype, jnp.float32))] for x in leaves]
    dtype = _trees.norm_dtype(tree)
    return [[x.astype(dtype) for x in leaves]] if leaves else []


def by_vector(made, tree: Any) -> Any:
    """The tree of what was made of each of `groups(tree, scope)`."""
    leaves = [x for own in made for x in own]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def by_leaves(tree: Any, of_leaves: Callable, of_vectors: Callable) -> Callable:
    """Of a TPU, which would lay matrices out anew: by leaves, where they are few."""
    return of_leaves if len(jax.tree.leaves(tree)) <= MOST_LEAVES else of_vectors


class Place(NamedTuple):
    """Where a part of the components lies in all of them."""

    starts: tuple[Any, ...]  # int32 [], of its first component; behind its leaf's first
    lengths: tuple[int, ...]  # of the whole leaves

    def of_vectors(self, scope: Scope) -> list[list[Any]]:
        """Where each leaf of each of `groups` starts in its vector."""
        if scope == "leaf":
            return [[start] for start in self.starts]
        before = (sum(self.lengths[:n]) for n in range(len(self.lengths)))
        return [[n + start for n, start in zip(before, self.starts, strict=True)]]

    def vector_lengths(self, scope: Scope) -> list[int]:
        """The lengths of the vectors of all components."""
        return list(self.lengths) if scope == "leaf" else [sum(self.lengths)]


def lengths(tree: Any, scope: Scope) -> list[int]:
    """The lengths of `vectors(tree, scope)`; a leaf may be a mere shape."""
    sizes = [int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree)]
    return sizes if scope == "leaf" else [sum(sizes)] if sizes else []


def places(shape: tuple[int, ...], start) -> jax.Array:
    """Where the entries of an array stand whose first one is at `start`, uint32."""
    place = jnp.zeros(shape, jnp.uint32) + jnp.asarray(start, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]))
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return place


def variance_by(omega: Callable[[int], float], scope: Scope) -> Callable[[Any], float]:
    """The variance of a compressor with an omega(D) on vectors of each length D."""
    return lambda params: max(
        map(omega, filter(None, lengths(params, scope))), default=0.0
    )


def tree_of(pieces: list[jax.Array], tree: Any, scope: Scope) -> Any:
    """The tree of such vectors, in the shapes of `tree`; its dtype is the vectors'."""
    leaves, structure = jax.tree.flatten(tree)
    if scope == "message" and leaves:
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        pieces = jnp.split(pieces[0], ends)
    shaped = [piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves)]  # noqa: B905
    return jax.tree.unflatten(structure, shaped)


def as_it_travels(message: Any, params: Any, extra_args: dict[str, Any]) -> Any:
    """The message in the parameters' dtypes, without subnormal numbers."""
    like = extra_args.get("like") if params is None else params
    if jax.tree.structure(like) != jax.tree.structure(message):
        like = None  # optax masks params alone
    return _trees.flush(_trees.cast_like(message, like))


def arrived(message: Any, extra_args: dict[str, Any]) -> Any:
    """What of a message reaches the server: 0 if `delivered` is False, else all."""
    delivered = extra_args.get("delivered")
    if delivered is None:
        return message
    return jax.tree.map(lambda x: jnp.where(delivered, x, jnp.zeros_like(x)), message)


def some(tree: Any) -> jax.Array:
    """Whether some entry is not zero, bool []."""
    found = jnp.zeros((), bool)
    for leaf in jax.tree.leaves(tree):
        found |= (leaf != 0).any()
    return found


def needed(extra_args: dict[str, Any], argument: str, piece: str) -> Any:
    """An extra argument that a piece needs; where it is missing, who hands it on."""
    value = extra_args.get(argument)
    if value is None:
        raise ValueError(_MISSING[argument].format(piece))
    return value


_DRAWS = (
    "key is None, expected an int or a random key: {} draws, so hand federate a key."
)
_MISSING = {
    "key": _DRAWS,  # this worker's for the round
    "round_key": _DRAWS,  # common to all workers
    "worker_index": "worker_index is None, expected this worker's number, which "
    "federate hands on to {}.",
    "round": "round is None, expected the round's number, which federate hands on to "
    "{}.",
    "gradient": "gradient is None, expected this worker's: {} stands in a "
    "gradient_difference, which hands it on.",
    "params_change": "{} compares with the last change of the params, got none: call "
    "update(gradients, state, params).",
}


def values_alone(params: Any, number: Callable[[int], int]) -> Any:
    """A first state, of a message whose places all know: so many values travel.

    Args:
      params: the parameters.
      number: from the entries of all to the values of a message.
    """
    if _trees.stand_in(params):
        return 0
    dtype = jnp.dtype(_trees.widest(*map(jnp.result_type, jax.tree.leaves(params))))
    values = [jnp.zeros(number(size), dtype) for size in lengths(params, "message")]
    return Packing(Code(dense=True), payload=values)
