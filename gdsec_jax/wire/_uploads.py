"""Counting what workers upload, exactly, with 32-bit integers inside the loop."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees
from gdsec_jax.wire import _formats, _runs
from gdsec_jax.wire._codes import Code
from gdsec_jax.wire._formats import Format


def _rebuilt(form: list, code: list, length: int, widths: list, *bits: int) -> "Layout":
    name, value_bits, also = form
    form_of = Format(name, value_bits, tuple(also))
    return Layout(form_of, Code(*code), length, tuple(widths), *bits)


class Layout(NamedTuple):
    """What is known of a message before it is sent; hashable."""

    format: Format
    code: Code
    length: int  # D
    widths: tuple[int, ...]  # of its non-zero values in bits, the different ones
    dense_bits: int  # what all D values cost, scales included
    whole_bits: int  # what the message costs uncompressed, as floats

    @property
    def run_coded(self) -> tuple[str, ...]:
        """Of its formats, those that need a look at where each non-zero stands."""
        return () if self.code.one_length else self.format.run_coded


@_trees.state
class Uploads(NamedTuple):
    """Exact counts of messages, with any leading axes: rounds, workers, settings."""

    entries: jax.Array  # int32 [G]: values sent, of each width: the non-zeros, or all
    runs: tuple[jax.Array, ...]  # uint32 []: `rle_bits` and `golomb_bits`, as asked for
    whole: jax.Array  # bool []: not compressed, whatever the format
    laid_out: dict[str, tuple[()]]  # the layout, as structure

    @property
    def layout(self) -> Layout:
        """What was known before."""
        return _trees.from_structure(self.laid_out, _rebuilt)

    def bits(self, name: str | None = None) -> np.ndarray | jax.Array:
        """Bits of each message: int64, exact.

        Under a jax transformation without x64 there is no int64; uint32 is returned
        where it holds the longest possible message, and an error raised where not.

        Args:
          name: of a format or convention; by default the layout's. "rle" and "golomb"
            must be among those that were counted.

        Raises:
          ValueError: it is unknown, or was not counted.
        """
        form = self.layout.format
        name = form.name if name is None else name
        _checks.one_of("format", name, _formats.FORMATS + _formats.CONVENTIONS)
        number, integer = self._integers()
        if name == "entropy" and number is jnp:
            raise ValueError(
                "the format entropy is computed on the host: return last_round(state) "
                "from the compiled function and read its bits outside."
            )
        counts = number.asarray(self.entries).astype(integer)
        entries = counts.sum(axis=-1, dtype=integer)
        if name == "dense" or self.layout.code.one_length:
            bits = integer(self.layout.dense_bits)
        else:
            runs = 0
            if name in ("rle", "golomb"):
                if name not in form.run_coded:
                    raise ValueError(
                        f"{name!r} was not counted: name it in "
                        "wire.Format(..., also=...)."
                    )
                index = form.run_coded.index(name)
                runs = number.asarray(self.runs[index]).astype(integer)
            widths = number.asarray(self.layout.widths, integer)
            values = entries * 64 if name == "coo64" else counts @ widths
            header = integer(32 * self.layout.code.num_scales)
            length = self.layout.length
            bits = header + values + _formats.index_length(name, length, entries, runs)
        bits = number.where(number.asarray(self.whole), self.layout.whole_bits, bits)
        return number.where(entries > 0, bits, integer(0)).astype(integer)

    def _integers(self):
        """NumPy or jax.numpy, and the integer that holds the bits of any message."""
        if not _checks.is_traced(self.entries):
            return np, np.int64
        widest = jax.dtypes.canonicalize_dtype(np.uint64)  # uint32 without x64
        if widest == np.uint64:
            return jnp, np.int64
        length, dense = self.layout.length, self.layout.dense_bits
        sparse = dense + length * max(length.bit_length(), 64)
        longest = max(sparse, self.layout.whole_bits) + 64  # a bound, for any entries
        if longest < 2**32:
            return jnp, np.uint32
        raise ValueError(
            f"a message of {length} entries can cost {longest} bits, more than uint32 "
            "holds: return last_round(state) from the compiled function and read its "
            "bits outside, or enable x64."
        )


def layout_of(
    params: Any, wire: str | Format, code: Code | None = None, payload: Any = None
) -> Layout:
    """The layout of messages like `params`, or of the payload that travels instead."""
    form = _formats.as_format(wire)
    code = code or Code()
    floats = jax.tree.leaves(params)
    leaves = floats if payload is None else jax.tree.leaves(payload)
    length = sum(map(_size, leaves))
    if length >= 2**31:
        raise ValueError(f"params have {length} entries, expected fewer than 2**31.")

    def bits_of_all(leaves, code, nonzero):
        return sum(
            code.written(_size(x))
            * (code.place_width(_size(x)) + _width(x, form, code, nonzero))
            for x in leaves
        )

    return Layout(
        format=form,
        code=code,
        length=length,
        # One at least, also of a tree without leaves.
        widths=tuple(sorted({_width(x, form, code, True) for x in leaves} or {32})),
        dense_bits=bits_of_all(leaves, code, nonzero=False) + 32 * code.num_scales,
        whole_bits=bits_of_all(floats, Code(), nonzero=True),
    )


def count(message: Any, layout: Layout, whole=False) -> Uploads:
    """Count one flushed message, not compressed if it is whole; vmap over workers."""
    return tally(nonzeros_of(message), message, layout, whole)


def nonzeros_of(message: Any) -> list[jax.Array]:
    """How many entries of each leaf are not zero, int32: numbers that add up."""
    counts = []
    for leaf in jax.tree.leaves(message):
        # XLA's CPU backend sums floats faster; float32 counts to 2^24.
        dtype = jnp.float32 if leaf.size <= 2**24 else jnp.int32
        counts.append(jnp.sum(leaf != 0, dtype=dtype).astype(jnp.int32))
    return counts


def tally(
    nonzeros: list[jax.Array], message: Any, layout: Layout, whole=False
) -> Uploads:
    """`count`, where the non-zeros of each leaf are counted already.

    Shapes and dtypes of the message do, unless `layout.run_coded` names a format.
    """
    leaves = jax.tree.leaves(message)
    widths = [_width(leaf, layout.format, layout.code, nonzero=True) for leaf in leaves]
    if not set(widths) <= set(layout.widths):
        raise ValueError(
            f"a message with values of {sorted(set(widths))} bits does not fit a "
            f"layout of {list(layout.widths)} bits."
        )

    def by_width(numbers):
        """int32 [G]: a number of each leaf, added up over the leaves of a width."""
        numbers = list(zip(numbers, widths, strict=True))
        sums = [sum(x for x, v in numbers if v == width) for width in layout.widths]
        return jnp.asarray([jnp.asarray(x, jnp.int32) for x in sums], jnp.int32)

    sent = functools.reduce(jnp.logical_or, (n > 0 for n in nonzeros), False)
    code, sizes = layout.code, [_size(leaf) for leaf in leaves]
    entries = jnp.where(sent, by_width(sizes), 0)
    if code.chunk:
        kept = jnp.where(sent, by_width(map(code.written, sizes)), 0)
        entries = jnp.where(whole, entries, kept)
    elif layout.format.name != "dense" and not code.always_dense:
        entries = jnp.where(whole, entries, by_width(nonzeros))
    runs = ()
    if layout.run_coded:
        nonzero = [(leaf != 0).ravel() for leaf in leaves] or [jnp.zeros(1, bool)]
        vector = jnp.concatenate(nonzero)
        passes = {"rle": _runs.rle_bits, "golomb": _runs.golomb_bits}
        runs = tuple(passes[name](vector) for name in layout.run_coded)
    return Uploads(
        entries=entries,
        runs=runs,
        whole=jnp.asarray(whole, bool),
        laid_out=_trees.as_structure(layout),
    )


def _size(leaf) -> int:
    return math.prod(np.shape(leaf))


def _width(leaf, form: Format, code: Code, nonzero: bool) -> int:
    if form.value_bits and code.kind == "float":
        return form.value_bits
    return code.width(nonzero, jnp.result_type(leaf))
