#!/bin/sh
# Guess: jax.random.bernoulli(key, p) is true with probability p for a p in bfloat16 as well; a
# probability of 0.001 has a relative error of 0.4 % at most there.
# Seen: 0.78 %, eight times p. Its uniform numbers take p's dtype, and bfloat16 has 128 of them
# in [0, 1): every p is rounded up to a multiple of 1/128, 1e-6 among them, and their mean is
# 0.496. In float16 it is 1/1024. A mask of sampled entries, a dropped message or stochastic
# rounding whose probabilities come out of bfloat16 gradients is biased by that: p must be
# widened first.
# Versions: jax and jaxlib 0.10.2, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/see.py" <<'EOF'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
many, key = 4_000_000, jax.random.key(0)
share = {}
for name in ("float32", "float16", "bfloat16"):
    for p in (1e-3, 1e-6):
        true = jax.random.bernoulli(key, jnp.asarray(p, name), (many,))
        share[name, p] = float(jnp.mean(true, dtype=jnp.float32))
        print(f"p = {p:g} in {name}: true in {share[name, p]:.6f}")
values = jax.random.uniform(key, (many,), jnp.bfloat16).astype(jnp.float32)
different = np.unique(np.asarray(values)).size
print("uniform numbers in bfloat16:", different, "different, mean", float(values.mean()))
assert abs(share["float32", 1e-3] - 1e-3) < 1e-4
assert different == 128 and abs(float(values.mean()) - 127 / 256) < 1e-3
for p in (1e-3, 1e-6):
    assert abs(share["bfloat16", p] - 1 / 128) < 3e-4
assert abs(share["float16", 1e-6] - 1 / 1024) < 1e-4
EOF
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/see.py"
