"""What an upload costs, to the bit."""

from gdsec_jax._trees import flush as flush
from gdsec_jax.wire._formats import FORMATS as FORMATS
from gdsec_jax.wire._formats import Format as Format
from gdsec_jax.wire._formats import as_format as as_format
from gdsec_jax.wire._formats import gamma_length as gamma_length
from gdsec_jax.wire._formats import run_bits as run_bits
from gdsec_jax.wire._uploads import Layout as Layout
from gdsec_jax.wire._uploads import Uploads as Uploads
from gdsec_jax.wire._uploads import count as count
from gdsec_jax.wire._uploads import layout_of as layout_of

__all__ = [
    "FORMATS",
    "Format",
    "Layout",
    "Uploads",
    "as_format",
    "count",
    "flush",
    "gamma_length",
    "layout_of",
    "run_bits",
]
