"""Sweeps: their grid, their plan, the loop of a batch, and all of them together."""

from gdsec_jax._sweep._sweep import run_settings as run_settings
from gdsec_jax._sweep._sweep import sweep as sweep
from gdsec_jax._sweep._sweep import unflatten as unflatten
