"""What one process writes for another: a checkpoint, and programs in three forms.

Stands by itself, so that another Python or another JAX can run either side.
"""

import argparse
import json
import pickle
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import export, monitoring
from jax.experimental import serialize_executable

import gdsec_jax
from gdsec_jax import problems

ROUNDS = 100


def problem():
    """Ridge regression, as `_run.py` has it."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 200)) * np.linspace(0.05, 1, 200)
    targets = features @ rng.standard_normal(200) + 0.1 * rng.standard_normal(200)
    return problems.ridge(features, targets, num_workers=4)


def round_of(gradients, params, leaves):
    """A round of GD-SEC, whose state is a list: others need not know our types."""
    method = gdsec_jax.gdsec(4, xi=400.0, beta=0.01)
    tree = jax.tree.structure(jax.eval_shape(method.init, params))
    updates, state = method.update(gradients, jax.tree.unflatten(tree, leaves), params)
    return updates, jax.tree.leaves(state)


def arguments():
    """A first round's."""
    gradients = np.random.default_rng(1).standard_normal((4, 200), np.float32)
    params = jnp.ones(200)
    state = gdsec_jax.gdsec(4, xi=400.0, beta=0.01).init(params)
    return jnp.asarray(gradients), params, jax.tree.leaves(state)


def played(call) -> int:
    """Bits of what came of ten rounds, whose gradients shrink with the parameters."""
    gradients, params, leaves = arguments()
    for _ in range(10):
        updates, leaves = call(gradients * params, params, leaves)
        params = params - 0.1 * updates
    return words((params, leaves))


def words(tree) -> int:
    """Of all bits."""
    leaves = jax.tree.leaves(tree)
    return zlib.crc32(b"".join(np.asarray(x).tobytes() for x in leaves))


def run(folder: Path, rounds: int) -> int:
    """A run that is saved, or goes on."""
    optimizer = optax.chain(gdsec_jax.gdsec(4, xi=400.0, beta=0.01), optax.sgd(0.4))
    saved = gdsec_jax.Checkpoints(folder, every=ROUNDS)
    return words(
        gdsec_jax.simulate(problem(), optimizer, rounds, checkpoint=saved).params
    )


def write(folder: Path) -> dict:
    """All of it."""
    run(folder / "checkpoint", ROUNDS)
    given, made = arguments(), jax.jit(round_of)
    (folder / "exported").write_bytes(export.export(made)(*given).serialize())
    compiled = made.lower(*given).compile()
    with (folder / "compiled").open("wb") as file:
        pickle.dump(serialize_executable.serialize(compiled), file)
    return {"checkpoint": run(folder / "whole", 2 * ROUNDS), "round": played(made)}


def read(folder: Path, what: str) -> int:
    """Bits of what came of it."""
    if what == "checkpoint":
        return run(folder / what, 2 * ROUNDS)
    if what == "exported":
        call = export.deserialize(bytearray((folder / what).read_bytes())).call
    else:
        with (folder / what).open("rb") as file:
            call = serialize_executable.deserialize_and_load(*pickle.load(file))
    return played(call)


def cached(folder: Path) -> dict:
    """How many programs of a round come from a folder of compiled ones."""
    for name, value in (
        ("jax_compilation_cache_dir", str(folder)),
        ("jax_persistent_cache_min_compile_time_secs", 0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        jax.config.update(name, value)
    heard = []
    monitoring.register_event_listener(lambda event, **_: heard.append(event))
    found = played(jax.jit(round_of))
    return {
        "round": found,
        "hits": sum("cache_hits" in event for event in heard),
        "misses": sum("cache_misses" in event for event in heard),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", nargs="?")
    asked = parser.parse_args()
    if asked.what is None:
        print(json.dumps(write(asked.folder)))
    elif asked.what == "cached":
        print(json.dumps(cached(asked.folder / "cached")))
    else:
        print(json.dumps(read(asked.folder, asked.what)))
