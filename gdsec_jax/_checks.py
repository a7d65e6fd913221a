"""Checks of what users hand in: one sentence with the name, the value, the remedy.

Imports no JAX, which a worker with NumPy alone does without.
"""

import difflib
import math
import operator
import os
import re
import warnings
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdsec_jax import _plain

if TYPE_CHECKING:
    import jax

PyTree = Any
LARGEST = float(np.finfo(np.float64).max)  # as an upper bound: any finite number
SMALLEST = float(np.finfo(np.float64).smallest_subnormal)  # as a lower: any above 0
_INJECTED = (
    "; with optax.inject_hyperparams name it in static_args, in a sweep give its "
    "values as gdsec_jax.Static"
)


def deprecated(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that a spelling goes, and name the one that stays."""
    text = f"{old} is deprecated and goes after a release: use {new}."
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


def is_traced(value: PyTree) -> bool:
    """Whether a leaf has no value yet: range checks skip those, so that vmap works."""
    jax = _plain.jax_if_loaded()
    if jax is None:
        return False
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def shown(value: Any) -> str:
    """A value in a sentence: what Python prints, on one line, or the start of it."""
    text = re.sub(r" at 0x\w+", "", " ".join(repr(value).split()))
    return text if len(text) < 200 else f"{text[:100]} ..."


def words_of(error: Exception) -> str:
    """What another's error says, up to an empty line."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())


def number_of_workers(num_workers: Any) -> None:
    """M is a shape, so it must be a Python int of at least one."""
    jax = _plain.jax_if_loaded()
    if jax is not None and isinstance(num_workers, jax.Array):  # a traced one, too
        raise ValueError(
            f"num_workers is {num_workers!r}, expected a Python int: with "
            "optax.inject_hyperparams name it in static_args."
        )
    integer("num_workers", num_workers, 1)


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int of at least `low` and at most `high`."""
    try:
        result = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        result = None
    if result is None or result < low or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {shown(value)}, expected an integer {bounds}.")
    return result


def function(name: str, value: Any) -> None:
    """A function, or None."""
    if not (value is None or callable(value)):
        raise ValueError(f"{name} is {shown(value)}, expected a function.")


def instance(name: str, value: Any, kind: type, expected: str) -> None:
    """`value` is an object of this kind, or None."""
    if value is not None:
        of_kind(name, value, kind, f"{expected} or None")


def of_kind(name: str, value: Any, kind: type, expected: str) -> None:
    """`value` is an object of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {shown(value)}, expected {expected}.")


def path(value: Any) -> Path:
    """The path that was given."""
    of_kind("path", value, str | os.PathLike, "a path")  # pyright: ignore
    return Path(value)


def optimizer(value: Any, name: str = "optimizer") -> None:
    """What optax has is a pair of functions."""
    if not (hasattr(value, "init") and hasattr(value, "update")):
        raise ValueError(f"{name} is {shown(value)}, expected an optax chain.")


def log(value: Any) -> None:
    """A log is a function, not the context manager that yields it."""
    if value is None or (callable(value) and not hasattr(value, "__enter__")):
        return
    raise ValueError(
        f"log is {value!r}, expected a function, such as "
        "`with logs.csv(path) as log:` makes."
    )


def positive(name: str, value: Any) -> float:
    """Return `value` as a finite float above zero; a traced one as it is."""
    if is_traced(value):
        return value
    try:
        result = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not 0 < result < math.inf:
        raise ValueError(f"{name} is {shown(value)}, expected a finite number above 0.")
    return result


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a user may have meant, whatever its case, its _ and its -."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "-")

    by_plain = {plain(name): name for name in known}
    found = difflib.get_close_matches(plain(word), by_plain, 1)
    return by_plain[found[0]] if found else None


def expected(word: Any, known: Iterable[str]) -> str:
    """What comes between a wrong word and what is expected: the nearest, if any is."""
    near = nearest(word, known) if isinstance(word, str) else None
    return f", did you mean {near}? Expected" if near else ", expected"


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """`value` is one of the words in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} is {shown(value)}{expected(value, choices)} one of "
            f"{', '.join(choices)}."
        )


def in_range(name: str, value: PyTree | Callable, low: float, high: float) -> None:
    """Every leaf lies in [low, high]; functions and traced values are let through."""
    if any(map(callable, _plain.leaves(value))) or is_traced(value):
        return
    for leaf in _plain.leaves(value, nones=True):
        leaf = np.asarray(leaf)
        floating = leaf.dtype.name.startswith(("float", "bfloat"))
        if not (floating or leaf.dtype.kind in "iu"):
            raise ValueError(f"{name} is {shown(value)}, expected real numbers.")
        leaf = leaf.astype(np.float64)
        outside = leaf[~((leaf >= low) & (leaf <= high))]  # written so that NaN is
        if outside.size:
            raise ValueError(
                f"{name} is {outside[0]:g}, expected a number {_bounds(low, high)}."
            )


def _bounds(low: float, high: float) -> str:
    """A range in words."""
    if high == LARGEST:
        return "above 0" if low == SMALLEST else f"at least {low:g}"
    return f"in {'(0' if low == SMALLEST else f'[{low:g}'}, {high:g}]"


def number_in_range(name: str, value: Any, low: float, high: float) -> None:
    """A single number, perhaps traced, in [low, high]."""
    none = callable(value) or value is None or isinstance(value, tuple | list | dict)
    if none or np.shape(value) != ():  # pyright: ignore
        raise ValueError(
            f"{name} is {shown(value)}, expected one number {_bounds(low, high)}."
        )
    in_range(name, value, low, high)


def state_dtype(value: Any) -> None:
    """None, or a floating-point dtype."""
    if value is not None:
        dtype("state_dtype", value, f"a floating-point dtype or None{_INJECTED}")


def dtype(
    name: str, value: Any, expected: str = f"a floating-point dtype{_INJECTED}"
) -> None:
    """A floating-point dtype, or its name."""
    import jax.numpy as jnp

    try:
        named = isinstance(value, str | type | np.dtype)
        floating = named and jnp.issubdtype(jnp.dtype(value), jnp.floating)
        if floating and jnp.dtype(value).itemsize > 1:  # nothing computes with fewer
            return
    except TypeError:
        pass
    raise ValueError(f"{name} is {shown(value)}, expected {expected}.")


def mask(name: str, value: Any, num_workers: int) -> "jax.Array":
    """Return `value` as an array, bool [M]."""
    import jax.numpy as jnp

    expected = f"expected bool[{num_workers}]."
    try:
        result = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}, {expected}") from error
    if result.shape != (num_workers,) or result.dtype != bool:
        raise ValueError(f"{name} is {result.dtype}{list(result.shape)}, {expected}")
    return result


def derivatives_by_params_alone(tangents: PyTree) -> None:
    """No tangent of a worker's data is other than a symbolic zero of custom_jvp."""
    import jax

    symbolic_zero = jax.custom_derivatives.SymbolicZero
    if not all(isinstance(x, symbolic_zero) for x in jax.tree.leaves(tangents)):
        raise ValueError(
            "the loss is differentiated by a worker's data, expected by params alone: "
            "with sparse features, or Gram matrices of ridge regression, it has no "
            "other derivative; problems.from_loss takes a loss that has."
        )


def floating(params: PyTree) -> None:
    """There are parameters, each a real floating-point array of 16 bits or more."""
    import jax
    import jax.numpy as jnp

    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        where = f"params{jax.tree_util.keystr(path)}"
        try:
            dtype = None if isinstance(leaf, str | type) else jnp.result_type(leaf)
        except TypeError:
            dtype = None
        if dtype is None:
            raise ValueError(f"{where} is {shown(leaf)}, expected an array.")
        # JAX computes with fewer bits in no arithmetic of its own.
        if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 2:
            raise ValueError(
                f"{where} has dtype {dtype}, expected a real floating-point dtype of "
                "16 bits or more."
            )


def same_shapes(name: str, tree: PyTree, params: PyTree, leading: tuple = ()) -> None:
    """`tree` has the parameters' structure, and their shapes behind `leading`."""
    known, expected = _plain.flatten(params)
    leaves, got = _plain.flatten(tree)
    if expected != got:
        raise ValueError(f"{name} is the tree {got}, expected the params' {expected}.")
    for (path, leaf), (_, param) in zip(leaves, known, strict=True):
        shape = (*leading, *np.shape(param))
        if np.shape(leaf) != shape:
            axis = (
                f", the parameter's shape behind an axis of num_workers={leading[0]}: "
                "compute them with jax.vmap(jax.grad(loss), in_axes=(None, 0))"
                if leading
                else ""
            )
            raise ValueError(
                f"{name}{path} has shape {np.shape(leaf)}, expected {shape}{axis}."
            )


def number_or_share(k: Any) -> None:
    """k is a positive int, or a fraction in (0, 1]."""
    number = isinstance(k, Real) and not isinstance(k, bool)
    fits = number and (int(k) >= 1 if isinstance(k, Integral) else 0 < float(k) <= 1)
    if not fits:
        raise ValueError(
            f"k is {shown(k)}, expected an int of at least 1, or a fraction in (0, 1] "
            "as a float: with optax.inject_hyperparams name it in static_args."
        )


def number_of(k: float, length: int) -> int:
    """How many entries of a vector k stands for."""
    if isinstance(k, Integral):
        return min(int(k), length)
    return math.ceil(k * length * (1 - 1e-12))  # 0.07 * 100 is a little more than 7
