"""What a worker computes in a round: on a minibatch of its samples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees, data
from gdsec_jax.problems._compiled import Rows
from gdsec_jax.problems._linear import Gram
from gdsec_jax.problems._problem import Problem, check_problem


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
    return drawing(problem, batch_size=batch_size)


def drawing(
    problem: Problem, *, batch_size: int | None = None, rate: float | None = None
) -> Problem:
    """The problem with minibatches of a size, or of samples with a probability."""
    check_problem(problem)
    check_open(problem)
    shards = _trees.of_type(problem.worker_data, data.Shards)
    if not shards or any(isinstance(s.features, tuple) for s in shards):
        raise ValueError(
            f"{problem.name} has no data.Shards with dense features in its "
            "worker_data, expected some to draw minibatches from."
        )
    draw: Any = _Draw()
    if hasattr(problem.draw, "batch_size"):
        draw = problem.draw  # that of a network draws dropout, too
    draw = dataclasses.replace(draw, batch_size=batch_size, rate=rate)  # pyright: ignore
    return dataclasses.replace(problem, draw=draw)


def check_open(problem: Problem) -> None:
    """A ValueError if what a worker draws must not change any more."""
    if problem.private is not None:
        raise ValueError(
            f"{problem.name} is private, expected problems.private to stand last: what "
            "a worker draws is part of its guarantee."
        )


@dataclasses.dataclass(frozen=True)
class _Draw:
    """(key, data of a worker) to a batch; equal ones are compiled once."""

    batch_size: int | None = None
    rate: float | None = None

    def __call__(self, key: jax.Array, worker_data: Any) -> Any:
        def one(node):
            if isinstance(node, Gram | Rows):
                return None  # of all samples
            if not isinstance(node, data.Shards):
                return node
            if self.rate is not None:
                return some_of(key, node, self.rate)
            return batch_of(key, node, self.batch_size)  # pyright: ignore

        kinds = (data.Shards, Gram, Rows)
        return jax.tree.map(one, worker_data, is_leaf=lambda x: isinstance(x, kinds))


def batch_of(key: jax.Array, shards: data.Shards, batch_size: int) -> data.Shards:
    """A worker's samples, drawn with replacement; together they weigh what all do."""
    number = (shards.weight > 0).sum()  # the rest is padding, and stands behind
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(number, 1))
    weight = jnp.full(batch_size, shards.weight.sum() / batch_size)
    features, targets = shards.features[index], shards.targets[index]
    return data.Shards(features, targets, weight)  # pyright: ignore


def some_of(key: jax.Array, shards: data.Shards, rate: float) -> data.Shards:
    """A worker's samples, each drawn with this probability; others weigh 0, behind."""
    weight = jnp.asarray(shards.weight)
    drawn = jax.random.uniform(key, weight.shape, jnp.float32) < rate
    drawn &= weight > 0
    order = jnp.argsort(~drawn, stable=True)
    weight = jnp.where(drawn, weight / rate, 0)
    return jax.tree.map(
        lambda x: x[order],
        data.Shards(shards.features, shards.targets, weight),  # pyright: ignore
    )
