"""Files are written whole or not at all."""

import concurrent.futures
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it when the block ends well.

    If the block fails nothing is left behind, and what stood at `path` still does. What
    was written is on the disk when the block is left: a power loss takes nothing of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(*paths: Path) -> None:
    """Force files, and the names in folders, onto the disk."""
    # All at once: one after the other each would wait for the disk anew.
    with concurrent.futures.ThreadPoolExecutor() as threads:
        list(threads.map(_sync_one, paths))


def _sync_one(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder(path: str | os.PathLike) -> Path:
    """The folder, made if need be, after a file could be written into it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OSError(
            f"{path} is no folder that can be written to: {error.strerror}."
        ) from error


def target(path: str | os.PathLike, name: str = "", *suffixes: str) -> Path:
    """The path of a file that can be written; its folder is made if need be.

    With suffixes what is called so must end in one: other files are not replaced.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        *first, last = suffixes
        endings = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(
            f"{name} is {str(path)!r}, expected a name that ends in {endings}."
        )
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise OSError(f"{path} is no file that can be written.")
    folder(path.parent)
    return path


def cache_folder() -> Path:
    """For what can be had again: GDSEC_CACHE_DIR, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("GDSEC_CACHE_DIR") or pooch.os_cache("gdsec_jax"))


def plain(name: str, values: Any) -> Any:
    """What JSON makes of `values`: NumPy's numbers and arrays become Python's."""

    def pythons(value):
        found = np.asarray(value).tolist()
        if type(found) is type(value):  # bytes, a complex number, any object
            raise TypeError
        return found

    try:
        return json.loads(json.dumps(values, default=pythons))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {values!r}, expected what JSON can hold."
        ) from error
