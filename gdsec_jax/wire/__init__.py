"""What an upload costs, to the bit."""

import importlib
import warnings

from gdsec_jax._trees import flush as flush
from gdsec_jax.wire._codes import Code as Code
from gdsec_jax.wire._codes import Packing as Packing
from gdsec_jax.wire._codes import Whole as Whole
from gdsec_jax.wire._codes import packing_of as packing_of
from gdsec_jax.wire._formats import FORMATS as FORMATS
from gdsec_jax.wire._formats import Format as Format
from gdsec_jax.wire.bytes._decode import decode as decode
from gdsec_jax.wire.bytes._decode import most_bytes as most_bytes
from gdsec_jax.wire.bytes._encode import encode as encode
from gdsec_jax.wire.bytes._message import Message as Message
from gdsec_jax.wire.bytes._message import message_of as message_of

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
    "CONVENTIONS": "_formats",
    "as_format": "_formats",
    "gamma_length": "_formats",
    "golomb_bits": "_formats",
    "rle_bits": "_formats",
    "whole_of": "_codes",
    "Layout": "_uploads",
    "Uploads": "_uploads",
    "count": "_uploads",
    "layout_of": "_uploads",
    "nonzeros_of": "_uploads",
    "tally": "_uploads",
}


def __getattr__(name: str):
    if name not in _NO_LONGER_PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"wire.{name} is no longer public and will be removed: no document named it. "
        "What a round cost is in gdsec_jax.last_round(state); the bytes of a message "
        "are those of wire.encode.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(
        importlib.import_module(f"{__name__}.{_NO_LONGER_PUBLIC[name]}"), name
    )
