"""The server: the mean of the differences is its step, compressed if that is asked."""

import links_model as model
import numpy as np
import optax
from flwr.serverapp import ServerApp

import gdsec_jax
from gdsec_jax import flower, worker

app = ServerApp()


@app.main()
def main(grid, context):
    """A run, saved for whoever asked for it."""
    told = context.run_config
    strategy = flower.Compressed(*parts(told["method"], told["width"]))
    strategy.run(grid, told["rounds"], timeout=600.0).save(told["history"])


def parts(name, width):
    """The algorithm, the optimizer and the parameters of a method."""
    m, share = model.WORKERS, model.SHARE
    common = {"reduction": "mean", "wire": "rle"}
    algorithm = {
        "floor": lambda: gdsec_jax.gd(m, reduction="mean", wire="dense"),
        "dense": lambda: gdsec_jax.gd(m, reduction="mean", wire="dense"),
        "gdsec": lambda: gdsec_jax.gdsec(m, model.XI, model.BETA, **common),
        "top_j": lambda: gdsec_jax.top_j(m, share, **common),
        "qsgdsec": lambda: gdsec_jax.qsgdsec(m, model.XI, model.BETA, 127, **common),
    }[name]()
    optimizer = optax.sgd(1.0)
    if model.compressed_down(name):
        # One bit a component, so that all move: a threshold is 0 where none does.
        down = worker.error_feedback(worker.sign())
        optimizer = optax.chain(optimizer, gdsec_jax.broadcast(down, wire="rle"))
    params = np.zeros(1, np.float32) if name == "floor" else model.init_params(width)
    return algorithm, optimizer, params
