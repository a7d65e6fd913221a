"""Gradients of single samples, each clipped before they are added up."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.worker._vectors import Scope


def clip_per_example(
    loss: Callable[[Any, Any], jax.Array],
    clip: float,
    *,
    microbatch: int | None = None,
    scope: Scope = "message",
) -> Callable[..., Any]:
    r"""The gradient of a sum of samples in which no sample is worth more than `clip`.

    .. math:: g(\theta) = \sum_n w_n \nabla \ell(\theta, x_n)
       \min\Big(1, \frac{C}{\|\nabla \ell(\theta, x_n)\|_2}\Big)

    One sample more or less, of weight w, changes g by no more than w C: the sensitivity
    that `gaussian_noise` needs. It is no piece, but stands for `jax.grad`: what reaches
    a pipeline is the sum, in which samples are no longer told apart. A sample whose
    gradient is not finite counts as 0.

    Args:
      loss: (params, one sample) to its loss, a real scalar.
      clip: C, above 0; infinite clips nothing.
      microbatch: samples whose gradients are in memory at a time, one after the other;
        by default all. Microbatches at the end whose weights are all 0 take no time.
      scope: "message" clips by the norm of all entries; "leaf" each of the L leaves, at
        :math:`C / \sqrt L`, with the same bound on all of them.

    Returns:
      A function of params, samples, each leaf [n, ...], and their weights, [n] or None
      for ones, to a tree like params. Sums are formed in float32 at least.

    Raises:
      ValueError: clip is not above 0; microbatch is no positive int; scope is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> def loss(params, target):
      ...     return 0.5 * jnp.sum((params - target) ** 2)
      >>> gradient = worker.clip_per_example(loss, clip=1.0)
      >>> gradient(jnp.zeros(2), jnp.array([[3.0, 4.0], [0.0, -0.5]]))
      Array([-0.6, -0.3], dtype=float32)

    References:
      Abadi et al., Deep Learning with Differential Privacy, 2016,
      https://arxiv.org/abs/1607.00133; Lee, Kifer, Scaling up Differentially Private
      Deep Learning with Fast Per-Example Gradient Clipping, 2020,
      https://arxiv.org/abs/2009.03106 (norms first, then one gradient of the sum)
    """
    _checks.function("loss", loss)
    clip = bound(clip)
    if microbatch is not None:
        microbatch = _checks.integer("microbatch", microbatch, 1)
    _checks.one_of("scope", scope, ("message", "leaf"))

    def gradient(params, samples, weight=None):
        number = len(jax.tree.leaves(samples)[0])
        known = weight is None
        weight = jnp.ones(number, _trees.norm_dtype(params)) if known else weight

        def of_some(samples, weight):
            gradients = jax.vmap(jax.grad(loss), (None, 0))(params, samples)
            factors, sound = _factors(gradients, weight, clip, scope)
            if scope == "leaf" or _are_narrow(params):
                return _weighted_sum(gradients, factors, sound)
            # Of the gradients their norms alone are needed.
            return _gradient_of_sum(loss, params, samples, factors[0], sound)

        if microbatch is None or microbatch >= number:
            total = of_some(samples, weight)
        else:
            last = number
            if not known:  # what stands behind it weighs nothing
                places = jnp.arange(1, number + 1)
                last = jnp.where(weight != 0, places, 0).max()
            total = _in_turn(of_some, params, samples, weight, microbatch, last)
        return _trees.cast_like(total, params)

    return gradient


def bound(clip: Any) -> float:
    """A clip, checked: a number above 0, perhaps infinite."""
    number = isinstance(clip, Real) and not isinstance(clip, bool)
    if not number or not float(clip) > 0:
        raise ValueError(
            f"clip is {_checks.shown(clip)}, expected a number above 0, or infinity "
            "to clip nothing."
        )
    return float(clip)


def _are_narrow(params: Any) -> bool:
    """Whether sums in the dtype of the parameters would lose too much."""
    dtypes = map(jnp.result_type, jax.tree.leaves(params))
    return any(_trees.widest(x, jnp.float32) != x for x in dtypes)


def _factors(gradients: Any, weight: jax.Array, clip: float, scope: Scope):
    """What leaves [n, ...] of gradients are multiplied by, [L, n], to be clipped.

    And which samples' gradients are finite, bool [n]; the others' factors are 0.
    """
    leaves = jax.tree.leaves(gradients)
    each = [jnp.square(_wide(x)).sum(1) for x in leaves]
    dtype = _trees.widest(*(x.dtype for x in each))
    squares = jnp.stack([x.astype(dtype) for x in each])
    total = squares.sum(0)
    most = clip
    if scope == "message":
        squares = jnp.broadcast_to(total, squares.shape)
    else:
        most = clip / len(leaves) ** 0.5
    norms = jnp.sqrt(squares)
    sound = jnp.isfinite(total)
    factors = jnp.where(norms > most, most / jnp.where(norms > 0, norms, 1), 1)
    return jnp.where(sound, factors * weight.astype(dtype), 0), sound


def _weighted_sum(gradients: Any, factors: jax.Array, sound: jax.Array) -> Any:
    """The sum over samples of leaves [n, ...], each times its factor."""
    leaves, structure = jax.tree.flatten(gradients)

    def one(x, factor):
        rows = jnp.where(sound[:, None], _wide(x), 0)
        return _trees.times(factor.astype(rows.dtype)[None], rows)[0].reshape(
            x.shape[1:]
        )

    added = [one(x, factor) for x, factor in zip(leaves, factors, strict=True)]
    return jax.tree.unflatten(structure, added)


def _gradient_of_sum(loss, params, samples, factors, sound) -> Any:
    """The same, as the gradient of one sum of losses, without those of samples.

    Zero times what is not finite is no zero: a sample whose gradient is finite stands
    in for those whose is not.
    """
    stands_in = jnp.argmax(sound)

    def finite(x):
        return jnp.where(_trees.along(sound, x), x, x[stands_in])

    def total(params, samples):
        losses = jax.vmap(loss, (None, 0))(params, samples)
        return jnp.vdot(factors.astype(losses.dtype), losses)

    added = jax.grad(total)(params, jax.tree.map(finite, samples))
    return jax.tree.map(lambda x: jnp.where(sound.any(), x, 0), added)


def _wide(x: jax.Array) -> jax.Array:
    """Rows of float32 at least."""
    return x.astype(_trees.widest(x.dtype, jnp.float32)).reshape(x.shape[0], -1)


def _in_turn(of_some, params, samples, weight, size: int, last) -> Any:
    """The sum over microbatches of a size, up to the sample of number `last`."""
    number = len(weight)

    def add(i, total):
        rows = i * size + jnp.arange(size)
        own = jnp.where(rows < number, weight[jnp.minimum(rows, number - 1)], 0)
        some = jax.tree.map(lambda x: x[jnp.minimum(rows, number - 1)], samples)
        return _trees.add(total, of_some(some, own))

    turns = (last + size - 1) // size
    return jax.lax.fori_loop(0, turns, add, _trees.zero_memory(params))
