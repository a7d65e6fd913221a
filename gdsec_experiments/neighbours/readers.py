"""LIBSVM files as five readers take them: what each makes of the same bytes."""

import contextlib
import io
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy

from gdsec_experiments import neighbours
from gdsec_jax import data

# The file's bytes, and what a person reads in it: the targets, and of every sample the
# features by the index that stands there.
Meant = tuple[list[float], list[dict[int, float]]]
PLAIN: Meant = ([1.0, -1.0], [{1: 0.5, 3: 2.0}, {2: 1.0}])
FILES: dict[str, tuple[bytes, Meant]] = {
    "from index 1": (b"+1 1:0.5 3:2\n-1 2:1\n", PLAIN),
    "from index 0": (
        b"1 0:0.5 2:2\n-1 1:1\n",
        ([1.0, -1.0], [{0: 0.5, 2: 2.0}, {1: 1.0}]),
    ),
    "index 0 in the second line": (
        b"1 1:0.5 3:2\n-1 0:1\n",
        ([1.0, -1.0], [{1: 0.5, 3: 2.0}, {0: 1.0}]),
    ),
    "a comment behind a sample": (b"1 1:0.5 3:2 # first\n-1 2:1\n", PLAIN),
    "a comment of its own line": (b"# two samples\n1 1:0.5 3:2\n-1 2:1\n", PLAIN),
    "qid": (b"1 qid:7 1:0.5 3:2\n-1 qid:8 2:1\n", PLAIN),
    "an index twice": (b"1 1:0.5 1:4 3:2\n-1 2:1\n", PLAIN),
    "indices that fall": (b"1 3:2 1:0.5\n-1 2:1\n", PLAIN),
    "a zero that is written": (
        b"1 1:0.5 2:0 3:2\n-1 2:1\n",
        (PLAIN[0], [{1: 0.5, 2: 0.0, 3: 2.0}, {2: 1.0}]),
    ),
    "1e-400": (
        b"1 1:0.5 2:1e-400 3:2\n-1 2:1\n",
        (PLAIN[0], [{1: 0.5, 2: 0.0, 3: 2.0}, {2: 1.0}]),
    ),
    "1e-310": (
        b"1 1:0.5 2:1e-310 3:2\n-1 2:1\n",
        (PLAIN[0], [{1: 0.5, 2: 1e-310, 3: 2.0}, {2: 1.0}]),
    ),
    "17 digits": (
        b"1 1:0.30000000000000004 3:2\n-1 2:1\n",
        (PLAIN[0], [{1: 0.1 + 0.2, 3: 2.0}, {2: 1.0}]),
    ),
    "inf": (
        b"1 1:0.5 3:inf\n-1 2:1\n",
        (PLAIN[0], [{1: 0.5, 3: float("inf")}, {2: 1.0}]),
    ),
    "nan": (
        b"1 1:0.5 3:nan\n-1 2:1\n",
        (PLAIN[0], [{1: 0.5, 3: float("nan")}, {2: 1.0}]),
    ),
    "1e40": (
        b"1 1:0.5 3:1e40\n-1 2:1\n",
        (PLAIN[0], [{1: 0.5, 3: 1e40}, {2: 1.0}]),
    ),
    "spaces at the end": (b"1 1:0.5 3:2  \n-1 2:1 \n", PLAIN),
    "tabs": (b"1\t1:0.5\t3:2\n-1\t2:1\n", PLAIN),
    "CRLF": (b"1 1:0.5 3:2\r\n-1 2:1\r\n", PLAIN),
    "no end of the last line": (b"1 1:0.5 3:2\n-1 2:1", PLAIN),
    "a sample of zeros": (
        b"1 1:0.5 3:2\n2\n-1 2:1\n",
        ([1.0, 2.0, -1.0], [{1: 0.5, 3: 2.0}, {}, {2: 1.0}]),
    ),
    "an empty line": (b"1 1:0.5 3:2\n\n-1 2:1\n", PLAIN),
    "a decimal comma": (b"1 1:0,5 3:2\n-1 2:1\n", PLAIN),
    "several targets": (b"1,2 1:0.5 3:2\n-1 2:1\n", PLAIN),
}
HEADER = (
    "the file",
    "ours",
    "scikit-learn",
    "libsvm's and liblinear's Python",
    "libsvm's svm-train",
    "XGBoost",
)


class Read(NamedTuple):
    """What a reader gives."""

    targets: list[float] | None  # None where it does not say
    samples: list[dict[int, float]]  # by column
    first: int | None = None  # the index of the first column, if the reader says it


def caption() -> str:
    """Where the readers are from."""
    names = "gdsec-jax", "scikit-learn", "libsvm-official", "liblinear-official"
    return (
        "Whether a reader takes what the line says, or what else; "
        + neighbours.versions(*names, "xgboost-cpu")
        + ", svm-train of Debian's libsvm-tools 3.24. liblinear's Python reader is the "
        "same file as libsvm's. Of svm-train the support vectors are what is seen, "
        "without targets and with 8 digits; XGBoost keeps float32, and has a column "
        "for the index 0 always."
    )


def _rows(matrix: Any) -> list[dict[int, float]]:
    matrix = scipy.sparse.csr_array(matrix)
    bounds = zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True)
    return [
        dict(zip(matrix.indices[a:b].tolist(), matrix.data[a:b].tolist(), strict=True))
        for a, b in bounds
    ]


def ours(path: Path) -> Read:
    """`data.read_libsvm`."""
    read = data.read_libsvm(path)
    return Read(read.targets.tolist(), _rows(read.features))


def scikit_learn(path: Path) -> Read:
    """`load_svmlight_file`, with its defaults."""
    from sklearn.datasets import load_svmlight_file

    features, targets = load_svmlight_file(str(path))[:2]
    return Read(targets.tolist(), _rows(features))


def libsvm(path: Path) -> Read:
    """`svm_read_problem` of libsvm, as SciPy's matrix."""
    module = neighbours.needed("libsvm.commonutil")
    targets, features = module.svm_read_problem(str(path), return_scipy=True)
    return Read(targets.tolist(), _rows(features))


def svm_train(path: Path) -> Read:
    """libsvm's command: of one class with nu = 1 every sample is a support vector."""
    program = os.environ.get("SVM_TRAIN") or shutil.which("svm-train")
    if program is None:
        raise neighbours.Skipped("svm-train of libsvm-tools is not installed")
    with tempfile.NamedTemporaryFile("r") as model:
        command = [program, "-q", "-s", "2", "-t", "0", "-n", "1", path, model.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.strip() or f"exit status {done.returncode}")
        vectors = model.read().partition("SV\n")[2].splitlines()
    split = [[part.split(":") for part in line.split()[1:]] for line in vectors]
    return Read(None, [{int(i): float(x) for i, x in line} for line in split], 0)


def xgboost(path: Path) -> Read:
    """`DMatrix` of a file, which takes every index for one from 0."""
    made = neighbours.needed("xgboost")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        matrix = made.DMatrix(f"{path}?format=libsvm", nthread=1)
    return Read(matrix.get_label().tolist(), _rows(matrix.get_data()), 0)


READERS: tuple[Callable[[Path], Read], ...] = (
    ours,
    scikit_learn,
    libsvm,
    svm_train,
    xgboost,
)


def _as_float32(x: float) -> Any:
    with np.errstate(over="ignore"):
        return np.float64(x).astype(np.float32)


# What of a float64 a reader keeps, or shows.
_KEEPS: dict[Callable, Callable[[float], Any]] = {
    svm_train: lambda x: f"{x:.8g}",
    xgboost: _as_float32,
}


def verdict(reader: Callable[[Path], Read], content: bytes, meant: Meant) -> str:
    """How a reader's result differs from what is meant, in words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.libsvm")
        path.write_bytes(content)
        try:
            read = reader(path)
        except neighbours.Skipped:
            raise
        except Exception:
            return "refused"
    targets, samples = meant
    base = 0 if any(0 in sample for sample in samples) else 1
    shifts = (base, 0, 1)
    if len(read.samples) != len(samples):
        return f"{len(read.samples)} samples"
    said = []
    if read.targets not in (None, targets):
        said.append(f"targets {', '.join(f'{x:g}' for x in read.targets or ())}")
    keeps = _KEEPS.get(reader, float)
    expected = [{i: float(keeps(x)) for i, x in x.items()} for x in samples]
    if read.first is not None:
        base, shifts = read.first, (read.first,)
    for shift in shifts:
        found = [{i + shift: x for i, x in sample.items()} for sample in read.samples]
        if repr(_plain(found)) == repr(_plain(expected)):
            if shift != base:
                said.append("columns from index " + "10"[base])
            written = sum(map(len, expected)) - sum(
                len(_plain([x])[0]) for x in samples
            )
            kept = sum(map(len, found)) - sum(map(len, _plain(found)))
            if written and not kept:
                said.append("the zero is dropped")
            return "; ".join(said) or "as meant"
    shown = "; ".join(
        " ".join(f"{i + base}:{x:.6g}" for i, x in sample.items()) or "nothing"
        for sample in read.samples
    )
    return "; ".join([*said, f"reads `{shown}`"])


def _plain(samples: list[dict[int, float]]) -> list[dict[int, float]]:
    return [{i: x for i, x in sorted(sample.items()) if x} for sample in samples]


def rows() -> list[tuple[str, ...]]:
    """A row a file."""
    return [
        (name, *(verdict(reader, *case) for reader in READERS))
        for name, case in FILES.items()
    ]
