"""A server and clients of `gdsec_jax.flower` in one process, without Flower."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from inside import _protocol as protocol
from inside import _server, _worker, read_state, write_state

from gdsec_jax import problems


class Client:
    """One client, whose state is bytes, as it is kept over a network."""

    def __init__(self, algorithm, params, index):
        self.worker = _worker.worker_of(algorithm, params, index)
        self.index, self.kept = index, None

    @property
    def state(self) -> Any:
        return None if self.kept is None else read_state(self.worker, self.kept)

    def respond(self, told: bytes, gradient, store=True) -> bytes:
        """Its reply; what it keeps is stored, or lost in a crash."""
        reply, state = protocol.respond(
            self.worker, self.state, protocol.read_instructions(told), self.index,
            lambda params: (gradient(params), None),
        )  # fmt: skip
        if store and state is not None:
            self.kept = write_state(self.worker, state)
        return protocol.write_reply(reply)


class Federation:
    """A server and its clients, round by round."""

    def __init__(self, algorithm, optimizer, params, gradient, **more):
        self.server = _server.Server(algorithm, optimizer, params, **more)
        self.state = self.server.init()
        self.clients = [
            Client(algorithm, params, m) for m in range(self.server.num_workers)
        ]
        self.told_by = {}  # the clients' metrics, of the last round
        self.gradient = gradient  # (params, worker's number) -> its gradient

    def told(self, index, there=True) -> bytes:
        return self.server.instruct(
            self.state, index if there else None, self.server.asks(self.state)
        )

    def reply_of(self, index, store=True, there=True) -> bytes:
        def own(params):
            return self.gradient(params, index)

        told = self.told(index, there)
        return self.clients[index].respond(told, own, store)

    def close(self, replies) -> list[str]:
        """End a round with these replies, by worker."""
        named = [(f"node {m}", data) for m, data in replies]
        asked = self.server.asks(self.state)
        self.state, said, self.told_by = self.server.receive(self.state, named, asked)
        return said

    def round(self, computes=None, heard=None) -> list[str]:
        """A round of those that compute, of whom some are heard; None: all."""
        workers = range(self.server.num_workers)
        asked = self.server.asks(self.state)
        computes = asked if computes is None else np.asarray(computes) & asked
        heard = computes if heard is None else np.asarray(heard) & computes
        made = {m: self.reply_of(m) for m in workers if computes[m]}
        return self.close([(m, data) for m, data in made.items() if heard[m]])


def a_problem(dtype=np.float32):
    """Ridge regression of three workers."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, 6)).astype(dtype)
    return problems.ridge(features, features @ np.arange(6.0).astype(dtype), 3)


class Network(nnx.Module):
    """A convolution and a layer, in float64."""

    def __init__(self):
        rngs, own = nnx.Rngs(0), {"dtype": jnp.float64, "param_dtype": jnp.float64}
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs, **own)
        self.head = nnx.Linear(32, 3, rngs=rngs, **own)

    def __call__(self, x):
        return self.head(nnx.tanh(self.conv(x)).reshape(x.shape[0], -1))


def a_network():
    """Its problem, of three workers."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 4, 4, 1))
    loss = optax.softmax_cross_entropy_with_integer_labels
    labels = images.mean((1, 2, 3)).argsort().argsort() // 8
    return problems.flax_problem(Network(), loss, (images, labels), 3)


def step_of(problem) -> float:
    """A power of two below 1/L, where that is known."""
    if problem.smoothness is None:
        return 0.2
    return 2.0 ** np.floor(np.log2(1 / problem.smoothness))


def of_problem(problem, algorithm, optimizer, **more) -> Federation:
    """Clients that compute a problem's gradients, as `simulate` does."""
    own = jax.jit(problem.gradients)

    def gradient(params, index):
        return jax.tree.map(lambda x: x[index], own(params))

    return Federation(algorithm, optimizer, problem.init_params, gradient, **more)
