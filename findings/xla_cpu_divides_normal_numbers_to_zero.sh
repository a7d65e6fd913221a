#!/bin/sh
# Guess: in float32 2^126 / 2^127 is 0.5 wherever it is computed: both are normal numbers,
# and so is their quotient, which IEEE 754 has rounded correctly.
# Seen: a vector divided by one number, inside jit or not, comes out as 0 on a CPU once that
# number is above 2^126: XLA multiplies by its reciprocal, which is subnormal, and its kernels
# take subnormal numbers for 0. A vector divided by a vector of the same values is right, and
# so is one number by one number. A norm that divides by the largest entry, to keep squares in
# range, is 0 for entries of 3e38; dividing both sides by 4 first helps.
# Versions: jax and jaxlib 0.10.2, NumPy 2.4.6, Python 3.11.
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

print("jax", jax.__version__, jax.default_backend())
x = jnp.full(1000, 2.0**126, jnp.float32)
by_numpy = (np.asarray(x) / np.float32(2.0**127))[0]
seen = {}
for exponent in (125, 126, 127):
    number = jnp.float32(2.0**exponent)
    seen[exponent] = float(jax.jit(lambda a, b: a / b)(x, number)[0])
    print(f"2^126 / 2^{exponent}: vector by number {seen[exponent]}")
many = float(jax.jit(lambda a, b: a / b)(x, jnp.full(1000, 2.0**127, jnp.float32))[0])
single = float(jnp.float32(2.0**126) / jnp.float32(2.0**127))
eager = float((x / jnp.float32(2.0**127))[0])
print(f"2^126 / 2^127: vector by vector {many}, number by number {single}")
print(f"without jit {eager}, NumPy {by_numpy}")
assert (seen[125], seen[126], seen[127]) == (2.0, 1.0, 0.0)
assert (many, single, eager, by_numpy) == (0.5, 0.5, 0.0, 0.5)
EOF
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/see.py"
