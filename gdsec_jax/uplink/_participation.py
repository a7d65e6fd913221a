"""Which workers take part in a round: rules for an `Uplink`, or a server that asks."""

from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks
from gdsec_jax.federation._attendance import Grant, Offers, Rule


def _number(share, num_workers: int):
    """Of workers, at least one, int32."""
    number = jnp.clip(jnp.round(share * num_workers), 1, num_workers)
    return number.astype(jnp.int32)


def _checked(num_workers: int, name: str, share) -> None:
    _checks.number_of_workers(num_workers)
    _checks.number_in_range(name, share, 0.0, 1.0)


def uniform(num_workers: int, share) -> Rule:
    """So large a share of the workers, at least one, drawn uniformly.

    Args:
      num_workers: M.
      share: in [0, 1], or a ValueError is raised; may be traced.

    Returns:
      A rule: from a round's key and number, the first is 0, to bool [M].

    Examples:
      >>> import jax
      >>> from gdsec_jax import participation
      >>> rule = participation.uniform(num_workers=6, share=0.5)
      >>> int(rule(jax.random.key(0), 0).sum())
      3
    """
    _checked(num_workers, "share", share)

    def rule(key, round):
        del round
        rank = jax.random.permutation(key, num_workers).astype(jnp.int32)
        return rank < _number(share, num_workers)

    return rule


def bernoulli(num_workers: int, probability) -> Rule:
    """Every worker for itself with a probability; in some rounds it may be none.

    The probability is that of all workers; otherwise as `uniform`.

    Examples:
      >>> import jax
      >>> from gdsec_jax import participation
      >>> rule = participation.bernoulli(num_workers=3, probability=1.0)
      >>> rule(jax.random.key(0), 0).tolist()
      [True, True, True]
    """
    _checked(num_workers, "probability", probability)
    return lambda key, round: jax.random.bernoulli(key, probability, (num_workers,))


def round_robin(num_workers: int, share) -> Rule:
    """So large a share of the workers, at least one, in turn.

    It draws nothing, and takes at most 46,340 workers; otherwise as `uniform`.

    Examples:
      >>> from gdsec_jax import participation
      >>> rule = participation.round_robin(num_workers=3, share=2 / 3)
      >>> [rule(None, round).tolist() for round in (0, 1)]
      [[True, True, False], [True, False, True]]
    """
    _checked(num_workers, "share", share)
    # In each round the first moves on by up to M: their product is an int32.
    _checks.integer("num_workers", num_workers, 1, 46_340)

    def rule(key, round):
        del key
        number, numbers = _number(share, num_workers), jnp.arange(num_workers)
        # Of the product only the remainder counts, which must not overflow.
        first = (jnp.asarray(round) % num_workers) * number % num_workers
        return (numbers.astype(jnp.int32) - first) % num_workers < number

    return rule


def largest_energy(budget_bits) -> Grant:
    r"""The workers with the largest unsent energy, within a budget of bits a round.

    Every worker says what it would send: the energy :math:`\|u_m\|^2` of its message,
    with what it has kept back so far, and the bits of it. They are let to send in the
    order of their energies, while the bits add up to at most the budget. The first is
    always let to, or a budget below a message would end everything; and so is who has
    nothing to send. What workers say is not counted.

    Args:
      budget_bits: of a round, of all workers together, at least 0, or a ValueError is
        raised; may be traced.

    Returns:
      A rule for `Uplink(grant=)`: from `Offers` to bool [M].

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import participation
      >>> rule = participation.largest_energy(budget_bits=100)
      >>> offers = participation.Offers(
      ...     energy=jnp.array([1.0, 4.0, 9.0]), bits=jnp.array([10.0, 80.0, 20.0]))
      >>> rule(offers).tolist()
      [False, True, True]
    """
    _checks.number_in_range("budget_bits", budget_bits, 0.0, _checks.LARGEST)

    def grant(offers: Offers) -> jax.Array:
        size = offers.energy if offers.norm is None else offers.norm
        order = jnp.argsort(-size)
        within: Any = jnp.cumsum(offers.bits[order]) <= budget_bits
        granted = jnp.zeros(order.size, bool).at[order].set(within.at[0].set(True))
        return granted | (offers.bits == 0)

    return grant
