"""Which workers take part in a round: rules for an `Uplink`, or a server that asks."""

from gdsec_jax.uplink._participation import Grant as Grant
from gdsec_jax.uplink._participation import Offers as Offers
from gdsec_jax.uplink._participation import Rule as Rule
from gdsec_jax.uplink._participation import bernoulli as bernoulli
from gdsec_jax.uplink._participation import largest_energy as largest_energy
from gdsec_jax.uplink._participation import round_robin as round_robin
from gdsec_jax.uplink._participation import uniform as uniform

__all__ = [
    "Grant",
    "Offers",
    "Rule",
    "bernoulli",
    "largest_energy",
    "round_robin",
    "uniform",
]
