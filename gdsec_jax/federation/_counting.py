"""What a round's messages cost, as their pieces have it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _trees
from gdsec_jax.federation._counts import RoundCounts
from gdsec_jax.federation._round import Columns
from gdsec_jax.wire import (
    count,
    layout_of,
    nonzeros_of,
    packing_of,
    tally,
    whole_of,
)


def nothing_sent(params, worker_state, wire, num_workers: int) -> RoundCounts:
    """Before the first round."""
    packing = packing_of(worker_state)
    code, payload = (None, None) if packing is None else (packing.code, packing.payload)
    layout = layout_of(params, wire, code, payload)
    silence = optax.tree.zeros_like(params if payload is None else payload)
    uploads = _trees.repeat(count(silence, layout), num_workers)
    # Masks of their own, or donating the state would give one buffer away twice.
    masks = (jnp.zeros(num_workers, bool) for _ in RoundCounts._fields[1:])
    return RoundCounts(uploads, *masks)


def uploads_of(layout, nonzeros, messages, workers, columns: Columns):
    """Count what travels of each worker's message, as its pieces have it."""
    if sends_other(workers):
        packing: Any = packing_of(workers)
        silent = ~_some(messages)
        messages = _trees.where(
            ~silent, packing.payload, optax.tree.zeros_like(packing.payload)
        )
        nonzeros = jax.vmap(nonzeros_of)(messages)
    elif not layout.run_coded:  # shapes and dtypes do
        messages = _trees.cast_like(columns.gradients, columns.previous)
    one = lambda n, message, whole: tally(n, message, layout, whole)  # noqa: E731
    whole = whole_of(workers)
    axes = (0, 0, None if whole is False else 0)
    return jax.vmap(one, axes)(nonzeros, messages, whole)


def sends_other(workers) -> bool:
    """Whether something else travels in the messages' stead."""
    packing = packing_of(workers)
    return packing is not None and packing.payload is not None


def _some(messages) -> jax.Array:
    """bool [M], of leaves [M, ...]."""
    some = False
    for leaf in jax.tree.leaves(messages):
        some |= (leaf != 0).any(axis=tuple(range(1, leaf.ndim)))
    return jnp.asarray(some)
