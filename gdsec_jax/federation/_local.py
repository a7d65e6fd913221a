"""Workers that train: several steps of an optimizer of their own in a round."""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._finite import OnNonfinite, all_finite
from gdsec_jax.federation._train import HandedOn, LocalSteps, lying, train
from gdsec_jax.worker._fragments import Fragments, fragments_of, in_fragment


@_trees.state
class LocalState(NamedTuple):
    """State of `local`."""

    inner: optax.OptState  # the workers' optimizers', leaves [M, ...]; () where reset
    steps: LocalSteps
    points: Any = ()  # where each worker is, leaves [M, *param], if there are fragments
    number: Any = ()  # int32 []: k, the first is 0, if there are
    fragments: Any = ()  # `Fragments`, if there are


def local(
    num_workers: int,
    inner: optax.GradientTransformation,
    steps: int,
    *,
    reset: bool = False,
    proximal=None,
    fragments: int = 1,
    overlap: int = 0,
    merging=None,
    on_nonfinite: OnNonfinite = "drop",
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
        for `value`, `grad` or `value_fn` is handed its worker's own. A random key in
        its state is the same for all workers.
      steps: H, at least 1.
      reset: whether the inner states begin anew in each round; else they are kept.
        Those of workers that take no part are kept as they are.
      proximal: :math:`\mu` of FedProx, at least 0, may be traced: each worker's loss
        has the term :math:`\frac\mu2 \|\theta_m - \theta^k\|^2` besides. None: no term.
      fragments: P, that of `worker.fragment` and of `in_fragments` behind: a round is
        H/P steps, after which one fragment of the parameters, in turn, is handed on,
        and begins the next round at the common parameters; in the others each worker
        goes on from where it was. Streaming DiLoCo's. H is a multiple.
      overlap: V, steps that workers take before the common parameters of the fragment
        that was handed on last have come, fewer than H/P; those of links that are slow.
      merging: a in [0, 1]: what they keep of their own then,
        :math:`\theta_m \leftarrow a \theta_m + (1 - a) \theta^k`; may be traced.
        None: nothing, a = 0.
      on_nonfinite: "drop": of a worker that ends at parameters that are not finite
        the inner state, and where it is, stay as they were, for which those of all are
        held twice; the inner state itself is not looked at. "propagate" looks at no
        numbers, and holds them once: a state that is not finite stays so, and what is
        behind leaves its worker out, or propagates too.

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
    _checks.optimizer(inner, "inner")
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
    overlap = _checks.integer("overlap", overlap, 0, steps - 1)
    if fragments == 1 and (overlap or merging is not None):
        raise ValueError(
            "overlap and merging are of fragments, and fragments is 1, expected 2 or "
            "more."
        )
    merging = 0.0 if merging is None else merging
    _checks.number_in_range("merging", merging, 0.0, 1.0)
    _checks.one_of("on_nonfinite", on_nonfinite, get_args(OnNonfinite))

    def finite_of(tree):
        """bool [M]: whose numbers are to be believed."""
        propagates = on_nonfinite == "propagate"
        return jnp.ones(num_workers, bool) if propagates else all_finite(tree)

    def init(params):
        # Copies, for a state may be donated together with the parameters.
        own = () if reset else _trees.repeat(inner.init(params), num_workers)
        state = LocalState(own, LocalSteps(jnp.int32(steps)))
        if fragments == 1:
            return state
        points = _trees.repeat(params, num_workers)
        return state._replace(
            points=points,
            number=jnp.zeros((), jnp.int32),
            fragments=fragments_of(fragments),
        )

    def in_turn(updates, state, params, active, absent):
        """A round in fragments: what is handed on, and the next state."""
        masks, last = (in_fragment(params, state.number - x, fragments) for x in (0, 1))
        last = jax.tree.map(lambda m: m & (state.number > 0), last)
        before = None if reset else state.inner

        def go(points, own, number, first):
            moved, own = train(
                updates, params, inner, number, num_workers, own,
                points=points, proximal=proximal, first=first,
            )  # fmt: skip
            return jax.tree.map(jnp.subtract, points, moved), own

        def merged(x, p, m):
            kept = jnp.asarray(merging, x.dtype) * (x - p[None])
            return jnp.where(m[None], p[None] + kept, x)

        at, own = state.points, before
        if overlap:
            at, own = go(at, own, overlap, 0)
        at = jax.tree.map(merged, at, params, last)
        ends, own = go(at, own, steps - overlap, overlap)
        far = jax.tree.map(
            lambda p, x, m: jnp.where(m[None], p[None] - x, 0), params, ends, masks
        )
        # Left out by the aggregator, whichever fragment it is that is not finite.
        finite = finite_of(ends)
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), far)
        far = _trees.where(finite, far, nothing)
        own = () if reset else _held(own, before, finite, active, absent)
        back = jax.tree.map(merged, state.points, params, last)
        ends = _held(ends, back, finite, active, absent)
        number = jnp.asarray(optax.safe_increment(state.number))
        return far, state._replace(inner=own, points=ends, number=number)

    def update(updates, state, params=None, *, active=None, absent="hold", **extra):
        del extra
        if active is not None:
            active = _checks.mask("active", active, num_workers)
        if isinstance(updates, HandedOn):
            return updates.data, state
        if fragments > 1:
            return in_turn(updates, state, params, active, absent)
        before = None if reset else state.inner
        moved, own = train(
            updates, params, inner, steps, num_workers, before, proximal=proximal
        )
        if reset:
            return moved, state
        own = _held(own, before, finite_of(moved), active, absent)
        return moved, state._replace(inner=own)

    return optax.GradientTransformationExtraArgs(init, update)


def _held(new: Any, old: Any, finite: jax.Array, active: Any, absent: str) -> Any:
    """The old ones, leaves [M, ...], of who is not finite or takes no part."""
    goes_on = lying(finite, old)
    if active is not None and absent == "hold":
        goes_on &= lying(active, old)
    return _trees.where(goes_on, new, old)


@_trees.state
class FragmentsState(NamedTuple):
    """State of `in_fragments`."""

    inner: optax.OptState
    number: jax.Array  # int32 []: k, the first is 0
    fragments: Fragments


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
        first = jnp.zeros((), jnp.int32)
        return FragmentsState(inner.init(params), first, fragments_of(fragments))

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
        return updates, state._replace(inner=after, number=number)

    return optax.GradientTransformationExtraArgs(init, update)
