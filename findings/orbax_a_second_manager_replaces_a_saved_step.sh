#!/bin/sh
# Guess: CheckpointManager.save(step) never replaces a step that is already saved: its
# documentation says that even force=True "will not overwrite existing checkpoints".
# Seen: that holds for the steps that the manager knows of. A manager that was opened
# before another one saved the step replaces it, returns True and says nothing; one that
# was opened afterwards returns False. So two runs that share a folder by mistake end
# with a mixture of both, and whoever must not lose a state has to look at the folder.
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "orbax-checkpoint==0.12.8" "jax==0.10.2" "jaxlib==0.10.2"
cat > "$folder/seen.py" <<'PY'
import pathlib
import sys
from importlib.metadata import version

import jax.numpy as jnp
import orbax.checkpoint as ocp

root = pathlib.Path(sys.argv[1])


def opened():
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    return ocp.CheckpointManager(root, options=options)


def save(manager, value):
    saved = manager.save(1, args=ocp.args.StandardSave({"x": jnp.full(3, value)}))
    manager.wait_until_finished()
    return saved


def held():
    with opened() as manager:
        like = ocp.args.StandardRestore({"x": jnp.zeros(3)})
        return float(manager.restore(1, args=like)["x"][0])


print("orbax-checkpoint", version("orbax-checkpoint"), "jax", version("jax"))
first, second = opened(), opened()
seen = [(save(first, 1.0), held()), (save(second, 2.0), held())]
third = opened()
seen.append((save(third, 3.0), held()))
for who, (saved, value) in zip(("first", "opened before", "opened after"), seen):
    print(f"{who}: save returned {saved}, step 1 holds {value}")
assert seen == [(True, 1.0), (True, 2.0), (False, 2.0)], seen
PY
mkdir "$folder/states"
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/seen.py" "$folder/states"
