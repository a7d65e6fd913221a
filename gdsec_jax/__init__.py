"""Communication-efficient distributed optimisation in JAX: GD-SEC and its rivals."""

from gdsec_jax import data as data
from gdsec_jax import problems as problems
from gdsec_jax import wire as wire
from gdsec_jax import worker as worker
from gdsec_jax._check_optimizer import check as check
from gdsec_jax._last_round import LastRound as LastRound
from gdsec_jax._last_round import last_round as last_round
from gdsec_jax.algorithms import gd as gd
from gdsec_jax.algorithms import gdsec as gdsec
from gdsec_jax.algorithms import gdsoec as gdsoec
from gdsec_jax.federation import federate as federate
from gdsec_jax.history import History as History
from gdsec_jax.server import server_memory as server_memory
from gdsec_jax.server import worker_memories as worker_memories
from gdsec_jax.simulate import simulate as simulate

__all__ = [
    "History",
    "LastRound",
    "check",
    "data",
    "federate",
    "gd",
    "gdsec",
    "gdsoec",
    "last_round",
    "problems",
    "server_memory",
    "simulate",
    "wire",
    "worker",
    "worker_memories",
]
