"""What the processes of `sockets` agree on: the methods' pieces, and a problem.

The problem is softmax regression on digits, with a bias, so that theta is a tree. Its
gradient needs care, for `sockets` compares to the last bit. A matrix product over the
samples of all workers at once rounds otherwise than the same over one worker's: the
compiler picks another kernel, or its rows fall into other tiles. So the loss computes
its gradient worker by worker, in the simulator too: under `jax.vmap` it becomes a loop,
each turn of which is the kernel that a worker runs. All behind the gradient is the
package's own code, and rounds alike with an axis of one worker and of M.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import data, problems, server_memory, worker

XI, LEVELS, K, KEY = 4.0, 64, 20, 7
BETA = 2.0**-4  # a product with it is exact: compilers may merge it with a sum or not
LAQ_BITS, LAQ_ZETA = 8, 0.08


class Method(NamedTuple):
    """A method as the server and the workers run it."""

    arguments: dict[str, Any]  # of the package's function of this name
    pipeline: optax.GradientTransformation  # of a worker
    server: optax.GradientTransformation | None = None  # its memory, if it has one
    key: int | None = None
    first_whole: bool = False  # the receiver knows that a first message is


class Job(NamedTuple):
    """What one run through the sockets is."""

    method: str
    wire: str
    rounds: int


def methods(num_workers: int, step: float) -> dict[str, Method]:
    """The pieces of each method, with the numbers that a worker uses."""
    difference, censor = worker.gradient_difference, worker.censor(XI / num_workers)
    rounded = optax.chain(censor, worker.qsgd(LEVELS))
    sec = {"xi": XI, "beta": BETA}
    laq = worker.laq(learning_rate=step, bits=LAQ_BITS, zeta=LAQ_ZETA / num_workers**2)
    return {
        "gd": Method({}, worker.whole()),
        "gdsec": Method(
            sec, difference(worker.error_feedback(censor), BETA), server_memory(BETA)
        ),
        "qsgdsec": Method(
            sec | {"levels": LEVELS},
            difference(worker.error_feedback(rounded), BETA),
            server_memory(BETA),
            KEY,
        ),
        "laq": Method(
            {"learning_rate": step, "bits": LAQ_BITS, "zeta": LAQ_ZETA},
            difference(laq),
            server_memory(),
        ),
        "ef21": Method(
            {"k": K},
            difference(worker.first_whole(worker.top_k(K))),
            server_memory(),
            first_whole=True,
        ),
        "top_j": Method({"k": K}, worker.error_feedback(worker.top_k(K))),
        "sign_ef": Method({}, worker.error_feedback(worker.sign())),
        "natural": Method({}, worker.natural(), key=KEY),
        "terngrad": Method({}, worker.terngrad(), key=KEY),
    }


def _cross_entropy(params, shard: data.Shards):
    scores = jnp.matmul(
        shard.features, params["weights"], precision=jax.lax.Precision.HIGHEST
    )
    scores = scores + params["bias"]
    own = jnp.take_along_axis(scores, jnp.asarray(shard.targets)[:, None], axis=1)[:, 0]
    return jnp.sum(shard.weight * (jax.nn.logsumexp(scores, axis=1) - own))


@jax.custom_batching.sequential_vmap
def _value_and_gradient(params, shard):
    return jax.value_and_grad(_cross_entropy)(params, shard)


@jax.custom_vjp
def worker_loss(params, shard):
    """f_m, whose gradient is computed for one worker at a time, whoever asks."""
    return _value_and_gradient(params, shard)[0]


def _backward(gradient, cotangent):
    return jax.tree.map(lambda g: cotangent * g, gradient), None


worker_loss.defvjp(_value_and_gradient, _backward)


def init_params(features: int, classes: int):
    """theta^1."""
    weights = jnp.zeros((features, classes), jnp.float32)
    return {"weights": weights, "bias": jnp.zeros(classes, jnp.float32)}


def make_problem(num_workers: int) -> problems.Problem:
    """Softmax regression on digits, features centred, with its constant L."""
    digits = data.load("digits")
    x = (digits.features - digits.features.mean(axis=0)).astype(np.float32)
    y = digits.targets.astype(np.int32)
    shards = data.stack(x, y, data.split(y, num_workers))
    rows = np.hstack([x, np.ones((y.size, 1))])
    return problems.from_loss(
        worker_loss,
        shards,
        init_params(x.shape[1], int(y.max()) + 1),
        name="softmax regression on digits",
        smoothness=float(np.linalg.norm(rows, 2) ** 2 / (2 * y.size)),
    )
