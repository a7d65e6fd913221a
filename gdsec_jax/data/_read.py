"""One reader for every table format, chosen by the suffix."""

import os
from pathlib import Path

from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset
from gdsec_jax.data._libsvm import read_libsvm
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

    ====================================== =========================================
    suffix                                 content
    ====================================== =========================================
    .npz                                   arrays ``features`` and ``targets``, or
                                           ``X`` and ``y``
    .csv                                   comma-separated numbers; the first line
                                           is a header if no cell of it is a number
    .libsvm .svm .txt .scale .binary .t    LIBSVM, read as sparse features
    .tr .val or none
    ====================================== =========================================

    CSV and LIBSVM files may be compressed, with .gz, .bz2 or .xz appended.

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
