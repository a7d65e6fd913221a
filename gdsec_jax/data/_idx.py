"""The IDX format of MNIST."""

import math
import os
from pathlib import Path

import numpy as np

from gdsec_jax.data import _compressed

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
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
