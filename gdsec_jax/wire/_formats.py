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

import jax
import jax.numpy as jnp
import numpy as np
import scipy

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
            n = np.asarray(entries, np.float64)
            natural = -np.log1p(length) - scipy.special.betaln(n + 1, length - n + 1)
            # Rounding must not lift a power of two to the next bit.
            return np.ceil(natural / np.log(2) * (1 - 1e-12) - 1e-12).astype(np.int64)
        case "values":
            return 0 * entries
        case _:
            return runs


def rle_bits(nonzero: jax.Array) -> jax.Array:
    """Bits of run lengths in Elias' code, of bool [D], D < 2^31: at most 1.5 D + 63."""
    codewords = jnp.where(nonzero, gamma_length(_zeros_before(nonzero) + 1), 0)
    return codewords.sum(dtype=jnp.uint32) + _length_of_number(nonzero)


def golomb_bits(nonzero: jax.Array) -> jax.Array:
    """Bits of run lengths in the cheapest Rice code, with b and n: at most D + 68."""
    runs = jnp.where(nonzero, _zeros_before(nonzero), 0).astype(jnp.uint32)
    number = nonzero.sum(dtype=jnp.uint32)

    def cost(b):
        return (runs >> b).sum(dtype=jnp.uint32) + number * (1 + b)

    def cheaper(carry):
        _, now, following = carry
        return following < now

    def step(carry):
        b, _, following = carry
        return b + 1, following, cost(b + 2)

    # The cost is convex in b: the first b that the next does not improve is the best.
    zero = jnp.zeros((), jnp.uint32)
    _, best, _ = jax.lax.while_loop(cheaper, step, (zero, cost(zero), cost(zero + 1)))
    return best + 5 + _length_of_number(nonzero)


def _length_of_number(nonzero: jax.Array) -> jax.Array:
    """gamma(n + 1), what the number of non-zeros costs."""
    return gamma_length(nonzero.sum(dtype=jnp.int32) + 1)


def _zeros_before(nonzero: jax.Array) -> jax.Array:
    """int32 [D], the zeros between an entry and the non-zero before it."""
    position = jnp.arange(nonzero.size, dtype=jnp.int32)
    latest = jax.lax.cummax(jnp.where(nonzero, position, -1))
    before = jnp.concatenate([jnp.full(1, -1, jnp.int32), latest[:-1]])
    return position - before - 1


def gamma_length(x: jax.Array) -> jax.Array:
    """Length in bits of x >= 1 in Elias' gamma code, 2 floor(log2 x) + 1; uint32.

    Counts leading zeros, since floor(log2 x) in float32 is wrong at 8192 and elsewhere.
    """
    return (63 - 2 * jax.lax.clz(x.astype(jnp.int32))).astype(jnp.uint32)
