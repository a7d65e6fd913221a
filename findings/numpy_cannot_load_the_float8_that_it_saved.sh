#!/bin/sh
# Guess: what np.save writes, np.load reads, or np.save refuses it: a dtype of ml_dtypes, as JAX
# arrays in bfloat16 or float8 have it, comes back, or as bytes of the same width.
# Seen: three ends. bfloat16 and float8_e4m3fn come back as void, |V2 and |V1, from which a view
# gets the numbers back. float8_e5m2 is saved without a word as '<f1', which NumPy itself does
# not know: np.load raises, with and without pickles, and np.savez's archive, too. np.savez of
# several arrays loses only that one, when it is looked at. A view as uint8 before saving helps.
# Versions: NumPy 2.4.6, ml_dtypes 0.6.0, Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 ml_dtypes==0.6.0
cat > "$folder/see.py" <<'PY'
import io

import ml_dtypes
import numpy as np

print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)


def saved(array, save=np.save):
    file = io.BytesIO()
    save(file, array)
    file.seek(0)
    return file


seen = {}
for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
    array = np.ones(3, getattr(ml_dtypes, name))
    for pickles in (False, True):
        try:
            again = np.load(saved(array), allow_pickle=pickles)
            assert again.view(array.dtype).tolist() == [1, 1, 1]
            seen[name, pickles] = again.dtype.str
        except ValueError as error:
            seen[name, pickles] = str(error)
        print(f"{name}, allow_pickle={pickles}: {seen[name, pickles]}")
array = np.ones(3, ml_dtypes.float8_e5m2)
archive = np.load(saved(array, lambda f, x: np.savez(f, x=x, y=np.arange(2))))
assert archive["y"].tolist() == [0, 1]
try:
    archive["x"]
    raise SystemExit("read")
except ValueError as error:
    print("np.savez:", error)
assert np.load(saved(array.view("u1"))).view(array.dtype).tolist() == [1, 1, 1]
for pickles in (False, True):
    assert (seen["bfloat16", pickles], seen["float8_e4m3fn", pickles]) == ("|V2", "|V1")
    assert "not a valid dtype descriptor" in seen["float8_e5m2", pickles]
PY
"$folder/venv/bin/python" "$folder/see.py"
