#!/bin/sh
# Guess: what sklearn.datasets.dump_svmlight_file writes, load_svmlight_file reads back as
# the same float64 numbers: Python's repr is exact, and so is the JSON of other tools.
# Seen: values are written with 16 significant digits, one too few. 0.1 + 0.2 comes back
# as 0.3, and of random numbers nearly half come back as a neighbour. Targets likewise.
# repr, or %.17g, in a few lines of one's own keeps every bit.
# Versions: scikit-learn 1.9.1, numpy 2.4.6, scipy 1.17.1, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "scikit-learn==1.9.1" "numpy==2.4.6" "scipy==1.17.1"
cat > "$folder/seen.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

path = sys.argv[1]
print(*(f"{name} {version(name)}" for name in ("scikit-learn", "numpy", "scipy")))
features = np.random.default_rng(0).standard_normal((1000, 10))
features[0, 0] = 0.1 + 0.2
targets = features[:, 1] * 3
dump_svmlight_file(features, targets, path)
again, targets_again = load_svmlight_file(path, n_features=10)
print("written as", open(path).readline().split()[1], "for", repr(float(features[0, 0])))
others = (again.toarray() != features).mean()
others_of_targets = (targets_again != targets).mean()
print(f"of the features {others:.0%}, of the targets {others_of_targets:.0%} differ")
assert again[0, 0] == 0.3 != features[0, 0]
assert 0.3 < others < 0.7 and 0.3 < others_of_targets < 0.7
PY
"$folder/env/bin/python" "$folder/seen.py" "$folder/data.svm"
