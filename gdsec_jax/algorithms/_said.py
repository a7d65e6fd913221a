"""What methods with memories of their own have in common: who was heard, and how."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._counts import last_round
from gdsec_jax.federation._train import LocalSteps
from gdsec_jax.worker._piece import Piece, as_piece
from gdsec_jax.worker._vectors import arrived, as_it_travels

# Of a coin that says to meet: with a smaller one int32 may not hold how many steps.
LEAST_PROBABILITY = 1e-7


@_trees.state
class SaidState(NamedTuple):
    """State of `remembered`."""

    message: Any  # u, as it arrived: a leaf a parameter, its shape and dtype
    compressor: Any


def remembered(compressor: Any) -> Piece:
    """A compressor whose last message stays in its state, for a method's own memory."""
    compressor = as_piece(compressor)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return SaidState(zeros, compressor.init(params))

    def update(updates, state, params=None, **extra_args):
        u, inner = compressor.update(updates, state.compressor, params, **extra_args)
        u = as_it_travels(u, params, extra_args)
        return u, SaidState(arrived(u, extra_args), inner)

    return Piece(
        init,
        update,
        sums_over_workers=compressor.sums_over_workers,
        travels=True,
        most_entries=compressor.most_entries,
    )


def said(federation: Any) -> Any:
    """The messages of the last round that arrived, leaves [M, *param]; 0 of others."""
    (state,) = _trees.of_type(federation.workers, SaidState)
    zeros = jax.tree.map(jnp.zeros_like, state.message)
    return _trees.where(heard(federation), state.message, zeros)


def heard(federation: Any) -> jax.Array:
    """Whose message arrived in the last round, bool [M]."""
    last = last_round(federation)
    return last.participants & ~last.lost


def present(federation: Any) -> jax.Array:
    """Who took part in the last round, heard or not, bool [M]."""
    return last_round(federation).participants


def mean(tree: Any, num_workers: int) -> Any:
    """Of all workers: leaves [M, *param] to [*param]."""
    total = _trees.over_workers(tree)
    return jax.tree.map(lambda x: x / jnp.asarray(num_workers, x.dtype), total)


def everyones(tree: Any) -> Any:
    """Leaves [*param] beside those of the workers, [1, *param]."""
    return jax.tree.map(lambda x: x[None], tree)


def all_take_part(name: str, extra_args: dict[str, Any], remedy: str = "") -> None:
    """No mask of workers is given to a method in which all take part, or draws them."""
    if extra_args.get("active") is not None:
        raise ValueError(
            f"active is given, expected none: in {name} "
            f"{remedy or 'every worker takes part in every round'}."
        )


def mixed(*parts: tuple[Any, Any]) -> Any:
    """Sum of the pairs' products of a number and a tree."""

    def one(*leaves):
        numbers = (
            jnp.asarray(c, x.dtype) for (c, _), x in zip(parts, leaves, strict=True)
        )
        return sum(c * x for c, x in zip(numbers, leaves, strict=True))

    return jax.tree.map(one, *(tree for _, tree in parts))


def split(key_data: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key of this round, and the data of the next; `key` says of which kind."""
    both = jax.random.split(
        jax.random.wrap_key_data(key_data, impl=jax.random.key_impl(key))
    )
    return both[1], jax.random.key_data(both[0])


def thrown(key_data: jax.Array, key: jax.Array, probability: Any):
    """How many steps until a coin says to meet, and the data of the next key."""
    coin, following = split(key_data, key)
    number = jax.random.geometric(coin, probability, dtype=jnp.int32)
    return LocalSteps(number), following


def stream(key: Any, number: int) -> jax.Array:
    """A key of its own for each of the things that a method draws."""
    return jax.random.fold_in(_trees.as_key(key), number)


def cohort_of(cohort: Any, num_workers: int, least: int = 1) -> int:
    """How many workers take part in a round, checked; None: all."""
    if cohort is None:
        return num_workers
    return _checks.integer("cohort", cohort, least, num_workers)
