"""A data-parallel loop with a line added: FOLDER [HOST:PORT 2 and 0 or 1 of two]."""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import PartitionSpec as P

import gdsec_jax
from gdsec_experiments._processes import together
from gdsec_jax import data


def main(folder, num_steps=300, every=100, method=gdsec_jax.top_j, M=4, **options):
    """Train M workers, which lie on all devices there are, 32 images each a step."""
    digits, rngs = data.load("digits"), nnx.Rngs(0)
    layers = nnx.Linear(64, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 10, rngs=rngs)
    graph, params = nnx.split(nnx.Sequential(*layers), nnx.Param)
    jax.set_mesh(jax.make_mesh((jax.device_count(),), ("data",)))
    algorithm = method(M, axis="data", reduction="mean", **options)  # the one line
    tx = optax.chain(algorithm, optax.adamw(3e-3))
    specs = gdsec_jax.state_specs(jax.eval_shape(tx.init, params), "data")
    start = jax.jit(lambda p: (p, tx.init(p)), out_shardings=(P(), specs))
    state, sent, whole = start(params), 0, 0

    def loss(params, x, y):
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def train_step(params, opt_state, x, y):  # x [M, 32, 64], sharded over "data"
        losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(params, x, y)
        updates, opt_state = tx.update(grads, opt_state, params)
        bits = gdsec_jax.last_round(opt_state).bits.sum()
        return (optax.apply_updates(params, updates), opt_state), losses.mean(), bits

    saves = ocp.CheckpointManager(Path(folder).absolute())
    if first := saves.latest_step() or 0:
        state = saves.restore(first, args=ocp.args.StandardRestore(state))
    for step in range(first + 1, num_steps + 1):
        rows = np.random.default_rng(step).integers(0, 1500, (M, 32))
        batch = digits.features[rows], digits.targets[rows]
        state, value, bits = train_step(*state, *jax.device_put(batch, P("data")))
        sent, whole = sent + int(bits), whole + 32 * M * optax.tree.size(params)
        if step % every == 0:
            saves.save(step, args=ocp.args.StandardSave(state))
            print(f"{step}: loss {value:.4f}, {sent:.2e} of {whole:.2e} bits")
    saves.wait_until_finished()


if __name__ == "__main__":
    with together(*sys.argv[2:]):
        main(sys.argv[1], k=0.01)
