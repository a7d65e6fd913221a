#!/bin/sh
# Guess: optax.inject_hyperparams(optax.adam)(learning_rate) is optax.adam(learning_rate) whose
# rate can be changed later; in bfloat16, too, where optax.adam alone makes its usual first step.
# Seen: in bfloat16 the first update is NaN. All numbers become hyperparameters in the
# parameters' dtype, b2 = 0.999 too, and there it is 1: the debiasing divides 0 by 0. adamw,
# nadam, lamb and amsgrad are NaN as well; adabelief and yogi return -0.0 for ever, in silence.
# hyperparam_dtype=float32 mends it; so does naming b2 in static_args.
# Versions: optax 0.2.8, jax and jaxlib 0.10.2, NumPy 2.4.6, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/see.py" <<'PY'
import math

import jax
import jax.numpy as jnp
import optax

print("optax", optax.__version__, "jax", jax.__version__)


def updates(optimizer, dtype="bfloat16", steps=3):
    params, gradient = jnp.ones(1, dtype), jnp.full(1, 0.5, dtype)
    state, seen = optimizer.init(params), []
    for _ in range(steps):
        update, state = optimizer.update(gradient, state, params)
        seen.append(float(update[0]))
    return seen


for name in ("adam", "adamw", "nadam", "lamb", "amsgrad", "adabelief", "yogi"):
    made = getattr(optax, name)
    injected = updates(optax.inject_hyperparams(made)(learning_rate=0.1))
    alone = updates(made(0.1))
    print(f"{name}: injected {injected}, alone {alone}")
    assert all(x < -0.05 for x in alone[:1])
    silent = name in ("adabelief", "yogi")
    assert all(x == 0 if silent else math.isnan(x) for x in injected)
inject = optax.inject_hyperparams
mended = {
    "hyperparam_dtype": inject(optax.adam, hyperparam_dtype=jnp.float32)(0.1),
    "static_args": inject(optax.adam, static_args=("b2",))(0.1),
}
for name, optimizer in mended.items():
    print(f"adam with {name}: {updates(optimizer)}")
    assert abs(updates(optimizer)[0] + 0.1) < 0.01
assert abs(updates(inject(optax.adam)(0.1), "float32")[0] + 0.1) < 1e-3
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/see.py"
