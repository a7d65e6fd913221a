#!/bin/sh
# Guess: "nan" as a value in a LIBSVM file is read as NaN, or as missing, or refused: Python's
# float, C's strtod, NumPy and scikit-learn all know the word.
# Seen: XGBoost's reader passes over it to the next number, wherever that is. At the end of a
# line this is the next line's label: "1 1:0.5 3:nan" before "-1 2:1" makes feature 3 of the
# first sample -1, and the label is read again as a label. A feature that leaks the next target
# in every line with a gap; the same word in the middle of a line is an error.
# Versions: xgboost-cpu 3.2.0, NumPy 2.4.6, SciPy 1.17.1, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    xgboost-cpu==3.2.0 numpy==2.4.6 scipy==1.17.1
cat > "$folder/see.py" <<'PY'
import sys

import xgboost

path = sys.argv[1]


def read(text):
    with open(path, "w") as file:
        file.write(text)
    matrix = xgboost.DMatrix(f"{path}?format=libsvm", nthread=1)
    return matrix.get_data().toarray().tolist(), matrix.get_label().tolist()


print("xgboost", xgboost.__version__)
features, labels = read("1 1:0.5 3:nan\n-8 2:1\n5 1:1\n")
print("features", features, "labels", labels)
assert features == [[0, 0.5, 0, -8], [0, 0, 1, 0], [0, 1, 0, 0]]
assert labels == [1, -8, 5]
try:
    read("1 1:nan 3:2\n-8 2:1\n")
except xgboost.core.XGBoostError:
    print("in the middle of a line: an error")
else:
    raise SystemExit("read")
PY
"$folder/venv/bin/python" -W ignore "$folder/see.py" "$folder/data.svm" 2>"$folder/said" \
    || { cat "$folder/said"; exit 1; }
