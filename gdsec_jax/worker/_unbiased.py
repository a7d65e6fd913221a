"""What methods must know of a compressor that keeps a vector's expectation."""

from typing import Any

import optax

from gdsec_jax.worker._piece import as_piece


def check_unbiased(compressor: Any) -> None:
    """Raise a ValueError unless a compressor is known to be unbiased.

    Examples:
      >>> from gdsec_jax import worker
      >>> worker.check_unbiased(worker.natural())
    """
    if getattr(compressor, "variance", None) is None:
        raise ValueError(
            f"compressor is {compressor!r}, expected a worker.Piece that declares its "
            "variance: random_k, qsgd, natural, terngrad or whole."
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
    return float(as_piece(compressor).variance(params))  # pyright: ignore
