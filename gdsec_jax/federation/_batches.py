"""A round in batches of workers: for many workers, and where gradients are large."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks
from gdsec_jax._devices import num_devices
from gdsec_jax.federation import _parts
from gdsec_jax.federation._counts import uploads_of
from gdsec_jax.federation._round import (
    Answers,
    Federation,
    Outcome,
    Round,
    Workers,
    respond,
    sound,
    step,
)
from gdsec_jax.wire._uploads import Layout

# A batch of fewer workers gains less by staying in the cache than it costs to add its
# sum, an entry a component, to that of the others.
LEAST_WORKERS = 16


@dataclasses.dataclass(frozen=True)
class WorkerBatches:
    """Gradients that are computed for a batch of workers, when they are needed.

    An optimizer takes it in the place of gradients with leaves [M, *param]. A round
    then keeps the gradients of one batch alone, beside the workers' memories: with
    large networks that is memory, and with many workers the difference between a run
    and none.

    Attributes:
      gradients: from the numbers of a batch's workers, int32 [B], and their data,
        leaves [B, ...], to their gradients, leaves [B, *param].
      data: of all workers, leaves [M, ...], or None.
      size: workers in a batch, at most, of each device. All but the last batch have
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
      ...     gdsec_jax.WorkerBatches(gradients, targets, size=2),
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
    """A number of batches, none of which has more workers than `size`."""
    # From the second on M // number is at most the size; the first leaves few over.
    return max(num_workers // size, num_workers // (size + 1) + 1)


def number_of_batches(workers: Workers) -> int | None:
    """How many batches stay in a CPU's cache; None if that does not pay."""
    rows = _parts.num_bytes((workers.gradients, workers.states))
    number = math.ceil(rows / _parts.PART_BYTES["cpu"])
    few = workers.index.shape[0] < LEAST_WORKERS * number
    return None if few else number


def in_batches(
    federation: Federation, now: Round, counting: Layout, number: int
) -> Outcome:
    """A round, the workers' half batch by batch, in place where XLA can."""
    common, workers = now.common, now.workers
    devices, num_workers = num_devices(), workers.index.shape[0]
    given, compute = workers.gradients, None
    if isinstance(given, WorkerBatches):
        given, compute = given.data, given.gradients
        for leaf in jax.tree.leaves(given):
            if jnp.shape(leaf)[:1] != (num_workers,):
                raise ValueError(
                    f"WorkerBatches has data of shape {jnp.shape(leaf)}, expected "
                    f"{num_workers} workers as its first axis."
                )

    def answers(states, fixed) -> Answers:
        own, given = fixed
        if compute is not None:
            given = compute(own.index, given)
            lead = own.index.shape
            _checks.same_shapes("gradients", given, common.previous, leading=lead)
        batch = sound(federation, own._replace(gradients=given, states=states))
        said = respond(federation, common, batch, alone=True)
        uploads = uploads_of(counting, said, batch.gradients, common.previous)
        return said.counted(uploads)

    def one(moving: Answers, fixed):
        made = answers(_together(moving.states), _together(fixed))
        return _apart(made._replace(total=()), devices), made.total

    fixed = (workers._replace(gradients=(), states=()), given)
    few = jax.tree.map(lambda x: x[:devices], (workers.states, fixed))
    shapes = jax.eval_shape(answers, *few)
    if _parts.kinds(shapes.states) != _parts.kinds(few[0]):
        raise ValueError(
            "the pipeline's state changes its dtypes in a round, expected the same in "
            "batches of workers: cast the parameters or the state."
        )
    nothing = jax.tree.map(
        lambda x: jnp.zeros((num_workers, *x.shape[1:]), x.dtype), shapes
    )
    moved, total = _parts.in_parts(
        one,
        number,
        _apart(nothing._replace(total=(), states=workers.states), devices),
        _apart(fixed, devices),
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.total),
        now.always,
        axis=1,
    )
    return step(federation, now, _together(moved)._replace(total=total))


def _apart(tree: Any, devices: int) -> Any:
    """Leaves [M, ...] as [devices, M / devices, ...]: each takes of its own workers."""
    return jax.tree.map(
        lambda x: x.reshape((devices, x.shape[0] // devices, *x.shape[1:])), tree
    )


def _together(tree: Any) -> Any:
    """Leaves [devices, M / devices, ...] as [M, ...]."""
    return jax.tree.map(
        lambda x: x.reshape((x.shape[0] * x.shape[1], *x.shape[2:])), tree
    )
