"""Compressors of matrices: two thin factors travel in a matrix's stead."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gdsec_jax import _checks, _trees
from gdsec_jax.wire import Code, Packing, flush
from gdsec_jax.worker._piece import Piece

WORKER_AXIS = "workers"  # what `federate` calls its axis, for sums over all workers


@_trees.state
class LowRankState(NamedTuple):
    """State of `low_rank` and `power_sgd`; a leaf that is no matrix has ()."""

    right: Any  # Q: [columns, r] for each matrix, the start of the next round
    packing: Packing  # the factors that travel
    common: Any = ()  # of `power_sgd`: P, or 0 where nothing arrived, and sum of Q_m


@_trees.state
class _Factors(NamedTuple):
    left: jax.Array  # [rows, r]
    right: jax.Array  # [columns, r]


def low_rank(rank: int, *, key=0) -> Piece:
    r"""Send each matrix as two factors of rank r, by one step of power iteration.

    .. math:: P = \text{orth}(V Q), \quad Q \leftarrow V^T P, \quad C(V) = P Q^T

    Every worker factorises its own matrix; Q is its start for the next round. A leaf is
    a matrix of its last axis against all others; vectors and scalars travel whole.
    Biased: it wants a memory around it.

    Args:
      rank: r, at least 1; at most the matrix's own.
      key: an int or a random key, for the first Q; may be traced.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.low_rank(1)
      >>> v = jnp.outer(jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0, 1.0]))
      >>> message, _ = piece.update(v, piece.init(v))
      >>> bool(jnp.allclose(message, v, rtol=1e-5))
      True

    References: Vogels, Karimireddy, Jaggi, PowerSGD, 2019,
      https://arxiv.org/abs/1905.13727
    """

    def factorise(matrices, active, axes):
        del active, axes
        made = []
        for matrix, q, narrow in matrices:
            left = narrow(_orthonormal(_times(matrix, q)))
            right = narrow(_times(matrix.T, left))
            made.append((left, right, left, right, ()))
        return made

    return _power_iteration(rank, key, factorise, False)


def power_sgd(rank: int, *, key=0) -> Piece:
    r"""PowerSGD: as `low_rank`, with one left factor for all workers.

    .. math:: P = \text{orth}\big(\sum_m V_m Q\big), \quad Q_m = V_m^T P, \quad
       C(V_m) = P Q_m^T, \quad Q \leftarrow \sum_m Q_m

    so that the sum of the messages is :math:`P (\sum_m Q_m)^T`, of rank r too. A worker
    uploads :math:`V_m Q` and :math:`Q_m`; in between the server returns P. It sums over
    the workers of the round whose message arrives, so it runs inside `federate`; where
    there is none Q stays. A worker that was absent comes back with the Q of its last
    round.

    Args:
      rank, key: as in `low_rank`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.federate(worker.power_sgd(1), 2)
      >>> params = jnp.zeros((2, 3))
      >>> grads = jnp.ones((2, 2, 3))
      >>> update, state = algorithm.update(grads, algorithm.init(params), params)
      >>> bool(jnp.allclose(update, grads.sum(0), rtol=1e-5))
      True
      >>> gdsec_jax.last_round(state).entries.tolist()
      [5, 5]

    References: Vogels, Karimireddy, Jaggi, PowerSGD, 2019,
      https://arxiv.org/abs/1905.13727
    """

    def factorise(matrices, active, axes):
        def over_workers(factors):  # one collective for all of them
            vector, apart = ravel_pytree(factors)
            return apart(jax.lax.psum(jnp.where(active, vector, 0), axes))

        own_lefts = [narrow(_times(matrix, q)) for matrix, q, narrow in matrices]
        lefts = [_orthonormal(x) for x in over_workers(own_lefts)]
        rights = [
            narrow(_times(matrix.T, left))
            for (matrix, _, narrow), left in zip(matrices, lefts, strict=True)
        ]
        # Where nothing arrives the sum is 0, of which no iteration starts.
        some = jax.lax.psum(jnp.asarray(active, jnp.int32), axes) > 0
        sums = over_workers(rights)
        common = [
            _Factors(jnp.where(some, left, 0), sum)
            for left, sum in zip(lefts, sums, strict=True)
        ]
        following = [
            jnp.where(some, sum, q)
            for (_, q, _), sum in zip(matrices, sums, strict=True)
        ]
        return list(zip(lefts, rights, own_lefts, following, common, strict=True))

    return _power_iteration(rank, key, factorise, True)


def _power_iteration(rank: int, key, factorise, sums_over_workers: bool):
    """The piece of a `factorise`, called for all matrices: (V, Q, how it is narrowed).

    It returns for each P, Q_m, the left factor that travels, the Q of the next round,
    and the factors of the sum if it has them.
    """
    _checks.integer("rank", rank, 1)

    def init(params):
        if _trees.stand_in(params):
            return 0
        leaves = jax.tree.leaves(params)
        keys = jax.random.split(_trees.as_key(key), max(len(leaves), 1))
        right, payload, common = [], [], []
        for leaf, own in zip(leaves, keys):  # noqa: B905
            if not _is_matrix(leaf):
                right.append(())
                payload.append(jnp.zeros_like(leaf))
                common.append(())
                continue
            rows, columns = _matrix(leaf).shape
            r, dtype = min(rank, rows, columns), jnp.result_type(leaf)
            wide = _trees.widest(dtype, jnp.float32)
            both = _Factors(jnp.zeros((rows, r), wide), jnp.zeros((columns, r), wide))
            common.append(both if sums_over_workers else ())
            right.append(jax.random.normal(own, (columns, r), wide))
            zeros = jnp.zeros((rows, r), dtype), jnp.zeros((columns, r), dtype)
            payload.append(_Factors(*zeros))
        packing = Packing(Code(dense=True), payload=payload)
        return LowRankState(right, packing, common)

    def update(updates, state, params=None, *, active=True, **extra_args):
        active = active & jnp.asarray(extra_args.get("delivered", True))
        axes = extra_args.get("worker_axes", WORKER_AXIS)
        del params, extra_args
        leaves, structure = jax.tree.flatten(updates)
        given = list(zip(leaves, state.right, state.packing.payload, strict=True))
        factors = iter(
            factorise(
                [
                    (_matrix(v).astype(q.dtype), q, _narrow(known.left.dtype))
                    for v, q, known in given
                    if _is_matrix(v)
                ],
                active,
                axes,
            )
        )
        messages, rights, payload, known_to_all = [], [], [], []
        for v, _, known in given:
            if not _is_matrix(v):
                messages.append(v)
                rights.append(())
                known_to_all.append(())
                payload.append(flush(v.astype(known.dtype)))
                continue
            left, right, own_left, following, common = next(factors)
            messages.append(_times(left, right.T).reshape(v.shape))
            rights.append(following)
            known_to_all.append(common)
            travels = _Factors(own_left, right)
            payload.append(_trees.cast_like(travels, known))
        message = jax.tree.unflatten(structure, messages)
        packing = Packing(Code(dense=True), payload=payload)
        return message, LowRankState(rights, packing, known_to_all)

    return Piece(
        init,
        update,
        sums_over_workers=sums_over_workers,
        shared=(lambda state: state.common) if sums_over_workers else None,
    )


def _times(a, b):
    """As precise as the dtype: TPUs would cut float32 to bfloat16."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _narrow(dtype):
    """Rounds to what can travel."""
    return lambda x: flush(x.astype(dtype)).astype(x.dtype)


def _orthonormal(matrix):
    return jnp.linalg.qr(matrix)[0]


def _is_matrix(leaf) -> bool:
    return jnp.ndim(leaf) >= 2 and jnp.size(leaf) > 0


def _matrix(leaf):
    return jnp.reshape(leaf, (-1, jnp.shape(leaf)[-1]))
