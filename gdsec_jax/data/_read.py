"""The reader of every format, which a file's start or suffix names."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._arrays import is_idx, read_idx_pair, read_npz
from gdsec_jax.data._csv import read_csv
from gdsec_jax.data._dataset import Dataset
from gdsec_jax.data._libsvm import read_libsvm

# Beside its own suffixes, those of the files on the LIBSVM site.
_LIBSVM = ("", ".libsvm", ".svm", ".txt", ".scale", ".binary", ".t", ".tr", ".val")
_OF_SUFFIX = {".npz": read_npz, ".csv": read_csv} | dict.fromkeys(_LIBSVM, read_libsvm)
_IN_WORDS = {
    read_csv: "a CSV file",
    read_libsvm: "a LIBSVM file",
    read_npz: "an NPZ archive",
    read_idx_pair: "an IDX file",
}


def read(
    path: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    num_features: int | None = None,
    header: bool | None = None,
    index: str | int | bool | None = None,
    features: str | None = None,
    zero_based: bool | None = None,
) -> Dataset:
    """Read a data set from a file in the format that its suffix names.

    An .npz file is read by `read_npz`, a .csv file by `read_csv`, one with .libsvm,
    .svm, .txt, .scale, .binary, .t, .tr, .val or no suffix by `read_libsvm`. These read
    files of any name. CSV and LIBSVM files may be compressed, with .gz, .bz2 or .xz
    appended. An IDX file, of images say, is known by its first bytes; its samples are
    made flat.

    Args:
      path: the file.
      target: of CSV the target's column, by name or by number from 0; of NPZ the
        array's name; of IDX the file of the targets, seen from the folder of `path`.
      num_features: of LIBSVM, D.
      header: of CSV, whether the first line is the columns' names.
      index: of CSV, a column that is left out, by name or by number; False for none.
      features: of NPZ, the array's name.
      zero_based: of LIBSVM, whether the first feature's index is 0, and not 1.

    Returns:
      The data set, named after the file. `read_as` has the options of its format with
      what was given or decided: ``read(another, **data.read_as)`` reads alike.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the file cannot be decompressed.
      ValueError: the suffix is unknown, an option does not belong to the format, or the
        content is not in the format.

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
      >>> houses.read_as
      {'header': True, 'target': 'price', 'index': False}
    """
    given = {
        "target": target,
        "num_features": num_features,
        "header": header,
        "index": index,
        "features": features,
        "zero_based": zero_based,
    }
    path = _checks.path(path)
    reader = _reader_of(path)
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if name not in inspect.signature(reader).parameters:
            formats = [
                words
                for each, words in _IN_WORDS.items()
                if name in inspect.signature(each).parameters
            ]
            raise ValueError(
                f"{name} is {value!r} for {str(path)!r}, expected it only for "
                f"{' or '.join(formats)}"
            )
    return reader(path, **options)


def _reader_of(path: Path) -> Callable[..., Dataset]:
    if is_idx(path):
        return read_idx_pair
    inner = path.with_suffix("") if path.suffix in _compressed.SUFFIXES else path
    suffix = inner.suffix.lower()
    if suffix not in _OF_SUFFIX:
        raise ValueError(
            f"{str(path)!r} has the suffix {suffix!r}, expected .npz, .csv, none, or "
            f"one of {', '.join(_LIBSVM[1:])}; data.read_csv, data.read_libsvm, "
            "data.read_npz and data.read_idx read files of any name"
        )
    return _OF_SUFFIX[suffix]
