"""A flax model as functions of its parameters, and what a problem computes by them.

Of equal models they are equal, so that what is compiled is shared.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.data import Shards
from gdsec_jax.problems._problem import Measured, Problem, in_batches
from gdsec_jax.problems._rounds import drawn_of

if TYPE_CHECKING:
    from flax import nnx

PyTree = Any
# (outputs, targets) of n samples to [n, ...], a value or several of each.
PerSample = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Constants:
    """A tree of arrays that are part of a program: equal where their bytes are."""

    structure: Any
    leaves: tuple[tuple[bytes, np.dtype, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tree: PyTree) -> "Constants":
        """The constants with the values of these arrays."""
        leaves, structure = jax.tree.flatten(tree)
        arrays = [np.asarray(leaf) for leaf in leaves]
        return cls(structure, tuple((x.tobytes(), x.dtype, x.shape) for x in arrays))

    def tree(self) -> PyTree:
        """The arrays."""
        leaves = [np.frombuffer(b, dtype).reshape(s) for b, dtype, s in self.leaves]
        return jax.tree.unflatten(self.structure, map(jnp.asarray, leaves))


@dataclasses.dataclass(frozen=True)
class Network:
    """A model without its parameters: its graph in the three ways of calling it."""

    training: Hashable  # with dropout, normalised by the batch
    deterministic: Hashable  # without dropout, normalised by the batch
    inference: Hashable  # without dropout, normalised by statistics that were kept
    normalises: bool  # whether it does so by the batch at all
    keys: tuple[Any, tuple[tuple[int, ...], ...]]  # structure and shapes of random keys
    rest: Constants  # its other variables

    @property
    def draws(self) -> bool:
        """Whether it has random keys, of dropout say."""
        return bool(self.keys[1])

    def outputs(self, params: PyTree, features, key=None) -> Any:
        """The outputs of a batch: in training with a key, deterministic without one."""
        graph = self.deterministic if key is None else self.training
        return _wide(self._model(graph, params, key)(features))

    def rest_at(self, params: PyTree, sample) -> PyTree:
        """The variables for inference: statistics of a sample, if there is one."""
        from flax import nnx

        rest = self.rest.tree()
        if sample is None:
            return rest
        model = self._model(self.deterministic, params)
        model(sample)
        return _with(rest, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    def inferred(self, params: PyTree, rest: PyTree, features) -> Any:
        """The outputs in inference, where each sample is on its own."""
        return _wide(self.model(params, rest)(features))

    def model(self, params: PyTree, rest: PyTree) -> "nnx.Module":
        """The model in inference, with these parameters and other variables."""
        return self._model(self.inference, params, rest=rest)

    def _model(self, graph, params, key=None, rest=None):
        from flax import nnx

        rest = self.rest.tree() if rest is None else rest
        structure, shapes = self.keys
        key = jax.random.key(0) if key is None else key
        own = [
            jax.random.split(jax.random.fold_in(key, i), shape)
            for i, shape in enumerate(shapes)
        ]
        return nnx.merge(graph, params, jax.tree.unflatten(structure, own), rest)


def network_of(model: "nnx.Module", wrt: Any) -> tuple[Network, PyTree]:
    """A model's functions, and those of its variables that the filter wrt lets pass.

    The model stays as it is.
    """
    from flax import nnx

    model = nnx.clone(model)
    if normalised := normalises(model):
        # Flax makes statistics float32, and cannot update those of wider numbers.
        dtypes = [x.dtype for x in jax.tree.leaves(nnx.state(model, nnx.Param))]
        wide = _trees.widest(jnp.float32, *dtypes)
        statistics = nnx.state(model, nnx.BatchStat)
        nnx.update(model, jax.tree.map(lambda x: x.astype(wide), statistics))
    training, deterministic, inference = (nnx.clone(model) for _ in range(3))
    training.train()
    for each in (deterministic, inference):
        each.eval()
    if normalised:
        # With the momentum 0 what it keeps is the statistics of the last batch.
        deterministic.set_attributes(
            nnx.BatchNorm, use_running_average=False, momentum=0.0
        )
    _, params, keys, rest = split(model, wrt)
    leaves, structure = jax.tree.flatten(keys)
    network = Network(
        training=split(training, wrt)[0],
        deterministic=split(deterministic, wrt)[0],
        inference=split(inference, wrt)[0],
        normalises=normalised,
        keys=(structure, tuple(map(jnp.shape, leaves))),
        rest=Constants.of(rest),
    )
    return network, params


def normalises(model: "nnx.Module") -> bool:
    """Whether the model has layers that normalise by the batch, of nnx.BatchNorm."""
    from flax import nnx

    kept = {path[:-1] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.BatchStat))}
    known = {p for p, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)}
    if kept - known:
        place = ".".join(map(str, min(kept - known, key=str)))
        raise ValueError(
            f"model has batch statistics in {place or 'itself'}, expected them in "
            "layers of nnx.BatchNorm alone."
        )
    return bool(kept)


def split(model: "nnx.Module", wrt: Any) -> tuple[Any, PyTree, PyTree, PyTree]:
    """The graph alone, and its parameters, random keys, and other variables."""
    from flax import nnx

    graph, *states = nnx.split(model, wrt, nnx.RngKey, ...)
    return graph, *map(nnx.to_pure_dict, states)


def _with(tree: PyTree, some: PyTree) -> PyTree:
    """Nested dicts, some of their leaves replaced."""
    if not isinstance(some, dict):
        return some
    return tree | {name: _with(tree[name], each) for name, each in some.items()}


def _wide(outputs):
    """Outputs in float32 at least: losses of numbers with few digits say little."""

    def one(x):
        floats = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(_trees.widest(x.dtype, jnp.float32)) if floats else x

    return jax.tree.map(one, outputs)


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
    rate: float | None = None
    replacement: bool = True

    def __call__(self, key: jax.Array, shards: Shards) -> Any:
        batch_key, model_key = jax.random.split(key)
        return Drawn(drawn_of(self, batch_key, shards), model_key)


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
        def of_some(some: Shards) -> tuple[jax.Array, ...]:
            outputs = self.network.inferred(*at, some.features)
            return tuple(
                _weighted_sum(name, function, outputs, some)
                for name, function in self.functions
            )

        return in_batches(of_some, shards, self.batch_size)


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
