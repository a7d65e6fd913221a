"""What a worker computes in a round: on a minibatch of its samples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees, data
from gdsec_jax.problems._compiled import Rows
from gdsec_jax.problems._linear import Gram
from gdsec_jax.problems._problem import Problem, check_problem


def minibatch(
    problem: Problem, batch_size: int, *, replacement: bool = True
) -> Problem:
    r"""The same problem with stochastic gradients.

    In each round worker m draws a batch B of `batch_size` of its own N_m samples, with
    replacement or without, and computes

    .. math:: \frac{N_m}{|B|} \sum_{n \in B} \nabla \ell_n(\theta) + \text{penalty},

    an unbiased estimate of its gradient of f_m. The error is that of the whole data.

    Args:
      problem: whose worker_data hold `data.Shards` with dense features: those of this
        package, or of `from_loss` with `data.stack`.
      batch_size: samples a worker and round.
      replacement: whether a batch may have a sample twice; what `private` accounts has
        none.

    Returns:
      A `Problem` that `simulate` needs a key for.

    Raises:
      ValueError: batch_size is no positive int, or without replacement more than a
        worker has; or there are no such shards.

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
    _checks.of_kind("replacement", replacement, bool, "True or False")
    made = drawing(problem, batch_size=batch_size, replacement=replacement)
    if not replacement:
        (shards, *_) = _trees.of_type(problem.worker_data, data.Shards)
        fewest = int((np.asarray(shards.weight) > 0).sum(-1).min())
        if batch_size > fewest:
            raise ValueError(
                f"batch_size is {batch_size} without replacement, expected at most "
                f"{fewest}, which the worker with the fewest samples has."
            )
    return made


def drawing(
    problem: Problem,
    *,
    batch_size: int | None = None,
    rate: float | None = None,
    replacement: bool = True,
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
    draw: Any = Draw()
    if hasattr(problem.draw, "batch_size"):
        draw = problem.draw  # that of a network draws dropout, too
    how = {"batch_size": batch_size, "rate": rate, "replacement": replacement}
    draw = dataclasses.replace(draw, **how)
    return dataclasses.replace(problem, draw=draw)


def check_open(problem: Problem) -> None:
    """A ValueError if what a worker draws must not change any more."""
    if problem.private is not None:
        raise ValueError(
            f"{problem.name} is private, expected problems.private to stand last: what "
            "a worker draws is part of its guarantee."
        )


@dataclasses.dataclass(frozen=True)
class Draw:
    """(key, data of a worker) to a batch; equal ones are compiled once."""

    batch_size: int | None = None
    rate: float | None = None
    replacement: bool = True

    def __call__(self, key: jax.Array, worker_data: Any) -> Any:
        def one(node):
            if isinstance(node, Gram | Rows):
                return None  # of all samples
            if not isinstance(node, data.Shards):
                return node
            return drawn_of(self, key, node)

        kinds = (data.Shards, Gram, Rows)
        return jax.tree.map(one, worker_data, is_leaf=lambda x: isinstance(x, kinds))


def drawn_of(draw: Any, key: jax.Array, shards: data.Shards) -> data.Shards:
    """A worker's samples of one round, as it draws them."""
    if draw.rate is not None:
        return some_of(key, shards, draw.rate)
    if draw.batch_size is None:
        return shards
    return batch_of(key, shards, draw.batch_size, draw.replacement)


def batch_of(
    key: jax.Array, shards: data.Shards, batch_size: int, replacement: bool = True
) -> data.Shards:
    """Some of a worker's samples; together they weigh what all do."""
    real = shards.weight > 0  # the rest is padding, and stands behind
    if replacement:
        index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(real.sum(), 1))
    else:  # of 64 random bits the smallest
        first, second = jax.random.bits(key, (2, real.size), jnp.uint32)
        keys: Any = ((~real).astype(jnp.uint32), first, second, jnp.arange(real.size))
        index = jax.lax.sort(keys, num_keys=3)[-1][:batch_size]
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
