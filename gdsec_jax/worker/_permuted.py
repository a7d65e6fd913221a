"""A compressor that deals the entries out: each belongs to one worker, or to a few."""

from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _masks, _trees
from gdsec_jax.worker._piece import Piece
from gdsec_jax.worker._vectors import lengths, needed, tree_of, values_alone, vectors


def perm_k(num_workers: int, owners: int = 1, cohort: int | None = None) -> Piece:
    r"""Perm-K: send M times those entries that a common permutation gives a worker.

    .. math:: C_m(v)_i = \frac Ms v_i \text{ if m owns i, else } 0; \quad
       \omega = \frac Ms - 1, \quad \bar\omega = \frac{M (M - s)}{s (M - 1)}

    Every round the entries are dealt to the workers, by `round_key`, each to s of them
    in turn. With s = 1, Perm-K, M equal vectors add up to M
    times the vector exactly. What the workers' errors have in common is large where
    their vectors differ: :math:`\bar\omega` takes the place of :math:`\omega` where
    theorems count on independent draws. Several owners are TAMUNA's.

    Who owns what is known to all, and :math:`\lceil s D/c \rceil` values are all that
    travels, zeros included, c the cohort. On a mesh messages are added up densely.

    Args:
      num_workers: M, those of the federation.
      owners: s, at most the cohort.
      cohort: how many workers, drawn anew every round, the entries are dealt to; by
        default all.

    Returns:
      An unbiased `worker.Piece`. Its update needs `round_key` and `worker_index`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece, v = worker.perm_k(2), jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> messages = [
      ...     piece.update(v, piece.init(v), round_key=jax.random.key(0),
      ...                  worker_index=jnp.int32(m))[0] for m in range(2)]
      >>> [int((message != 0).sum()) for message in messages], sum(messages)
      ([2, 2], Array([2., 4., 6., 8.], dtype=float32))

    References: Szlendak, Tyurin, Richtárik, Permutation Compressors for Provably Faster
      Distributed Nonconvex Optimization, 2021, https://arxiv.org/abs/2110.03300, whose
      blocks belong to the workers in turn where M divides D; Condat et al., TAMUNA,
      2023, https://arxiv.org/abs/2302.09832
    """
    _checks.number_of_workers(num_workers)
    cohort = num_workers if cohort is None else cohort
    _checks.integer("cohort", cohort, 1, num_workers)
    _checks.integer("owners", owners, 1, cohort)

    def number(size):
        return -(-owners * size // cohort)

    def init(params):
        return values_alone(params, number)

    def update(updates, state, params=None, **extra_args):
        key = needed(extra_args, "round_key", "perm_k")
        index = needed(extra_args, "worker_index", "perm_k")
        among = extra_args.get("num_workers", num_workers)
        if among != num_workers:
            raise ValueError(
                f"perm_k deals the entries to {num_workers} workers, expected the "
                f"federation's {among}."
            )
        like = extra_args.get("like") if params is None else params
        if not jax.tree.leaves(updates):
            return updates, state
        (v,) = vectors(updates, "message")
        (known,) = state.payload
        rank = ranks(key, num_workers)[index]
        own = owned(key, v.size, rank, owners, cohort)
        sent = jnp.where(own, num_workers / owners * v, 0)
        message = tree_of([sent], updates, "message")
        (travels,) = vectors(_trees.flush(_trees.cast_like(message, like)), "message")
        places = _masks.where_set(own, known.size)
        values = travels.at[places].get(mode="fill", fill_value=0)
        return message, state._replace(payload=[values.astype(known.dtype)])

    def most_entries(params):
        return sum(map(number, lengths(params, "message")))

    left = num_workers - owners
    joint = num_workers * left / (owners * (num_workers - 1)) if left else 0.0
    return Piece(
        init,
        update,
        variance=lambda params: num_workers / owners - 1,
        joint_variance=lambda params: joint,
        most_entries=most_entries,
        keeps_zeros=True,
    )


def ranks(key: jax.Array, num_workers: int) -> jax.Array:
    """The workers' places when entries are dealt out, int [M]: first the cohort's."""
    return jax.random.permutation(jax.random.split(key)[1], num_workers)


def owned(key: jax.Array, size: int, rank: Any, owners: int, cohort: int) -> jax.Array:
    """Whether the worker of this rank owns each of so many entries, bool [D]."""
    order = jax.random.permutation(jax.random.split(key)[0], size)
    # Entries are dealt to the ranks s order, s order + 1, ..., modulo the cohort.
    return ((rank - owners * order) % cohort < owners) & (rank < cohort)
