"""A dry run of an optimizer, which says in a sentence what optax cannot."""

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks
from gdsec_jax.federation import _parts
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._counts import last_round

_REMEDY = (
    "An algorithm of gdsec_jax stands first and takes away the axis of workers; "
    "wrappers such as optax.apply_if_finite and optax.MultiSteps stand behind it: "
    "optax.chain(gdsec_jax.gdsec(...), optax.apply_if_finite(optax.sgd(...), 5))."
)


def check(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    num_workers: int,
    worker_batch: int | None = None,
) -> None:
    """Raise a clear error if this optimizer cannot train with an axis of workers.

    One update is evaluated abstractly: nothing is computed. `simulate` calls this.

    Args:
      optimizer: a chain with an algorithm of this package in it.
      params: the parameters, or their shapes and dtypes.
      num_workers: M, the leading axis of the gradients.
      worker_batch: workers of a batch, if gradients come as `WorkerBatches`.

    Raises:
      ValueError: init or update fails on gradients [M, *param]; updates come out in
        other shapes than the parameters'; the state changes its structure; or no
        algorithm of this package counts what is sent.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gd(num_workers=5), optax.adam(0.1))
      >>> gdsec_jax.check(optimizer, jnp.zeros(3), num_workers=5)
    """
    _checks.number_of_workers(num_workers)
    optimizer = optax.with_extra_args_support(optimizer)
    shapes = jax.eval_shape(lambda p: jax.tree.map(jnp.asarray, p), params)
    grads = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((num_workers, *p.shape), p.dtype), shapes
    )

    def update(grads, state, params):
        if worker_batch is not None:
            grads = WorkerBatches(lambda index, own: own, grads, worker_batch)
        return optimizer.update(grads, state, params)  # pyright: ignore

    try:
        state = jax.eval_shape(optimizer.init, shapes)
        updates, new_state = jax.eval_shape(update, grads, state, shapes)
    except Exception as error:  # whatever a foreign stage makes of an axis of workers
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"this optimizer cannot take gradients of {num_workers} workers"
            f"{'' if worker_batch is None else f', {worker_batch} at a time'}: "
            f"{reason} {_REMEDY}"
        ) from error
    last_round(state)
    try:
        _checks.same_shapes("the optimizer's updates", updates, shapes)
    except ValueError as error:
        raise ValueError(
            f"{error} A stage keeps the axis of workers: instead of optax.masked use "
            f"optax.partition with gdsec_jax.gd for the rest. {_REMEDY}"
        ) from error
    if _parts.kinds(state) != _parts.kinds(new_state):
        raise ValueError(
            "this optimizer's state changes its shapes in an update, so that no loop "
            "can carry it: a piece in it took the workers for an axis of a parameter. "
            f"{_REMEDY}"
        )
