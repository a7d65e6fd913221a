"""Sweeps: their grid, their plan, the loop of a batch, and all of them together."""

from gdsec_jax._sweep._grid import SEED as SEED
from gdsec_jax._sweep._grid import Axis as Axis
from gdsec_jax._sweep._grid import axes_of as axes_of
from gdsec_jax._sweep._grid import identity as identity
from gdsec_jax._sweep._grid import settings_of as settings_of
from gdsec_jax._sweep._sweep import run_settings as run_settings
from gdsec_jax._sweep._sweep import sweep as sweep
from gdsec_jax._sweep._sweep import unflatten as unflatten
