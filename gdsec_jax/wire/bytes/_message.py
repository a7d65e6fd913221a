"""A worker's message on the host, and what both ends know of its bytes beforehand."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gdsec_jax import _checks, _plain
from gdsec_jax.wire import _formats
from gdsec_jax.wire._codes import Code
from gdsec_jax.wire._formats import Format, index_length

KINDS = ("float", "levels", "ternary", "grid", "power", "bins")
FLOATS = ("float16", "bfloat16", "float32", "float64")
AS_FLOATS = Code()
_SCALED = ("levels", "ternary", "grid")


@dataclass(frozen=True, eq=False)
class Message:
    """What one worker sends in one round, as arrays on the host.

    Args:
      values: the message, a tree of arrays of float16, bfloat16, float32 or float64,
        without subnormal numbers and -0.0, which no message carries: see `wire.flush`.
      code: how the values are written.
      scales: float32 [code.num_scales], of the whole message or one for each leaf; of
        bins the values that they stand for, those of each leaf in turn.
      whole: in this round nothing is compressed: the values travel as floats of their
        own dtypes, densely and without scales, whatever code and format say.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import wire
      >>> wire.Message({"w": np.float32([0, 2.5])}).whole
      False
    """

    values: Any
    code: Code = AS_FLOATS
    scales: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    whole: bool = False


def message_of(update: Any, state: Any) -> Message:
    """The message of a worker's pipeline, on the host, ready for `encode`.

    Args:
      update: what the pipeline returned, in the parameters' dtypes.
      state: of the pipeline after it, for this one worker.

    Returns:
      A `Message`: its values are the update, or what travels in its stead, such as the
      factors of `worker.low_rank`. Subnormal numbers and -0.0 are 0, as in `wire.flush`
      and in rounds of `federate`: no message carries them.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gdsec_jax import wire, worker
      >>> piece = worker.qsgd(levels=4)
      >>> v = jnp.array([3.0, 0.0, -4.0])
      >>> update, state = piece.update(v, piece.init(v), key=jax.random.key(0))
      >>> message = wire.message_of(update, state)
      >>> message.code.kind, message.scales
      ('levels', array([1.25], dtype=float32))
    """
    from gdsec_jax.wire._packing import packing_of, whole_of  # they need JAX

    packing, whole = packing_of(state), bool(whole_of(state))
    if packing is None or (whole and packing.payload is None):
        return Message(_plain.map(_flushed, update), whole=whole)
    travels = update if packing.payload is None else packing.payload
    if not any(np.any(np.asarray(leaf) != 0) for leaf in _plain.leaves(update)):
        # Factors need not be zero where their product is.
        travels = _plain.map(np.zeros_like, travels)
    return Message(
        _plain.map(_flushed, travels),
        packing.code,
        np.asarray(packing.scales, np.float32),
        whole,
    )


def _flushed(leaf: Any) -> np.ndarray:
    """On the host, as `wire.flush` of its dtype."""
    array = np.asarray(leaf)
    if array.dtype.name not in FLOATS:
        return array
    return np.where(np.abs(array) < _plain.finfo(array.dtype).tiny, 0, array).astype(
        array.dtype
    )


class Leaf(NamedTuple):
    """What is known of a leaf of the message."""

    name: str  # for errors
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # of its entries in the message
    scale: slice  # which of the scales are its own

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Plan(NamedTuple):
    """What is known of a message's bytes before there are any."""

    leaves: tuple[Leaf, ...]
    structure: Any  # of the tree
    form: str  # where the values belong: a name of the formats, or "chunks"
    code: Code  # of the values, floats where the message is whole
    num_scales: int  # how many precede the values

    @property
    def length(self) -> int:
        """D, the entries of the message."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def dense(self) -> bool:
        """Whether every entry is written, zeros too."""
        return self.form == "dense"

    @property
    def zeros(self) -> bool:
        """Whether a value that is written may be zero."""
        return self.form in ("dense", "chunks")

    @property
    def most_bits(self) -> int:
        """A bound on the bits of a message, whatever its entries."""
        length = self.length
        if self.form == "chunks":
            return 32 * self.num_scales + sum(
                self.code.written(leaf.size)
                * (self.code.place_width(leaf.size) + self.width(leaf))
                for leaf in self.leaves
            )
        # Of run lengths, as `rle_bits` and `golomb_bits` say.
        runs = {"rle": length + length // 2 + 63, "golomb": length + 68}.get(self.form)
        index = 0 if self.dense else index_length(self.form, length, length, runs)
        values = sum(leaf.size * self.width(leaf) for leaf in self.leaves)
        return 32 * self.num_scales + index + values

    def float_dtype(self, leaf: Leaf) -> np.dtype:
        """The dtype in which a leaf's floats are written."""
        return leaf.dtype if self.code.dtype is None else np.dtype(self.code.dtype)

    def width(self, leaf: Leaf) -> int:
        """v: the bits of a value of this leaf."""
        return self.code.width(nonzero=not self.zeros, dtype=leaf.dtype)


def plan_of(name: str, tree: Any, form: str | Format, code: Code, whole: Any) -> Plan:
    """The plan of messages like `tree`, which errors call `name`; see `encode`."""
    form = _formats.as_format(form)
    if form.name not in _formats.FORMATS:
        raise ValueError(
            f"format is {form.name!r}, a convention for counts that has no bytes, "
            f"expected one of {', '.join(_formats.FORMATS)}."
        )
    if not isinstance(whole, bool | np.bool):
        raise ValueError(f"whole is {whole!r}, expected True or False.")
    leaves, start = [], 0
    items, structure = _plain.flatten(tree)
    _check_code(code, len(items), whole)
    for index, (path, item) in enumerate(items):
        where = name + path
        shape = getattr(item, "shape", None)
        dtype = getattr(getattr(item, "dtype", None), "name", None)
        if shape is None or dtype not in FLOATS:
            got = type(item).__name__ if dtype is None else dtype
            raise ValueError(
                f"{where} is of {got}, expected an array of {_one_of(FLOATS)}."
            )
        number = 2**code.size if code.kind == "bins" else 1
        first = index * number if code.num_scales > number else 0
        scale = slice(first, first + number)
        # By its name: another byte order is no other dtype.
        leaf = Leaf(where, tuple(shape), np.dtype(dtype), start, scale)
        leaves.append(leaf)
        start += leaf.size
    if start >= 2**31:
        raise ValueError(f"{name} has {start} entries, expected fewer than 2**31.")
    plan = Plan(
        leaves=tuple(leaves),
        structure=structure,
        form=_form_of(form.name, code, whole),
        code=AS_FLOATS if whole else code,
        num_scales=0 if whole else code.num_scales,
    )
    if plan.code.kind == "float" and form.value_bits is not None:
        _check_value_bits(form.value_bits, plan)
    return plan


def _form_of(name: str, code: Code, whole: bool | np.bool) -> str:
    if whole or code.always_dense:
        return "dense"
    return "chunks" if code.chunk else name


def _check_code(code: Code, leaves: int, whole: bool | np.bool) -> None:
    if not isinstance(code, Code):
        raise ValueError(f"code is {code!r}, expected a wire.Code.")
    _checks.one_of("code.kind", code.kind, KINDS)
    if code.kind == "levels":
        _checks.integer("code.size", code.size, 1, 2**32 - 1)
    if code.kind == "grid":
        _checks.integer("code.size", code.size, 1, 32)
    if code.kind == "bins":
        _checks.integer("code.size", code.size, 1, 16)
    _checks.integer("code.chunk", code.chunk, 0)
    if code.chunk:
        _checks.integer("code.kept", code.kept, 1, code.chunk)
    if code.kind == "float" and code.dtype is not None:
        try:
            known = np.dtype(code.dtype).name in FLOATS
        except TypeError:
            known = False
        if not known:
            raise ValueError(
                f"code.dtype is {code.dtype!r}, expected {_one_of(FLOATS)} or None."
            )
    _checks.integer("code.num_scales", code.num_scales, 0)
    expected = sorted({1, leaves}) if code.kind in _SCALED else [0]
    if code.kind == "grid":
        expected = sorted({0, *expected})
    if code.kind == "bins":
        expected = [leaves * 2**code.size]
    if code.num_scales not in expected and not whole:
        numbers = _one_of(tuple(map(str, expected)))
        raise ValueError(
            f"code.num_scales is {code.num_scales}, expected {numbers} for "
            f"{code.kind!r} and {leaves} leaves."
        )


def _check_value_bits(value_bits: int, plan: Plan) -> None:
    for leaf in plan.leaves:
        if leaf.size and plan.width(leaf) != value_bits:
            cast = f"float{value_bits}"
            remedy = f": compress with worker.cast({cast!r})" if cast in FLOATS else ""
            raise ValueError(
                f"value_bits is {value_bits}, but the values are {plan.width(leaf)} "
                f"bits wide{remedy}."
            )


def _one_of(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
