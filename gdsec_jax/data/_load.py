"""Data sets by name."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _files
from gdsec_jax.data._dataset import Dataset, checked
from gdsec_jax.data._registry import REMOTE, File

Task = Literal["regression", "binary", "multiclass"]


class Entry(NamedTuple):
    """What is known of a named data set before it is loaded."""

    name: str
    task: Task
    shapes: Mapping[str, tuple[int, int]]  # split -> (N, D)
    source: str  # the page that describes it
    found: Mapping[str, str]  # split -> embedded, GDSEC_DATA_DIR, cache or remote


def _digits() -> Dataset:
    from sklearn import datasets

    features, targets = datasets.load_digits(return_X_y=True)
    return checked("digits", features / 16, targets)


def _breast_cancer() -> Dataset:
    from sklearn import datasets

    features, targets = datasets.load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    return checked("breast_cancer", features, targets)


_LOADERS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
}
_TOY_DATA = "https://scikit-learn.org/stable/datasets/toy_dataset.html"
_HERE = {"train": "embedded"}
_EMBEDDED = (
    Entry("digits", "multiclass", {"train": (1_797, 64)}, _TOY_DATA, _HERE),
    Entry("breast_cancer", "binary", {"train": (569, 30)}, _TOY_DATA, _HERE),
)


def available() -> tuple[Entry, ...]:
    """List the named data sets and where their files are now.

    Returns:
      One entry a data set. A split is ``remote`` while one of its files is missing.

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
    return (*_EMBEDDED, *remote)


def fetch(name: str, *, progress: bool = False) -> list[Path]:
    """Make every file of a data set present, downloading what is missing.

    Args:
      name: a name that ``available`` lists.
      progress: show a progress bar; needs the package tqdm.

    Returns:
      The paths of the verified files; none for an embedded data set.

    Raises:
      FileNotFoundError, OSError, ValueError: as `load`.

    Examples:
      >>> from gdsec_jax.data import fetch
      >>> fetch("digits")
      []
    """
    _known(name)
    if name in _LOADERS:
        return []
    return [
        _files.obtained(name, file, progress)
        for files in REMOTE[name].splits.values()
        for file in files
    ]


def load(name: str, *, split: str = "train", progress: bool = False) -> Dataset:
    """Load a data set by name.

    ``digits`` and ``breast_cancer`` come with scikit-learn. The files of the others
    are looked for in the folder that the environment variable GDSEC_DATA_DIR names,
    then in the cache (GDSEC_CACHE_DIR, or the user's cache folder), plain or
    compressed, and are downloaded to the cache otherwise. A file is held to the
    SHA-256 of its decompressed content where one is published, and to its shape.

    Images are flattened and divided by 255 (``digits`` by 16), the columns of
    ``breast_cancer`` have mean 0 and variance 1, LIBSVM files are as published and
    stay sparse.

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

    References:
      The page of each data set is in its ``available`` entry.
    """
    _known(name)
    splits = ("train",) if name in _LOADERS else tuple(REMOTE[name].splits)
    _checks.one_of(f"split of {name!r}", split, splits)
    if name in _LOADERS:
        return _LOADERS[name]()
    contents = [
        _files.read_checked(_files.obtained(name, file, progress), file)
        for file in REMOTE[name].splits[split]
    ]
    if len(contents) == 1:
        return cast(Dataset, contents[0])._replace(name=name)
    images, labels = (cast(np.ndarray, content) for content in contents)
    return checked(name, images.reshape(len(images), -1) / 255, labels)


def _known(name: str) -> None:
    _checks.one_of("data set name", name, (*_LOADERS, *REMOTE))


def _shape(files: tuple[File, ...]) -> tuple[int, int]:
    num_samples, *rest = files[0].shape
    return num_samples, math.prod(rest)


def _whereabouts(files: tuple[File, ...]) -> str:
    places = {_files.located(file)[0] for file in files}
    return next(
        place for place in ("remote", "cache", "GDSEC_DATA_DIR") if place in places
    )
