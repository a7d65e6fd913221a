"""A message of one fragment of the parameters, another one each round."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.worker._piece import Piece
from gdsec_jax.worker._vectors import lengths, needed, tree_of, values_alone, vectors


@_trees.state
class Fragments(NamedTuple):
    """In a state: how many fragments of the parameters it is about."""

    parts: dict[str, tuple[()]]  # P, as structure

    @property
    def number(self) -> int:
        """P."""
        return _trees.from_structure(self.parts, int)


def fragments_of(parts: int) -> Fragments:
    """What a state says of its P."""
    return Fragments(_trees.as_structure((parts,)))


def fragment(parts: int) -> Piece:
    r"""Send one of P fragments of the entries, in turn: with `local(fragments=)`.

    .. math:: u_i = v_i \text{ for i in fragment } k \bmod P, \text{ else } 0

    Fragments are :math:`\lceil D/P \rceil` entries, one behind the other, of all leaves
    as one vector. Which is sent all know, so that its values are all that travels,
    zeros included: a P-th of what a whole vector costs in a round, and as much in P.

    Args:
      parts: P.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece, v = worker.fragment(2), jnp.arange(1.0, 5.0)
      >>> [piece.update(v, piece.init(v), v, round=k)[0].tolist() for k in (0, 1)]
      [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]]

    References: Douillard et al., Streaming DiLoCo, 2025,
      https://arxiv.org/abs/2501.18512
    """
    parts = _checks.integer("parts", parts, 1, 2**31 - 1)

    def length(size):
        return -(-size // parts)

    def init(params):
        return values_alone(params, length), fragments_of(parts)

    def update(updates, state, params=None, **extra_args):
        number = needed(extra_args, "round", "fragment")
        like = extra_args.get("like") if params is None else params
        if not jax.tree.leaves(updates):
            return updates, state
        masks = in_fragment(updates, number, parts)
        message = jax.tree.map(lambda v, m: jnp.where(m, v, 0), updates, masks)
        travels = _trees.flush(_trees.cast_like(message, like))
        packing, of = state
        (v,), (known,) = vectors(travels, "message"), packing.payload
        rows = jnp.pad(v, (0, parts * known.size - v.size)).reshape(parts, known.size)
        values = rows[jnp.asarray(number) % parts].astype(known.dtype)
        return message, (packing._replace(payload=[values]), of)

    def most_entries(params):
        return sum(map(length, lengths(params, "message")))

    return Piece(init, update, most_entries=most_entries, keeps_zeros=True)


def in_fragment(tree: Any, number: Any, parts: int) -> Any:
    """Whether each entry is of the fragment of a round, bool, in the tree's shapes."""
    if not jax.tree.leaves(tree):
        return tree
    (size,) = lengths(tree, "message")
    of = jnp.arange(size) // -(-size // parts)
    return tree_of([of == jnp.asarray(number) % parts], tree, "message")
