"""The data set every reader and generator returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy

from gdsec_jax import _checks


class Dataset(NamedTuple):
    """N samples of D features with one target each.

    LIBSVM files stay sparse: nothing in this package densifies them.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax.data import Dataset
      >>> Dataset("toy", np.eye(3), np.array([1.0, -1.0, 1.0])).features.shape
      (3, 3)
    """

    name: str
    features: "np.ndarray | scipy.sparse.csr_array"  # x: float64 [N, D]
    targets: np.ndarray  # y: float64 or int64 [N]
    read_as: Mapping[str, Any] = {}  # options of `read` that read a file alike


def checked(
    name: str, features: Any, targets: Any, read_as: Mapping[str, Any] = {}
) -> Dataset:
    """Return the data set of arrays just read, or say what is wrong with them."""
    sparse = scipy.sparse.issparse(features)
    of = f"of {name!r}"
    features = canonical(features) if sparse else complete(f"features {of}", features)
    values = features.data if sparse else features
    targets = complete(f"targets {of}", targets)
    for label, array in (("features", values), ("targets", targets)):
        if not is_real(array.dtype):
            raise ValueError(
                f"the {label} of {name!r} have dtype {array.dtype}, "
                "expected real numbers"
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"the {label} of {name!r} hold a NaN or an infinity, "
                "expected finite numbers"
            )
    if targets.dtype.kind == "u" and (targets > np.iinfo(np.int64).max).any():
        raise ValueError(
            f"the targets of {name!r} reach {targets.max()}, expected integers below "
            "2^63"
        )
    shape = np.shape(features)
    if len(shape) != 2 or targets.shape != shape[:1] or 0 in shape:
        raise ValueError(
            f"{name!r} holds features of shape {shape} and targets of shape "
            f"{targets.shape}, expected [N, D] and [N] with N and D at least 1"
        )
    kind = np.int64 if targets.dtype.kind in "biu" else np.float64
    features = features.astype(np.float64, copy=False)
    return Dataset(name, features, targets.astype(kind), read_as)


def is_real(dtype: np.dtype) -> bool:
    """Whether it is one of real numbers, bfloat16 among them."""
    return dtype.kind in "biuf" or jnp.issubdtype(dtype, np.floating)


def real(name: str, given: Any) -> Any:
    """The array of real numbers in what is given: an array, a table or a sparse one."""
    array = given if scipy.sparse.issparse(given) else complete(name, given)
    if not is_real(array.dtype):
        raise ValueError(f"{name} has dtype {array.dtype}, expected real numbers.")
    return array


def complete(name: str, given: Any) -> np.ndarray:
    """The array of what is given, a table say; objects as numbers or words.

    A table whose columns are of several kinds, or can have missing values, is an array
    of objects. One that is missing is told of.
    """
    if np.ma.is_masked(given):
        at = np.argwhere(np.ma.getmaskarray(given))[0].tolist()
        raise ValueError(
            f"{name} is masked at {at}, expected an array without missing values."
        )
    if isinstance(given, Dataset):
        raise ValueError(
            f"{name} is the Dataset {given.name!r}, expected its arrays: "
            "dataset.features, dataset.targets."
        )
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is no array, expected one: {_checks.words_of(error)}"
        ) from error
    if array.dtype == object and array.size and array.ndim:
        import pandas

        missing = np.argwhere(pandas.isna(array))
        if missing.size:
            at = tuple(missing[0].tolist())
            raise ValueError(
                f"{name} holds {array[at]!r} at {list(at)}, expected no missing value."
            )
        found = np.array(array.ravel().tolist())
        array = found.reshape(array.shape) if found.ndim == 1 else array
    return array


def canonical(features: Any) -> "scipy.sparse.csr_array":
    """Sparse rows that name each entry once: SciPy adds up those that repeat."""
    features = scipy.sparse.csr_array(features)
    if not features.has_canonical_format:
        features = features.copy()  # the caller's arrays stay as they are
        features.sum_duplicates()
    return features
