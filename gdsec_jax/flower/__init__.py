"""Real clients over a network, on Flower: a Strategy, and a ClientApp.

Flower is an extra, `pip install 'gdsec-jax[flower]'`, and is imported when one of these
is called. A client of `gdsec_jax.numpy_worker` imports no JAX.
"""

from typing import TYPE_CHECKING, Any

from gdsec_jax.flower._client import client

if TYPE_CHECKING:
    from gdsec_jax.flower._strategy import Compressed

__all__ = ["Compressed", "client"]


def __getattr__(name: str) -> Any:
    if name != "Compressed":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gdsec_jax.flower._strategy import Compressed

    return Compressed
