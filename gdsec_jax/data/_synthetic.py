"""Data that need no file: drawn with known properties, and windows of a text."""

from typing import Literal

import numpy as np
import scipy

from gdsec_jax import _checks
from gdsec_jax.data._dataset import Dataset

NUM_CHARACTERS = 96  # the newline, and the printable ones of ASCII
_MAX_WORKERS = 60  # beyond, L_M exceeds what float64 features can resolve
_CURVATURE = {"ridge": 1.0, "logistic": 0.25}  # c: the largest second derivative
_FLIPPED = 0.1  # share of labels that contradict the ground truth
_RELEVANT = 0.1  # share of features in the sparse ground truth


def heterogeneous(
    num_workers: int = 10,
    samples_per_worker: int = 50,
    num_features: int = 50,
    *,
    problem: Literal["logistic", "ridge"] = "logistic",
    spread: float = 1.0,
    seed: int = 0,
    regularization: float | None = None,
) -> Dataset:
    r"""Gaussian data on which worker m has a prescribed smoothness constant.

    The rows of worker m, contiguous, are scaled so that

    .. math:: L_m = \frac{c}{N} \lambda_{\max}(X_m^\top X_m) + \frac{\lambda}{M}
              = (1.3^{m-1} + 1)^2, \quad m = 1, \dots, M,

    with c = 1 for ``ridge`` and 1/4 for ``logistic``. With :math:`\theta^*` standard
    Gaussian, targets are :math:`x_n \cdot \theta^*` plus standard Gaussian noise for
    ``ridge``, and the sign of :math:`x_n \cdot \theta^*`, flipped with probability
    0.1, for ``logistic``.

    Args:
      num_workers: M, at most 60.
      samples_per_worker: so that N is this times M.
      num_features: D.
      problem: ``logistic`` or ``ridge``.
      spread: how many times as large the first feature is as the last, with equal
        ratios between: 1 for features of one scale.
      seed: of the features, the ground truth and the noise.
      regularization: :math:`\lambda`; 1/N by default.

    Returns:
      The data set, features [N, D]; worker m's are rows
      ``m * samples_per_worker`` to ``(m + 1) * samples_per_worker``, m from 0.

    Raises:
      ValueError: an argument is out of its range, or :math:`\lambda / M` is not
        below :math:`L_1 = 4`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax.data import heterogeneous
      >>> data = heterogeneous(num_workers=3, samples_per_worker=20, num_features=5)
      >>> last = data.features[40:]
      >>> L = np.linalg.norm(last, 2) ** 2 / (4 * 60) + 1 / (60 * 3)
      >>> bool(np.isclose(L, (1.3**2 + 1) ** 2))
      True

    References:
      Chen et al., LAG, https://arxiv.org/abs/1805.09965, 2018.
    """
    num_workers = _checks.integer("num_workers", num_workers, 1, _MAX_WORKERS)
    size = _checks.integer("samples_per_worker", samples_per_worker, 1)
    num_features = _checks.integer("num_features", num_features, 1)
    _checks.one_of("problem", problem, tuple(_CURVATURE))
    spread = _checks.positive("spread", spread)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    num_samples = num_workers * size
    if regularization is None:
        regularization = 1 / num_samples
    share = _checks.positive("regularization", regularization) / num_workers
    smoothness = (1.3 ** np.arange(num_workers) + 1) ** 2
    if share >= smoothness[0]:
        raise ValueError(
            f"regularization is {regularization!r}, expected less than "
            f"{smoothness[0]:g} times num_workers, {smoothness[0] * num_workers:g}"
        )

    blocks = rng.standard_normal((num_workers, size, num_features))
    blocks *= np.geomspace(1.0, 1.0 / spread, num_features)
    largest = np.linalg.norm(blocks, 2, axis=(1, 2)) ** 2
    wanted = (smoothness - share) * num_samples / _CURVATURE[problem]
    blocks *= np.sqrt(wanted / largest)[:, None, None]
    features = blocks.reshape(num_samples, num_features)
    signal = features @ rng.standard_normal(num_features)
    if problem == "ridge":
        targets = signal + rng.standard_normal(num_samples)
    else:
        flips = rng.random(num_samples) < _FLIPPED
        targets = np.where((signal > 0) ^ flips, 1.0, -1.0)
    return Dataset(f"heterogeneous_{problem}", features, targets)


def sparse_binary(
    num_samples: int,
    num_features: int,
    density: float,
    *,
    skew: float = 0.0,
    seed: int = 0,
) -> Dataset:
    r"""Sparse rows of unit length, like the term weights of short texts.

    A row has a binomial number of non-zeros, at least one, in columns drawn without
    replacement, the i-th column i^-skew times as likely as the first; their values are
    log-normal before the row is normalised. Labels are the sign of
    :math:`x_n \cdot \theta^*`, at random where that is zero; a tenth of
    :math:`\theta^*` is Gaussian, the rest zero.

    Args:
      num_samples: N.
      num_features: D.
      density: expected share of non-zeros, above 0 and at most 1.
      skew: at least 0: how unevenly columns are filled, 0 for evenly, about 1 for the
        words of a language (Zipf's law).
      seed: of everything drawn.

    Returns:
      The data set, features a CSR array [N, D] and labels -1 or 1; no array of N
      times D entries is ever made.

    Raises:
      ValueError: an argument is out of its range.

    Examples:
      >>> from gdsec_jax.data import sparse_binary
      >>> data = sparse_binary(100, 5_000, 0.01)
      >>> data.features.shape, data.features.nnz < 10_000
      ((100, 5000), True)
    """
    num_samples = _checks.integer("num_samples", num_samples, 1)
    num_features = _checks.integer("num_features", num_features, 1)
    density = _checks.positive("density", density)
    if density > 1:
        raise ValueError(f"density is {density!r}, expected at most 1")
    _checks.number_in_range("skew", skew, 0.0, _checks.LARGEST)
    skew = float(skew)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))

    share = np.arange(1.0, num_features + 1) ** -skew
    share = share / share.sum() if skew else None
    counts = rng.binomial(num_features, density, num_samples).clip(min=1)
    starts = np.concatenate(([0], np.cumsum(counts)))
    columns = np.concatenate(
        [rng.choice(num_features, count, replace=False, p=share) for count in counts]
    )
    values = rng.lognormal(size=len(columns))
    lengths = np.sqrt(np.add.reduceat(values**2, starts[:-1]))
    values /= np.repeat(lengths, counts)
    shape = (num_samples, num_features)
    features = scipy.sparse.csr_array((values, columns, starts), shape)
    features.sort_indices()

    truth = np.where(
        rng.random(num_features) < _RELEVANT, rng.standard_normal(num_features), 0.0
    )
    margins = features @ truth
    coins = rng.choice([-1.0, 1.0], num_samples)
    targets = np.where(margins == 0, coins, np.sign(margins))
    return Dataset("sparse_binary", features, targets)


def characters(length: int = 64, *, text: str | None = None) -> Dataset:
    r"""Windows of a text, one behind the other, to predict each next character.

    Characters are coded 0 for a newline and 1 to 95 for the printable ones of ASCII,
    blank to tilde, in their order; others are left out. With the codes c of the text,

    .. math:: x_{nt} = c_{nT + t}, \quad y_{nt} = c_{nT + t + 1}.

    Args:
      length: T, the characters of a window.
      text: of at least T + 1 of these characters; by default the reference
        documentation that Python carries for its `help`, which differs a little from
        one version of Python to the next.

    Returns:
      The data set, features and targets int32 [N, T].

    Raises:
      ValueError: length is no positive int, or the text is too short.

    Examples:
      >>> from gdsec_jax import data
      >>> windows = data.characters(3, text="abc abc")
      >>> windows.features.tolist(), windows.targets.tolist()
      ([[66, 67, 68], [1, 66, 67]], [[67, 68, 1], [66, 67, 68]])
      >>> data.characters(64).features.shape[0] > 5_000
      True
    """
    length = _checks.integer("length", length, 1)
    _checks.instance("text", text, str, "a string")
    name = "text" if text is not None else "python_documentation"
    if text is None:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics[topic] for topic in sorted(topics))
    codes = np.array([ord(c) - 31 if c != "\n" else 0 for c in text], np.int32)
    codes = codes[(codes >= 0) & (codes < NUM_CHARACTERS)]
    number = (codes.size - 1) // length
    if number < 1:
        raise ValueError(
            f"text has {codes.size} characters of ASCII, expected at least "
            f"{length + 1}, one more than a window's length."
        )
    cut = (codes[start : start + number * length] for start in (0, 1))
    features, targets = (part.reshape(number, length) for part in cut)
    return Dataset(name, features, targets)
