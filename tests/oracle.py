"""A float64 NumPy oracle, written from the formulas alone.

Everything here favours a visible formula over speed: loops over workers, and
messages turned into real bit strings whose lengths are taken.  In the names of the
formulas, M is the number of workers, N the number of samples, D the length of theta.
"""

from collections.abc import Callable, Sequence

import numpy as np

Gradient = Callable[[int, np.ndarray], np.ndarray]
Objective = Callable[[np.ndarray], float]
Parts = Sequence[np.ndarray]


def _is_zero(values: np.ndarray) -> np.ndarray:
    """Tell which values count as zero: 0.0, -0.0 and the subnormals."""
    return np.abs(values) < np.finfo(values.dtype).tiny


# Problems


def gram_norm(features: np.ndarray) -> float:
    """Return lambda_max(X^T X)."""
    features = np.asarray(features, dtype=np.float64)
    return float(np.linalg.eigvalsh(features.T @ features)[-1])


def _sigmoid(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-z)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _log_sum_exp(scores: np.ndarray) -> np.ndarray:
    """Return log(sum_c exp(scores[n, c])) for every row n, without overflow."""
    top = scores.max(axis=1)
    return top + np.log(np.sum(np.exp(scores - top[:, None]), axis=1))


def _objective(loss, penalty=lambda theta: np.sum(theta**2) / 2):
    """Return a maker of f = (1/N) sum_n loss(x_n.theta, y_n) + lam penalty(theta).

    `loss` takes all scores and targets, and returns the losses, [N].
    """

    def make(features: np.ndarray, targets: np.ndarray, lam: float) -> Objective:
        x, y = np.asarray(features, np.float64), np.asarray(targets)
        return lambda theta: float(
            np.sum(loss(x @ theta, y)) / len(x) + lam * penalty(theta)
        )

    return make


def _gradient(slope, of_penalty=lambda theta: theta):
    """Return a maker of grad f_m, the derivatives of loss and penalty given:

    (1/N) sum_{S_m} x_n slope(x_n.theta, y_n) + (lam/M) of_penalty(theta).
    """

    def make(
        features: np.ndarray, targets: np.ndarray, parts: Parts, lam: float
    ) -> Gradient:
        x, y = np.asarray(features, np.float64), np.asarray(targets)

        def gradient(m: int, theta: np.ndarray) -> np.ndarray:
            x_m, y_m = x[parts[m]], y[parts[m]]
            data = x_m.T @ slope(x_m @ theta, y_m) / len(x)
            return data + lam / len(parts) * of_penalty(theta)

        return gradient

    return make


def _softmax_loss(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return -log p[n, y_n], with p_n = softmax(scores[n])."""
    return _log_sum_exp(scores) - scores[np.arange(len(scores)), labels]


def _softmax_slope(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return p_n - onehot(y_n), [n, C]."""
    probabilities = np.exp(scores - _log_sum_exp(scores)[:, None])
    return probabilities - np.eye(scores.shape[1])[labels]


ridge_objective = _objective(lambda z, y: (z - y) ** 2 / 2)
ridge_gradient = _gradient(lambda z, y: z - y)
lasso_objective = _objective(
    lambda z, y: (z - y) ** 2 / 2, lambda theta: np.sum(np.abs(theta))
)
lasso_subgradient = _gradient(lambda z, y: z - y, np.sign)
# Targets -1 and 1.
logistic_objective = _objective(lambda z, y: np.logaddexp(0.0, -y * z))
logistic_gradient = _gradient(lambda z, y: -y * _sigmoid(-y * z))
# Integer labels; theta is [D, C].
softmax_objective = _objective(_softmax_loss)
softmax_gradient = _gradient(_softmax_slope)
nonlinear_least_squares_objective = _objective(lambda z, y: (y - _sigmoid(z)) ** 2 / 2)
nonlinear_least_squares_gradient = _gradient(
    lambda z, y: (_sigmoid(z) - y) * _sigmoid(z) * (1.0 - _sigmoid(z))
)


# Bits of one message, by writing it out as a string and taking the length


def _nonzero_flags(message: np.ndarray) -> list[bool]:
    """Tell for each entry of a 1-D message whether it is sent."""
    message = np.asarray(message)
    if message.ndim != 1:
        raise ValueError(f"a message has one dimension, not {message.ndim}")
    if not np.issubdtype(message.dtype, np.floating):
        message = message.astype(np.float64)
    return [not zero for zero in _is_zero(message).tolist()]


def _value(value_bits: int) -> str:
    """Return a stand-in for the bits of one value: only their number matters."""
    return "v" * value_bits


def elias_gamma(number: int) -> str:
    """Return the Elias gamma codeword of a positive integer."""
    if number < 1:
        raise ValueError("Elias gamma codes start at 1")
    binary = format(number, "b")
    return "0" * (len(binary) - 1) + binary


def _field_width(choices: int) -> int:
    """Return the fewest bits that tell this many choices apart."""
    width = 0
    while 2**width < choices:
        width += 1
    return width


def _fixed_width(number: int, choices: int) -> str:
    """Return a number in range(choices) as a binary field of fixed width."""
    width = _field_width(choices)
    return format(number, "b").zfill(width) if width else ""


def _runs_of_zeros(message: np.ndarray) -> list[int]:
    """Return for each entry sent the number of zeros since the one before."""
    runs = []
    zeros = 0
    for is_sent in _nonzero_flags(message):
        if is_sent:
            runs.append(zeros)
            zeros = 0
        else:
            zeros += 1
    return runs


def rle_string(message: np.ndarray, value_bits: int) -> str:
    """Return gamma(n + 1), then gamma(zeros before + 1) and the value, per entry."""
    runs = _runs_of_zeros(message)
    if not runs:
        return ""
    each = [elias_gamma(run + 1) + _value(value_bits) for run in runs]
    return "".join([elias_gamma(len(runs) + 1), *each])


def rle_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of a message as run lengths of zeros in Elias gamma."""
    return len(rle_string(message, value_bits))


def coo_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of a message as a count and (index, value) pairs."""
    sent = _nonzero_flags(message)
    count = _fixed_width(sum(sent), len(sent) + 1)
    return len(count) + coo_bare_bits(message, value_bits) if any(sent) else 0


def coo_bare_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of the (index, value) pairs alone, a published convention."""
    sent = _nonzero_flags(message)
    stream = [_fixed_width(i, len(sent)) for i, is_sent in enumerate(sent) if is_sent]
    return len("".join(stream)) + values_only_bits(message, value_bits)


def coo64_bits(message: np.ndarray) -> int:
    """Return the bits at 64 an entry, a published convention."""
    stream = ["i" * 32 + _value(32) for sent in _nonzero_flags(message) if sent]
    return len("".join(stream))


def values_only_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of the non-zero values alone, a published convention."""
    stream = [_value(value_bits) for sent in _nonzero_flags(message) if sent]
    return len("".join(stream))


def bitmap_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of one flag for every entry and the non-zero values."""
    sent = _nonzero_flags(message)
    flags = "".join("1" if is_sent else "0" for is_sent in sent)
    return len(flags) + values_only_bits(message, value_bits) if any(sent) else 0


def dense_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of every value, zeros included."""
    sent = _nonzero_flags(message)
    return len(_value(value_bits) * len(sent)) if any(sent) else 0
