"""The methods of the field, each a composition of a worker's pieces, ready for a chain.

Each is an `optax.experimental.aggregating.Aggregator`: it stands first in an optax
chain, takes gradients with a leading axis of workers, and returns the direction that
plain gradient descent would get from the server. `help` of a method describes what is
common to all of them, too: written once in `_pages.py`, the decorator `algorithm` puts
it there, and the common options into the signature.
"""

from gdsec_jax import _checks
from gdsec_jax.algorithms._censored import gdsec as gdsec
from gdsec_jax.algorithms._censored import gdsoec as gdsoec
from gdsec_jax.algorithms._censored import qsgdsec as qsgdsec
from gdsec_jax.algorithms._error_feedback import low_rank as low_rank
from gdsec_jax.algorithms._error_feedback import power_sgd as power_sgd
from gdsec_jax.algorithms._error_feedback import sign_ef as sign_ef
from gdsec_jax.algorithms._error_feedback import top_j as top_j
from gdsec_jax.algorithms._memoryless import natural as natural
from gdsec_jax.algorithms._memoryless import qgd as qgd
from gdsec_jax.algorithms._memoryless import rand_k as rand_k
from gdsec_jax.algorithms._memoryless import terngrad as terngrad
from gdsec_jax.algorithms._options import MemoryOptions as MemoryOptions
from gdsec_jax.algorithms._options import Options as Options
from gdsec_jax.algorithms._options import algorithm as algorithm
from gdsec_jax.algorithms._options import difference_memory as difference_memory
from gdsec_jax.algorithms._registry import METHODS as METHODS
from gdsec_jax.algorithms._registry import STATIC_ARGS as STATIC_ARGS
from gdsec_jax.algorithms._registry import Method as Method
from gdsec_jax.algorithms._variance_reduced import clag as clag
from gdsec_jax.algorithms._variance_reduced import diana as diana
from gdsec_jax.algorithms._variance_reduced import ef21 as ef21
from gdsec_jax.algorithms._variance_reduced import ef21_sgdm as ef21_sgdm
from gdsec_jax.algorithms._variance_reduced import marina as marina
from gdsec_jax.algorithms._whole_vectors import cgd as cgd
from gdsec_jax.algorithms._whole_vectors import gd as gd
from gdsec_jax.algorithms._whole_vectors import iag as iag
from gdsec_jax.algorithms._whole_vectors import lag as lag
from gdsec_jax.algorithms._whole_vectors import laq as laq

__all__ = [
    "METHODS",
    "STATIC_ARGS",
    "MemoryOptions",
    "Method",
    "Options",
    "algorithm",
    "cgd",
    "clag",
    "diana",
    "difference_memory",
    "ef21",
    "ef21_sgdm",
    "gd",
    "gdsec",
    "gdsoec",
    "iag",
    "lag",
    "laq",
    "low_rank",
    "marina",
    "natural",
    "power_sgd",
    "qgd",
    "qsgdsec",
    "rand_k",
    "sign_ef",
    "terngrad",
    "top_j",
]


def __getattr__(name: str):
    if name not in ("FeedbackOptions", "SparseOptions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _checks.deprecated(f"algorithms.{name}", "algorithms.MemoryOptions")
    return MemoryOptions
