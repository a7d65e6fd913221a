"""Real clients over a network, on Flower: a Strategy, and a ClientApp.

Flower is an extra, `pip install 'gdsec-jax[flower]'`, and is imported when one of these
is called. A client of `gdsec_jax.numpy_worker` imports no JAX.
"""

from gdsec_jax.flower._client import client
from gdsec_jax.flower._compressed import Compressed

__all__ = ["Compressed", "client"]
