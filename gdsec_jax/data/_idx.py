"""The IDX format of MNIST."""

import math
import os
from pathlib import Path
from typing import IO

import numpy as np

from gdsec_jax.data import _compressed

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 32  # what every supported NumPy can hold
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one array from an IDX file, compressed or not.

    The file is two zero bytes, a byte for the element type, a byte for the number
    of dimensions, each dimension as a big-endian uint32, then the elements in row
    order, big-endian. No more is allocated than the file holds, whatever its
    header claims.

    Args:
      path: the file; gzip, bzip2 and xz are recognised by their first bytes.

    Returns:
      The array, in the dtype of the file and native byte order.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the file cannot be decompressed.
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
        dtype, shape = _header(path, stream)
        expected = math.prod(shape) * dtype.itemsize
        data = _at_most(stream, expected + 1)
    if len(data) != expected:
        got = f"only {len(data)}" if len(data) < expected else f"more than {expected}"
        raise ValueError(
            f"{str(path)!r} holds {got} bytes after its IDX header, expected "
            f"{expected} for shape {shape}"
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _header(path: Path, stream: IO[bytes]) -> tuple[np.dtype, tuple[int, ...]]:
    magic = _at_most(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in _DTYPES:
        codes = ", ".join(f"{code:02x}" for code in _DTYPES)
        raise ValueError(
            f"{str(path)!r} starts with the bytes '{magic.hex()}', expected an IDX "
            f"magic number: 0000, one of {codes}, and the number of dimensions"
        )
    num_dimensions = magic[3]
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise ValueError(
            f"{str(path)!r} declares {num_dimensions} dimensions, expected 1 to "
            f"{_MAX_DIMENSIONS}"
        )
    sizes = _at_most(stream, 4 * num_dimensions)
    if len(sizes) < 4 * num_dimensions:
        raise ValueError(
            f"{str(path)!r} ends within its IDX header, expected "
            f"{num_dimensions} dimensions of 4 bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if 0 in shape:
        raise ValueError(f"{str(path)!r} declares shape {shape}, expected no zero")
    return np.dtype(_DTYPES[magic[2]]), shape


def _at_most(stream: IO[bytes], size: int) -> bytes:
    # stream.read(size) may allocate `size` bytes before it reads the first one.
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(min(_CHUNK, size - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)
