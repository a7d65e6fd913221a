"""Norms of what the workers compute and keep, for a look inside a run."""

from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax.federation import FederationState
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

NAMES = ("gradient_norm", "h_norm", "e_norm")


def norms_of(gradients: Any, state: Any) -> dict[str, jax.Array]:
    r"""Norms of one round, by name; of memories that the algorithm does not keep, none.

    gradient_norm is :math:`|\sum_m \nabla f_m|`, h_norm and e_norm are
    :math:`\sqrt{\sum_m |h_m|^2}` and :math:`\sqrt{\sum_m |e_m|^2}`, behind the round.
    """
    workers = [each.workers for each in _trees.of_type(state, FederationState)]
    h = [each.memory for each in _trees.of_type(workers, GradientDifferenceState)]
    e = [each.error for each in _trees.of_type(workers, ErrorFeedbackState)]
    norms = {"gradient_norm": _norm(_trees.over_workers(gradients))}
    return norms | {
        name: _norm(memory) for name, memory in (("h_norm", h), ("e_norm", e)) if memory
    }


def _norm(tree) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    dtype = _trees.widest(jnp.float32, *(x.dtype for x in leaves))
    squares = [jnp.square(x.astype(dtype)).sum() for x in leaves]
    return jnp.sqrt(jnp.stack(squares).sum())
