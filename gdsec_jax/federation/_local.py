"""Workers that train: several steps of an optimizer of their own in a round."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gdsec_jax import _checks, _trees
from gdsec_jax.federation import _clock
from gdsec_jax.worker._fragments import in_fragment


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


@_trees.state
class LocalSteps(NamedTuple):
    """In a state: how many gradients each worker computes in the coming round."""

    number: jax.Array  # int32 []


@_trees.state
class LocalState(NamedTuple):
    """State of `local`."""

    inner: optax.OptState  # the workers' optimizers', leaves [M, ...]; () where reset
    steps: LocalSteps
    points: Any = ()  # where each worker is, leaves [M, *param], if there are fragments
    number: Any = ()  # int32 []: k, the first is 0, if there are


def local(
    num_workers: int,
    inner: optax.GradientTransformation,
    steps: int,
    *,
    reset: bool = False,
    proximal=None,
    fragments: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Let every worker train by itself, and hand on how far it went.

    From the common parameters, :math:`\theta_m^0 = \theta^k`, worker m takes H steps of
    an optimizer of its own on its own loss; what comes out stands for its gradient:

    .. math:: \Delta_m = \theta^k - \theta_m^H

    Any aggregator behind it compresses and adds up, and any optax optimizer behind that
    makes the outer step: with `gd(M, reduction="mean")` and `optax.sgd(1.0)` it is
    local SGD, or federated averaging; with AdamW inside and SGD with Nesterov's
    momentum outside, DiLoCo. The table of names elsewhere has more.

    Args:
      num_workers: M.
      inner: an optax optimizer, learning rate and all; each worker has one. What asks
        for `value`, `grad` or `value_fn` is handed its worker's own. A gradient that is
        not finite enters its state: `optax.apply_if_finite` around it keeps it out.
      steps: H, at least 1.
      reset: whether the inner states begin anew in each round; else they are kept.
        Those of workers that take no part are kept as they are.
      proximal: :math:`\mu` of FedProx, at least 0, may be traced: each worker's loss
        has the term :math:`\frac\mu2 \|\theta_m - \theta^k\|^2` besides. None: no term.
      fragments: P, that of `worker.fragment` and of `in_fragments` behind: a round is
        H/P steps, after which one fragment of the parameters, in turn, is handed on,
        and begins the next round at the common parameters; in the others each worker
        goes on from where it was. Streaming DiLoCo's, without its overlap. H is a
        multiple.

    Returns:
      A transformation of `WorkerLosses` to leaves [M, *param]. It stands in front of an
      aggregator; its state has M inner states, each leaf [M, ...].

    Raises:
      ValueError: an argument is out of range; updates are no `WorkerLosses`, or their
        data have another first axis than M.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> def loss(params, target, key):
      ...     return 0.5 * jnp.sum((params - target) ** 2)
      >>> optimizer = optax.chain(
      ...     gdsec_jax.local(2, optax.sgd(0.5), steps=2),
      ...     gdsec_jax.gd(2, reduction="mean"), optax.sgd(1.0))
      >>> params = jnp.zeros(1)
      >>> losses = gdsec_jax.WorkerLosses(loss, jnp.array([1.0, 3.0]))
      >>> updates, state = optimizer.update(losses, optimizer.init(params), params)
      >>> params + updates  # three quarters of the way to the mean
      Array([1.5], dtype=float32)

    References:
      McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data, 2017, https://arxiv.org/abs/1602.05629; Li et al., Federated
      Optimization in Heterogeneous Networks (FedProx), 2018,
      https://arxiv.org/abs/1812.06127; Douillard et al., DiLoCo, 2023,
      https://arxiv.org/abs/2311.08105
    """
    _checks.number_of_workers(num_workers)
    _checks.optimizer(inner)
    steps = _checks.integer("steps", steps, 1, 2**31 - 1)
    _checks.of_kind("reset", reset, bool, "True or False")
    if proximal is not None:
        _checks.number_in_range("proximal", proximal, 0.0, _checks.LARGEST)
    fragments = _checks.integer("fragments", fragments, 1, 2**31 - 1)
    if steps % fragments:
        raise ValueError(
            f"steps is {steps}, expected a multiple of the fragments, {fragments}: "
            "each is handed on after as many steps."
        )
    steps //= fragments

    def init(params):
        # Copies, for a state may be donated together with the parameters.
        own = () if reset else _trees.repeat(inner.init(params), num_workers)
        state = LocalState(own, LocalSteps(jnp.int32(steps)))
        if fragments == 1:
            return state
        points = _trees.repeat(params, num_workers)
        return state._replace(points=points, number=jnp.zeros((), jnp.int32))

    def in_turn(updates, state, params, active, absent):
        """A round in fragments: what is handed on, and the next state."""
        masks, last = (in_fragment(params, state.number - x, fragments) for x in (0, 1))
        points = jax.tree.map(
            lambda x, p, m: jnp.where(m[None], p[None], x), state.points, params, last
        )
        before = None if reset else state.inner
        moved, own = train(
            updates, params, inner, steps, num_workers, before,
            points=points, proximal=proximal,
        )  # fmt: skip
        ends = jax.tree.map(jnp.subtract, points, moved)
        own = () if reset else own
        if active is not None and absent == "hold":
            own = own if reset else _trees.where(active, own, before)
            ends = _trees.where(active, ends, points)
        far = jax.tree.map(
            lambda p, x, m: jnp.where(m[None], p[None] - x, 0), params, ends, masks
        )
        number = jnp.asarray(optax.safe_increment(state.number))
        return far, LocalState(own, state.steps, ends, number)

    def update(updates, state, params=None, *, active=None, absent="hold", **extra):
        del extra
        if fragments > 1:
            return in_turn(updates, state, params, active, absent)
        before = None if reset else state.inner
        moved, own = train(
            updates, params, inner, steps, num_workers, before, proximal=proximal
        )
        if reset:
            return moved, state
        if active is not None and absent == "hold":
            own = _trees.where(active, own, before)
        return moved, state._replace(inner=own)

    return optax.GradientTransformationExtraArgs(init, update)


@_trees.state
class FragmentsState(NamedTuple):
    """State of `in_fragments`."""

    inner: optax.OptState
    number: jax.Array  # int32 []: k, the first is 0


def in_fragments(
    optimizer: optax.GradientTransformation, fragments: int
) -> optax.GradientTransformationExtraArgs:
    r"""An outer optimizer that steps one fragment of the parameters a round, in turn.

    What it keeps of the others, a momentum say, rests: each fragment is stepped as if
    there were no other rounds. What an optimizer counts for all, as Adam does, goes on.

    Args:
      optimizer: any of optax, behind a method behind `local(fragments=)`.
      fragments: P.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> outer = gdsec_jax.in_fragments(optax.sgd(1.0, momentum=0.5), 2)
      >>> params = jnp.zeros(4)
      >>> updates, _ = outer.update(jnp.ones(4), outer.init(params), params)
      >>> updates
      Array([-1., -1.,  0.,  0.], dtype=float32)

    References: Douillard et al., Streaming DiLoCo, 2025,
      https://arxiv.org/abs/2501.18512
    """
    _checks.optimizer(optimizer)
    fragments = _checks.integer("fragments", fragments, 1, 2**31 - 1)
    inner = optax.with_extra_args_support(optimizer)

    def init(params):
        return FragmentsState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra_args):
        masks = in_fragment(updates, state.number, fragments)
        updates, after = inner.update(updates, state.inner, params, **extra_args)
        of_state = optax.tree.map_params(
            inner.init, lambda _, m: m, after, masks,
            transform_non_params=lambda x: jax.tree.map(lambda _: True, x),
        )  # fmt: skip
        after = jax.tree.map(jnp.where, of_state, after, state.inner)
        updates = jax.tree.map(lambda u, m: jnp.where(m, u, 0), updates, masks)
        number = jnp.asarray(optax.safe_increment(state.number))
        return updates, FragmentsState(after, number)

    return optax.GradientTransformationExtraArgs(init, update)


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

        at, state = jax.lax.fori_loop(0, steps, step, (start, state))
        return jax.tree.map(jnp.subtract, start, at), state

    optimizer = optax.with_extra_args_support(inner)
    moved, own = each(losses, params, num_workers, one, states, shifts, points)
    if states is not None:  # as they lay before: a loop carries no other type
        own = jax.tree.map(_lying, own, states)
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
    index, given = _lying((index, given), losses.data)
    everything = (index, losses.data, given)
    if losses.size is None or losses.size >= num_workers:
        return jax.vmap(of_one)(everything)
    return jax.lax.map(of_one, everything, batch_size=losses.size)


def _lying(tree: Any, like: Any) -> Any:
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
