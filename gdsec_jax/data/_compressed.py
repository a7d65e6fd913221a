"""Files that may be compressed, recognised by their first bytes."""

import bz2
import contextlib
import gzip
import hashlib
import io
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


# Of decompressed bytes: tables of numbers shrink less than a hundredfold.
_MOST_TIMES = 200
_ANYWAY = 2**28


def most_bytes(path: Path) -> int:
    """How many bytes a compressed file may hold: one with more is a trap."""
    return max(_ANYWAY, _MOST_TIMES * path.stat().st_size)


class _Limited(io.RawIOBase):
    """A stream that fails where it would yield more bytes than a limit."""

    def __init__(self, stream: IO[bytes], most: int):
        self._stream, self._most, self._read = stream, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = self._stream.read(len(buffer))
        self._read += len(piece)
        if self._read > self._most:
            raise OSError(
                f"it holds more than {self._most:,} bytes, expected fewer of a file of "
                "its size: decompress it if you trust it"
            )
        buffer[: len(piece)] = piece
        return len(piece)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open ``path`` for its decompressed bytes, at most `most_bytes` of them."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with path.open("rb") as raw:
            head = raw.read(max(map(len, _OPENERS)))
        opener = next((_OPENERS[m] for m in _OPENERS if head.startswith(m)), open)
        with opener(path, "rb") as stream:
            if opener is open:
                yield stream
            else:
                yield io.BufferedReader(_Limited(stream, most_bytes(path)), 2**20)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise OSError(
            f"{str(path)!r} cannot be read to its end, expected a whole plain, gzip, "
            f"bzip2 or xz file ({error})"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of the decompressed content, read in pieces."""
    with opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
