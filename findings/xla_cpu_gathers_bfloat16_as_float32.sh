#!/bin/sh
# Guess: a collective that only moves entries moves them in their own format; all_gather of
# bfloat16 carries 2 bytes an entry, of int4 half a byte, of float8 one.
# Seen: on CPU devices the compiled all-gather is one of float32, of int8 and of float16: twice
# the bytes each, for entries that nothing is computed with. A message halved by its dtype costs
# what it cost before. all-reduce does the same, and one of bool becomes int32, four times as
# much; float16, int8 and uint16 travel as they are, so that bits viewed as uint16 stay halved.
# Versions: jax and jaxlib 0.10.2, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/see.py" <<'EOF'
import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

jax.config.update("jax_num_cpu_devices", 4)
print("jax", jax.__version__, jax.default_backend(), jax.device_count(), "devices")
mesh = jax.make_mesh((4,), ("d",))


def travels_as(collective, dtype):
    """The element type of a collective, as compiled for vectors of a dtype."""
    spread = jax.ShapeDtypeStruct((4096,), dtype, sharding=NamedSharding(mesh, P("d")))
    mapped = jax.shard_map(
        collective, mesh=mesh, in_specs=P("d"), out_specs=P(), check_vma=False
    )
    text = jax.jit(mapped).lower(spread).compile().as_text()
    (found,) = re.findall(r"= (\w+)\[\S+ all-\w+\(", text)
    return found


gather = lambda x: jax.lax.all_gather(x, "d", tiled=True)
total = lambda x: jax.lax.psum(x, "d")
names = "bfloat16", "float16", "float8_e4m3fn", "int4", "int8", "uint16", "bool"
seen = {n: (travels_as(gather, n), travels_as(total, n)) for n in names}
for name, (gathered, summed) in seen.items():
    print(f"{name}: gathered as {gathered}, summed as {summed}")
assert seen == {
    "bfloat16": ("f32", "f32"),
    "float16": ("f16", "f16"),
    "float8_e4m3fn": ("f16", "f16"),
    "int4": ("s8", "s8"),
    "int8": ("s8", "s8"),
    "uint16": ("u16", "u16"),
    "bool": ("pred", "s32"),
}
EOF
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/see.py"
