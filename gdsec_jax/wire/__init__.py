"""What an upload costs, to the bit."""

import importlib
import warnings

from gdsec_jax._trees import flush
from gdsec_jax.wire._codes import Code, Packing, Whole, packing_of
from gdsec_jax.wire._formats import FORMATS, Format
from gdsec_jax.wire.bytes._decode import decode, most_bytes
from gdsec_jax.wire.bytes._encode import encode
from gdsec_jax.wire.bytes._message import Message, message_of

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

# Names that were public, and are the library's own: to be removed after one release.
_NO_LONGER_PUBLIC = {
    "_formats": ("CONVENTIONS", "as_format", "gamma_length", "golomb_bits", "rle_bits"),
    "_codes": ("whole_of",),
    "_uploads": ("Layout", "Uploads", "count", "layout_of", "nonzeros_of", "tally"),
}


def __getattr__(name: str):
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
