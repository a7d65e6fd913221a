"""Least squares without its samples: a quadratic form for each worker."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks


class Gram(NamedTuple):
    r"""A quadratic, :math:`\theta^T H \theta / 2 - b \cdot \theta` and a constant.

    Around a center c, with d = theta - c, it is
    :math:`v + s \cdot d + d^T H d / 2`: values are computed so, for near a solution
    they lose no digits; gradients are H theta - b, for a feature that all of a worker's
    samples lack then leaves an exact zero.
    """

    hessian: jax.Array  # H, [D, D]
    linear: jax.Array  # b, [D]
    center: jax.Array  # c, [D]
    slope: jax.Array  # s, [D]
    value: jax.Array  # v, []


def gram_of(features, targets, parts, regularization, center: Any, dtype) -> Gram:
    """The f_m of ridge regression, stacked over workers; computed in float64."""
    num_samples, length = features.shape
    # As the device will have it: the slope is taken at the rounded center.
    center = np.asarray(center, dtype).astype(np.float64)
    convexity = regularization / len(parts)

    def of_worker(part) -> Gram:
        rows, y = features[part], targets[part]
        residual = rows @ center - y
        square = residual @ residual / num_samples + convexity * center @ center
        return Gram(
            hessian=rows.T @ rows / num_samples + convexity * np.eye(length),
            linear=rows.T @ y / num_samples,
            center=center,
            slope=rows.T @ residual / num_samples + convexity * center,
            value=square / 2,
        )

    workers = map(of_worker, parts)
    return jax.tree.map(lambda *own: jnp.asarray(np.stack(own), dtype), *workers)


@jax.custom_jvp
def quadratic(params, gram: Gram, samples):
    """The value at params.

    It does not read the samples that the Gram matrix is of: they are here because a
    derivative by them would be 0, and is refused.
    """
    del samples
    d = params - gram.center
    return gram.value + jnp.vdot(gram.slope + _times(gram.hessian, d) / 2, d)


@functools.partial(quadratic.defjvp, symbolic_zeros=True)
def _quadratic_jvp(primals, tangents):
    (params, gram, _), (change, *of_data) = primals, tangents
    _checks.derivatives_by_params_alone(of_data)
    gradient = _times(gram.hessian, params) - gram.linear
    return quadratic(*primals), jnp.vdot(gradient, change)


def _times(hessian, x):
    return jnp.matmul(hessian, x, precision=jax.lax.Precision.HIGHEST)
