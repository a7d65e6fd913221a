"""What stands between the workers and the server: masks, seconds and joules."""

from gdsec_jax.uplink._uplink import Uplink

__all__ = ["Uplink"]
