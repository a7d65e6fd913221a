"""Data sets by name: found on this machine or downloaded, and verified."""

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._arrays import read_idx
from gdsec_jax.data._dataset import Dataset, checked
from gdsec_jax.data._libsvm import read_libsvm
from gdsec_jax.data._registry import REMOTE, File
from gdsec_jax.files._whole import cache_folder

Task = Literal["regression", "binary", "multiclass"]
_TIMEOUT = 30  # seconds for a connection, and between two pieces of a download


class Entry(NamedTuple):
    """What is known of a named data set before it is loaded."""

    name: str
    task: Task
    shapes: Mapping[str, tuple[int, int]]  # split -> (N, D)
    source: str  # the page that describes it
    found: Mapping[str, str]  # split -> embedded, GDSEC_DATA_DIR, cache or remote


_TOY_DATA = "https://scikit-learn.org/stable/datasets/toy_dataset.html"
_HERE = {"train": "embedded"}
_EMBEDDED = {
    "digits": Entry("digits", "multiclass", {"train": (1_797, 64)}, _TOY_DATA, _HERE),
    "breast_cancer": Entry(
        "breast_cancer", "binary", {"train": (569, 30)}, _TOY_DATA, _HERE
    ),
}


def available() -> tuple[Entry, ...]:
    """List the named data sets and where their files are now.

    A split is ``remote`` while one of its files is missing.

    Raises:
      FileNotFoundError: GDSEC_DATA_DIR is set, but not to a folder.

    Examples:
      >>> from gdsec_jax.data import available
      >>> digits = available()[0]
      >>> digits.name, digits.task, digits.shapes, digits.found
      ('digits', 'multiclass', {'train': (1797, 64)}, {'train': 'embedded'})
    """
    remote = (
        Entry(
            name,
            data_set.task,
            {split: _shape(files) for split, files in data_set.splits.items()},
            data_set.page,
            {split: _whereabouts(files) for split, files in data_set.splits.items()},
        )
        for name, data_set in REMOTE.items()
    )
    return (*_EMBEDDED.values(), *remote)


def fetch(name: str, *, progress: bool = False) -> list[Path]:
    """Make every file of a data set present, downloading what is missing.

    Args, Raises: as in `load`.

    Returns:
      The paths of the verified files; none for an embedded data set.

    Examples:
      >>> from gdsec_jax.data import fetch
      >>> fetch("digits")
      []
    """
    _known(name)
    if name in _EMBEDDED:
        return []
    return [
        _obtained(name, file, progress)
        for files in REMOTE[name].splits.values()
        for file in files
    ]


def load(name: str, *, split: str = "train", progress: bool = False) -> Dataset:
    """Load a data set by name.

    ``digits`` and ``breast_cancer`` come with scikit-learn. The files of the others are
    looked for in the folder that the environment variable GDSEC_DATA_DIR names, then in
    the cache (GDSEC_CACHE_DIR, or the user's cache folder), plain or compressed, and
    are downloaded to the cache otherwise. A file is held to a hash where one is
    published, and to its shape. Images are flattened and divided by 255 (``digits`` by
    16), the columns of ``breast_cancer`` have mean 0 and variance 1, LIBSVM files are
    as published and stay sparse.

    Args:
      name: a name that ``available`` lists.
      split: ``train``, or ``test`` where the data set has one.
      progress: show a progress bar for a download; needs the package tqdm.

    Returns:
      The data set. Targets are float64 as in the file for LIBSVM, int64 otherwise.

    Raises:
      FileNotFoundError: GDSEC_DATA_DIR is set, but not to a folder.
      OSError: a file is missing and no mirror serves it whole.
      ValueError: the name or the split is unknown, or a file already present is not
        the published one.

    Examples:
      >>> from gdsec_jax.data import load
      >>> digits = load("digits")
      >>> digits.features.shape, digits.features.max()
      ((1797, 64), np.float64(1.0))

    References: the page of each data set is in its ``available`` entry.
    """
    _known(name)
    splits = ("train",) if name in _EMBEDDED else tuple(REMOTE[name].splits)
    _checks.one_of(f"split of {name!r}", split, splits)
    if name in _EMBEDDED:
        return _embedded(name)
    contents = [
        _read_checked(_obtained(name, file, progress), file)
        for file in REMOTE[name].splits[split]
    ]
    if len(contents) == 1:
        return cast(Dataset, contents[0])._replace(name=name)
    images, labels = (cast(np.ndarray, content) for content in contents)
    return checked(name, images.reshape(len(images), -1) / 255, labels)


def names() -> tuple[str, ...]:
    """The names of data sets."""
    return (*_EMBEDDED, *REMOTE)


def _known(name: str) -> None:
    _checks.one_of("data set name", name, names())


def _embedded(name: str) -> Dataset:
    from sklearn import datasets

    if name == "digits":
        features, targets = datasets.load_digits(return_X_y=True)
        return checked(name, features / 16, targets)
    features, targets = datasets.load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    return checked(name, features, targets)


def _shape(files: tuple[File, ...]) -> tuple[int, int]:
    num_samples, *rest = files[0].shape
    return num_samples, math.prod(rest)


def _whereabouts(files: tuple[File, ...]) -> str:
    places = {_located(file)[0] for file in files}
    return next(p for p in ("remote", "cache", "GDSEC_DATA_DIR") if p in places)


def _located(file: File) -> tuple[str, Path | None]:
    """Where ``file`` is now, GDSEC_DATA_DIR, cache or remote, and its path."""
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


def _obtained(data_set: str, file: File, progress: bool) -> Path:
    """Return the path of ``file``, verified, downloading it where it is missing."""
    _, path = _located(file)
    if path is None:
        return _download(data_set, file, progress)
    _verify_content(path, file)
    return path


def _read_checked(path: Path, file: File) -> np.ndarray | Dataset:
    """Read ``file``, an array or a LIBSVM data set, and check its shape."""
    if "-idx" in file.name:
        content = read_idx(path)
        shape = content.shape
    else:
        content = read_libsvm(path, file.shape[1], zero_based=False)
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
    if file.served_hash is not None:
        algorithm, expected = file.served_hash.split(":")
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found != expected:
            raise ValueError(f"it has {algorithm} {found}, expected {expected}")
    _verify_content(path, file)
    if file.sha256 is None and file.served_hash is None:
        _read_checked(path, file)


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

    def words(error):  # libraries tell at length that there is no network
        long = isinstance(error, OSError) and len(str(error)) > 150
        return type(error).__name__ if long else str(error)

    tried = "; ".join(f"{url} ({words(error)})" for url, error in failures)
    raise OSError(
        f"cannot download {file.name!r} of the data set {data_set!r}; to use it "
        f"without a network, put {file.name!r} (or a .gz, .bz2 or .xz of it) in a "
        "folder and set the environment variable GDSEC_DATA_DIR to that folder. These "
        f"were tried: {tried}"
    ) from failures[-1][1]
