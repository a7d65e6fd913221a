#!/bin/sh
# Guess: strategies of Flower that start from the weighted mean of the clients' parameters agree
# on it: where all clients return 1.0, the mean is 1.0, whatever the dtype.
# Seen: FedAvg and FedYogi return 1.0 for float16, FedAvgM and FaultTolerantFedAvg NaN: they
# multiply parameters by each client's number of samples before they divide, in the parameters'
# own dtype, and 65,520 samples are infinitely many in float16, as is their sum. FedAvg does the
# same with inplace=False. With int8 parameters of 100 and 7 samples each the product wraps, and
# the mean is 8.57.
# Versions: flwr 1.42.0, NumPy 2.4.6, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    flwr==1.42.0 numpy==2.4.6
cat > "$folder/see.py" <<'PY'
import logging
from importlib.metadata import version

import numpy as np
from flwr.common import Code, FitRes, Status
from flwr.common import ndarrays_to_parameters as packed
from flwr.common import parameters_to_ndarrays as unpacked
from flwr.server import strategy

logging.disable(logging.CRITICAL)
print("flwr", version("flwr"), "numpy", np.__version__)


def mean(made, value, dtype, samples):
    said = FitRes(
        Status(Code.OK, ""), packed([np.full(2, value, dtype)]), samples, {}
    )
    parameters, _ = made.aggregate_fit(1, [(None, said), (None, said)], [])
    return float(unpacked(parameters)[0][0])


start = packed([np.ones(2, np.float16)])
made = {
    "FedAvg": lambda: strategy.FedAvg(),
    "FedYogi": lambda: strategy.FedYogi(initial_parameters=start),
    "FedAvg(inplace=False)": lambda: strategy.FedAvg(inplace=False),
    "FedAvgM": lambda: strategy.FedAvgM(initial_parameters=start),
    "FaultTolerantFedAvg": lambda: strategy.FaultTolerantFedAvg(),
}
seen = {}
for name, make in made.items():
    seen[name] = [mean(make(), 1.0, np.float16, n) for n in (30, 70_000)]
    print(f"{name}: of two clients' 1.0, 30 samples each: {seen[name][0]}; "
          f"70,000 each: {seen[name][1]}")
assert all(few == 1 for few, _ in seen.values())
assert [bool(np.isnan(many)) for _, many in seen.values()] == [False, False, True, True, True]
wrapped = mean(strategy.FedAvg(inplace=False), 100, np.int8, 7)
print("int8, FedAvg(inplace=False): of two clients' 100, 7 samples each:", wrapped)
assert abs(wrapped - 120 / 14) < 1e-9
PY
"$folder/venv/bin/python" -W ignore "$folder/see.py"
