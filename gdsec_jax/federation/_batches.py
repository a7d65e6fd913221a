"""A round in groups of workers: for many workers, and where gradients are large."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks
from gdsec_jax._devices import num_devices
from gdsec_jax.federation import _blocks
from gdsec_jax.federation._round import Columns, Gathered, Results, Steps, close, gather

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
      gradients: from the numbers of some workers, int32 [G], and their data, leaves
        [G, ...], to their gradients, leaves [G, *param].
      data: of all workers, leaves [M, ...], or None.
      size: workers in a group, at most, of each device. All but the last group have
        the same number.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> def loss(params, target):
      ...     return 0.5 * jnp.sum((params - target) ** 2)
      >>> def gradients(index, targets):
      ...     return jax.vmap(jax.grad(loss), (None, 0))(params, targets)
      >>> targets = jnp.array([1.0, 2.0, 6.0])  # of three workers
      >>> optimizer = optax.chain(gdsec_jax.gdsec(3, xi=0.1), optax.sgd(1 / 3))
      >>> params = jnp.zeros(1)
      >>> updates, state = optimizer.update(
      ...     gdsec_jax.Grouped(gradients, targets, size=2),
      ...     optimizer.init(params), params)
      >>> params + updates
      Array([3.], dtype=float32)
    """

    gradients: Callable[[jax.Array, Any], Any]
    data: Any
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
    few = num_workers < LEAST_WORKERS * number
    return None if few else number


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
    devices = num_devices()
    given, compute = columns.gradients, None
    if isinstance(given, Grouped):
        given, compute = given.data, given.gradients
        for leaf in jax.tree.leaves(given):
            if jnp.shape(leaf)[:1] != chosen.shape:
                raise ValueError(
                    f"Grouped data has a leaf of shape {jnp.shape(leaf)}, expected "
                    f"{chosen.size} workers as its first axis."
                )

    def group(workers, fixed) -> Gathered:
        own, chosen, gradients = fixed
        if compute is not None:
            gradients = compute(own["worker_index"], gradients)
            like = columns.previous
            _checks.same_shapes("gradients", gradients, like, leading=chosen.shape)
        rows = columns._replace(gradients=gradients, workers=workers, own=own)
        return gather(rows, chosen, steps, alone=True)

    # Each device takes some of its own workers.
    def apart(tree):
        shape = lambda x: (devices, x.shape[0] // devices, *x.shape[1:])  # noqa: E731
        return jax.tree.map(lambda x: x.reshape(shape(x)), tree)

    def together(tree):
        shape = lambda x: (x.shape[0] * x.shape[1], *x.shape[2:])  # noqa: E731
        return jax.tree.map(lambda x: x.reshape(shape(x)), tree)

    def block(moving, fixed):
        gathered = group(together(moving).workers, together(fixed))
        return apart(gathered._replace(total=())), gathered.total

    fixed = (columns.own, chosen, given)
    few = jax.tree.map(lambda x: x[:devices], (columns.workers, fixed))
    shapes = jax.eval_shape(group, *few)
    zeros = lambda x: jnp.zeros(x.shape, x.dtype)  # noqa: E731
    none = lambda x: jnp.zeros((chosen.size, *x.shape[1:]), x.dtype)  # noqa: E731
    moving = Gathered(
        total=(),
        workers=columns.workers,
        present=none(shapes.present),
        uploads=jax.tree.map(none, shapes.uploads),
    )
    moved, total = _blocks.in_blocks(
        block,
        number,
        apart(moving),
        apart(fixed),
        jax.tree.map(zeros, shapes.total),
        always,
        axis=1,
    )
    gathered = together(moved)._replace(total=total)
    return gathered.present, close(columns, gathered, steps), gathered.uploads
