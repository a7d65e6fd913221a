"""Objectives split over workers, with their optimum and smoothness constants."""

from gdsec_jax.problems._flax import flax_model, flax_problem
from gdsec_jax.problems._losses import (
    lasso,
    logistic,
    nonlinear_least_squares,
    proximal_l1,
    ridge,
    softmax,
)
from gdsec_jax.problems._private import Private, poisson, private
from gdsec_jax.problems._problem import Problem, from_loss
from gdsec_jax.problems._rounds import minibatch

__all__ = [
    "Private",
    "Problem",
    "flax_model",
    "flax_problem",
    "from_loss",
    "lasso",
    "logistic",
    "minibatch",
    "nonlinear_least_squares",
    "poisson",
    "private",
    "proximal_l1",
    "ridge",
    "softmax",
]
