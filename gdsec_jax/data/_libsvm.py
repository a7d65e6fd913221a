"""The sparse text format of LIBSVM."""

import os
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked


def read_libsvm(
    path: str | os.PathLike[str], num_features: int | None = None
) -> Dataset:
    """Read a LIBSVM file, compressed or not, as a sparse data set.

    A line is ``label index:value index:value ...`` with increasing indices that
    start at 1; a file in which an index 0 occurs is taken to start at 0.

    Args:
      path: the file; gzip, bzip2 and xz are recognised by their first bytes.
      num_features: D; by default the largest index in the file, which may be too
        small for a test file.

    Returns:
      The data set, features as a float64 CSR array [N, D], targets float64 [N].

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the file cannot be decompressed.
      ValueError: the content is not LIBSVM text, holds no sample or a number that
        is not finite, or has an index above ``num_features``.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from gdsec_jax.data import read_libsvm
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "toy.libsvm")
      ...     _ = path.write_text("+1 1:0.5 3:2\\n-1 2:1\\n")
      ...     toy = read_libsvm(path, num_features=4)
      >>> toy.features.shape, toy.targets
      ((2, 4), array([ 1., -1.]))

    References:
      Chang and Lin, LIBSVM: a library for support vector machines, 2011.
    """
    from sklearn import datasets

    path = Path(path)
    if num_features is not None:
        num_features = _checks.integer("num_features", num_features, 1)
    with _compressed.opened(path) as stream:
        try:
            features, targets = datasets.load_svmlight_file(  # pyright: ignore
                stream, n_features=num_features, dtype=np.float64
            )
        except (ValueError, IndexError, OverflowError) as error:
            raise ValueError(
                f"{str(path)!r} is not a LIBSVM file of lines 'label index:value ...' "
                f"with at most {num_features or 'any number of'} features ({error})"
            ) from error
    return checked(path.name, features, targets)
