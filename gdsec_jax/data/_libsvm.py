"""LIBSVM files: the reader, and a writer that keeps every bit of a float64."""

import os
from collections.abc import Iterator
from typing import IO

import numpy as np
import scipy

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked
from gdsec_jax.files import _whole


def read_libsvm(
    path: str | os.PathLike[str],
    num_features: int | None = None,
    *,
    zero_based: bool | None = None,
) -> Dataset:
    """Read a LIBSVM file, compressed or not, as a sparse data set.

    A line is ``label index:value index:value ...`` with increasing indices. A test file
    is read as its training file was with ``read_libsvm(path, **train.read_as)``.

    Args:
      path: the file; gzip, bzip2 and xz are recognised by their first bytes.
      num_features: D; the largest index by default, too small for many a test file.
      zero_based: whether the first feature's index is 0, and not 1. None takes it for 1
        unless an index 0 occurs, which it need not in a file that starts at 0.

    Returns:
      The data set, features as a float64 CSR array [N, D], targets float64 [N].

    Raises:
      FileNotFoundError, OSError: as `read`.
      ValueError: the content is not LIBSVM text, holds no sample or a number that
        is not finite, or has an index that does not fit ``num_features`` or
        ``zero_based``.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from gdsec_jax.data import read_libsvm
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "toy.libsvm")
      ...     _ = path.write_text("+1 1:0.5 3:2\\n-1 2:1\\n")
      ...     toy = read_libsvm(path, num_features=4)
      >>> toy.features.shape, toy.targets
      ((2, 4), array([ 1., -1.]))
      >>> toy.read_as
      {'num_features': 4, 'zero_based': False}

    References:
      Chang and Lin, LIBSVM: a library for support vector machines, 2011.
    """
    from sklearn import datasets

    path = _checks.path(path)
    if num_features is not None:
        num_features = _checks.integer("num_features", num_features, 1)
    if not (zero_based is None or isinstance(zero_based, bool)):
        raise ValueError(f"zero_based is {zero_based!r}, expected True, False or None.")
    with _compressed.opened(path) as stream:
        lines = _Lines(stream)
        try:
            features, targets = datasets.load_svmlight_file(  # pyright: ignore
                lines,  # pyright: ignore
                dtype=np.float64,
                zero_based=zero_based is not False,  # pyright: ignore
            )
        except (ValueError, IndexError, OverflowError) as error:
            raise ValueError(
                f"{str(path)!r} is not a LIBSVM file at line {lines.number}, expected "
                f"'label index:value ...' with increasing indices ({error})"
            ) from error
    features = scipy.sparse.csr_array(features)
    if zero_based is None:
        zero_based = bool((features.indices == 0).any())
        if not zero_based:
            shifted = features.data, features.indices - 1, features.indptr
            shape = features.shape[0], max(1, features.shape[1] - 1)
            features = scipy.sparse.csr_array(shifted, shape)
    found = features.shape[1]
    if num_features is not None and found > num_features:
        raise ValueError(
            f"{str(path)!r} has the index {found - zero_based}, expected a LIBSVM file "
            f"with at most {num_features} features, the first of index "
            f"{1 - zero_based}"
        )
    features.resize(features.shape[0], num_features or found)
    read_as = {"num_features": features.shape[1], "zero_based": zero_based}
    return checked(path.name, features, targets, read_as)


class _Lines:
    """The lines of a file, and the number of the one that is read."""

    number = 0

    def __init__(self, stream: IO[bytes]):
        self.read, self._stream = stream.read, stream

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self.number += 1
            # Python's own spelling of numbers, 1_000, is nobody else's.
            if b"_" in line and b"_" in line.partition(b"#")[0]:
                raise ValueError("a number has the character _")
            yield line


def write_libsvm(
    path: str | os.PathLike[str], data: Dataset, *, zero_based: bool = False
) -> None:
    """Write a LIBSVM file, whole or not at all.

    A number is written with the fewest digits that are read as the same float64, 17 at
    most. Zeros are left out, so a reader may need ``num_features``.

    Args:
      path: the file; read it with a suffix of LIBSVM's, or with `read_libsvm`.
      data: samples and targets, dense or sparse.
      zero_based: whether the first feature's index is 0, and not 1.

    Raises:
      OSError: the file cannot be written.
      ValueError: the data are not finite numbers [N, D] and [N].

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from gdsec_jax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "third.svm")
      ...     x, y = np.array([[1 / 3, 0.0, 5e-324]]), np.array([1])
      ...     data.write_libsvm(path, data.Dataset("third", x, y))
      ...     path.read_text()
      '1 1:0.3333333333333333 3:5e-324\\n'
    """
    path = _checks.path(path)
    _checks.of_kind("zero_based", zero_based, bool, "True or False")
    _checks.of_kind("data", data, Dataset, "a data.Dataset")
    _, features, targets, _ = checked(data.name, data.features, data.targets)
    rows = scipy.sparse.csr_array(features)
    columns, first = rows.indices + (not zero_based), rows.indptr
    with _whole.whole(path) as temporary, temporary.open("w") as file:
        for n, target in enumerate(targets.tolist()):
            own = slice(first[n], first[n + 1])
            entries = zip(columns[own].tolist(), rows.data[own].tolist(), strict=True)
            file.write(" ".join([repr(target), *(f"{i}:{x!r}" for i, x in entries)]))
            file.write("\n")
