"""The methods of the field, each a composition of a worker's pieces, ready for a chain.

Each is an `optax.experimental.aggregating.Aggregator`: it stands first in an optax
chain, takes gradients with a leading axis of workers, and returns the direction that
plain gradient descent would get from the server. `help` of a method describes what is
common to all of them, too: written once in `_pages.py`, the decorator `algorithm` puts
it there, and the common options into the signature.
"""

from gdsec_jax import _checks
from gdsec_jax.algorithms._after_ef21 import dasha, econtrol, ef_bv, threepc
from gdsec_jax.algorithms._both_ways import ef21_muon, ef21_p, one_bit_adam
from gdsec_jax.algorithms._censored import gdsec, gdsoec, qsgdsec
from gdsec_jax.algorithms._error_feedback import low_rank, power_sgd, sign_ef, top_j
from gdsec_jax.algorithms._local import scaffnew, scaffold
from gdsec_jax.algorithms._local_compressed import locodl, tamuna
from gdsec_jax.algorithms._memoryless import natural, qgd, rand_k, terngrad
from gdsec_jax.algorithms._options import (
    MemoryOptions,
    Options,
    algorithm,
    difference_memory,
)
from gdsec_jax.algorithms._own_points import adiana, dasha_pp, marina_p
from gdsec_jax.algorithms._pseudo_gradients import (
    diloco,
    sparse_loco,
    streaming_diloco,
)
from gdsec_jax.algorithms._registry import METHODS, STATIC_ARGS, Method
from gdsec_jax.algorithms._signs import demo, sign_majority
from gdsec_jax.algorithms._variance_reduced import clag, diana, ef21, ef21_sgdm, marina
from gdsec_jax.algorithms._whole_vectors import cgd, gd, iag, lag, laq

__all__ = [
    "METHODS",
    "STATIC_ARGS",
    "MemoryOptions",
    "Method",
    "Options",
    "adiana",
    "algorithm",
    "cgd",
    "clag",
    "dasha",
    "dasha_pp",
    "demo",
    "diana",
    "difference_memory",
    "diloco",
    "econtrol",
    "ef21",
    "ef21_muon",
    "ef21_p",
    "ef21_sgdm",
    "ef_bv",
    "gd",
    "gdsec",
    "gdsoec",
    "iag",
    "lag",
    "laq",
    "locodl",
    "low_rank",
    "marina",
    "marina_p",
    "natural",
    "one_bit_adam",
    "power_sgd",
    "qgd",
    "qsgdsec",
    "rand_k",
    "scaffnew",
    "scaffold",
    "sign_ef",
    "sign_majority",
    "sparse_loco",
    "streaming_diloco",
    "tamuna",
    "terngrad",
    "threepc",
    "top_j",
]


def __getattr__(name: str):
    if name not in ("FeedbackOptions", "SparseOptions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _checks.deprecated(f"algorithms.{name}", "algorithms.MemoryOptions")
    return MemoryOptions
