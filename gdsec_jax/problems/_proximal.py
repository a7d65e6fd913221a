"""The proximal step of the l1 norm, behind the step of a chain."""

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks


def proximal_l1(strength) -> optax.GradientTransformationExtraArgs:
    r"""Shrink the parameters after the step, :math:`\theta \leftarrow S_t(\theta + u)`.

    .. math:: S_t(x) = \operatorname{sign}(x) \max(|x| - t, 0)

    Args:
      strength: t, the learning rate times lambda; may be traced.

    Returns:
      A transformation to stand last in a chain. Its update needs the parameters.

    Raises:
      ValueError: strength is negative, or update was called without params.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gdsec_jax import problems
      >>> optimizer = optax.chain(optax.sgd(1.0), problems.proximal_l1(0.5))
      >>> params = jnp.array([1.0, 1.0])
      >>> grads = jnp.array([-1.0, 0.75])
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([1.5, 0. ], dtype=float32)

    References:
      Beck and Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm, 2009,
      https://doi.org/10.1137/080716542
    """
    _checks.in_range("strength", strength, 0.0, _checks.LARGEST)

    def shrink(update, param):
        x = param + update
        t = jnp.asarray(strength, x.dtype)
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0) - param

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("proximal_l1 needs params: update(grads, state, params).")
        return jax.tree.map(shrink, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
