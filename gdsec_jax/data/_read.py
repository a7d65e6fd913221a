"""Readers of LIBSVM files, and of every table format by its suffix."""

import os
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked
from gdsec_jax.data._tables import read_csv, read_npz

# Beside its own suffixes, those of the files on the LIBSVM site.
_LIBSVM = ("", ".libsvm", ".svm", ".txt", ".scale", ".binary", ".t", ".tr", ".val")


def read(
    path: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    num_features: int | None = None,
) -> Dataset:
    """Read a data set from a file in the format its suffix names.

    An .npz file has the arrays ``features`` and ``targets``, or ``X`` and ``y``. A .csv
    file has comma-separated numbers; the first line is a header if no cell of it is a
    number. With .libsvm, .svm, .txt, .scale, .binary, .t, .tr, .val or no suffix it is
    LIBSVM, read as sparse features. CSV and LIBSVM files may be compressed, with .gz,
    .bz2 or .xz appended.

    Args:
      path: the file.
      target: for CSV, the target's column by name or by index from 0; the last by
        default.
      num_features: for LIBSVM, D; the largest index in the file by default.

    Returns:
      The data set, named after the file.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the file cannot be decompressed.
      ValueError: the suffix is unknown, an argument does not belong to the format,
        or the content is not in the format.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from gdsec_jax.data import read
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "houses.csv")
      ...     _ = path.write_text("price,rooms,area\\n300,4,90\\n250,3,70\\n")
      ...     houses = read(path, target="price")
      >>> houses.features.shape, houses.targets
      ((2, 2), array([300., 250.]))
    """
    path = Path(path)
    inner = path.with_suffix("") if path.suffix in _compressed.SUFFIXES else path
    suffix = inner.suffix.lower()
    if suffix not in (".npz", ".csv", *_LIBSVM):
        raise ValueError(
            f"{str(path)!r} has the suffix {suffix!r}, expected .npz, .csv, none, or "
            f"one of {', '.join(_LIBSVM[1:])}"
        )
    if target is not None and suffix != ".csv":
        raise ValueError(
            f"target is {target!r} for {str(path)!r}, expected it only for a CSV file"
        )
    if num_features is not None and suffix not in _LIBSVM:
        raise ValueError(
            f"num_features is {num_features!r} for {str(path)!r}, expected it only "
            "for a LIBSVM file"
        )
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".csv":
        return read_csv(path, target)
    return read_libsvm(path, num_features)


def read_libsvm(
    path: str | os.PathLike[str], num_features: int | None = None
) -> Dataset:
    """Read a LIBSVM file, compressed or not, as a sparse data set.

    A line is ``label index:value index:value ...`` with increasing indices that
    start at 1; a file in which an index 0 occurs is taken to start at 0.

    Args:
      path: the file; gzip, bzip2 and xz are recognised by their first bytes.
      num_features: D; the largest index by default, too small for many a test file.

    Returns:
      The data set, features as a float64 CSR array [N, D], targets float64 [N].

    Raises:
      FileNotFoundError, OSError: as `read`.
      ValueError: the content is not LIBSVM text, holds no sample or a number that
        is not finite, or has an index above ``num_features``.

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

    References:
      Chang and Lin, LIBSVM: a library for support vector machines, 2011.
    """
    from sklearn import datasets

    path = Path(path)
    if num_features is not None:
        num_features = _checks.integer("num_features", num_features, 1)
    with _compressed.opened(path) as stream:
        try:
            features, targets = datasets.load_svmlight_file(  # pyright: ignore
                stream, n_features=num_features, dtype=np.float64
            )
        except (ValueError, IndexError, OverflowError) as error:
            raise ValueError(
                f"{str(path)!r} is not a LIBSVM file of lines 'label index:value ...' "
                f"with at most {num_features or 'any number of'} features ({error})"
            ) from error
    return checked(path.name, features, targets)
