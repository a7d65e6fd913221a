"""Find a file of the registry, or download it, and verify it."""

import os
import tempfile
from pathlib import Path

import numpy as np

from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset
from gdsec_jax.data._idx import read_idx
from gdsec_jax.data._libsvm import read_libsvm
from gdsec_jax.data._registry import File
from gdsec_jax.files._whole import cache_folder

_TIMEOUT = 30  # seconds for a connection, and between two pieces of a download


def located(file: File) -> tuple[str, Path | None]:
    """Return where ``file`` is now, GDSEC_DATA_DIR, cache or remote, and its path."""
    folders = [("cache", cache_folder())]
    if own := os.environ.get("GDSEC_DATA_DIR"):
        if not Path(own).is_dir():
            raise FileNotFoundError(f"GDSEC_DATA_DIR is {own!r}, expected a folder")
        folders.insert(0, ("GDSEC_DATA_DIR", Path(own)))
    for where, folder in folders:
        for suffix in ("", *_compressed.SUFFIXES):
            path = folder / f"{file.name}{suffix}"
            if path.is_file():
                return where, path
    return "remote", None


def obtained(data_set: str, file: File, progress: bool) -> Path:
    """Return the path of ``file``, verified, downloading it where it is missing."""
    _, path = located(file)
    if path is None:
        return _download(data_set, file, progress)
    _verify_content(path, file)
    return path


def read_checked(path: Path, file: File) -> np.ndarray | Dataset:
    """Read ``file``, an array or a LIBSVM data set, and check its shape."""
    if "-idx" in file.name:
        content = read_idx(path)
        shape = content.shape
    else:
        content = read_libsvm(path, num_features=file.shape[1])
        shape = content.features.shape
    if shape != file.shape:
        raise ValueError(
            f"{str(path)!r} holds shape {shape}, expected {file.shape} for {file.name}"
        )
    return content


def _verify_content(path: Path, file: File) -> None:
    if file.sha256 is None:
        return
    found = _compressed.sha256(path)
    if found != file.sha256:
        raise ValueError(
            f"the decompressed content of {str(path)!r} has SHA-256 {found}, expected "
            f"{file.sha256}: replace or remove the file"
        )


def _verify_download(path: Path, file: File) -> None:
    import pooch

    if file.served_hash is not None:
        algorithm, expected = file.served_hash.split(":")
        found = pooch.file_hash(str(path), algorithm)
        if found != expected:
            raise ValueError(f"it has {algorithm} {found}, expected {expected}")
    _verify_content(path, file)
    if file.sha256 is None and file.served_hash is None:
        read_checked(path, file)


def _download(data_set: str, file: File, progress: bool) -> Path:
    import pooch

    fetch = pooch.HTTPDownloader(
        progressbar=progress,
        timeout=_TIMEOUT,
        # Otherwise a server may have the file decompressed on the way.
        headers={"Accept-Encoding": "identity"},
    )
    folder = (cache_folder() / file.name).parent
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        name = url.rpartition("/")[2]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            part = Path(temporary, name)
            try:
                fetch(url, str(part), None)
                _verify_download(part, file)
            except (OSError, ValueError) as error:
                # pooch leaves the connection of a refused request open.
                if (response := getattr(error, "response", None)) is not None:
                    response.close()
                failures.append((url, error))
                continue
            return part.replace(folder / name)
    tried = "; ".join(f"{url} ({error})" for url, error in failures)
    raise OSError(
        f"cannot download {file.name!r} of the data set {data_set!r}, tried {tried}; "
        f"to use it without a network, put {file.name!r} (or a .gz, .bz2 or .xz of it) "
        "in a folder and set the environment variable GDSEC_DATA_DIR to that folder"
    ) from failures[-1][1]
