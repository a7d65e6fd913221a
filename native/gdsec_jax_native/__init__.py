"""Compiled CPU kernels of gdsec_jax, registered with XLA when this is imported.

gdsec_jax finds and uses them by itself; nobody else need import them.
"""

import ctypes
from pathlib import Path

import jax

__version__ = "0.1.0"
TARGETS = (
    *("gdsec_finite", "gdsec_change_norm", "gdsec_update"),
    *("gdsec_dense", "gdsec_entries", "gdsec_blocks", "gdsec_select"),
)

_library = ctypes.CDLL(str(Path(__file__).parent / "kernels.so"))
# What the kernels' arguments mean: gdsec_jax uses those of its own number alone.
ARGUMENTS = ctypes.c_int.in_dll(_library, "gdsec_arguments").value
for _name in TARGETS:
    _capsule = jax.ffi.pycapsule(getattr(_library, _name))
    jax.ffi.register_ffi_target(_name, _capsule, platform="cpu")
