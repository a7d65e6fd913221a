"""A loop over parts of large arrays along an axis, which changes them in place."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Gradients of fewer bytes stay in the cache, where parts gain nothing.
LEAST_BYTES = 2**24
# What a part reads. More would leave the cache, or a TPU's vector memory; less would
# take no longer than it takes to start its kernels, or to meet the other devices.
PART_BYTES = {"cpu": 6 * 2**20, "tpu": 2**26}


def num_bytes(arrays: Any) -> int:
    """Of all arrays of a tree, or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def kinds(tree: Any) -> list:
    """Shape and dtype of each leaf."""
    return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def number_of_parts(arrays: Any, platform: str) -> int:
    """Into how many parts to cut arrays whose components are their last axis."""
    leaves = jax.tree.leaves(arrays)
    fewest = max(1, math.ceil(num_bytes(leaves) / PART_BYTES[platform]))
    lengths = {x.shape[-1] for x in leaves}
    for number in range(fewest, 2 * fewest):
        if all(length % number == 0 for length in lengths):
            return number  # nothing is left over
    return fewest


def in_parts(
    function: Callable, number: int, moving, fixed, totals, always, axis: int = -1
) -> tuple[Any, Any]:
    """Apply a function part by part along an axis, in place where XLA can.

    XLA makes several kernels of a round, on CPU one for each output; on arrays beyond
    the cache each of them passes the memory anew. In parts they pass it once.
    Each part is one in `number` of every array; what is left over is a last part.

    Args:
      function: (part of moving, part of fixed) to (the new part of moving, what to add
        to the totals).
      moving, fixed: trees of arrays that are replaced, and that are only read; those of
        several lengths are cut at the same places relatively.
      totals: a tree of numbers or arrays to start from.
      always: bool [], true, but traced: the compiler must not know it. A branch keeps a
        part's reads apart from its writes; else XLA copies whole arrays in each step.
    """

    def part_at(start, size, moving, totals):
        def compute(moving, fixed):
            cut = lambda x: jax.lax.dynamic_slice_in_dim(  # noqa: E731
                x, start(x), size(x), axis % x.ndim
            )
            parts = jax.tree.map(cut, (moving, fixed))
            # On a TPU a part is then read once, whatever is made of it.
            return function(*jax.lax.optimization_barrier(parts))

        def never(moving, fixed):
            shapes = jax.eval_shape(compute, moving, fixed)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        new, more = jax.lax.cond(always, compute, never, moving, fixed)
        put = jax.lax.dynamic_update_slice_in_dim
        moving = jax.tree.map(
            lambda x, part: put(x, part, start(x), axis % x.ndim), moving, new
        )
        return moving, jax.tree.map(jnp.add, totals, more)

    def one(i, carry):
        size = lambda x: x.shape[axis] // number  # noqa: E731
        return part_at(lambda x: i * size(x), size, *carry)

    moving, totals = jax.lax.fori_loop(0, number, one, (moving, totals))
    left = lambda x: x.shape[axis] % number  # noqa: E731
    if any(map(left, jax.tree.leaves((moving, fixed)))):
        end = lambda x: x.shape[axis] - left(x)  # noqa: E731
        moving, totals = part_at(end, left, moving, totals)
    return moving, totals
