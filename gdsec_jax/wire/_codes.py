"""How the values of a message are written: as floats, or as multiples of a scale."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees


class Code(NamedTuple):
    """How a value is written. Static; all but floats and powers need scales.

    =======  =====================================  ==================  =========
    kind     a value                                bits of a non-zero  of any
    =======  =====================================  ==================  =========
    float    itself, in `dtype` or the leaf's       v                   v
    levels   scale l, l in -size .. size            1 + bits of size    the same
    ternary  scale l, l in -1, 0, 1                 1                   2
    grid     scale l, l odd, -2^size < l < 2^size   -                   size
    power    0, or +- 2^l, l in -126 .. 127         9                   9
    bins     scale number l, l in 0 .. 2^size - 1   size                size
    =======  =====================================  ==================  =========

    "Of any" is what counts where every entry is written: in the format dense, and
    always with a grid, which has no zero. Scales are float32, 32 bits each.

    With a `chunk` the entries of a leaf are taken in chunks of so many, and of each
    chunk as many as `kept` are written, zeros too, whatever the format: their places in
    the chunk, in ceil(log2 chunk) bits each, and their values.

    Examples:
      >>> from gdsec_jax import wire
      >>> wire.Code("levels", size=4).width(nonzero=True, dtype="float32")
      4
    """

    kind: Literal["float", "levels", "ternary", "grid", "power", "bins"] = "float"
    size: int = 0  # s of levels, b of grid and of bins
    dtype: str | None = None  # of float: None for the dtype of the leaf
    num_scales: int = 0  # none, one, or one a leaf; of bins 2^b a leaf
    dense: bool = False  # of floats: every entry is written, whatever the format
    chunk: int = 0  # entries of a chunk; 0: none
    kept: int = 0  # of each chunk so many entries are written

    @property
    def always_dense(self) -> bool:
        """Whether every entry is written, whatever the format."""
        return self.dense or self.kind == "grid"

    @property
    def one_length(self) -> bool:
        """Whether all messages cost the same, whatever the format and the entries."""
        return self.always_dense or self.chunk > 0

    def written(self, size: int) -> int:
        """Of a leaf of so many entries, how many are written if zeros are, too."""
        if not self.chunk:
            return size
        full, rest = divmod(size, self.chunk)
        return full * min(self.kept, self.chunk) + min(self.kept, rest)

    def place_width(self, size: int) -> int:
        """Bits of a place in a chunk of a leaf of so many entries."""
        return (min(self.chunk, size) - 1).bit_length() if self.chunk and size else 0

    def width(self, nonzero: bool, dtype) -> int:
        """v: the bits of a value of a leaf of this dtype."""
        match self.kind:
            case "float":
                return 8 * jnp.dtype(self.dtype or dtype).itemsize
            case "levels":
                return 1 + self.size.bit_length()
            case "ternary":
                return 1 if nonzero else 2
            case "grid" | "bins":
                return self.size
            case _:
                return 9


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
