#!/bin/sh
# Guess: under jit a difference p - q that is only read by reductions costs no memory:
# XLA fuses the cheap subtraction into each reduction that reads it, once or twice.
# Seen: with one reduction that is so. With two that follow each other (the largest entry,
# then the squares scaled by it, as a norm that must not overflow needs) the compiler on
# CPUs writes the difference into a buffer as large as p. jax.lax.optimization_barrier
# around p and q between the two, which looks like one more cost, takes the buffer away:
# then the two subtractions are not the same expression any more, and each is fused.
# Versions: jax and jaxlib 0.10.2, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "jax==0.10.2" "jaxlib==0.10.2"
cat > "$folder/seen.py" <<'PY'
from importlib.metadata import version

import jax
import jax.numpy as jnp

SIZE = 1_000_000
like = jax.ShapeDtypeStruct((SIZE,), jnp.float32)


def one_sum(p, q):
    return jnp.square(p - q).sum()


def scaled(p, q):
    largest = jnp.abs(p - q).max()
    return largest * jnp.sqrt(jnp.square((p - q) / largest).sum())


def apart(p, q):
    largest = jnp.abs(p - q).max()
    p, q, largest = jax.lax.optimization_barrier((p, q, largest))
    return largest * jnp.sqrt(jnp.square((p - q) / largest).sum())


print("jax", version("jax"), "jaxlib", version("jaxlib"), jax.devices()[0].platform)
seen = {}
for function in (one_sum, scaled, apart):
    analysis = jax.jit(function).lower(like, like).compile().memory_analysis()
    seen[function.__name__] = analysis.temp_size_in_bytes / (4 * SIZE)
    print(f"{function.__name__}: temporary memory of {seen[function.__name__]:.2f} vectors")
assert seen["one_sum"] < 0.01 and seen["apart"] < 0.01, seen
assert 0.99 < seen["scaled"] < 1.01, seen
PY
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/seen.py"
