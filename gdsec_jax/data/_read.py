"""Readers: of every table format by its suffix, of LIBSVM, and of IDX files."""

import math
import os
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked
from gdsec_jax.data._tables import read_csv, read_npz

# Beside its own suffixes, those of the files on the LIBSVM site.
_LIBSVM = ("", ".libsvm", ".svm", ".txt", ".scale", ".binary", ".t", ".tr", ".val")
# Of IDX files.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 32  # what every supported NumPy can hold


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


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one array from an IDX file, compressed or not.

    The file is two zero bytes, a byte for the element type, one for the number of
    dimensions, each as a big-endian uint32, then the elements in row order, big-endian.
    No more is allocated than the file holds, whatever its header claims.

    Args:
      path: the file; gzip, bzip2 and xz are recognised by their first bytes.

    Returns:
      The array, in the dtype of the file and native byte order.

    Raises:
      FileNotFoundError, OSError: as `read`.
      ValueError: the content is not one whole IDX array.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from gdsec_jax.data import read_idx
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "labels-idx1-ubyte")
      ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
      ...     read_idx(path)
      array([7, 2, 1], dtype=uint8)

    References:
      LeCun, Cortes and Burges, The MNIST database, 1998.
    """
    path = Path(path)
    with _compressed.opened(path) as stream:
        content = stream.read()
    if content[:2] != b"\x00\x00" or len(content) < 4 or content[2] not in _DTYPES:
        codes = ", ".join(f"{code:02x}" for code in _DTYPES)
        raise ValueError(
            f"{str(path)!r} starts with the bytes '{content[:4].hex()}', expected an "
            f"IDX magic number: 0000, one of {codes}, and the number of dimensions"
        )
    dtype, num_dimensions = np.dtype(_DTYPES[content[2]]), content[3]
    start = 4 + 4 * num_dimensions
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise ValueError(
            f"{str(path)!r} declares {num_dimensions} dimensions, expected 1 to "
            f"{_MAX_DIMENSIONS}"
        )
    if len(content) < start:
        raise ValueError(
            f"{str(path)!r} ends within its IDX header, expected "
            f"{num_dimensions} dimensions of 4 bytes"
        )
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if 0 in shape:
        raise ValueError(f"{str(path)!r} declares shape {shape}, expected no zero")
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - start
    if found != expected:
        got = f"only {found}" if found < expected else f"more than {expected}"
        raise ValueError(
            f"{str(path)!r} holds {got} bytes after its IDX header, expected "
            f"{expected} for shape {shape}"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
