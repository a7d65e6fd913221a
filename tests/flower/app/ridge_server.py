"""The server: GD-SEC and SGD; it saves its history."""

import os
from pathlib import Path

import numpy as np
import optax
import ridge_data as data
from flwr.serverapp import ServerApp

import gdsec_jax
from gdsec_jax import flower

app = ServerApp()


def error(params):
    """How far it is; a line of a file for every round."""
    with (Path(os.environ["RIDGE_SIGNS"]) / "rounds").open("a") as file:
        file.write("one\n")
    return float(np.linalg.norm(np.asarray(params) - np.arange(data.D)))


@app.main()
def main(grid, context):
    """A run, as its settings say."""
    told = context.run_config
    strategy = flower.Compressed(
        gdsec_jax.gdsec(data.M, data.XI, data.BETA, wire="rle"),
        optax.sgd(data.STEP),
        data.init_params(),
        error=error,
        folder=told["folder"] or None,
    )
    history = strategy.run(grid, told["rounds"], timeout=told["timeout"])
    if told["out"]:
        history.save(told["out"])
