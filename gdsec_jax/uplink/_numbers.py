"""The numbers of a link: scalars or one for each worker, known or traced."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks

_Node = TypeVar("_Node", bound=type)


def pytree(*static: str) -> Callable[[_Node], _Node]:
    """Register a dataclass as a pytree whose named fields are static.

    Only its constructor checks what it is handed: JAX also fills such trees with axes,
    shapes and placeholders, which `register_dataclass` would hand to the constructor.
    """

    def register(node: _Node) -> _Node:
        names = [f.name for f in dataclasses.fields(node) if f.name not in static]

        def flatten(value):
            leaves = [getattr(value, name) for name in names]
            return leaves, tuple(getattr(value, name) for name in static)

        def flatten_with_keys(value):
            leaves, meta = flatten(value)
            keys = map(jax.tree_util.GetAttrKey, names)
            return list(zip(keys, leaves, strict=True)), meta

        def unflatten(meta, leaves):
            value = object.__new__(node)
            vars(value).update(zip(static, meta, strict=True))
            vars(value).update(zip(names, leaves, strict=True))
            return value

        jax.tree_util.register_pytree_with_keys(
            node, flatten_with_keys, unflatten, flatten
        )
        return node

    return register


def float_dtype() -> Any:
    """float32, or float64 where JAX has it enabled."""
    return jnp.result_type(float)


def per_worker(node: Any, name: str, num_workers: int) -> jax.Array:
    """A field as [M]: a scalar for each worker, or what already is [M]."""
    value = getattr(node, name)
    if jnp.shape(value) not in ((), (num_workers,)):
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, expected () or ({num_workers},)."
        )
    return jnp.broadcast_to(jnp.asarray(value, float_dtype()), (num_workers,))


def check(
    node: Any, name: str, low: float = 0.0, high: float = _checks.LARGEST
) -> None:
    """Check a field: numbers, perhaps traced, in [low, high]. An int becomes a float.

    JAX would take 5,000,000,000 Hz for an integer of 32 bits.
    """
    value = getattr(node, name)
    if not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise ValueError(f"{name} is {value!r}, expected a number or an array of them.")
    _checks.in_range(name, value, low, high)
    if isinstance(value, int):
        object.__setattr__(node, name, float(value))
