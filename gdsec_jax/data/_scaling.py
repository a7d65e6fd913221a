"""Features of one scale, and a column of ones."""

from typing import Literal, get_args

import numpy as np
import scipy

from gdsec_jax import _checks
from gdsec_jax.data._dataset import Dataset, canonical, real

Scale = Literal["none", "standard", "max"]


def scaled(
    dataset: Dataset, scale: Scale = "standard", *, intercept: bool = False
) -> Dataset:
    r"""Bring all features to one scale, over all samples, before they are split.

    With the mean :math:`\mu_i` and the standard deviation :math:`\sigma_i` of column i
    over all N samples, x_{n,i} becomes

    * ``"standard"``: :math:`(x_{n,i} - \mu_i) / \sigma_i`; a constant column becomes 0;
    * ``"max"``: :math:`x_{n,i} / \max_n |x_{n,i}|`; zeros stay zeros, so that sparse
      features stay sparse;
    * ``"none"``: what it was.

    Workers who do not show each other their samples can agree on these numbers: they
    are sums and maxima over workers.

    Args:
      dataset: features [N, D], an array or sparse.
      scale: one of the words above.
      intercept: whether a column of ones comes after the features, scaled or not; what
        penalises the parameters penalises its coefficient, too.

    Returns:
      The data set with features float64 [N, D], or [N, D + 1] with an intercept; sparse
      if they were. Targets are as they were.

    Raises:
      ValueError: `dataset` is none, `scale` is no such word, intercept is no bool, the
        features are no real numbers, or they are sparse and to be centred.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax.data import Dataset, scaled
      >>> houses = Dataset("houses", np.array([[3, 70], [5, 90]]), np.array([1.0, 2.0]))
      >>> scaled(houses, "standard", intercept=True).features
      array([[-1., -1.,  1.],
             [ 1.,  1.,  1.]])
      >>> scaled(houses, "max").features
      array([[0.6       , 0.77777778],
             [1.        , 1.        ]])
    """
    _checks.of_kind("dataset", dataset, Dataset, "a Dataset")
    _checks.one_of("scale", scale, get_args(Scale))
    _checks.of_kind("intercept", intercept, bool, "True or False")
    features = real("dataset.features", dataset.features)
    sparse = scipy.sparse.issparse(features)
    features = features.astype(np.float64)
    if scale == "standard" and sparse:
        raise ValueError(
            f"scale is 'standard' for the sparse features of {dataset.name!r}, "
            "expected 'max': centred, they would not be sparse."
        )
    if sparse:
        features = canonical(features)
    if scale == "standard":
        features = _standard(features)
    elif scale == "max":
        features = _over_largest(features)
    if intercept:
        ones = np.ones((features.shape[0], 1))
        stack = scipy.sparse.hstack if sparse else np.hstack
        features = stack([features, ones])
    if sparse:
        features = scipy.sparse.csr_array(features)
    return dataset._replace(features=features)


def largest_of(features) -> np.ndarray:
    """The largest magnitude of each column, float64 [D]."""
    largest = abs(features).max(axis=0)
    return largest.toarray().ravel() if scipy.sparse.issparse(features) else largest


# Not by scikit-learn's `scale` and `maxabs_scale` (1.9.1): they leave columns of a size
# below 2e-15 as they are, and the squares of large ones overflow.
def _standard(features: np.ndarray) -> np.ndarray:
    # By powers of two, which round nothing: squares then neither overflow nor vanish.
    _, exponents = np.frexp(largest_of(features))
    centred = np.ldexp(features, -exponents)
    centred[:, features.min(axis=0) == features.max(axis=0)] = 0.0
    for _ in range(2):  # the second mean is that of the first's rounding
        centred -= centred.mean(axis=0)
    spread = np.sqrt(np.mean(centred**2, axis=0))
    return centred / np.where(spread > 0, spread, 1.0)


def _over_largest(features):
    largest = largest_of(features)
    divisors = np.where(largest > 0, largest, 1.0)
    if not scipy.sparse.issparse(features):
        return features / divisors
    data = features.data / divisors[features.indices]
    return scipy.sparse.csr_array(
        (data, features.indices, features.indptr), features.shape
    )
