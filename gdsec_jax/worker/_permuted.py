"""A compressor whose messages have no entry in common: each worker has a block."""

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _masks, _trees
from gdsec_jax.wire import Code, Packing
from gdsec_jax.worker._piece import Piece
from gdsec_jax.worker._vectors import lengths, needed, tree_of, vectors


def perm_k(num_workers: int) -> Piece:
    r"""Perm-K: send M times those entries that a common permutation gives a worker.

    .. math:: C_m(v)_i = M v_i \text{ for i in block } \pi(m), \text{ else } 0; \quad
       \omega = M - 1, \quad \bar\omega = M

    Every round the entries are dealt into M blocks, and the blocks to the workers, by
    `round_key`. So each entry is sent by one worker, and M equal vectors add up to M
    times the vector exactly. What the workers' errors have in common is large where
    their vectors differ: :math:`\bar\omega` takes the place of :math:`\omega` where
    theorems count on independent draws.

    The blocks are known to all, and :math:`\lceil D/M \rceil` values are all that
    travels, zeros included, and one more where blocks differ in length. On a mesh
    messages are added up densely.

    Args:
      num_workers: M, those of the federation.

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
      blocks belong to the workers in turn where M divides D.
    """
    _checks.number_of_workers(num_workers)

    def init(params):
        if _trees.stand_in(params):
            return 0
        dtype = jnp.dtype(_trees.widest(*map(jnp.result_type, jax.tree.leaves(params))))
        values = [
            jnp.zeros(-(-size // num_workers), dtype)
            for size in lengths(params, "message")
        ]
        return Packing(Code(dense=True), payload=values)

    def update(updates, state, params=None, **extra_args):
        key = needed(extra_args, "round_key", "perm_k")
        index = needed(extra_args, "worker_index", "perm_k")
        like = extra_args.get("like") if params is None else params
        if not jax.tree.leaves(updates):
            return updates, state
        (v,) = vectors(updates, "message")
        (known,) = state.payload
        of_entries, of_workers = jax.random.split(key)
        order = jax.random.permutation(of_entries, v.size)
        block = jax.random.permutation(of_workers, num_workers)[index]
        own = order % num_workers == block
        sent = jnp.where(own, num_workers * v, 0)
        message = tree_of([sent], updates, "message")
        (travels,) = vectors(_trees.flush(_trees.cast_like(message, like)), "message")
        places = _masks.where_set(own, known.size)
        values = travels.at[places].get(mode="fill", fill_value=0)
        return message, state._replace(payload=[values.astype(known.dtype)])

    def most_entries(params):
        return sum(-(-size // num_workers) for size in lengths(params, "message"))

    return Piece(
        init,
        update,
        variance=lambda params: float(num_workers - 1),
        joint_variance=lambda params: float(num_workers) if num_workers > 1 else 0.0,
        most_entries=most_entries,
        keeps_zeros=True,
    )
