"""Compressors that send some entries as they are, and a narrower float for all."""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gdsec_jax import _checks, _masks, _trees
from gdsec_jax._checks import number_of
from gdsec_jax._devices import unless_on_tpu
from gdsec_jax.wire import Code, Packing
from gdsec_jax.worker._counting import threshold
from gdsec_jax.worker._piece import Censored, Measured, Part, Piece, no_state
from gdsec_jax.worker._select import (
    mask_of_drawn,
    mask_of_largest,
    masks_of_drawn,
    masks_of_largest,
)
from gdsec_jax.worker._vectors import (
    Place,
    Scope,
    by_leaves,
    by_vector,
    groups,
    lengths,
    needed,
    tree_of,
    variance_by,
    vectors,
)


def top_k(k: float, *, scope: Scope = "message") -> Piece:
    r"""Send the k entries of largest magnitude.

    .. math:: \|C(v) - v\|^2 \le (1 - k/D) \|v\|^2

    Of equal magnitudes the lower index wins. Biased: it wants a memory around it.

    Args:
      k: how many, a Python int, of which a vector shorter than k sends all; or a
        fraction of the vector's length in (0, 1], a float, rounded up.
      scope: "message", the k largest of the leaves concatenated, or "leaf", the k
        largest of every leaf.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.top_k(1)
      >>> v = jnp.array([1.0, -3.0, 2.0])
      >>> piece.update(v, piece.init(v))[0]
      Array([ 0., -3.,  0.], dtype=float32)

    References: Stich et al., Sparsified SGD with Memory, 2018,
      https://arxiv.org/abs/1809.07599
    """
    _checks.number_or_share(k)
    _checks.one_of("scope", scope, get_args(Scope))

    def update(updates, state, params=None, **extra_args):
        del params
        if "measured" in extra_args:
            chosen = of_measured(updates, extra_args["measured"], extra_args["place"])
        else:
            on_tpu = by_leaves(updates, of_leaves, of_vectors)
            chosen = unless_on_tpu(updates, tpu=on_tpu, default=of_vectors)
        return _keep(updates, chosen), state

    def of_vectors(updates):
        chosen = [
            mask_of_largest(v, number_of(k, v.size)) for v in vectors(updates, scope)
        ]
        return tree_of(chosen, updates, scope)

    def of_leaves(updates):
        sizes = lengths(updates, scope)
        return by_vector(
            [
                masks_of_largest(parts, number_of(k, size))
                for parts, size in zip(groups(updates, scope), sizes, strict=True)
            ],
            updates,
        )

    def measure(parts: list[Part]) -> Measured:
        places: list[Place] = [part.extra_args["place"] for part in parts]
        cut = [groups(part.updates, scope) for part in parts]
        starts = [place.of_vectors(scope) for place in places]
        found = [
            threshold(
                [x for own in cut for x in own[n]],
                [start for own in starts for start in own[n]],
                number_of(k, length),
            )
            for n, length in enumerate(places[0].vector_lengths(scope))
        ]
        thresholds, largest = zip(*found, strict=True)
        largest = jnp.stack(largest)
        some = (largest >= jnp.finfo(largest.dtype).tiny).any()
        return Measured(thresholds, jnp.isfinite(largest).all(), some)

    def of_measured(updates, measured: Measured, place: Place):
        made = zip(
            groups(updates, scope), place.of_vectors(scope), measured.facts, strict=True
        )
        return by_vector(
            [list(map(known.mask, parts, starts)) for parts, starts, known in made],
            updates,
        )

    return Piece(
        no_state,
        update,
        measure=measure,
        censored=Censored(None, k=k),
        contraction=_kept_at_least(k, scope),
        most_entries=_most_entries(k, scope),
        keeps_zeros=True,
    )


@_trees.state
class CommonEntriesState(NamedTuple):
    """State of `random_k` with common draws."""

    index: Any  # int32 [k], of each vector: where the values stand, for all workers
    packing: Packing  # the values, which travel without their places


def random_k(
    k: float, *, scaled: bool = True, scope: Scope = "message", common: bool = False
) -> Piece:
    r"""Send k entries drawn uniformly without replacement.

    .. math:: C(v)_i = (D/k) v_i \text{ for the k drawn, else } 0; \quad
       \omega = D/k - 1

    Args:
      k: how many, or a fraction of the vector's length, as in `top_k`.
      scaled: whether entries are scaled by D/k, which makes C unbiased; without it,
        :math:`E \|C(v) - v\|^2 = (1 - k/D) \|v\|^2`, for an error memory.
      scope: "message", or "leaf": k entries of every leaf.
      common: whether all workers draw the same entries in a round, with `round_key`.
        Then their places need not travel, and k values are all that does, zeros
        included. The workers' errors are those of their sum then: they do not average
        out, and methods that count on that do not take it: its variance is not said.

    Returns:
      An unbiased `worker.Piece` if scaled. Its update needs `key`, or `round_key`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.random_k(2)
      >>> v = jnp.ones(6)
      >>> message, _ = piece.update(v, piece.init(v), key=jax.random.key(0))
      >>> sorted(message.tolist())
      [0.0, 0.0, 0.0, 0.0, 3.0, 3.0]

    References: Stich et al., Sparsified SGD with Memory, 2018,
      https://arxiv.org/abs/1809.07599
    """
    _checks.number_or_share(k)
    _checks.one_of("scope", scope, get_args(Scope))

    _checks.of_kind("common", common, bool, "True or False")

    def init(params):
        if not common or _trees.stand_in(params):
            return () if not common else 0
        numbers = [number_of(k, size) for size in lengths(params, scope)]
        dtype = jnp.dtype(_trees.widest(*map(jnp.result_type, jax.tree.leaves(params))))
        values = [jnp.zeros(number, dtype) for number in numbers]
        index = [jnp.zeros(number, jnp.int32) for number in numbers]
        return CommonEntriesState(index, Packing(Code(dense=True), payload=values))

    def update(updates, state, params=None, **extra_args):
        key = needed(extra_args, "round_key" if common else "key", "random_k")
        like = extra_args.get("like") if params is None else params
        keys = jax.random.split(key, len(lengths(updates, scope)))
        if not common:
            on_tpu = by_leaves(updates, of_leaves, of_vectors)
            message = unless_on_tpu(updates, keys, tpu=on_tpu, default=of_vectors)
            return message, state
        chosen = masks_of(updates, keys)
        message = kept(updates, chosen)
        return message, _without_places(message, like, chosen, state, scope)

    def masks_of(updates, keys):
        sizes = lengths(updates, scope)
        drawn = zip(keys, sizes, strict=True)
        return [mask_of_drawn(key, size, number_of(k, size)) for key, size in drawn]

    def kept(updates, chosen):
        if not scaled:
            return _keep(updates, tree_of(chosen, updates, scope))
        sent = [
            times(mask, v, v.size)
            for mask, v in zip(chosen, vectors(updates, scope), strict=True)
        ]
        return tree_of(sent, updates, scope)

    def times(mask, v, size):
        return jnp.where(mask, v * (size / max(1, number_of(k, size))), 0)

    def of_vectors(updates, keys):
        return kept(updates, masks_of(updates, keys))

    def of_leaves(updates, keys):
        chosen, sent = [], []
        for key, parts in zip(keys, groups(updates, scope), strict=True):
            size = sum(v.size for v in parts)
            masks = masks_of_drawn(key, parts, number_of(k, size))
            chosen.append(masks)
            sent.append([times(mask, v, size) for mask, v in zip(masks, parts)])  # noqa: B905
        if not scaled:
            return _keep(updates, by_vector(chosen, updates))
        return by_vector(sent, updates)

    def omega(length):
        return length / number_of(k, length) - 1

    variance = variance_by(omega, scope) if scaled and not common else None
    most_entries = _most_entries(k, scope)
    return Piece(
        init,
        update,
        variance=variance,
        contraction=None if scaled else _kept_at_least(k, scope),
        shared=(lambda state: state.index) if common else None,
        most_entries=most_entries,
        keeps_zeros=True,
    )


def whole() -> Piece:
    r"""Send every entry, zeros included: it costs D values in any format.

    .. math:: C(v) = v, \quad \omega = 0

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.federate(worker.whole(), 1, wire="coo")
      >>> params, grads = jnp.zeros(3), jnp.array([[1.0, 0.0, 0.0]])
      >>> _, state = algorithm.update(grads, algorithm.init(params), params)
      >>> gdsec_jax.last_round(state).bits
      array([96])
    """

    def init(params):
        del params
        return Packing(Code(dense=True))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return updates, state

    return Piece(
        init,
        update,
        component_wise=True,
        variance=lambda params: 0.0,
        contraction=lambda params: 1.0,
        keeps_zeros=True,
    )


def cast(dtype: DTypeLike) -> Piece:
    r"""Send every value in a narrower float; non-zeros alone travel.

    .. math:: C(v)_i = v_i \text{ rounded to the dtype}

    What it rounds off belongs into an error memory around it. Numbers too small for the
    dtype's normal range become 0, too large ones infinite, which drops the worker.

    Args:
      dtype: a floating-point dtype no wider than the parameters', "bfloat16" say.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.cast("bfloat16")
      >>> v = jnp.array([1.001, 2.0])
      >>> piece.update(v, piece.init(v))[0]
      Array([1., 2.], dtype=float32)
    """
    _checks.dtype("dtype", dtype)
    dtype = jnp.dtype(dtype)

    def init(params):
        for leaf in jax.tree.leaves(params):
            if _trees.widest(dtype, jnp.result_type(leaf)) != jnp.result_type(leaf):
                raise ValueError(
                    f"dtype is {dtype}, expected none wider than the parameters' "
                    f"{jnp.result_type(leaf)}."
                )
        return Packing(Code(dtype=dtype.name))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        narrow = jax.tree.map(lambda v: v.astype(dtype), updates)
        return _trees.cast_like(_trees.flush(narrow), updates), state

    return Piece(init, update, component_wise=True, keeps_zeros=True)


def _without_places(message, like, chosen, state, scope: Scope):
    """The values as they travel, at entries that all workers know."""
    if not isinstance(state, CommonEntriesState):
        return state
    travels = _trees.flush(_trees.cast_like(message, like))
    known = zip(vectors(travels, scope), chosen, state.index, strict=True)
    index = [_masks.where_set(mask, place.size) for _, mask, place in known]
    pieces = zip(vectors(travels, scope), index, state.packing.payload, strict=True)
    values = [v[place].astype(was.dtype) for v, place, was in pieces]
    return CommonEntriesState(index, Packing(Code(dense=True), payload=values))


def _kept_at_least(k: float, scope: Scope):
    """alpha: the least part of the entries of a vector that are kept."""
    return lambda params: min(
        (number_of(k, size) / size for size in lengths(params, scope) if size),
        default=1.0,
    )


def _most_entries(k: float, scope: Scope):
    return lambda params: sum(number_of(k, size) for size in lengths(params, scope))


def _keep(updates, masks):
    def keep(mask, v):
        return jnp.where(mask, v, jnp.zeros_like(v))

    return jax.tree.map(keep, masks, updates)
