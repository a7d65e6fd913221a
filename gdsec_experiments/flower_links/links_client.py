"""The client, of NumPy alone: the run's settings say which method it is."""

import functools

import links_model as model
import numpy as np
from flwr.clientapp import ClientApp

from gdsec_jax import flower

app = ClientApp()


@app.train()
def train(message, context):
    """As the client of the method."""
    told = context.run_config
    return client_of(told["method"], told["width"])(message, context)


@functools.cache
def client_of(name, width):
    """The ClientApp of one method; the floor trains alike, and sends nothing."""
    method, wire = model.worker_of(name)
    params = model.init_params(width)

    def difference(at, context):
        m = context.node_config["partition-id"]
        if name == "floor":
            model.difference(params, m)
            return np.zeros(1, np.float32)
        return model.difference(at, m)

    like = np.zeros(1, np.float32) if name == "floor" else params
    return flower.client(method, like, difference, wire=wire)
