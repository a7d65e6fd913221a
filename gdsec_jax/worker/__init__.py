"""Pieces for one worker: optax transformations from its gradient to its message.

`federate` runs a piece, or a chain of them, for every worker, and hands its update the
extra arguments that the piece's page names. Vectors have the parameters' tree and
shapes; a message that goes through a memory has the parameters' dtype.

Every piece raises a ValueError for an argument outside the range that its page gives,
for a word that is none of those it names, and for gradients of another tree or shape
than the parameters'; its update raises one where an extra argument that it needs is
missing. Under Raises stands what else a piece refuses.
"""

from gdsec_jax import _checks
from gdsec_jax.worker._censor import censor as censor
from gdsec_jax.worker._gradients import GradientChangeState as GradientChangeState
from gdsec_jax.worker._gradients import MomentumState as MomentumState
from gdsec_jax.worker._gradients import gradient_change as gradient_change
from gdsec_jax.worker._gradients import momentum as momentum
from gdsec_jax.worker._low_rank import WORKER_AXIS as WORKER_AXIS
from gdsec_jax.worker._low_rank import LowRankState as LowRankState
from gdsec_jax.worker._low_rank import low_rank as low_rank
from gdsec_jax.worker._low_rank import power_sgd as power_sgd
from gdsec_jax.worker._memories import ErrorFeedbackState as ErrorFeedbackState
from gdsec_jax.worker._memories import (
    GradientDifferenceState as GradientDifferenceState,
)
from gdsec_jax.worker._memories import error_feedback as error_feedback
from gdsec_jax.worker._memories import gradient_difference as gradient_difference
from gdsec_jax.worker._piece import Piece as Piece
from gdsec_jax.worker._piece import chain as chain
from gdsec_jax.worker._piece import declare as declare
from gdsec_jax.worker._quantisers import grid as grid
from gdsec_jax.worker._quantisers import natural as natural
from gdsec_jax.worker._quantisers import qsgd as qsgd
from gdsec_jax.worker._quantisers import sign as sign
from gdsec_jax.worker._quantisers import terngrad as terngrad
from gdsec_jax.worker._sparsifiers import cast as cast
from gdsec_jax.worker._sparsifiers import random_k as random_k
from gdsec_jax.worker._sparsifiers import top_k as top_k
from gdsec_jax.worker._sparsifiers import whole as whole
from gdsec_jax.worker._triggers import CLAGState as CLAGState
from gdsec_jax.worker._triggers import FirstWholeState as FirstWholeState
from gdsec_jax.worker._triggers import LAQState as LAQState
from gdsec_jax.worker._triggers import censor_whole as censor_whole
from gdsec_jax.worker._triggers import clag as clag
from gdsec_jax.worker._triggers import first_whole as first_whole
from gdsec_jax.worker._triggers import lag as lag
from gdsec_jax.worker._triggers import laq as laq
from gdsec_jax.worker._unbiased import check_unbiased as check_unbiased
from gdsec_jax.worker._unbiased import variance_of as variance_of
from gdsec_jax.worker._vectors import Scope as Scope

__all__ = [
    "WORKER_AXIS",
    "CLAGState",
    "ErrorFeedbackState",
    "FirstWholeState",
    "GradientChangeState",
    "GradientDifferenceState",
    "LAQState",
    "LowRankState",
    "MomentumState",
    "Piece",
    "Scope",
    "cast",
    "censor",
    "censor_whole",
    "chain",
    "check_unbiased",
    "clag",
    "declare",
    "error_feedback",
    "first_whole",
    "gradient_change",
    "gradient_difference",
    "grid",
    "lag",
    "laq",
    "low_rank",
    "momentum",
    "natural",
    "power_sgd",
    "qsgd",
    "random_k",
    "sign",
    "terngrad",
    "top_k",
    "variance_of",
    "whole",
]


def __getattr__(name: str):
    if name != "UnbiasedCompressor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _checks.deprecated("worker.UnbiasedCompressor", "worker.Piece(..., variance=...)")
    return lambda init, update, variance: Piece(init, update, variance=variance)
