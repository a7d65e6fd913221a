#!/bin/sh
# Guess: with parameters and gradients in bfloat16 optax's second moment is coarse, but forgets
# with a half-life of 693 steps, as b2 = 0.999 says.
# Seen: it forgets nothing. 0.999 has no neighbour of its own in bfloat16 (0.99609, then 1), so
# the old moment is multiplied by 1: after one gradient of 1 and 20,000 of 0 it is what it was
# after the first. In the other direction it stands still far too low: under gradients of 1 for
# ever it stops at 0.5 or below instead of 1, as what is added is less than half a unit in the
# last place. ema(0.999) stops at 0.5, too. mu_dtype="float32" widens the first moment alone.
# Versions: optax 0.2.8, jax and jaxlib 0.10.2, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/see.py" <<'EOF'
import jax
import jax.numpy as jnp
import optax

print("optax", optax.__version__, "jax", jax.__version__)


def after(transformation, gradients, state, dtype):
    """The state after so many steps with each of the gradients, in turn."""
    for value, steps in gradients:

        def step(state, _, value=value):
            gradient = jnp.full(1, value, dtype)
            return transformation.update(gradient, state)[1], None

        state, _ = jax.lax.scan(step, state, length=steps)
    return state


adam, seen = optax.scale_by_adam(mu_dtype="float32"), {}
for name in ("float32", "bfloat16"):
    start = adam.init(jnp.zeros(1, name))
    first = after(adam, [(1.0, 1)], start, name)
    later = after(adam, [(0.0, 20_000)], first, name)
    steady = after(adam, [(1.0, 20_000)], start, name)
    seen[name] = [float(x.nu[0]) for x in (first, later, steady)]
    print(f"{name}: nu after one gradient of 1: {seen[name][0]:.6f}, then 20,000 of 0:",
          f"{seen[name][1]:.6f}; under 20,000 of 1: {seen[name][2]:.6f}; nu is {first.nu.dtype}")
assert seen["float32"][1] < 1e-11 and abs(seen["float32"][2] - 1) < 1e-3
assert seen["bfloat16"][1] == seen["bfloat16"][0] > 9e-4 and seen["bfloat16"][2] <= 0.5
ema = optax.ema(0.999, debias=False)
state = after(ema, [(1.0, 20_000)], ema.init(jnp.zeros(1, jnp.bfloat16)), jnp.bfloat16)
print("ema(0.999) of 20,000 ones in bfloat16:", float(state.ema[0]))
assert float(state.ema[0]) == 0.5
EOF
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/see.py"
