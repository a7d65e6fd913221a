"""What a pipeline says, in its state, of how its messages are written."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax.wire._codes import Code


class _Packed(NamedTuple):
    written: dict[str, tuple[()]]  # the code, as structure
    scales: jax.Array | tuple[()]
    payload: Any


@_trees.state
class Packing(_Packed):
    """What a worker's piece says, in its state, of how its message is to be written.

    Attributes:
      code: of the values.
      scales: float32 [code.num_scales], or () if there are none.
      payload: a tree of arrays that travels, densely, in the message's stead, such as
        the factors of a low-rank message; None: the message itself.
    """

    __slots__ = ()

    def __new__(
        cls, code: Any = None, scales: Any = (), payload: Any = None, *, written=None
    ):
        # Where trees are rebuilt they hand over what it is written as.
        said = code if written is None else written
        said = _trees.as_structure(said) if isinstance(said, Code) else said
        return super().__new__(cls, said, scales, payload)

    @property
    def code(self) -> Code:
        """How the values are written."""
        return _trees.from_structure(self.written, Code)


@_trees.state
class Whole(NamedTuple):
    """What a piece says, in its state, of a message that it did not compress."""

    flag: jax.Array  # bool []: in this round all values travel, as floats


def packing_of(state: Any) -> Packing | None:
    """How a pipeline says, in its state, that its messages are to be written.

    Returns:
      Its `Packing`, or None where no piece says anything: as floats.

    Raises:
      ValueError: several of its pieces do; or one sends a payload in the message's
        stead, and another leaves the message whole now and then.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import wire, worker
      >>> wire.packing_of(worker.qsgd(4).init(jnp.zeros(3))).code.size
      4
    """
    found = _trees.of_type(state, Packing)
    if len(found) > 1:
        raise ValueError(
            f"the worker's pipeline holds {len(found)} pieces that write values their "
            f"own way, {', '.join(p.code.kind for p in found)}, expected 1: join the "
            "parts of the parameters by optax.partition around the algorithms."
        )
    packing = found[0] if found else None
    payload = packing is not None and packing.payload is not None
    if payload and _trees.of_type(state, Whole):
        raise ValueError(
            "the worker's pipeline holds a piece that sends messages whole at times, "
            "such as first_whole, around one that sends a payload in their stead, such "
            "as low_rank, expected a compressor that does not."
        )
    return packing


def whole_of(state: Any) -> Any:
    """Whether a pipeline says, in its state, that its last message is whole; bool."""
    flags = (marker.flag for marker in _trees.of_type(state, Whole))
    return functools.reduce(jnp.logical_or, flags, False)
