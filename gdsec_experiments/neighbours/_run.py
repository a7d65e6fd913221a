"""A run of GD-SEC in a process with settings of its own: its numbers, as JSON.

The bits of the parameters and of the uploads, round by round. Stands by itself, so that
another Python or another JAX can run it.
"""

import argparse
import json
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_jax import problems


def run(rounds: int, devices: int) -> dict:
    """Float32, four workers, 50 samples and 200 features each."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 200)) * np.linspace(0.05, 1, 200)
    targets = features @ rng.standard_normal(200) + 0.1 * rng.standard_normal(200)
    problem = problems.ridge(features, targets, num_workers=4)
    # The step is a constant: how a library computes L is not asked.
    optimizer = optax.chain(gdsec_jax.gdsec(4, xi=400.0, beta=0.01), optax.sgd(0.4))
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("workers",))
    history = gdsec_jax.simulate(
        problem, optimizer, rounds, mesh=mesh, observe=_observed
    )
    observed = np.asarray(history.observed["words"])
    return {
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "params": [zlib.crc32(words.tobytes()) for words in observed],
        "last": np.asarray(history.params).tolist(),
        "bits": np.asarray(history.observed["cost"]).tolist(),
        "total": int(history.total_bits[-1]),
        "error": float(history.objective_error[-1] / history.initial_error),
    }


def _observed(round):
    words = jax.lax.bitcast_convert_type(round.new_params, jnp.uint32)
    return {"words": words, "cost": gdsec_jax.last_round(round.new_state).bits}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int)
    parser.add_argument("devices", type=int, nargs="?", default=1)
    print(json.dumps(run(**vars(parser.parse_args()))))
