#!/bin/sh
# Guess: a LIBSVM file's number that float32 cannot hold is read as infinity, as 0, or refused.
# Seen: XGBoost's reader takes the exponent for 38 at most, and keeps the digits: 1e40 is 1e38,
# and 2.5e45 is 2.5e38, smaller than 3e38. What is below float32's normal numbers becomes the
# largest subnormal one: 1e-50 is 1.1754942e-38, -1e-400 minus that, and neither is 0 any more.
# A target is read in the same way. Nothing is said about any of them.
# Versions: xgboost-cpu 3.2.0, NumPy 2.4.6, SciPy 1.17.1, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    xgboost-cpu==3.2.0 numpy==2.4.6 scipy==1.17.1
cat > "$folder/see.py" <<'PY'
import sys

import numpy as np
import xgboost

path = sys.argv[1]


def read(number):
    with open(path, "w") as file:
        file.write(f"1 0:{number}\n{number} 0:1\n")
    matrix = xgboost.DMatrix(f"{path}?format=libsvm", nthread=1)
    return float(matrix.get_data().data[0]), float(matrix.get_label()[1])


print("xgboost", xgboost.__version__)
least = float(np.nextafter(np.finfo(np.float32).tiny, np.float32(0)))
expected = {"1e38": 1e38, "1e40": 1e38, "2.5e45": 2.5e38}
expected |= {"1e-37": 1e-37, "1e-50": least, "-1e-400": -least}
for number, value in expected.items():
    seen = read(number)
    print(f"{number} is read as {seen[0]:.8g}, as a target {seen[1]:.8g}")
    assert np.allclose(seen, value, rtol=1e-7, atol=0)
PY
"$folder/venv/bin/python" -W ignore "$folder/see.py" "$folder/data.svm" 2>"$folder/said" \
    || { cat "$folder/said"; exit 1; }
