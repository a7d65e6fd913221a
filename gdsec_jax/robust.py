"""Sums over workers that a few of them cannot bend."""

from gdsec_jax.server._sum import median, trimmed_mean

__all__ = [
    "median",
    "trimmed_mean",
]
