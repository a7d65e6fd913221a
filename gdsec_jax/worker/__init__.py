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
from gdsec_jax.worker._censor import censor
from gdsec_jax.worker._chunks import chunk_top_k
from gdsec_jax.worker._fragments import fragment
from gdsec_jax.worker._gradients import (
    GradientChangeState,
    MomentumState,
    gradient_change,
    momentum,
)
from gdsec_jax.worker._low_rank import WORKER_AXIS, LowRankState, low_rank, power_sgd
from gdsec_jax.worker._memories import (
    ErrorFeedbackState,
    GradientDifferenceState,
    error_feedback,
    gradient_difference,
)
from gdsec_jax.worker._noise import GaussianNoiseState, gaussian_noise
from gdsec_jax.worker._permuted import perm_k
from gdsec_jax.worker._piece import (
    Noise,
    Piece,
    chain,
    check_unbiased,
    contraction_of,
    declare,
    joint_variance_of,
    variance_of,
)
from gdsec_jax.worker._quantisers import grid, natural, qsgd, sign, terngrad
from gdsec_jax.worker._samples import clip_per_example
from gdsec_jax.worker._sparsifiers import (
    CommonEntriesState,
    cast,
    random_k,
    top_k,
    whole,
)
from gdsec_jax.worker._three_points import ThreePointState, dasha, three_point
from gdsec_jax.worker._triggers import (
    CLAGState,
    FirstWholeState,
    LAQState,
    censor_whole,
    clag,
    first_whole,
    lag,
    laq,
)
from gdsec_jax.worker._vectors import Scope

__all__ = [
    "WORKER_AXIS",
    "CLAGState",
    "CommonEntriesState",
    "ErrorFeedbackState",
    "FirstWholeState",
    "GaussianNoiseState",
    "GradientChangeState",
    "GradientDifferenceState",
    "LAQState",
    "LowRankState",
    "MomentumState",
    "Noise",
    "Piece",
    "Scope",
    "ThreePointState",
    "cast",
    "censor",
    "censor_whole",
    "chain",
    "check_unbiased",
    "chunk_top_k",
    "clag",
    "clip_per_example",
    "contraction_of",
    "dasha",
    "declare",
    "error_feedback",
    "first_whole",
    "fragment",
    "gaussian_noise",
    "gradient_change",
    "gradient_difference",
    "grid",
    "joint_variance_of",
    "lag",
    "laq",
    "low_rank",
    "momentum",
    "natural",
    "perm_k",
    "power_sgd",
    "qsgd",
    "random_k",
    "sign",
    "terngrad",
    "three_point",
    "top_k",
    "variance_of",
    "whole",
]


def __getattr__(name: str):
    if name != "UnbiasedCompressor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _checks.deprecated("worker.UnbiasedCompressor", "worker.Piece(..., variance=...)")
    return lambda init, update, variance: Piece(init, update, variance=variance)
