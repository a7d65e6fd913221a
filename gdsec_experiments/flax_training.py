"""A training script of flax's, with one line added: the workers send by GD-SEC.

`python gdsec_experiments/flax_training.py` prints the accuracy on images that were
held out, and the share of the bits that whole gradients would take.
"""

import jax
import optax
from flax import nnx

import gdsec_jax
from gdsec_jax import data

WORKERS, BATCH = 5, 32


class CNN(nnx.Module):
    """A convolution and two dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(256, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x)).reshape(x.shape[0], -1)
        return self.head(nnx.relu(self.dense(x)))


def main(num_steps: int = 300, xi: float = 100.0) -> tuple[float, float]:
    """Train, and return the accuracy and the share of the bits."""
    digits = data.load("digits")
    images = digits.features.astype("float32").reshape(-1, 8, 8, 1)
    x = images[:1500].reshape(WORKERS, -1, 8, 8, 1)
    y = digits.targets[:1500].reshape(WORKERS, -1)
    model = CNN(nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    tx = optax.chain(
        gdsec_jax.gdsec(WORKERS, xi, wire="rle", reduction="mean"),  # the one line
        optax.adam(3e-3),
    )
    opt_state = tx.init(params)

    def loss(params, x, y, key):
        batch = jax.random.randint(key, (BATCH,), 0, len(x))
        logits = nnx.merge(graph, params)(x[batch])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y[batch])
        return losses.mean()

    @jax.jit
    def train_step(params, opt_state, x, y, key):
        keys = jax.random.split(key, WORKERS)
        grads = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(params, x, y, keys)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    bits = 0
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, opt_state = train_step(params, opt_state, x, y, key)
        bits += int(gdsec_jax.last_round(opt_state).bits.sum())
    nnx.update(model, params)
    accuracy = (model(images[1500:]).argmax(-1) == digits.targets[1500:]).mean()
    whole = 32 * WORKERS * num_steps * sum(p.size for p in jax.tree.leaves(params))
    print(f"accuracy {accuracy:.1%} for {bits / whole:.1%} of the bits")
    return float(accuracy), bits / whole


if __name__ == "__main__":
    main()
