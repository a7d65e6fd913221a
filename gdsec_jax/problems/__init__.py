"""Objectives split over workers, with their optimum and smoothness constants."""

from gdsec_jax.problems._flax import flax_model as flax_model
from gdsec_jax.problems._flax import flax_problem as flax_problem
from gdsec_jax.problems._losses import lasso as lasso
from gdsec_jax.problems._losses import logistic as logistic
from gdsec_jax.problems._losses import (
    nonlinear_least_squares as nonlinear_least_squares,
)
from gdsec_jax.problems._losses import proximal_l1 as proximal_l1
from gdsec_jax.problems._losses import ridge as ridge
from gdsec_jax.problems._losses import softmax as softmax
from gdsec_jax.problems._problem import Problem as Problem
from gdsec_jax.problems._problem import from_loss as from_loss
from gdsec_jax.problems._rounds import local_steps as local_steps
from gdsec_jax.problems._rounds import minibatch as minibatch

__all__ = [
    "Problem",
    "flax_model",
    "flax_problem",
    "from_loss",
    "lasso",
    "local_steps",
    "logistic",
    "minibatch",
    "nonlinear_least_squares",
    "proximal_l1",
    "ridge",
    "softmax",
]
