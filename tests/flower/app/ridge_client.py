"""The client: of NumPy alone, or of JAX; it says that it computes, and may be slow."""

import os
import time
from pathlib import Path

import numpy as np
import ridge_data as data

from gdsec_jax import flower


def gradient(params, context):
    """The worker's own; a file in the folder of signs makes it wait."""
    m = context.node_config["partition-id"]
    signs = Path(os.environ["RIDGE_SIGNS"])
    (signs / f"begins-{m}").touch()
    while (signs / f"wait-{m}").exists():
        time.sleep(0.05)
    with (signs / f"computed-{m}").open("a") as file:
        file.write(f"{np.asarray(params).tobytes().hex()}\n")
    return data.gradient(np.asarray(params), m)


def method():
    """GD-SEC, as the environment says."""
    if os.environ.get("RIDGE_KIND") == "jax":
        import gdsec_jax

        return gdsec_jax.gdsec(data.M, data.XI, data.BETA, wire="rle"), None
    from gdsec_jax import numpy_worker

    return numpy_worker.GDSEC(data.M, data.XI, data.BETA), "rle"


algorithm, wire = method()
app = flower.client(
    algorithm,
    data.init_params(),
    gradient,
    wire=wire,
    folder=lambda context: os.environ.get("RIDGE_FOLDER"),
)
