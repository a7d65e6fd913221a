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
# Parts whose code stands one after the other on a TPU: its compiler copies arrays that
# a loop carries along onto the chip in each step, whole.
UNROLLED = 8
ROWS = 8  # of a tile of a TPU's memory: fewer take the room of so many


def num_bytes(arrays: Any) -> int:
    """Of all arrays of a tree, or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def _room_on_tpu(leaves: list) -> int:
    """Bytes of arrays [..., rows, columns], whose rows are padded to whole tiles."""

    def rows(x):
        return ROWS * math.ceil(x.shape[-2] / ROWS) / x.shape[-2] if x.ndim > 1 else 1

    return math.ceil(sum(x.size * x.dtype.itemsize * rows(x) for x in leaves))


def kinds(tree: Any) -> tuple:
    """Its structure, and the shape and dtype of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype) for x in leaves]


def number_of_parts(arrays: Any, platform: str) -> int:
    """Into how many parts to cut arrays whose components are their last axis."""
    leaves = jax.tree.leaves(arrays)
    whole = _room_on_tpu(leaves) if platform == "tpu" else num_bytes(leaves)
    fewest = max(1, math.ceil(whole / PART_BYTES[platform]))
    lengths = {x.shape[-1] for x in leaves}
    for number in range(fewest, 2 * fewest):
        if all(length % number == 0 for length in lengths):
            return number  # nothing is left over
    return fewest


def in_parts(
    function: Callable,
    number: int,
    moving,
    fixed,
    totals,
    always,
    axis: int = -1,
    platform: str = "cpu",
    lengths: tuple[int, ...] | None = None,
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
      lengths: if they are given, the function is handed where its part starts in arrays
        of these lengths, int32 [] each, as a third argument.
      always: bool [], true, but traced: the compiler must not know it. A branch keeps a
        part's reads apart from its writes; else XLA copies whole arrays in each step.
    """

    def part_at(where, moving, totals):
        def cut(x):
            start, size = where(x.shape[axis])
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis % x.ndim)

        def put(x, part):
            start, _ = where(x.shape[axis])
            return jax.lax.dynamic_update_slice_in_dim(x, part, start, axis % x.ndim)

        told = [] if lengths is None else [tuple(where(n)[0] for n in lengths)]

        def compute(moving, fixed):
            parts = jax.tree.map(cut, (moving, fixed))
            # On a TPU a part is then read once, whatever is made of it.
            return function(*jax.lax.optimization_barrier(parts), *told)

        def never(moving, fixed):
            shapes = jax.eval_shape(compute, moving, fixed)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        new, more = jax.lax.cond(always, compute, never, moving, fixed)
        return jax.tree.map(put, moving, new), jax.tree.map(jnp.add, totals, more)

    def one(i, carry):
        return part_at(lambda n: (i * (n // number), n // number), *carry)

    unroll = min(number, UNROLLED) if platform == "tpu" else 1
    moving, totals = jax.lax.fori_loop(0, number, one, (moving, totals), unroll=unroll)
    if any(x.shape[axis] % number for x in jax.tree.leaves((moving, fixed))):
        moving, totals = part_at(lambda n: (n - n % number, n % number), moving, totals)
    return moving, totals
