"""Readers of arrays: IDX files, with one each, and NPZ archives."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Of IDX files.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAMES = (("features", "targets"), ("X", "y"))  # of NPZ archives
_MAX_DIMENSIONS = 32  # what every supported NumPy can hold


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
    path = _checks.path(path)
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


def is_idx(path: Path) -> bool:
    """Whether a file starts as an IDX file does, whatever its name."""
    with _compressed.opened(path) as stream:
        start = stream.read(3)
    return start[:2] == b"\0\0" and start[2:] in [bytes([code]) for code in _DTYPES]


def read_idx_pair(path: Path, *, target: str | None = None) -> Dataset:
    """Read an IDX file of features, made flat, and one of targets in its folder."""
    array = read_idx(path)
    if not isinstance(target, str):
        raise ValueError(
            f"{str(path)!r} is an IDX file, an array of shape {array.shape}, expected "
            "target, the IDX file of its targets; data.read_idx reads one array"
        )
    features, targets = array.reshape(len(array), -1), read_idx(path.parent / target)
    return checked(path.name, features, targets, {"target": target})


def read_npz(
    path: str | os.PathLike[str],
    *,
    features: str | None = None,
    target: str | None = None,
) -> Dataset:
    """Read a data set from two arrays of an NPZ archive.

    Args:
      path: the file.
      features: name of the array [N, D]; ``features`` or ``X`` by default.
      target: name of the array [N]; ``targets`` or ``y`` by default, in this order.

    Returns:
      The data set, named after the file, features float64, targets float64 or int64.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no archive of plain arrays of real numbers, or lacks those.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from gdsec_jax.data import read_npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "toy.npz")
      ...     np.savez(path, x_train=np.eye(2), y_train=np.array([1, 2]))
      ...     read_npz(path, features="x_train", target="y_train").targets
      array([1, 2])
    """
    path = _checks.path(path)
    for name, value in (("features", features), ("target", target)):
        _checks.instance(name, value, str, "an array's name")
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
    pairs = [(features or x, target or y) for x, y in _NAMES]
    for x, y in pairs:
        if x in arrays and y in arrays:
            read_as = {"features": x, "target": y}
            return checked(path.name, arrays[x], arrays[y], read_as)
    wanted = dict.fromkeys(f"{x} and {y}" for x, y in pairs)
    raise ValueError(
        f"{str(path)!r} holds the arrays {', '.join(arrays) or '(none)'}, expected "
        f"{', or '.join(wanted)}: features and target name others"
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
