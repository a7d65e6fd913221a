"""The sum of all workers' messages over a mesh, by what was compressed of them.

The messages are what they were: codes, or the non-zeros with their places, are written
into words of a fixed number, gathered from all devices, and added up on each of them in
the workers' order, so that all have the same sum bit for bit.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gdsec_jax import _trees
from gdsec_jax.federation._spread import Spread
from gdsec_jax.server._two_shot import cut
from gdsec_jax.wire import Packing, packing_of
from gdsec_jax.wire import _words as wire_words
from gdsec_jax.wire._codes import Code
from gdsec_jax.wire._packing import whole_of
from gdsec_jax.wire._words import Words
from gdsec_jax.worker import CommonEntriesState, LowRankState, Piece
from gdsec_jax.worker._vectors import lengths, some, tree_of, vectors

_MANY_LEAVES = 16  # above which a collective for each costs more than a copy


def _wording(
    worker: Piece, state: Any, params: Any, capacity: int | None
) -> Words | None:
    """How a worker's messages are written into words; None if they travel whole.

    Raises:
      ValueError: they may have any number of entries, and are no whole vectors, or have
        more than there is room for.
    """
    packing = packing_of(state)
    code = packing.code if packing else Code()
    if packing is not None and packing.payload is not None:
        return None
    most = [] if capacity is None else [capacity]
    if worker.most_entries is not None:
        most.append(int(worker.most_entries(params)))
    if not most and code.kind == "float" and not code.dense:
        raise ValueError(
            "the messages may have any number of entries, expected a most, since what "
            "travels between devices has one length: server=server.sparse(capacity), a "
            "worker.top_k as the last compressor, or worker.whole()."
        )
    return wire_words.words_of(params, code, min(most) if most else None)


def total(federation: Any, messages: Any, made: Any, params: Any) -> Any:
    """The sum of the messages, leaves [m, *param], to leaves [*param] everywhere.

    Args:
      federation: a `Federation` with a spread.
      messages: as they arrive.
      made: `Answers` of the pipelines.
      params: shapes and dtypes of a message.
    """
    spread, states = federation.spread, made.states
    words = _wording(federation.worker, states, params, federation.server.capacity)
    packing = packing_of(states)
    if packing is not None and packing.payload is not None:
        known = (CommonEntriesState, LowRankState)
        if not any(_trees.of_type(states, kind) for kind in known):
            return _whole(spread, messages)
        return _of_payload(spread, packing, messages, states, made.shared)
    parts = federation.server.parts
    if parts is not None:
        if whole_of(states) is not False:
            raise ValueError(
                "the messages are whole at times, as marina's are, expected codes in "
                "every round for a sum in two shots: server=server.running()."
            )
        return _in_parts(spread, words, messages, packing, parts)
    if words is None:
        return _whole(spread, messages)

    def packed():
        each = jax.vmap(lambda message: vectors(message, "message")[0])(messages)
        scales = packing.scales if packing and words.code.num_scales else ()
        own = _each(lambda v, s: wire_words.pack(words, v, s), each, scales)
        sum = wire_words.total(words, spread.gathered(own))
        return tree_of([sum], _one_of(messages), "message")

    flags = whole_of(states)
    if flags is False:
        return packed()
    # Where one is whole the devices agree on it, or they would wait for ever.
    flags = flags & jax.vmap(some)(messages)
    some_whole = spread.summed(flags.any().astype(jnp.int32)) > 0
    wide = lambda tree: jax.tree.map(lambda x: x.astype(words.dtype), tree)  # noqa: E731
    return jax.lax.cond(
        some_whole, lambda: wide(_whole(spread, messages)), lambda: wide(packed())
    )


def _in_parts(spread: Spread, words: Words | None, messages, packing, parts: int):
    """Of the sum the part that is this device's, [1, ceil(D / parts)]."""
    if words is None:
        raise ValueError(
            "the messages are floats, expected codes for a sum in two shots: of qgd, "
            "natural, terngrad, laq or sign_ef."
        )
    part = wire_words.part_of(words, parts)

    def pack(message, scales):
        # A part of zeros is no silence: a grid has none.
        some_sent = some(message)
        one = lambda v: wire_words.pack(part, v, scales, some_sent)  # noqa: E731
        return jax.vmap(one)(cut(message, parts))

    scales = packing.scales if words.code.num_scales else ()
    packed = jax.vmap(pack)(messages, scales)  # [m, parts, W]
    packed = jax.lax.all_to_all(packed, spread.axes, 1, 0, tiled=True)
    sum = wire_words.total(part, packed[:, 0])
    # What the last part is padded by has codes, too, and a grid has none of 0.
    place = jax.lax.axis_index(spread.axes) * sum.size + jnp.arange(sum.size)
    return jnp.where(place < words.length, sum, 0)[None]


def _whole(spread: Spread, messages: Any) -> Any:
    """All entries of all messages are added up."""
    own = _trees.over_workers(messages)
    if len(jax.tree.leaves(own)) <= _MANY_LEAVES and not spread.within:
        return spread.summed(own)
    (vector,) = vectors(own, "message")
    return tree_of([spread.summed_by_all(vector)], own, "message")


def _of_payload(spread, packing: Packing, messages, states, shared) -> Any:
    """The sum, by what travels in the messages' stead."""
    sent = jax.vmap(some)(messages)
    payload = jax.tree.map(
        lambda x: jnp.where(_trees.along(sent, x), x, 0), packing.payload
    )
    like = _one_of(messages)
    if _trees.of_type(states, CommonEntriesState):
        sums = spread.summed(_trees.over_workers(payload))
        scope = "message" if len(sums) == 1 else "leaf"
        sizes = lengths(like, scope)
        pieces = [
            jnp.zeros(size, sum.dtype).at[index].set(sum)
            for size, index, sum in zip(sizes, shared, sums, strict=True)
        ]
        return tree_of(pieces, like, scope)
    return _of_factors(spread, payload, like, states, shared)


def _of_factors(spread, payload, like, states, shared) -> Any:
    """The sum of matrices of low rank, by their factors, and of other leaves."""
    (known,) = _trees.of_type(states, LowRankState)
    leaves, structure = jax.tree.flatten(like)
    matrices = [n for n, q in enumerate(known.right) if not isinstance(q, tuple)]
    sums: list[Any] = [None] * len(leaves)
    if shared is not None:
        made = [
            jnp.matmul(shared[n].left, shared[n].right.T, precision="highest")
            for n in matrices
        ]
    else:
        each = jax.vmap(lambda own: ravel_pytree(own)[0])
        own = [payload[n] for n in matrices]
        _, apart = ravel_pytree(jax.tree.map(lambda x: x[0], own))
        factors = jax.vmap(apart)(spread.gathered(each(own))) if own else []
        made = [
            jnp.einsum("mir,mjr->ij", *map(_wide, both), precision="highest")
            for both in factors
        ]
    for n, sum in zip(matrices, made, strict=True):
        sums[n] = _wide(sum).reshape(leaves[n].shape)
    others = [n for n in range(len(leaves)) if n not in matrices]
    if others:
        vector, apart = ravel_pytree([_trees.over_workers(payload[n]) for n in others])
        for n, sum in zip(others, apart(spread.summed_by_all(vector)), strict=True):
            sums[n] = sum
    return jax.tree.unflatten(structure, sums)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(_trees.widest(x.dtype, jnp.float32))


def _each(function, rows, scales):
    """For each of a shard's workers, which mostly are one."""
    if rows.shape[0] > 1:
        return jax.vmap(function)(rows, scales)
    own = function(rows[0], scales[0] if len(scales) else ())
    return own[None]


def _one_of(messages):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), messages)
