"""A run of GD-SEC with ten thousand workers, in one process of several: as JSON."""

import argparse
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments._processes import together
from gdsec_jax import data, problems

WORKERS, SAMPLES, SIZE, ROUNDS = 10_000, 4, 50, 200


def run() -> dict:
    """Each process makes the data of its own workers alone."""
    mesh = jax.make_mesh((jax.device_count(),), ("workers",))
    made = []

    def load(m):
        made.append(m)
        rng = np.random.default_rng(m)
        x = rng.standard_normal((SAMPLES, SIZE)).astype(np.float32)
        return {"x": x, "y": x @ np.linspace(-1, 1, SIZE, dtype=np.float32)}

    def loss(params, own):
        far = own["x"] @ params - own["y"]
        return 0.5 * jnp.sum(far**2) / (WORKERS * SAMPLES)

    worker_data = data.spread(load, WORKERS, mesh)
    problem = problems.from_loss(loss, worker_data, np.zeros(SIZE, np.float32))
    optimizer = optax.chain(gdsec_jax.gdsec(WORKERS, xi=20.0), optax.sgd(0.3))
    history = gdsec_jax.simulate(
        problem, optimizer, ROUNDS, mesh=mesh, observe=_observed, progress=False
    )
    observed = np.asarray(history.observed["words"])
    return {
        "params": [zlib.crc32(words.tobytes()) for words in observed],
        "bits": history.bits.tolist(),
        "total": int(history.total_bits[-1]),
        "made": len(set(made)),
    }


def _observed(round):
    words = jax.lax.bitcast_convert_type(round.new_params, jnp.uint32)
    return {"words": words}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", nargs="*", help="coordinator, number, own")
    with together(*parser.parse_args().where):
        found = run()
        if jax.process_index() == 0:
            print(json.dumps(found))
