"""A round in groups of workers: for many workers, and where gradients are large."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _blocks, _checks
from gdsec_jax._steps import Columns, Gathered, Results, Steps, close, gather

# A group of fewer workers gains less by staying in the cache than it costs to add its
# sum, an entry a component, to that of the others.
LEAST_WORKERS = 16


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Gradients that are computed for some workers at a time, when they are needed.

    An optimizer takes it in the place of gradients with leaves [M, *param]. A round
    then keeps the gradients of one group alone, beside the workers' memories: with
    large networks that is memory, and with many workers the difference between a run
    and none.

    Attributes:
      gradients: from the numbers of some workers, int32 [G], to leaves [G, *param].
      size: workers in a group, at most. All but the last have the same number.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> targets = jnp.array([1.0, 2.0, 6.0])  # of three workers
      >>> def gradients(index):
      ...     return jax.vmap(lambda m: params - targets[m])(index)
      >>> optimizer = optax.chain(gdsec_jax.gdsec(3, xi=0.1), optax.sgd(1 / 3))
      >>> params = jnp.zeros(1)
      >>> updates, state = optimizer.update(
      ...     gdsec_jax.Grouped(gradients, size=2), optimizer.init(params), params)
      >>> params + updates
      Array([3.], dtype=float32)
    """

    gradients: Callable[[jax.Array], Any]
    size: int

    def __post_init__(self):
        _checks.integer("size", self.size, 1, 2**31 - 1)


def number_of_size(size: int, num_workers: int) -> int:
    """A number of groups, none of which has more workers than `size`."""
    number = max(1, num_workers // size)
    while num_workers // number > size:
        number += 1
    return number


def number_of_groups(columns: Columns) -> int | None:
    """How many groups of workers stay in a CPU's cache; None if that does not pay."""
    rows = _blocks.num_bytes((columns.gradients, columns.workers))
    number = math.ceil(rows / _blocks.BLOCK_BYTES["cpu"])
    num_workers = jax.tree.leaves(columns.own)[0].shape[0]
    return number if num_workers >= LEAST_WORKERS * number else None


def in_groups(
    columns: Columns,
    chosen: jax.Array,
    steps: Steps,
    number: int,
    always: jax.Array,
) -> tuple[jax.Array, Results, Any]:
    """A round, group by group of workers, in place where XLA can.

    Args:
      columns: of the round; its gradients may be `Grouped`.
      chosen: bool [M], the workers that may take part.
      steps: of the round.
      number: of groups.
      always: as of `_blocks.in_blocks`.

    Returns:
      The workers that do take part; the results; what was counted.

    Raises:
      NameError: the pipeline sums over all workers.
    """
    given, compute = columns.gradients, None
    if isinstance(given, Grouped):
        given, compute = None, given.gradients

    def group(workers, fixed) -> Gathered:
        own, chosen, gradients = fixed
        if compute is not None:
            gradients = compute(own["worker_index"])
            like = columns.previous
            _checks.same_shapes("gradients", gradients, like, leading=chosen.shape)
        rows = columns._replace(gradients=gradients, workers=workers, own=own)
        return gather(rows, chosen, steps, alone=True)

    def block(moving, fixed):
        gathered = group(moving.workers, fixed)
        return gathered._replace(total=()), gathered.total

    fixed = (columns.own, chosen, given)
    one = jax.tree.map(lambda x: x[:1], (columns.workers, fixed))
    shapes = jax.eval_shape(group, *one)
    zeros = lambda x: jnp.zeros(x.shape, x.dtype)  # noqa: E731
    none = lambda x: jnp.zeros((chosen.size, *x.shape[1:]), x.dtype)  # noqa: E731
    moving = Gathered(
        total=(),
        workers=columns.workers,
        present=none(shapes.present),
        uploads=jax.tree.map(none, shapes.uploads),
    )
    moved, total = _blocks.in_blocks(
        block, number, moving, fixed, jax.tree.map(zeros, shapes.total), always, axis=0
    )
    gathered = moved._replace(total=total)
    return gathered.present, close(columns, gathered, steps), gathered.uploads
