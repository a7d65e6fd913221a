"""Minibatches: each worker's gradient on a few of its samples, drawn each round."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, data
from gdsec_jax.problems._gram import Gram
from gdsec_jax.problems._problem import Problem


def minibatch(problem: Problem, batch_size: int) -> Problem:
    r"""The same problem with stochastic gradients.

    In each round worker m draws a batch B of `batch_size` of its own N_m samples, with
    replacement, and computes

    .. math:: \frac{N_m}{|B|} \sum_{n \in B} \nabla \ell_n(\theta) + \text{penalty},

    an unbiased estimate of its gradient of f_m. The error is that of the whole data.

    Args:
      problem: whose worker_data hold `data.Shards` with dense features: those of this
        package, or of `from_loss` with `data.stack`.
      batch_size: samples a worker and round.

    Returns:
      A `Problem` that `simulate` needs a key for.

    Raises:
      ValueError: batch_size is no positive int, or there are no such shards.

    Examples:
      >>> import jax, numpy as np, optax
      >>> from gdsec_jax import gdsec, problems, simulate
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> problem = problems.minibatch(problems.ridge(x, x.sum(1), 4), batch_size=5)
      >>> optimizer = optax.chain(gdsec(4, xi=1.0), optax.sgd(0.1))
      >>> history = simulate(problem, optimizer, 50, key=0)
      >>> bool(history.objective_error[-1] < 0.1 * history.initial_error)
      True
    """
    _checks.integer("batch_size", batch_size, 1)
    nodes = jax.tree.leaves(problem.worker_data, is_leaf=_is_shards)
    shards = [node for node in nodes if _is_shards(node)]
    if not shards or any(isinstance(s.features, tuple) for s in shards):
        raise ValueError(
            f"{problem.name} has no data.Shards with dense features in its "
            "worker_data, expected some to draw minibatches from."
        )
    draw: Any = _Draw(batch_size)
    if hasattr(problem.draw, "batch_size"):  # that of a network draws dropout, too
        draw = dataclasses.replace(problem.draw, batch_size=batch_size)  # pyright: ignore
    return dataclasses.replace(problem, draw=draw)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """(key, data of a worker) to a batch; equal for equal sizes: compiled once."""

    batch_size: int

    def __call__(self, key: jax.Array, worker_data: Any) -> Any:
        def one(node):
            if isinstance(node, Gram):
                return None  # of all samples
            return batch_of(key, node, self.batch_size) if _is_shards(node) else node

        kinds = (data.Shards, Gram)
        return jax.tree.map(one, worker_data, is_leaf=lambda x: isinstance(x, kinds))


def batch_of(key: jax.Array, shards: data.Shards, batch_size: int) -> data.Shards:
    """A worker's samples, drawn with replacement; together they weigh what all do."""
    number = (shards.weight > 0).sum()  # the rest is padding, and stands behind
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(number, 1))
    weight = jnp.full(batch_size, shards.weight.sum() / batch_size)
    features, targets = shards.features[index], shards.targets[index]
    return data.Shards(features, targets, weight)  # pyright: ignore


def _is_shards(node) -> bool:
    return isinstance(node, data.Shards)
