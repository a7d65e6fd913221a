"""What a message costs in bits, in each format a message can be written in.

A message is one vector: the leaves of the tree in order, concatenated. With n non-zeros
among its D entries and v bits a value it costs, exactly,

======  =============================================================================
dense   v D
coo     ceil(log2(D + 1)) + n (v + ceil(log2 D))
bitmap  D + n v
rle     gamma(n + 1) + sum over the non-zeros of gamma(zeros before it + 1) + n v,
        gamma(x) = 2 floor(log2 x) + 1, the length of x in Elias' gamma code
======  =============================================================================

and nothing if all its entries are zero: such a worker stays silent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks

FORMATS = ("dense", "coo", "bitmap", "rle")


class Format(NamedTuple):
    """How a message is written: the name of the format, and the width of a value.

    Examples:
      >>> from gdsec_jax import wire
      >>> wire.Format("rle", value_bits=32)
      Format(name='rle', value_bits=32)
    """

    name: str = "coo"  # one of FORMATS
    value_bits: int | None = None  # v; None: the width of the parameter's dtype


def as_format(wire: "str | Format") -> Format:
    """The format that a `wire` argument, a name or a Format, stands for.

    Raises:
      ValueError: the name is none of `FORMATS`, or value_bits is no positive int.

    Examples:
      >>> from gdsec_jax import wire
      >>> wire.as_format("rle")
      Format(name='rle', value_bits=None)
    """
    chosen = Format(wire) if isinstance(wire, str) else wire
    if not isinstance(chosen, Format):
        raise ValueError(f"wire is {wire!r}, expected a name or a wire.Format.")
    _checks.one_of("wire", chosen.name, FORMATS)
    if chosen.value_bits is not None:
        _checks.integer("value_bits", chosen.value_bits, 1, 2**24)
    return chosen


def index_length(
    name: str, length: int, entries: np.ndarray, runs: np.ndarray
) -> np.ndarray:
    """Bits of one message that say where its values belong, silence aside.

    Args:
      name: one of `FORMATS`.
      length: D.
      entries: n, int64 (or any width that holds the result), any shape.
      runs: what `run_bits` counted, the same shape; only "rle" reads it.
    """
    match name:
        case "dense":
            return 0 * entries
        case "coo":
            return length.bit_length() + entries * (length - 1).bit_length()
        case "bitmap":
            return 0 * entries + length
        case _:
            return runs


def run_bits(nonzero: jax.Array) -> jax.Array:
    """Bits of the run lengths of zeros in Elias' gamma code, with their number first.

    Args:
      nonzero: bool [D], D < 2^31, true where the message has an entry.

    Returns:
      uint32 [], gamma(n + 1) + sum of gamma(zeros before it + 1) over the n non-zeros;
      at most 1.5 D + 63, which 32 bits hold. Traceable.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import wire
      >>> wire.run_bits(jnp.array([True, False, False, True])).item()  # 3 + 1 + 3
      7
    """
    position = jnp.arange(nonzero.size, dtype=jnp.int32)
    latest = jax.lax.cummax(jnp.where(nonzero, position, -1))
    before = jnp.concatenate([jnp.full(1, -1, jnp.int32), latest[:-1]])
    codewords = jnp.where(nonzero, gamma_length(position - before), 0)
    return codewords.sum(dtype=jnp.uint32) + gamma_length(
        nonzero.sum(dtype=jnp.int32) + 1
    )


def gamma_length(x: jax.Array) -> jax.Array:
    """Length in bits of x >= 1 in Elias' gamma code, 2 floor(log2 x) + 1; uint32.

    Counts leading zeros, since floor(log2 x) in float32 is wrong at 8192 and elsewhere.

    Examples:
      >>> from gdsec_jax import wire
      >>> import jax.numpy as jnp
      >>> wire.gamma_length(jnp.array([1, 2, 8192])).tolist()
      [1, 3, 27]
    """
    return (63 - 2 * jax.lax.clz(x.astype(jnp.int32))).astype(jnp.uint32)
