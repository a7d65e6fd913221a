"""What a message costs in bits, in each format a message can be written in.

For the formats, what `encode` writes, exactly. Others are conventions of published
papers, which nothing encodes; with n non-zeros among D entries and v bits a value:

========  ===========================================================================
entropy   ceil(log2 C(D, n)) + n v: a uniformly random support of known size
values    n v
coo_bare  n (v + ceil(log2 D))
coo64     64 n
========  ===========================================================================
"""

from typing import Any, NamedTuple

import numpy as np

from gdsec_jax import _checks

FORMATS = ("dense", "coo", "bitmap", "rle", "golomb")
CONVENTIONS = ("entropy", "values", "coo_bare", "coo64")
_RUN_CODED = ("rle", "golomb")
WORDS = {  # for figures and tables
    "dense": "all entries",
    "coo": "index and value",
    "bitmap": "bitmap",
    "rle": "run lengths",
    "golomb": "Golomb run lengths",
    "entropy": "entropy of the support",
    "values": "values alone",
    "coo_bare": "index and value, no count",
    "coo64": "64 bits an entry",
}


class Format(NamedTuple):
    """How a message is written: the name of the format, and the width of a value.

    The formats are dense, coo, bitmap, rle and golomb; entropy, values, coo_bare and
    coo64 are conventions of published papers, which are counted, and have no bytes.

    Examples:
      >>> from gdsec_jax import wire
      >>> wire.Format("rle", value_bits=32).run_coded
      ('rle',)
    """

    name: str = "coo"
    value_bits: int | None = None  # v of floats; None: the width of their dtype
    also: tuple[str, ...] = ()  # further formats to count, for `bits_in(name)`

    @property
    def run_coded(self) -> tuple[str, ...]:
        """Of its formats, those that need a look at where each non-zero stands."""
        return tuple(name for name in _RUN_CODED if name in (self.name, *self.also))


def as_format(wire: "str | Format") -> Format:
    """The format that a `wire` argument, a name or a Format, stands for."""
    chosen = Format(wire) if isinstance(wire, str) else wire
    if not isinstance(chosen, Format):
        raise ValueError(f"wire is {wire!r}, expected a name or a wire.Format.")
    for name in (chosen.name, *chosen.also):
        _checks.one_of("wire", name, FORMATS + CONVENTIONS)
    if chosen.value_bits is not None:
        _checks.integer("value_bits", chosen.value_bits, 1, 2**24)
    return chosen


def index_length(name: str, length: int, entries, runs) -> Any:
    """Bits that say where n non-zeros among D entries are; `runs` for run lengths."""
    match name:
        case "coo":
            return length.bit_length() + entries * (length - 1).bit_length()
        case "coo_bare":
            return entries * (length - 1).bit_length()
        case "bitmap":
            return 0 * entries + length
        case "entropy":  # by float64's logarithm of the beta function
            import scipy  # which the formats that have bytes do without

            n = np.asarray(entries, np.float64)
            natural = -np.log1p(length) - scipy.special.betaln(n + 1, length - n + 1)
            # Rounding must not lift a power of two to the next bit.
            return np.ceil(natural / np.log(2) * (1 - 1e-12) - 1e-12).astype(np.int64)
        case "values":
            return 0 * entries
        case _:
            return runs
