"""Censoring: what of a vector is worth sending, entry by entry."""

import functools

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.worker._piece import Censored, Piece, no_state
from gdsec_jax.worker._vectors import needed


def censor(xi, *, floor=None) -> Piece:
    r"""Send an entry only if it is large against the last change of its parameter.

    .. math:: C(v)_i = 0 \text{ if } |v_i| \le
       \max(\xi_i |\theta^k_i - \theta^{k-1}_i|, \tau), \quad \text{else } v_i

    Equality is censored. Where the parameter stood still the threshold is 0 and every
    non-zero entry is sent. A NaN is sent, never censored: it must not hide in a memory.

    Args:
      xi: :math:`\xi_i \ge 0` as this worker uses it, in the units of the gradient over
        those of the parameters: a scalar; a tree that is a prefix of the parameters',
        each leaf broadcasting against theirs; or a schedule, called with the round (the
        first is 0), that returns one of these. May be traced. 0 sends everything, and
        so does a schedule that returns less.
      floor: :math:`\tau \ge 0`, what the threshold is at least, in the units of the
        gradient; may be traced. None: 0. Where gradients are noised, some standard
        deviations of the noise: what shrinks with the steps ends below them.

    Its update needs `params_change`, :math:`\theta^k - \theta^{k-1}`, with the
    parameters' tree, and for a schedule `round`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.censor(xi=10.0)
      >>> v, change = jnp.array([1.0, -1.0, 2.0]), jnp.array([0.1, 0.2, 0.0])
      >>> message, _ = piece.update(v, piece.init(v), v, params_change=change, round=0)
      >>> message
      Array([0., 0., 2.], dtype=float32)

    References:
      Chen, Blum, Takáč, Sadler, Distributed Learning With Sparsified Gradient
      Differences, 2022, https://doi.org/10.1109/JSTSP.2022.3162989
    """
    _checks.in_range("xi", xi, 0.0, _checks.LARGEST)
    if floor is not None:
        _checks.number_in_range("floor", floor, 0.0, _checks.LARGEST)

    def update(updates, state, params=None, **extra_args):
        del params
        change = needed(extra_args, "params_change", "censor")
        value = xi(extra_args.get("round", 0)) if callable(xi) else xi
        one = functools.partial(_censor_leaf, floor)
        return jax.tree.map(one, updates, change, _fit(value, updates)), state

    # A schedule may return an array, an array may have an entry for each component.
    alike = not callable(xi) and all(jnp.ndim(x) == 0 for x in jax.tree.leaves(xi))
    return Piece(
        no_state,
        update,
        component_wise=alike,
        keeps_zeros=True,
        censored=Censored(lambda extra_args: xi) if alike and floor is None else None,
    )


def _censor_leaf(floor, v, change, xi):
    dtype = _trees.widest(v.dtype, change.dtype)
    threshold = jnp.asarray(xi, dtype) * jnp.abs(change.astype(dtype))
    if floor is not None:
        threshold = jnp.maximum(threshold, jnp.asarray(floor, dtype))
    return jnp.where(jnp.abs(v.astype(dtype)) <= threshold, jnp.zeros_like(v), v)


def _fit(xi, updates):
    """One xi a leaf of `updates`, each checked to broadcast against its leaf."""
    try:
        tree = jax.tree.broadcast(xi, updates)
    except ValueError as error:
        raise ValueError(
            f"xi is the tree {jax.tree.structure(xi)}, expected a scalar or a prefix "
            f"of the params' tree {jax.tree.structure(updates)}."
        ) from error
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    for (path, leaf), value in zip(leaves, jax.tree.leaves(tree), strict=True):
        try:
            fits = jnp.broadcast_shapes(jnp.shape(value), leaf.shape) == leaf.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"xi{jax.tree_util.keystr(path)} has shape {jnp.shape(value)}, "
                f"expected one that broadcasts to the parameter's {leaf.shape}."
            )
    return tree
