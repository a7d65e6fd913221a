"""Arithmetic on trees whose leaves differ in dtype, as memories and gradients do."""

import functools

import jax
import jax.numpy as jnp


def widest(*dtypes):
    """The dtype that holds all of them, also where promotion is set to strict."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def zero_memory(params, state_dtype=None):
    """Zeros in `state_dtype`; by default the parameter's dtype, but float32 at least.

    A memory sums what single rounds leave over, which half precision would round off.
    """

    def zeros(param):
        wide = state_dtype or widest(jnp.result_type(param), jnp.float32)
        return jnp.zeros(jnp.shape(param), wide)

    return jax.tree.map(zeros, params)


def add(a, b):
    """a + b in the wider dtype of each pair of leaves."""
    return jax.tree.map(lambda x, y: jnp.add(*_same_dtype(x, y)), a, b)


def sub(a, b):
    """a - b in the wider dtype of each pair of leaves."""
    return jax.tree.map(lambda x, y: jnp.subtract(*_same_dtype(x, y)), a, b)


def add_scaled(a, scalar, b):
    """a + scalar b, in the dtypes of a."""

    def one(x, y):
        x, y = _same_dtype(x, y)
        return x + jnp.asarray(scalar, x.dtype) * y

    return cast_like(jax.tree.map(one, a, b), a)


def cast_like(tree, reference):
    """`tree` in the dtypes of `reference`; unchanged where there is no reference."""
    if reference is None:
        return tree
    return jax.tree.map(
        lambda x, like: x.astype(jnp.result_type(like)), tree, reference
    )


def _same_dtype(x, y):
    dtype = widest(x.dtype, y.dtype)
    return x.astype(dtype), y.astype(dtype)
