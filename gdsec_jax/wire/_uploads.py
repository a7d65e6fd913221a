"""Counting what workers upload, exactly, with 32-bit integers inside the loop."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks
from gdsec_jax.wire import _formats
from gdsec_jax.wire._formats import Format


class Layout(NamedTuple):
    """What is known of a message before it is sent; hashable."""

    format: Format
    length: int  # D
    widths: tuple[int, ...]  # the different widths of its values in bits, ascending
    dense_bits: int  # what all D values cost


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["entries", "runs"],
    meta_fields=["layout"],
)
@dataclasses.dataclass(frozen=True)
class Uploads:
    """Exact counts of messages: what leaves the compiled loop for each of them.

    Any leading axes (rounds, workers, settings) may stand before those named here.
    """

    entries: jax.Array  # int32 [G]: values sent, of each width: the non-zeros, or all
    runs: jax.Array  # uint32 []: `run_bits`, 0 where the format needs no such pass
    layout: Layout

    def bits(self) -> np.ndarray | jax.Array:
        """Bits of each message: int64, exact.

        Under a jax transformation without x64 there is no int64; uint32 is returned
        where it holds the longest possible message, and an error raised where not.
        """
        form, length, widths, _ = self.layout
        widest = jax.dtypes.canonicalize_dtype(np.uint64)  # uint32 without x64
        if not _checks.is_traced(self.entries):
            number, integer = np, np.int64
        elif widest == np.uint64:
            number, integer = jnp, np.int64
        elif self._longest() < 2**32:
            number, integer = jnp, np.uint32
        else:
            raise ValueError(
                f"a message of {length} entries can cost {self._longest()} bits, more "
                "than uint32 holds: return last_round(state) from the compiled "
                "function and read its bits outside, or enable x64."
            )
        counts = number.asarray(self.entries).astype(integer)
        entries = counts.sum(axis=-1, dtype=integer)
        runs = number.asarray(self.runs).astype(integer)
        values = (counts * number.asarray(widths, integer)).sum(-1, dtype=integer)
        index = _formats.index_length(form.name, length, entries, runs)
        return number.where(entries > 0, values + index, 0)

    def _longest(self) -> int:
        """An upper bound of the bits of one message, whatever its entries."""
        length = self.layout.length
        return self.layout.dense_bits + length * max(length.bit_length(), 2) + 64


def layout_of(params: Any, wire: str | Format) -> Layout:
    """The layout of messages with the shapes and dtypes of `params`.

    Raises:
      ValueError: the format is unknown, or a message has 2^31 entries or more.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import wire
      >>> wire.layout_of({"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}, "rle").dense_bits
      256
    """
    form = _formats.as_format(wire)
    leaves = jax.tree.leaves(params)
    length = sum(map(_size, leaves))
    if length >= 2**31:
        raise ValueError(f"params have {length} entries, expected fewer than 2**31.")
    widths = tuple(sorted({_width(leaf, form) for leaf in leaves}))
    dense_bits = sum(_size(leaf) * _width(leaf, form) for leaf in leaves)
    return Layout(form, length, widths, dense_bits)


def count(message: Any, layout: Layout) -> Uploads:
    """Count one flushed message. Traceable; vmap it over workers.

    Args:
      message: a tree with the shapes and dtypes that `layout` was made of.
      layout: of `layout_of`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import wire
      >>> message = jnp.array([3.0, 0.0, 0.0, 1.0])
      >>> wire.count(message, wire.layout_of(message, "rle")).bits().item()
      71
    """
    nonzero = [(leaf != 0).ravel() for leaf in jax.tree.leaves(message)]
    widths = [_width(leaf, layout.format) for leaf in jax.tree.leaves(message)]
    if not set(widths) <= set(layout.widths):
        raise ValueError(
            f"a message with values of {sorted(set(widths))} bits does not fit a "
            f"layout of {list(layout.widths)} bits."
        )

    def values_of(width, number):
        leaves = [x for x, own in zip(nonzero, widths, strict=True) if own == width]
        return sum(number(x) for x in leaves)

    if layout.format.name == "dense":
        sent = functools.reduce(jnp.logical_or, (x.any() for x in nonzero), False)
        entries = [jnp.where(sent, values_of(v, jnp.size), 0) for v in layout.widths]
    else:
        count_nonzero = functools.partial(jnp.sum, dtype=jnp.int32)
        entries = [values_of(v, count_nonzero) for v in layout.widths]
    needs_runs = layout.format.name == "rle" and nonzero
    return Uploads(
        entries=jnp.asarray(entries, jnp.int32),
        runs=(
            _formats.run_bits(jnp.concatenate(nonzero))
            if needs_runs
            else jnp.zeros((), jnp.uint32)
        ),
        layout=layout,
    )


def _size(leaf) -> int:
    return math.prod(np.shape(leaf))


def _width(leaf, form: Format) -> int:
    return form.value_bits or 8 * jnp.result_type(leaf).itemsize
