"""Which workers take part in a round: rules for an `Uplink`, or a server that asks."""

from gdsec_jax.uplink._participation import (
    Grant,
    Offers,
    Rule,
    bernoulli,
    largest_energy,
    round_robin,
    uniform,
)

__all__ = [
    "Grant",
    "Offers",
    "Rule",
    "bernoulli",
    "largest_energy",
    "round_robin",
    "uniform",
]
