"""What methods must know of a compressor that keeps a vector's expectation."""

from collections.abc import Callable
from typing import Any

import optax


class UnbiasedCompressor(optax.GradientTransformationExtraArgs):
    r"""A transformation C with E C(v) = v and a known relative variance.

    .. math:: E \|C(v) - v\|^2 \le \omega \|v\|^2

    Attributes:
      variance: from the parameters, or their shapes, to :math:`\omega`, a float.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> worker.random_k(5).variance(jnp.zeros(20))
      3.0
    """

    variance: Callable[[Any], float]

    def __new__(cls, init, update, variance):
        self = super().__new__(cls, init, update)
        self.variance = variance
        return self


def check_unbiased(compressor: Any) -> None:
    """Raise a ValueError unless a compressor is known to be unbiased.

    Examples:
      >>> from gdsec_jax import worker
      >>> worker.check_unbiased(worker.natural())
    """
    if not isinstance(compressor, UnbiasedCompressor):
        raise ValueError(
            f"compressor is {compressor!r}, expected a worker.UnbiasedCompressor: "
            "random_k, qsgd, natural, terngrad or whole."
        )


def variance_of(compressor: optax.GradientTransformation, params: Any) -> float:
    r""":math:`\omega` of an unbiased compressor.

    Raises:
      ValueError: it is not known to be unbiased.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> worker.variance_of(worker.natural(), jnp.zeros(20))
      0.125
    """
    check_unbiased(compressor)
    return float(compressor.variance(params))  # pyright: ignore
