"""Files that may be compressed, recognised by their first bytes."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

SUFFIXES = (".gz", ".bz2", ".xz")

# The content decides, not the name: servers and users rename files.
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for reading its decompressed bytes.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read or decompressed to its end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with path.open("rb") as raw:
            head = raw.read(max(map(len, _OPENERS)))
        opener = next((_OPENERS[m] for m in _OPENERS if head.startswith(m)), open)
        with opener(path, "rb") as stream:
            yield stream
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise OSError(
            f"{str(path)!r} cannot be read to its end, expected a whole plain, gzip, "
            f"bzip2 or xz file ({error})"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of the decompressed content, read in pieces."""
    digest = hashlib.sha256()
    with opened(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
