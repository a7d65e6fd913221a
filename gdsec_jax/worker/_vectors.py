"""A message as the vectors that a compressor works on: one in all, or one a leaf."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees

Scope = Literal["message", "leaf"]


def check_scope(scope: Any) -> None:
    """It is one of the two."""
    _checks.one_of("scope", scope, ("message", "leaf"))


def vectors(tree: Any, scope: Scope) -> list[jax.Array]:
    """The tree's entries in order, in float32 at least: [D], or [D_l] for each leaf."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    if scope == "leaf":
        return [leaf.astype(_trees.widest(leaf.dtype, jnp.float32)) for leaf in leaves]
    dtype = _trees.widest(jnp.float32, *(leaf.dtype for leaf in leaves))
    return [jnp.concatenate([leaf.astype(dtype) for leaf in leaves])] if leaves else []


def lengths(tree: Any, scope: Scope) -> list[int]:
    """Of the `vectors` of a tree, whose leaves need no more than a shape."""
    sizes = [int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree)]
    return sizes if scope == "leaf" else [sum(sizes)] if sizes else []


def tree_of(pieces: list[jax.Array], tree: Any, scope: Scope) -> Any:
    """The tree of such vectors, in the shapes of `tree`; its dtype is the vectors'."""
    leaves, structure = jax.tree.flatten(tree)
    if scope == "message" and leaves:
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        pieces = jnp.split(pieces[0], ends)
    shaped = [piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves)]  # noqa: B905
    return jax.tree.unflatten(structure, shaped)


def squared_norm(tree: Any) -> jax.Array:
    """The sum of squares of all entries, in float32 at least."""
    squares = [jnp.vdot(v, v) for v in vectors(tree, "leaf")]
    dtype = _trees.widest(jnp.float32, *(square.dtype for square in squares))
    return sum((square.astype(dtype) for square in squares), jnp.zeros((), dtype))


def as_it_travels(message: Any, params: Any, extra_args: dict[str, Any]) -> Any:
    """The message in the parameters' dtypes, without subnormal numbers."""
    like = extra_args.get("like") if params is None else params
    if jax.tree.structure(like) != jax.tree.structure(message):
        like = None  # optax masks params alone
    return _trees.flush(_trees.cast_like(message, like))


def arrived(message: Any, extra_args: dict[str, Any]) -> Any:
    """What the memories of this worker may count on: nothing of a lost message.

    That is what `federate` says by `delivered`; a message it does not speak of arrives.
    """
    delivered = extra_args.get("delivered")
    if delivered is None:
        return message
    return jax.tree.map(lambda x: jnp.where(delivered, x, jnp.zeros_like(x)), message)


def some(tree: Any) -> jax.Array:
    """bool []: an entry is not zero."""
    found = jnp.zeros((), bool)
    for leaf in jax.tree.leaves(tree):
        found |= (leaf != 0).any()
    return found


def own_gradient(extra_args: dict[str, Any], name: str) -> Any:
    """This worker's gradient, beside the difference that is compressed.

    Raises:
      ValueError: nobody hands it on.
    """
    gradient = extra_args.get("gradient")
    if gradient is None:
        raise ValueError(
            f"gradient is None, expected this worker's: {name} stands in a "
            "gradient_difference, which hands it on."
        )
    return gradient


def draw_key(extra_args: dict[str, Any], name: str) -> jax.Array:
    """This worker's key for this round.

    Raises:
      ValueError: the federation has none.
    """
    key = extra_args.get("key")
    if key is None:
        raise ValueError(
            f"key is None, expected an int or a random key: {name} draws, so hand "
            "federate a key."
        )
    return key
