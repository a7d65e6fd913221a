"""Readers: of every table format by its suffix, of LIBSVM, and of IDX files."""

import csv
import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked

# Beside its own suffixes, those of the files on the LIBSVM site.
_LIBSVM = ("", ".libsvm", ".svm", ".txt", ".scale", ".binary", ".t", ".tr", ".val")
_NPZ_NAMES = (("features", "targets"), ("X", "y"))
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
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
        return _read_npz(path)
    if suffix == ".csv":
        return _read_csv(path, target)
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


def _read_npz(path: Path) -> Dataset:
    """Read the arrays ``features`` and ``targets`` (or ``X`` and ``y``)."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with path.open("rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                _check_sizes(archive, _compressed.most_bytes(path))
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    # Of a damaged archive's errors some are documented nowhere: RuntimeError if a bit
    # says that it is encrypted, TokenError or MemoryError for an array's header.
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{str(path)!r} is not an NPZ archive of plain arrays ({why})"
        ) from error
    for features, targets in _NPZ_NAMES:
        if features in arrays and targets in arrays:
            return checked(path.name, arrays[features], arrays[targets])
    raise ValueError(
        f"{str(path)!r} holds the arrays {', '.join(arrays) or '(none)'}, expected "
        "features and targets, or X and y"
    )


def _check_sizes(archive: zipfile.ZipFile, most: int) -> None:
    """The arrays are as large as their files, which are not too large.

    NumPy allocates what an array's header claims.
    """
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > most:
        raise ValueError(
            f"it claims {total:,} bytes, expected at most {most:,} of a file of its "
            "size: numpy.savez writes larger ones"
        )
    for member in members:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADERS:
                raise ValueError(f"{member.filename} is no plain array")
            shape, _, dtype = _HEADERS[version](stream)
            size = stream.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python's objects")
        if size != member.file_size:
            raise ValueError(
                f"{member.filename} holds {member.file_size} bytes, expected {size} "
                f"for the shape {shape}"
            )


def _read_csv(path: Path, target: str | int | None) -> Dataset:
    """Read comma-separated numbers; ``target`` is a column's name or index."""
    header, table = _numbers(path)
    column = _target_column(path, header, table.shape[1], target)
    features = np.delete(table, column, axis=1)
    return checked(path.name, features, table[:, column])


def _numbers(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the header, empty where there is none, and the numbers below it."""
    header: list[str] = []
    rows: list[list[float | None]] = []
    width = 0
    with _compressed.opened(path) as stream:
        # Undecodable bytes become cells that are not numbers, and are reported so.
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        lines = csv.reader(text)
        try:
            for cells in lines:
                if not any(cell.strip() for cell in cells):
                    continue
                row = [_number(cell) for cell in cells]
                if not width:
                    width = len(cells)
                    if not any(value is not None for value in row):
                        header = [cell.strip() for cell in cells]
                        continue
                if len(cells) != width:
                    raise ValueError(
                        f"line {lines.line_num} of {str(path)!r} has {len(cells)} "
                        f"cells, expected {width} as in its first line"
                    )
                if None in row:
                    column = row.index(None)
                    raise ValueError(
                        f"line {lines.line_num}, column {column + 1} of {str(path)!r} "
                        f"is {cells[column]!r}, expected a finite number"
                    )
                rows.append(row)
        except csv.Error as error:
            raise ValueError(
                f"{str(path)!r} is not a CSV file at line {lines.line_num} ({error})"
            ) from error
    if not rows:
        raise ValueError(f"{str(path)!r} holds no row of numbers, expected at least 1")
    return header, np.array(rows, np.float64)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _target_column(
    path: Path, header: list[str], width: int, target: str | int | None
) -> int:
    if target is None:
        return width - 1
    if isinstance(target, str):
        if target not in header:
            raise ValueError(
                f"{str(path)!r} has no column {target!r}, expected one of "
                f"{', '.join(header) or '(none: the file has no header)'}"
            )
        return header.index(target)
    name = f"target, a column of {str(path)!r},"
    return _checks.integer(name, target, -width, width - 1) % width
