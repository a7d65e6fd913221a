#!/bin/sh
# Guess: clip_by_global_norm(1) of a finite gradient is a vector of norm 1 in its direction,
# however large it is: that is what clipping is for.
# Seen: once the sum of squares overflows, in float32 with two entries of 2e19, the norm is
# infinite, the gradient is divided by it, and the update is exactly 0. Nothing is raised, and
# apply_if_finite around it counts no error, since 0 is finite: a run stands still in silence.
# clip_by_block_rms and adaptive_grad_clip do the same; clip, entry by entry, does not.
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


def clipped(transformation, size):
    params = jnp.ones(4, jnp.float32)
    gradient = jnp.asarray([size, -size, 0.0, 0.0], jnp.float32)
    update, state = transformation.update(gradient, transformation.init(params), params)
    return update.tolist(), state


by_norm = optax.clip_by_global_norm(1.0)
for size in (1e18, 2e19):
    print(f"entries of {size:g}: clip_by_global_norm", clipped(by_norm, size)[0])
assert abs(clipped(by_norm, 1e18)[0][0] - 0.5**0.5) < 1e-6
for name, transformation in {
    "clip_by_global_norm": by_norm,
    "clip_by_block_rms": optax.clip_by_block_rms(1.0),
    "adaptive_grad_clip": optax.adaptive_grad_clip(0.1),
}.items():
    update, _ = clipped(transformation, 2e19)
    print(f"entries of 2e+19: {name} {update}")
    assert all(entry == 0 for entry in update)
assert clipped(optax.clip(1.0), 2e19)[0] == [1.0, -1.0, 0.0, 0.0]
_, state = clipped(optax.apply_if_finite(by_norm, 5), 2e19)
print("apply_if_finite:", int(state.total_notfinite), "errors counted")
assert int(state.total_notfinite) == 0
EOF
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/see.py"
