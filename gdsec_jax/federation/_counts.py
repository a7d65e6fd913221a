"""What a round cost: counted as the pieces have it, read from any optimizer's state."""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._round import Answers, only
from gdsec_jax.wire import packing_of
from gdsec_jax.wire._packing import whole_of
from gdsec_jax.wire._uploads import (
    Layout,
    Uploads,
    count,
    layout_of,
    nonzeros_of,
    tally,
)
from gdsec_jax.worker._vectors import some


@_trees.state
class RoundCounts(NamedTuple):
    """What one federation counted in one round; each leaf has the axis of workers."""

    uploads: Uploads  # entries int32 [M, G], runs uint32 [M]
    participants: jax.Array  # bool [M]
    awaited: jax.Array  # bool [M]
    computed: jax.Array  # bool [M]
    dropped: jax.Array  # bool [M]
    lost: jax.Array  # bool [M]


def total(uploads: Iterable[Uploads], cost: Callable[[Uploads], Any]) -> Any:
    """Over the messages of several parts, as behind optax.partition; None of none."""
    costs = [cost(each) for each in uploads]
    return sum(costs) if costs else None


def entries(sent: Uploads) -> Any:
    """Values sent, of any width."""
    return sent.entries.sum(-1)


def plain(tree: Any) -> Any:
    """With arrays in the place of what wraps them, such as the variables of Flax."""

    def wraps(x):
        return hasattr(x, "__jax_array__") and not isinstance(x, jax.Array)

    return jax.tree.map(
        lambda x: x.__jax_array__() if wraps(x) else x, tree, is_leaf=wraps
    )


def _in_some(name: str) -> property:
    """Of which workers it holds in some part."""
    return property(
        lambda self: functools.reduce(
            operator.or_, (getattr(part, name) for part in self.parts)
        )
    )


@_trees.state
class LastRound(NamedTuple):
    """What the workers sent in a round; a pytree, so it may leave a scan as an output.

    Totals are formed when they are asked for, in 64-bit integers on the host: they stay
    exact without x64. Leading axes, of a scan say, come first in every attribute.

    Attributes:
      entries: int [M], the values that each worker sent: its non-zeros, or, in the
        "dense" format that `gd` always uses, all D unless all are zero.
      bits: int64 [M], what they cost in the algorithm's `wire` format; read inside a
        compiled function without x64, uint32 if that holds them, else an error.
      participants: bool [M], the workers that took part: they sent, or could have.
      awaited: bool [M], the workers that the server waits for: those, the dropped, and
        those that were not granted what they offered.
      computed: bool [M], the workers that computed a gradient: those, and the absent
        ones that accumulate.
      dropped: int [], how many workers were left out for a gradient or a message that
        is not finite, or a gradient of excessive norm; or lost entries of a message
        that were not finite.
      lost: bool [M], the workers whose upload did not arrive.
    """

    parts: tuple[RoundCounts, ...]  # several behind optax.partition: they add up

    participants = _in_some("participants")
    awaited = _in_some("awaited")
    computed = _in_some("computed")
    lost = _in_some("lost")
    _dropped = _in_some("dropped")

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.parts) or [None]
        known = all(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves)
        if not known or _checks.is_traced(leaves):
            return f"LastRound(parts={self.parts!r})"
        names = ("entries", "bits", "participants", "dropped")
        said = [f"{name}={np.asarray(getattr(self, name))}" for name in names]
        return f"LastRound({', '.join(said)})"

    @property
    def dropped(self) -> Any:
        return self._dropped.sum(-1, dtype=np.int32)

    @property
    def entries(self) -> Any:
        return total(self._uploads, entries)

    @property
    def bits(self) -> Any:
        return self.bits_in(None)

    def bits_in(self, name: str | None) -> Any:
        """Bits in another format or convention of `wire` than the messages' own.

        Raises:
          ValueError: it is unknown, or needed counting: see `wire.Format`.
        """
        return total(self._uploads, lambda sent: sent.bits(name))

    @property
    def _uploads(self) -> Iterable[Uploads]:
        return (part.uploads for part in self.parts)


def last_round(state: Any) -> LastRound:
    """What the workers sent in the round that made this state.

    Args:
      state: of an algorithm of this package, or of any optax optimizer that holds some:
        chain, inject_hyperparams, partition, ….

    Returns:
      A `LastRound`: `.entries`, `.bits`, `.participants`, `.dropped`. Behind
      optax.partition entries and bits add up over the parts; a worker took part, or was
      dropped, if it was in one of them. Zeros in a state that has seen no round.

    Raises:
      ValueError: no algorithm of this package stands in the optimizer.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gd(num_workers=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> grads = jnp.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
      >>> _, state = optimizer.update(grads, optimizer.init(params), params)
      >>> sent = gdsec_jax.last_round(state)
      >>> sent.bits  # the second worker stays silent
      array([96,  0])
      >>> sent
      LastRound(entries=[3 0], bits=[96  0], participants=[ True  True], dropped=0)
    """
    parts = tuple(_trees.of_type(state, RoundCounts))
    if not parts:
        raise ValueError(
            "this state holds no algorithm of gdsec_jax, expected the state of an "
            "optimizer such as optax.chain(gdsec_jax.gdsec(...), optax.sgd(...))."
        )
    return LastRound(plain(parts))


def nothing_sent(params, worker_state, wire, num_workers: int) -> RoundCounts:
    """Before the first round."""
    uploads = _trees.repeat(silence(params, worker_state, wire), num_workers)
    # Masks of their own, or donating the state would give one buffer away twice.
    masks = (jnp.zeros(num_workers, bool) for _ in RoundCounts._fields[1:])
    return RoundCounts(uploads, *masks)


def silence(params, piece_state, wire) -> Uploads:
    """What a message of a piece in this state costs if it is not sent."""
    if _trees.stand_in(params):
        return 0  # pyright: ignore
    packing = packing_of(piece_state)
    code, payload = (packing.code, packing.payload) if packing else (None, None)
    layout = layout_of(params, wire, code, payload)
    return count(optax.tree.zeros_like(params if payload is None else payload), layout)


def uploads_of(layout: Layout, said: Answers, gradients: Any, like: Any) -> Uploads:
    """Count what travels of each worker's message, as its pieces have it.

    There need be no messages, their non-zeros are counted: the shapes are those of the
    gradients, the dtypes those of the leaves [*param] that messages are `like`.
    """
    messages, states, nonzeros = said.messages, said.states, said.nonzeros
    packing: Any = packing_of(states)
    if packing is not None and packing.payload is not None:
        # Something else travels in the messages' stead.
        messages = only(packing.payload, jax.vmap(some)(messages))
        nonzeros = jax.vmap(nonzeros_of)(messages)
    elif not layout.run_coded:  # shapes and dtypes do
        messages = _trees.cast_like(gradients, like)
    whole = whole_of(states)
    return jax.vmap(
        lambda n, message, whole: tally(n, message, layout, whole),
        (0, 0, None if whole is False else 0),
    )(nonzeros, messages, whole)
