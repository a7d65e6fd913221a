"""Trees and dtypes of NumPy arrays, where nobody has loaded JAX, as JAX has them.

A worker's message is made and written without JAX. Where JAX is loaded it says what a
tree is, since only then can somebody have registered a kind of node.
"""

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

with contextlib.suppress(ModuleNotFoundError):  # NumPy then knows "bfloat16" by name
    import ml_dtypes


def jax_if_loaded() -> Any:
    """JAX, or None: then there are no traced values, and no nodes of one's own."""
    return sys.modules.get("jax")


def flatten(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The leaves of a tree in order, each with its path, and what `unflatten` takes.

    Dicts have their keys in ascending order, and None has no leaves.

    Examples:
      >>> from gdsec_jax import _plain
      >>> _plain.flatten({"w": [1.0, 2.0], "b": 3.0})[0]
      [("['b']", 3.0), ("['w'][0]", 1.0), ("['w'][1]", 2.0)]
    """
    jax = jax_if_loaded()
    if jax is not None:
        found, structure = jax.tree_util.tree_flatten_with_path(tree)
        return [(jax.tree_util.keystr(path), leaf) for path, leaf in found], structure
    numbered: list[tuple[str, Any]] = []

    def number(path, leaf):
        numbered.append((path, leaf))
        return len(numbered) - 1

    return numbered, _walk(number, tree)


def unflatten(structure: Any, leaves: list) -> Any:
    """The tree of a structure, with these leaves."""
    jax = jax_if_loaded()
    if jax is not None:
        return jax.tree.unflatten(structure, leaves)
    return _walk(lambda path, number: leaves[number], structure)


def leaves(tree: Any, nones: bool = False) -> list:
    """The leaves of a tree in order; None is one of them only if `nones`."""
    jax = jax_if_loaded()
    if jax is not None:
        return jax.tree.leaves(tree, is_leaf=lambda x: nones and x is None)
    found: list = []
    _walk(lambda path, leaf: found.append(leaf), tree, nones=nones)
    return found


def map(function: Callable, tree: Any, *others: Any) -> Any:
    """The tree of what a function makes of a tree's leaves and those of others."""
    _, structure = flatten(tree)
    each = zip(*(leaves(x) for x in (tree, *others)), strict=True)
    return unflatten(structure, [function(*own) for own in each])


def filled(prefix: Any, tree: Any) -> Any:
    """A prefix of a tree with its leaves repeated, one for each leaf of the tree.

    Raises:
      ValueError: it is no prefix.
    """
    jax = jax_if_loaded()
    if jax is not None:
        return jax.tree.broadcast(prefix, tree)
    items, own = _items(tree), _items(prefix)
    if own is None:
        return _walk(lambda path, leaf: prefix, tree)
    if items is None or type(prefix) is not type(tree) or len(own) != len(items):
        raise ValueError("it is no prefix of the tree.")
    pairs = zip(own, items, strict=True)
    if any(key != other for (key, _), (other, _) in pairs):
        raise ValueError("it is no prefix of the tree.")
    pairs = zip(own, items, strict=True)
    return _like(tree, [filled(x, y) for (_, x), (_, y) in pairs])


def finfo(dtype: Any) -> Any:
    """What a floating-point dtype can hold, bfloat16 among them."""
    dtype = np.dtype(dtype)
    return np.finfo(dtype) if dtype.kind == "f" else ml_dtypes.finfo(dtype)


def _walk(
    function: Callable[[str, Any], Any], tree: Any, path: str = "", nones: bool = False
) -> Any:
    """The tree of what a function makes of each leaf and its path."""
    items = None if nones and tree is None else _items(tree)
    if items is None:
        return function(path, tree)
    return _like(tree, [_walk(function, x, path + key, nones) for key, x in items])


def _items(tree: Any) -> list[tuple[str, Any]] | None:
    """A node's children, each with its step of a path; None: it is a leaf."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        return [(f"[{key!r}]", tree[key]) for key in _keys(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return [(f".{name}", getattr(tree, name)) for name in tree._fields]  # pyright: ignore
    if isinstance(tree, list | tuple):
        return [(f"[{n}]", x) for n, x in enumerate(tree)]
    return None


def _like(tree: Any, children: list) -> Any:
    """A node of the same kind with other children."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return type(tree)(zip(_keys(tree), children, strict=True))
    return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)


def _keys(tree: dict) -> list:
    return list(tree) if isinstance(tree, OrderedDict) else sorted(tree)
