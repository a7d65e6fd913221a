"""A wireless uplink: which messages arrive, how late, at what time and energy."""

from gdsec_jax.uplink._channel import Channel as Channel
from gdsec_jax.uplink._channel import Conditions as Conditions
from gdsec_jax.uplink._channel import conditions as conditions
from gdsec_jax.uplink._channel import energy_j as energy_j
from gdsec_jax.uplink._channel import round_time_s as round_time_s
from gdsec_jax.uplink._channel import upload_s as upload_s
from gdsec_jax.uplink._radio import Access as Access
from gdsec_jax.uplink._radio import Radio as Radio
from gdsec_jax.uplink._radio import at_snr as at_snr

__all__ = [
    "Access",
    "Channel",
    "Conditions",
    "Radio",
    "at_snr",
    "conditions",
    "energy_j",
    "round_time_s",
    "upload_s",
]
