"""The data set every reader and generator returns."""

from typing import Any, NamedTuple

import numpy as np
import scipy


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


def checked(name: str, features: Any, targets: Any) -> Dataset:
    """Return the data set of arrays just read, or say what is wrong with them."""
    values = features.data if scipy.sparse.issparse(features) else np.asarray(features)
    targets = np.asarray(targets)
    for label, array in (("features", values), ("targets", targets)):
        if array.dtype.kind not in "biuf":
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
    if scipy.sparse.issparse(features):
        features = scipy.sparse.csr_array(features, dtype=np.float64)
    else:
        features = np.asarray(features, dtype=np.float64)
    kind = np.float64 if targets.dtype.kind == "f" else np.int64
    return Dataset(name, features, targets.astype(kind))
