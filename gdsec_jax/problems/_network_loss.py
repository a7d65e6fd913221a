"""What a worker computes of a network in a round, and what is evaluated of it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax.data import Shards
from gdsec_jax.problems._minibatch import batch_of
from gdsec_jax.problems._network import Network
from gdsec_jax.problems._problem import Measured, Problem

PyTree = Any
# (outputs, targets) of n samples to [n, ...], a value or several of each.
PerSample = Callable[[Any, jax.Array], jax.Array]


class Drawn(NamedTuple):
    """What a worker draws in a round."""

    shards: Shards
    key: jax.Array | None  # of dropout


class HeldOut(NamedTuple):
    """What an evaluation reads beside the data of the workers."""

    shards: Shards | None  # without the axis of workers
    sample: jax.Array | None  # features whose statistics normalise what is evaluated


@dataclasses.dataclass(frozen=True)
class Draw:
    """(key, samples of a worker) to a batch, and a key for dropout."""

    batch_size: int | None
    draws: bool

    def __call__(self, key: jax.Array, shards: Shards) -> Any:
        batch_key, model_key = jax.random.split(key)
        if self.batch_size is not None:
            shards = batch_of(batch_key, shards, self.batch_size)
        return Drawn(shards, model_key)


@dataclasses.dataclass(frozen=True)
class WorkerLoss:
    """f_m; equal for equal models and losses: compiled once."""

    network: Network
    loss: PerSample

    def __call__(self, params: PyTree, own: Shards | Drawn) -> jax.Array:
        drawn = own if isinstance(own, Drawn) else Drawn(own, None)
        outputs = self.network.outputs(params, drawn.shards.features, drawn.key)
        return _weighted_sum("loss", self.loss, outputs, drawn.shards)


@dataclasses.dataclass(frozen=True)
class Measure:
    """Loss and metrics, on held-out data or on the workers', a few at a time."""

    network: Network
    functions: tuple[tuple[str, PerSample], ...]
    batch_size: int

    def __call__(self, problem: Problem, params: PyTree, worker_batch) -> Measured:
        at = params, self.network.rest_at(params, problem.held_out.sample)
        if problem.held_out.shards is not None:
            values = self._sums(at, problem.held_out.shards)
        else:
            values = problem.over_workers(self._sums, at, worker_batch)
        error, *metrics = values
        names = [name for name, _ in self.functions[1:]]
        return Measured(error, dict(zip(names, metrics, strict=True)))

    def _sums(self, at: tuple[PyTree, PyTree], shards: Shards) -> tuple[jax.Array, ...]:
        size = shards.targets.shape[0]
        batch = min(self.batch_size, size)

        def of_some(start, number):
            cut = jax.lax.dynamic_slice_in_dim
            some = jax.tree.map(lambda x: cut(x, start, number), shards)
            outputs = self.network.inferred(*at, some.features)
            return tuple(
                _weighted_sum(name, function, outputs, some)
                for name, function in self.functions
            )

        def add(i, total):
            own = of_some(i * batch, batch)
            return tuple(a + b for a, b in zip(total, own, strict=True))

        whole, rest = divmod(size, batch)
        if rest:
            first = of_some(size - rest, rest)
        else:
            first, whole = of_some((whole - 1) * batch, batch), whole - 1
        return jax.lax.fori_loop(0, whole, add, first)


def _weighted_sum(name: str, function: PerSample, outputs, shards) -> jax.Array:
    """The sum of the samples' values, each times the sample's weight."""
    values = function(outputs, shards.targets)
    weight = shards.weight
    if jnp.shape(values)[:1] != weight.shape:
        raise ValueError(
            f"{name} returns an array of shape {jnp.shape(values)} for {weight.size} "
            f"samples, expected ({weight.size}, ...): a value for each, not their mean."
        )
    floats = jnp.issubdtype(values.dtype, jnp.floating)
    dtype = _trees.widest(jnp.float32, values.dtype if floats else weight.dtype)
    of_each = values.reshape(weight.size, -1).astype(dtype).mean(axis=1)
    return jnp.vdot(weight.astype(dtype), of_each)
