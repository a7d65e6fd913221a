#!/bin/sh
# Guess: a program for one device that JAX's persistent cache holds is found again by a process
# that pretends to have four CPU devices and uses the first: the flag for that is among those
# that jax/_src/cache_key.py leaves out of the key, since it does not affect what is compiled.
# Seen: nothing is found. What the key takes besides, the devices' description, differs with
# their number, so all is compiled anew, and kept twice; so it is where jax_num_cpu_devices asks
# for four. Tests on one device and tests on four share no compiled program.
# Versions: jax and jaxlib 0.10.2, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/see.py" <<'EOP'
import sys

import jax
import jax.numpy as jnp
from jax import monitoring
from jax._src import cache_key

assert "--xla_force_host_platform_device_count" in (
    cache_key.xla_flags_to_exclude_from_cache_key
)
if sys.argv[2:]:
    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
heard = []
monitoring.register_event_listener(lambda event, **_: heard.append(event))
x = jax.device_put(jnp.ones(100), jax.devices()[0])
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(x).block_until_ready()
hits = sum("cache_hits" in event for event in heard)
misses = sum("cache_misses" in event for event in heard)
print(jax.__version__, jax.device_count(), "devices:", "hit" if hits else "miss")
assert bool(hits) != bool(misses)
EOP
see() { JAX_PLATFORMS=cpu XLA_FLAGS="$1" "$folder/venv/bin/python" "$folder/see.py" "$folder/cache" $2; }
four=--xla_force_host_platform_device_count=4
for way in "|" "|" "$four|" "$four|" "|4"; do
    see "${way%|*}" "${way#*|}"
done | tee "$folder/seen"
printf '%s\n' "0.10.2 1 devices: miss" "0.10.2 1 devices: hit" "0.10.2 4 devices: miss" \
    "0.10.2 4 devices: hit" "0.10.2 4 devices: hit" | diff - "$folder/seen"
