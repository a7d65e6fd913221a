#!/bin/sh
# Guess: what a Flower message costs on the wire follows of the sizes of its arrays: ten arrays
# of 1 MB are 10 MB, and those of three clients 30 MB.
# Seen: arrays are objects that are addressed by a hash of their bytes, and only those that the
# SuperLink has not are sent: ten arrays of zeros are 1 MB, and what two more clients send is
# nothing if it equals the first one's. Random numbers are 30 MB. So a benchmark of traffic, or
# of seconds, that sends zeros, or lets all clients answer with the same parameters, measures
# next to nothing; and a compressor that zeroes whole layers looks better than its own bytes.
# Versions: flwr 1.42.0, NumPy 2.4.6, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    flwr==1.42.0 numpy==2.4.6
cat > "$folder/see.py" <<'PY'
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

print("flwr", version("flwr"), "numpy", np.__version__)


def megabytes(made):
    """What three clients send to one SuperLink, by client."""
    store, sent = InMemoryObjectStore(), []
    for client in range(3):
        arrays = {str(n): Array(made(client, n)) for n in range(10)}
        record = RecordDict({"arrays": ArrayRecord(arrays)})
        missing = set(store.preregister(1, get_object_tree(record)))
        bytes_of = []

        def push(name, content):
            bytes_of.append(len(content))
            store.put(name, content)

        push_objects(get_all_nested_objects(record), push, object_ids_to_push=missing)
        sent.append(round(sum(bytes_of) / 1e6))
    return sent


def random(client, n):
    return np.random.default_rng([client, n]).normal(size=250_000).astype(np.float32)


zeros = megabytes(lambda client, n: np.zeros(250_000, np.float32))
equal = megabytes(lambda client, n: random(0, n))
other = megabytes(random)
print("MB of three clients with ten arrays of 1 MB each:")
print("zeros", zeros, "the same random numbers", equal, "their own", other)
assert zeros == [1, 0, 0] and equal == [10, 0, 0] and other == [10, 10, 10]
PY
"$folder/venv/bin/python" -W ignore "$folder/see.py"
