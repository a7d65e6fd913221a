"""Rules in the place of the sum over workers, for `server.robust`."""

from gdsec_jax.server._sum import (
    clipped_to_median,
    majority,
    median,
    over_senders,
    trimmed_mean,
)

__all__ = [
    "clipped_to_median",
    "majority",
    "median",
    "over_senders",
    "trimmed_mean",
]
