#!/bin/sh
# Guess: libsvm's and liblinear's Python reader, svm_read_problem(path, return_scipy=True), finds
# out whether a file counts its features from 0 or from 1, and takes it all in that way.
# Seen: it finds out as it goes. Until the first index 0 all lines are taken from 1, and from
# there on from 0, so that in "1 1:0.5" followed by "-1 0:7" both values land in column 0, and
# one feature of the data has two columns. Nothing is said; a sparse file of thousands of lines
# may well have no 0 in its first ones. Without return_scipy the indices stay what they are.
# Versions: libsvm-official 3.37.0, liblinear-official 2.50.0, NumPy 2.4.6, SciPy 1.17.1,
# Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    libsvm-official==3.37.0 liblinear-official==2.50.0 numpy==2.4.6 scipy==1.17.1
cat > "$folder/see.py" <<'PY'
import sys
from importlib.metadata import version

from liblinear import liblinearutil
from libsvm import svmutil

print(*(f"{name} {version(name)}" for name in ("libsvm-official", "liblinear-official")))
path = sys.argv[1]
with open(path, "w") as file:
    file.write("1 1:0.5\n-1 0:7\n1 1:0.25\n")
for module in (svmutil, liblinearutil):
    _, matrix = module.svm_read_problem(path, return_scipy=True)
    _, samples = module.svm_read_problem(path)
    print(module.__name__, matrix.toarray().tolist(), samples)
    assert matrix.toarray().tolist() == [[0.5, 0], [7, 0], [0, 0.25]]
    assert samples == [{1: 0.5}, {0: 7.0}, {1: 0.25}]
PY
"$folder/venv/bin/python" "$folder/see.py" "$folder/data.svm"
