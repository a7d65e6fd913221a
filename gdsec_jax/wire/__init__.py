"""What an upload costs, to the bit."""

from gdsec_jax._trees import flush as flush
from gdsec_jax.wire._codes import Code as Code
from gdsec_jax.wire._codes import Packing as Packing
from gdsec_jax.wire._codes import Whole as Whole
from gdsec_jax.wire._codes import packing_of as packing_of
from gdsec_jax.wire._codes import whole_of as whole_of
from gdsec_jax.wire._decode import decode as decode
from gdsec_jax.wire._decode import most_bytes as most_bytes
from gdsec_jax.wire._encode import encode as encode
from gdsec_jax.wire._formats import CONVENTIONS as CONVENTIONS
from gdsec_jax.wire._formats import FORMATS as FORMATS
from gdsec_jax.wire._formats import Format as Format
from gdsec_jax.wire._formats import as_format as as_format
from gdsec_jax.wire._formats import gamma_length as gamma_length
from gdsec_jax.wire._formats import golomb_bits as golomb_bits
from gdsec_jax.wire._formats import rle_bits as rle_bits
from gdsec_jax.wire._message import Message as Message
from gdsec_jax.wire._message import message_of as message_of
from gdsec_jax.wire._uploads import Layout as Layout
from gdsec_jax.wire._uploads import Uploads as Uploads
from gdsec_jax.wire._uploads import count as count
from gdsec_jax.wire._uploads import layout_of as layout_of
from gdsec_jax.wire._uploads import nonzeros_of as nonzeros_of
from gdsec_jax.wire._uploads import tally as tally

__all__ = [
    "CONVENTIONS",
    "FORMATS",
    "Code",
    "Format",
    "Layout",
    "Message",
    "Packing",
    "Uploads",
    "Whole",
    "as_format",
    "count",
    "decode",
    "encode",
    "flush",
    "gamma_length",
    "golomb_bits",
    "layout_of",
    "message_of",
    "most_bytes",
    "nonzeros_of",
    "packing_of",
    "rle_bits",
    "tally",
    "whole_of",
]
