"""Digits over Flower: a network trained locally, whose differences travel by GD-SEC.

`flwr run gdsec_experiments/flower_app NAME`, as docs/flower.md says.
"""

import secrets

import jax
import optax
from flax import nnx
from flwr.serverapp import ServerApp

import gdsec_jax
from gdsec_jax import data, flower

WORKERS, STEPS, BATCH, HELD_OUT = 3, 20, 32, 297


class Network(nnx.Module):
    """A convolution and two dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(256, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x)).reshape(x.shape[0], -1)
        return self.head(nnx.relu(self.dense(x)))


digits = data.load("digits")
images = digits.features.astype("float32").reshape(-1, 8, 8, 1)
labels, shards = digits.targets, data.split(digits.targets[HELD_OUT:], WORKERS)
graph, state = nnx.split(Network(nnx.Rngs(0)), nnx.Param)
params = nnx.to_pure_dict(state)
algorithm = gdsec_jax.gdsec(WORKERS, xi=30.0, beta=0.1, wire="rle", reduction="mean")


def loss(params, x, y):
    """The mean over a batch."""
    logits = nnx.merge(graph, nnx.State(params))(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def trained(params, x, y, key):
    """Where some steps of SGD end."""

    def step(at, key):
        batch = jax.random.randint(key, (BATCH,), 0, len(y))
        slope = jax.grad(loss)(at, x[batch], y[batch])
        return jax.tree.map(lambda p, g: p - 0.1 * g, at, slope), None

    return jax.lax.scan(step, params, jax.random.split(key, STEPS))[0]


def difference(params, context):
    """How far a client's own training goes."""
    own = HELD_OUT + shards[context.node_config["partition-id"]]
    key = jax.random.key(secrets.randbits(32))
    return optax.tree.sub(params, trained(params, images[own], labels[own], key))


client = flower.client(algorithm, params, difference)
server = ServerApp()


@server.main()
def main(grid, context):
    """Steps by the mean of the differences, and watches the loss held out."""
    told, x, y = context.run_config, images[:HELD_OUT], labels[:HELD_OUT]
    held_out, folder = jax.jit(lambda at: loss(at, x, y)), told["folder"] or None
    strategy = flower.Compressed(
        algorithm, optax.sgd(1.0), params, error=held_out, folder=folder
    )
    history = strategy.run(grid, told["rounds"], timeout=300.0)
    if told["history"]:
        history.save(told["history"])
