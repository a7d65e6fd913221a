"""What a caller wants to see of each round, beside what is always recorded."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.federation import FederationState
from gdsec_jax.simulation import _records
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

NORMS = ("gradient_norm", "h_norm", "e_norm")


class Round(NamedTuple):
    """One round of a run, as `observe` is shown it; traced."""

    number: jax.Array  # int32 [], the first is 0
    params: Any  # theta^k, at which the workers compute
    gradients: Any  # of all workers, leaves [M, *param]; None with a worker_batch
    state: Any  # the optimizer's, before the round
    updates: Any  # what was added to theta^k
    new_params: Any  # theta^{k+1}
    new_state: Any  # the optimizer's, after the round: for `last_round`, say


Observe = Callable[[Round], Mapping[str, Any]]


def observed(observe: Observe | None, now: Round) -> dict[str, jax.Array]:
    """What a function sees in a round, arrays by name, once they are checked."""
    seen = {} if observe is None else observe(now)
    if not isinstance(seen, Mapping):
        raise ValueError(
            f"observe returns {seen!r}, expected a dict from names to arrays."
        )
    for name in seen:
        if not isinstance(name, str) or _records.is_taken(name):
            raise ValueError(
                f"observe returns the name {name!r}, expected a word that no other "
                "record has."
            )
    return {name: jnp.asarray(value) for name, value in seen.items()}


def norms(now: Round) -> dict[str, jax.Array]:
    r"""Norms of a round's gradient and of the workers' memories, for `observe`.

    Args:
      now: the round.

    Returns:
      gradient_norm, :math:`|\sum_m \nabla f_m|` at theta^k; and after the round, of the
      memories that the algorithm keeps, h_norm, :math:`\sqrt{\sum_m |h_m|^2}`, and
      e_norm, :math:`\sqrt{\sum_m |e_m|^2}`.

    Raises:
      ValueError: the gradients of all workers are never there at once.

    Examples:
      >>> import numpy as np, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import problems
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), num_workers=2)
      >>> optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(1.0))
      >>> history = gdsec_jax.simulate(
      ...     problem, optimizer, 3, observe=gdsec_jax.norms)
      >>> {name: norm.shape for name, norm in history.observed.items()}
      {'gradient_norm': (3,)}
    """
    if now.gradients is None:
        raise ValueError(
            "observe is norms, expected another function with a worker_batch: the "
            "gradients of all workers are never there at once."
        )
    workers = [each.workers for each in _trees.of_type(now.new_state, FederationState)]
    h = [each.memory for each in _trees.of_type(workers, GradientDifferenceState)]
    e = [each.error for each in _trees.of_type(workers, ErrorFeedbackState)]
    found = {"gradient_norm": _norm(_trees.over_workers(now.gradients))}
    return found | {
        name: _norm(memory) for name, memory in (("h_norm", h), ("e_norm", e)) if memory
    }


def _norm(tree) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    dtype = _trees.widest(jnp.float32, *(x.dtype for x in leaves))
    squares = [jnp.square(x.astype(dtype)).sum() for x in leaves]
    return jnp.sqrt(jnp.stack(squares).sum())


def log_columns(
    columns: Mapping[str, Any], numbers: Any, observe: Observe | None
) -> dict[str, Any]:
    """What a log is told of some rounds of one run: single numbers alone.

    With `norms` they are the same columns whatever memories an algorithm keeps, so that
    one file can have several.
    """
    unknown = {}
    if observe is norms:
        unknown = {name: np.full(numbers.size, np.nan) for name in NORMS}
    single = {name: x for name, x in columns.items() if x.ndim == 1}
    return {"round": numbers} | unknown | single
