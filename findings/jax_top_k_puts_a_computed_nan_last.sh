#!/bin/sh
# Guess: top_k takes NaN for the largest value, as jnp.max, argmax, sort and NumPy do; a test
# with jnp.nan says so. Whoever looks at the first of the k largest sees a division that failed.
# Seen: the NaN of 0 / 0 or of inf - inf comes behind -inf, as the smallest of all: x86
# processors give NaN that they compute the sign of a negative number, and top_k orders by sign
# bits. jnp.nan,
# and NaN behind jnp.abs, come first.
# Versions: jax and jaxlib 0.10.2, NumPy 2.4.6, Python 3.11, x86-64.
set -eu
[ "$(uname -m)" = x86_64 ] || { echo "seen on x86-64 processors alone"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/see.py" <<'EOF'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__, jax.default_backend())
zero, infinity = jnp.zeros(1), jnp.full(1, jnp.inf)
nans = {
    "0 / 0": jax.jit(lambda x: x / x)(zero),
    "inf - inf": jax.jit(lambda x: x - x)(infinity),
    "jnp.nan": jnp.full(1, jnp.nan),
}
places = {}
for name, nan in nans.items():
    x = jnp.concatenate([jnp.ones(1), nan, -infinity])
    _, order = jax.lax.top_k(x, 3)
    _, of_sizes = jax.lax.top_k(jnp.abs(x), 3)
    places[name] = order.tolist().index(1)
    print(f"{name}: sign bit {int(np.signbit(np.asarray(nan))[0])}, place in top_k",
          f"{places[name]}, of abs {of_sizes.tolist().index(1)}; argmax {int(jnp.argmax(x))}, sort {jnp.sort(x)}")
    assert int(jnp.argmax(x)) == 1 and np.isnan(jnp.sort(x)[-1]) and np.isnan(jnp.max(x))
    assert of_sizes.tolist().index(1) == 0
assert places == {"0 / 0": 2, "inf - inf": 2, "jnp.nan": 0}
EOF
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/see.py"
