"""A wireless uplink: which messages arrive, how late, at what time and energy."""

from gdsec_jax.uplink._channel import (
    Channel,
    Conditions,
    conditions,
    energy_j,
    ring_time_s,
    round_time_s,
    upload_s,
)
from gdsec_jax.uplink._radio import Access, Radio, at_snr

__all__ = [
    "Access",
    "Channel",
    "Conditions",
    "Radio",
    "at_snr",
    "conditions",
    "energy_j",
    "ring_time_s",
    "round_time_s",
    "upload_s",
]
