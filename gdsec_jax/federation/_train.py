"""Losses of workers, and what is asked of them at points of their own."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gdsec_jax import _checks, _trees
from gdsec_jax.federation import _clock


@dataclasses.dataclass(frozen=True)
class WorkerLosses:
    r"""The losses of the workers, for methods that ask at points of each worker's own.

    An optimizer that begins with `local`, and methods such as `scaffold`, take it in
    the place of gradients with leaves [M, *param].

    Attributes:
      loss: (params, data of one worker, key) to the worker's own loss, a real scalar:
        :math:`\tilde f_m` of :math:`f = \frac1M \sum_m \tilde f_m`, the mean over its
        samples say.
      data: of all workers, leaves [M, ...].
      key: a random key of this round; each worker and each of its steps is handed its
        own. None: the loss is handed None, and draws nothing.
      size: workers that train at a time; None for all.

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> def loss(params, target, key):
      ...     return 0.5 * jnp.sum((params - target) ** 2)
      >>> losses = gdsec_jax.WorkerLosses(loss, jnp.array([1.0, 3.0]))
    """

    loss: Callable[[Any, Any, Any], jax.Array]
    data: Any
    key: Any = None
    size: int | None = None

    def __post_init__(self):
        _checks.function("loss", self.loss)
        if self.size is not None:
            _checks.integer("size", self.size, 1, 2**31 - 1)


class HandedOn(WorkerLosses):
    """In a dry run of what stands behind `local`: what it hands on is the data."""


@_trees.state
class LocalSteps(NamedTuple):
    """In a state: how many gradients each worker computes in the coming round."""

    number: jax.Array  # int32 []


def train(
    losses: WorkerLosses,
    params: Any,
    inner: optax.GradientTransformation,
    steps: Any,
    num_workers: int,
    states: Any = None,
    shifts: Any = None,
    points: Any = None,
    proximal: Any = None,
    first: int = 0,
) -> tuple[Any, Any]:
    """How far each worker goes, leaves [M, *param], and its next inner state.

    Args:
      losses: of the workers.
      params: the common ones, from which all begin.
      inner: a worker's optimizer.
      steps: how many; may be traced.
      num_workers: M.
      states: of the optimizers, leaves [M, ...]; None: they begin anew.
      shifts: what is added to each worker's gradients, leaves [M, *param], or None.
      points: where each worker begins, leaves [M, *param]; None: at the params.
      proximal: of a term that pulls each worker to the params, or None.
      first: number of the first step, for what is drawn in it.
    """

    def one(loss, state, shift, start):
        start = params if start is None else start
        state = inner.init(params) if state is None else state

        def step(number, carry):
            at, state = carry

            def value_fn(at):
                value = loss(at, number)
                if proximal is None:
                    return value
                far = _trees.squares(_trees.sub(at, params), value.dtype)
                return value + jnp.asarray(proximal / 2, value.dtype) * far

            value, grad = jax.value_and_grad(value_fn)(at)
            if shift is not None:
                grad = _trees.cast_like(_trees.add(grad, shift), grad)

            def told():
                return {"value": value, "grad": grad, "value_fn": value_fn}

            updates, state = telling(optimizer.update, told)(grad, state, at)
            return optax.apply_updates(at, updates), state

        at, state = jax.lax.fori_loop(first, first + steps, step, (start, state))
        return jax.tree.map(jnp.subtract, start, at), state

    optimizer = optax.with_extra_args_support(inner)
    moved, own = each(losses, params, num_workers, one, states, shifts, points)
    if states is not None:  # as they lay before: a loop carries no other type
        own = jax.tree.map(lying, own, states)
    return moved, own


def gradients_at(
    losses: WorkerLosses, params: Any, num_workers: int, *points: Any, own: bool = False
) -> tuple[Any, ...]:
    """The workers' gradients at some points, of one draw: of each leaves [M, *param].

    Args:
      losses: of the workers.
      params: the common ones.
      num_workers: M.
      points: leaves [*param], or [M, *param] if they are the workers' `own`.
      own: whether they are.
    """

    def one(loss, *given):
        slope = jax.grad(lambda at: loss(at, 0))
        return tuple(slope(at) for at in (given if own else points))

    return each(losses, params, num_workers, one, *(points if own else ()))


def each(
    losses: WorkerLosses, params: Any, num_workers: int, one: Callable, *given: Any
) -> Any:
    """What `one` makes of each worker's loss and of what it has, `size` at a time.

    The loss is a function of parameters and of the step's number. What is given has
    leaves [M, ...], or is None.
    """
    if not isinstance(losses, WorkerLosses):
        raise ValueError(
            f"updates is {_checks.shown(losses)}, expected "
            "gdsec_jax.WorkerLosses(loss, data): workers that train ask for gradients "
            "at parameters of their own."
        )
    if params is None:
        raise ValueError("params is None, expected the parameters to train from.")
    for leaf in jax.tree.leaves(losses.data):
        if jnp.shape(leaf)[:1] != (num_workers,):
            raise ValueError(
                f"WorkerLosses has data of shape {jnp.shape(leaf)}, expected "
                f"{num_workers} workers as its first axis."
            )
    round_key = None if losses.key is None else _trees.as_key(losses.key)

    def of_one(given):
        m, data, own = given
        key = None if round_key is None else jax.random.fold_in(round_key, m)

        def loss(at, number):
            step_key = None if key is None else jax.random.fold_in(key, number)
            return losses.loss(at, data, step_key)

        return one(loss, *own)

    index = _clock.indices(num_workers)
    index, given = lying((index, given), losses.data)
    everything = (index, losses.data, given)
    if losses.size is None or losses.size >= num_workers:
        return jax.vmap(of_one)(everything)
    return jax.lax.map(of_one, everything, batch_size=losses.size)


def lying(tree: Any, like: Any) -> Any:
    """Leaves [M, ...] whose workers lie where those of others do, on Explicit axes.

    Elsewhere nothing says where, and the compiler chooses.
    """
    of_all = [jax.typeof(x) for x in jax.tree.leaves(like)]
    of_all = [x for x in of_all if AxisType.Explicit in x.sharding.mesh.axis_types]
    if not of_all:
        return tree
    mesh, spec = of_all[0].sharding.mesh, of_all[0].sharding.spec
    first = spec[0] if len(spec) else None

    def one(x):
        own = jax.typeof(x).sharding.spec
        lies = PartitionSpec(first, *own[1:])
        return jax.sharding.reshard(x, NamedSharding(mesh, lies))

    return jax.tree.map(one, tree)


def telling(update: Callable, told: Callable[[], dict[str, Any]]) -> Callable:
    """An update whose stages are told value, grad and value_fn, if they ask for them.

    They ask by keywords that must be given. That costs to compute, so it is done then.
    """

    def call(*arguments, **given):
        try:
            return update(*arguments, **given)
        except TypeError as error:
            if "required keyword-only argument" not in str(error):
                raise
        return update(*arguments, **given, **told())

    return call


def coming_steps(state: Any) -> jax.Array | None:
    """How many gradients each worker computes in the coming round, int32 [].

    None of an optimizer whose workers do not train.
    """
    found = _trees.of_type(state, LocalSteps)
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            "this optimizer trains its workers twice, expected one stage `local`, or "
            "one method whose workers train."
        )
    return found[0].number
