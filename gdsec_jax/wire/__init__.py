"""What an upload costs, to the bit.

Messages become bytes, and bytes messages, by NumPy alone: where JAX is not installed
`Message`, `Code`, `Format`, `encode`, `decode` and `most_bytes` are there all the same.
"""

import importlib
import typing
import warnings

from gdsec_jax.wire._codes import Code
from gdsec_jax.wire._formats import FORMATS, Format
from gdsec_jax.wire.bytes._decode import decode, most_bytes
from gdsec_jax.wire.bytes._encode import encode
from gdsec_jax.wire.bytes._message import Message, message_of

if typing.TYPE_CHECKING:
    from gdsec_jax._trees import flush
    from gdsec_jax.wire._packing import Packing, Whole, packing_of

__all__ = [
    "FORMATS",
    "Code",
    "Format",
    "Message",
    "Packing",
    "Whole",
    "decode",
    "encode",
    "flush",
    "message_of",
    "most_bytes",
    "packing_of",
]

# What needs JAX is loaded when it is first used.
_OF_JAX = {
    "flush": "gdsec_jax._trees",
    "Packing": "gdsec_jax.wire._packing",
    "Whole": "gdsec_jax.wire._packing",
    "packing_of": "gdsec_jax.wire._packing",
}
# Names that were public, and are the library's own: to be removed after one release.
_NO_LONGER_PUBLIC = {
    "_formats": ("CONVENTIONS", "as_format"),
    "_runs": ("gamma_length", "golomb_bits", "rle_bits"),
    "_packing": ("whole_of",),
    "_uploads": ("Layout", "Uploads", "count", "layout_of", "nonzeros_of", "tally"),
}


def __getattr__(name: str):
    if name in _OF_JAX:
        globals()[name] = getattr(importlib.import_module(_OF_JAX[name]), name)
        return globals()[name]
    for module, names in _NO_LONGER_PUBLIC.items():
        if name in names:
            warnings.warn(
                f"wire.{name} is no longer public and will be removed: no document "
                "named it. What a round cost is in gdsec_jax.last_round(state); the "
                "bytes of a message are those of wire.encode.",
                DeprecationWarning,
                stacklevel=2,
            )
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
