"""Where the records of rounds are kept on the device, until the host looks at them.

Arrays of few entries stand side by side, in one vector for each dtype: what a round
writes is then a few kernels instead of ten, and a TPU need not pad rows of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax._devices import unless_on_tpu

FEW = 128  # entries: lanes of a TPU, what a row of fewer is padded to


class Buffers(NamedTuple):
    """The records of some rounds."""

    record: Any  # a `Record`, of arrays [rounds, ...] and `Slot`s
    vectors: dict[str, jax.Array]  # by dtype, [rounds x entries of a round]
    rounds: dict[str, tuple[()]]  # how many, as structure

    @property
    def capacity(self) -> int:
        """How many rounds there is room for."""
        return _trees.from_structure(self.rounds, int)


class Slot(NamedTuple):
    """Where a round's array stands in the vector of its dtype."""

    fact: dict[str, tuple[()]]  # a `Fact`, as structure


class Fact(NamedTuple):
    """Of a `Slot`, which has it as structure: no leaf that a loop would carry."""

    dtype: str
    first: int  # entry of a round
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))


def _fact(slot: Slot) -> Fact:
    def rebuilt(dtype, first, shape):
        return Fact(dtype, first, tuple(shape))

    return _trees.from_structure(slot.fact, rebuilt)


def _is_slot(node: Any) -> bool:
    return isinstance(node, Slot)


def empty(record: Any, rounds: int, packs: bool) -> Buffers:
    """Zeros for so many records like this one.

    Args:
      record: of one round, arrays or their shapes.
      rounds: how many.
      packs: whether arrays of few entries stand side by side, which no mesh can cut.
    """
    lengths: dict[str, int] = {}

    def one(x):
        if not packs or x.size >= FEW or x.size == 0:
            return jnp.zeros((rounds, *x.shape), x.dtype)
        first = lengths.get(x.dtype.name, 0)
        lengths[x.dtype.name] = first + x.size
        return Slot(_trees.as_structure(Fact(x.dtype.name, first, x.shape)))

    made = jax.tree.map(one, record)
    vectors = {name: jnp.zeros(rounds * n, name) for name, n in lengths.items()}
    return Buffers(made, vectors, _trees.as_structure((rounds,)))


def put(buffers: Buffers, index: jax.Array, record: Any) -> Buffers:
    """With the record of one of the rounds."""
    own: dict[str, list[jax.Array]] = {name: [] for name in buffers.vectors}

    def sliced(kept, x):
        return jax.lax.dynamic_update_index_in_dim(kept, x, index, 0)

    def scattered(kept, x):  # so that the rows of a round lie together, on the chip
        return kept.at[index].set(x, mode="promise_in_bounds")

    def one(kept, x):
        if not _is_slot(kept):
            return unless_on_tpu(kept, x, tpu=scattered, default=sliced)
        own[x.dtype.name].append(x.ravel())  # in the order in which slots were given
        return kept

    record = jax.tree.map(one, buffers.record, record, is_leaf=_is_slot)
    vectors = {}
    for name, parts in own.items():
        row = jnp.concatenate(parts)
        start = (index * row.size,)
        vectors[name] = jax.lax.dynamic_update_slice(buffers.vectors[name], row, start)
    return buffers._replace(record=record, vectors=vectors)


def rounds_first(buffers: Buffers) -> Any:
    """The records on the host, arrays [rounds, ...]."""
    return _unfolded(buffers, buffers.capacity, np.asarray)


def no_rounds(buffers: Buffers) -> Any:
    """Such arrays of no rounds; what the buffers hold is not read."""
    return _unfolded(buffers, 0, lambda x: np.empty((0, *x.shape[1:]), x.dtype))


def _unfolded(buffers: Buffers, rounds: int, host: Callable[[Any], np.ndarray]) -> Any:
    def one(x):
        if not _is_slot(x):
            return host(x)
        fact = _fact(x)
        own = rows[fact.dtype][:, fact.first : fact.first + fact.size]
        return own.reshape(rounds, *fact.shape)

    rows = {
        name: host(x).reshape(rounds, x.size // buffers.capacity)
        for name, x in buffers.vectors.items()
    }
    return jax.tree.map(one, buffers.record, is_leaf=_is_slot)
