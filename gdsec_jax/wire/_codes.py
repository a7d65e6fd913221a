"""How the values of a message are written: as floats, or as multiples of a scale."""

from typing import Literal, NamedTuple

import numpy as np


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
    always with a grid, which has no zero. Scales are float32, 32 bits each; that of a
    grid without one is 1.

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
                return 8 * np.dtype(self.dtype or dtype).itemsize
            case "levels":
                return 1 + self.size.bit_length()
            case "ternary":
                return 1 if nonzero else 2
            case "grid" | "bins":
                return self.size
            case _:
                return 9
