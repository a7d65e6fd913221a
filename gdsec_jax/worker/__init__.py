"""Pieces for one worker: optax transformations from its gradient to its message."""

from gdsec_jax.worker._compressors import censor as censor
from gdsec_jax.worker._memories import ErrorFeedbackState as ErrorFeedbackState
from gdsec_jax.worker._memories import (
    GradientDifferenceState as GradientDifferenceState,
)
from gdsec_jax.worker._memories import error_feedback as error_feedback
from gdsec_jax.worker._memories import gradient_difference as gradient_difference

__all__ = [
    "ErrorFeedbackState",
    "GradientDifferenceState",
    "censor",
    "error_feedback",
    "gradient_difference",
]
