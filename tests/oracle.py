"""A float64 NumPy oracle, written from the formulas alone.

Everything here favours a visible formula over speed: loops over workers, and
messages turned into real bit strings whose lengths are taken.  In the names of the
formulas, M is the number of workers, N the number of samples, D the length of theta.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Gradient = Callable[[int, np.ndarray], np.ndarray]
Objective = Callable[[np.ndarray], float]
Parts = Sequence[np.ndarray]


class Trajectory(NamedTuple):
    """All that happened in a run; row k of a [rounds + 1] array is before round k."""

    thetas: np.ndarray  # [rounds + 1, *theta.shape]
    entries: np.ndarray  # [rounds, M], how many entries each worker uploads
    messages: np.ndarray  # [rounds, M, *theta.shape]
    server_memory: np.ndarray  # h, [rounds + 1, *theta.shape]
    worker_memory: np.ndarray  # h_m, [rounds + 1, M, *theta.shape]
    errors: np.ndarray  # e_m, [rounds + 1, M, *theta.shape]


def _empty_trajectory(theta: np.ndarray, rounds: int, num_workers: int) -> Trajectory:
    """Return a trajectory of zeros that starts at theta."""
    theta = np.asarray(theta, dtype=np.float64)
    workers = (num_workers, *theta.shape)
    trajectory = Trajectory(
        thetas=np.zeros((rounds + 1, *theta.shape)),
        entries=np.zeros((rounds, num_workers), dtype=np.int64),
        messages=np.zeros((rounds, *workers)),
        server_memory=np.zeros((rounds + 1, *theta.shape)),
        worker_memory=np.zeros((rounds + 1, *workers)),
        errors=np.zeros((rounds + 1, *workers)),
    )
    trajectory.thetas[0] = theta
    return trajectory


def _is_zero(values: np.ndarray) -> np.ndarray:
    """Tell which values count as zero: 0.0, -0.0 and the subnormals."""
    return np.abs(values) < np.finfo(values.dtype).tiny


def _count_entries(message: np.ndarray) -> int:
    """Count the entries of a message that are not zero."""
    return int(np.sum(~_is_zero(message)))


# Methods


def gd(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
) -> Trajectory:
    """Run gradient descent; a worker sends its whole gradient, zeros included."""
    out = _empty_trajectory(theta, rounds, num_workers)
    for k in range(rounds):
        total = np.zeros_like(out.thetas[k])
        for m in range(num_workers):
            message = np.asarray(gradient(m, out.thetas[k]), dtype=np.float64)
            total += message
            out.messages[k, m] = message
            silent = _count_entries(message) == 0
            out.entries[k, m] = 0 if silent else message.size
        out.thetas[k + 1] = out.thetas[k] - alpha * total
    return out


def gdsec(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    xi: float | np.ndarray,
    beta: float,
) -> Trajectory:
    """Run GD-SEC: per-entry censoring with state variables and error correction."""
    return _censored_descent(
        gradient, theta, alpha, rounds, num_workers, xi, beta, correct_errors=True
    )


def gdsoec(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    xi: float | np.ndarray,
    beta: float,
) -> Trajectory:
    """Run GD-SOEC: GD-SEC with every e_m held at zero."""
    return _censored_descent(
        gradient, theta, alpha, rounds, num_workers, xi, beta, correct_errors=False
    )


def _censor(delta: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return delta with every entry of size at most its threshold set to zero."""
    return np.where(np.abs(delta) <= threshold, 0.0, delta)


def _censored_descent(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    xi: float | np.ndarray,
    beta: float,
    correct_errors: bool,
) -> Trajectory:
    """Run the rounds that GD-SEC and GD-SOEC share."""
    out = _empty_trajectory(theta, rounds, num_workers)
    xi = np.asarray(xi, dtype=np.float64)
    for k in range(rounds):
        theta_now = out.thetas[k]
        theta_before = out.thetas[k - 1] if k > 0 else theta_now  # theta^0 = theta^1
        threshold = (xi / num_workers) * np.abs(theta_now - theta_before)
        total = np.zeros_like(theta_now)
        for m in range(num_workers):
            h_m = out.worker_memory[k, m]
            e_m = out.errors[k, m]
            delta = gradient(m, theta_now) - h_m + e_m
            message = _censor(delta, threshold)
            total += message
            out.messages[k, m] = message
            out.entries[k, m] = _count_entries(message)
            out.worker_memory[k + 1, m] = h_m + beta * message
            if correct_errors:
                out.errors[k + 1, m] = delta - message
        h = out.server_memory[k]
        out.thetas[k + 1] = theta_now - alpha * (h + total)
        out.server_memory[k + 1] = h + beta * total
    return out


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


def _as_float(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the data as float64."""
    return np.asarray(features, np.float64), np.asarray(targets, np.float64)


def ridge_objective(features: np.ndarray, targets: np.ndarray, lam: float) -> Objective:
    """Return f = (1/2N) sum_n (x_n.theta - y_n)^2 + (lam/2) |theta|^2."""
    x, y = _as_float(features, targets)

    def objective(theta: np.ndarray) -> float:
        loss = np.sum((x @ theta - y) ** 2) / (2 * len(x))
        return float(loss + lam / 2 * np.sum(theta**2))

    return objective


def ridge_gradient(
    features: np.ndarray, targets: np.ndarray, parts: Parts, lam: float
) -> Gradient:
    """Return grad f_m = (1/N) sum_{S_m} (x_n.theta - y_n) x_n + (lam/M) theta."""
    x, y = _as_float(features, targets)

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        x_m, y_m = x[parts[m]], y[parts[m]]
        residual = x_m @ theta - y_m
        return x_m.T @ residual / len(x) + lam / len(parts) * theta

    return gradient


def logistic_objective(
    features: np.ndarray, targets: np.ndarray, lam: float
) -> Objective:
    """Return f = (1/N) sum_n log(1 + exp(-y_n x_n.theta)) + (lam/2) |theta|^2."""
    x, y = _as_float(features, targets)

    def objective(theta: np.ndarray) -> float:
        loss = np.sum(np.logaddexp(0.0, -y * (x @ theta))) / len(x)
        return float(loss + lam / 2 * np.sum(theta**2))

    return objective


def logistic_gradient(
    features: np.ndarray, targets: np.ndarray, parts: Parts, lam: float
) -> Gradient:
    """Return grad f_m = (1/N) sum_{S_m} -y_n s(-y_n x_n.theta) x_n + (lam/M) theta.

    The targets are -1 or 1 and s is the sigmoid.
    """
    x, y = _as_float(features, targets)

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        x_m, y_m = x[parts[m]], y[parts[m]]
        slope = -y_m * _sigmoid(-y_m * (x_m @ theta))
        return x_m.T @ slope / len(x) + lam / len(parts) * theta

    return gradient


def softmax_objective(
    features: np.ndarray, targets: np.ndarray, lam: float
) -> Objective:
    """Return f = (1/N) sum_n -log p_n[y_n] + (lam/2) |theta|^2, theta [D, C].

    The targets are integer labels and p_n = softmax(theta^T x_n).
    """
    x = np.asarray(features, dtype=np.float64)
    labels = np.asarray(targets)

    def objective(theta: np.ndarray) -> float:
        scores = x @ theta
        right = scores[np.arange(len(x)), labels]
        loss = np.sum(_log_sum_exp(scores) - right) / len(x)
        return float(loss + lam / 2 * np.sum(theta**2))

    return objective


def softmax_gradient(
    features: np.ndarray, targets: np.ndarray, parts: Parts, lam: float
) -> Gradient:
    """Return grad f_m = (1/N) sum_{S_m} x_n (p_n - onehot(y_n))^T + (lam/M) theta."""
    x = np.asarray(features, dtype=np.float64)
    labels = np.asarray(targets)

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        x_m, labels_m = x[parts[m]], labels[parts[m]]
        scores = x_m @ theta
        probabilities = np.exp(scores - _log_sum_exp(scores)[:, None])
        one_hot = np.eye(theta.shape[1])[labels_m]
        return x_m.T @ (probabilities - one_hot) / len(x) + lam / len(parts) * theta

    return gradient


def lasso_objective(features: np.ndarray, targets: np.ndarray, lam: float) -> Objective:
    """Return f = (1/2N) sum_n (x_n.theta - y_n)^2 + lam |theta|_1."""
    x, y = _as_float(features, targets)

    def objective(theta: np.ndarray) -> float:
        loss = np.sum((x @ theta - y) ** 2) / (2 * len(x))
        return float(loss + lam * np.sum(np.abs(theta)))

    return objective


def lasso_subgradient(
    features: np.ndarray, targets: np.ndarray, parts: Parts, lam: float
) -> Gradient:
    """Return (1/N) sum_{S_m} (x_n.theta - y_n) x_n + (lam/M) sign(theta)."""
    x, y = _as_float(features, targets)

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        x_m, y_m = x[parts[m]], y[parts[m]]
        residual = x_m @ theta - y_m
        return x_m.T @ residual / len(x) + lam / len(parts) * np.sign(theta)

    return gradient


def nonlinear_least_squares_objective(
    features: np.ndarray, targets: np.ndarray, lam: float
) -> Objective:
    """Return f = (1/2N) sum_n (y_n - s(x_n.theta))^2 + (lam/2) |theta|^2."""
    x, y = _as_float(features, targets)

    def objective(theta: np.ndarray) -> float:
        loss = np.sum((y - _sigmoid(x @ theta)) ** 2) / (2 * len(x))
        return float(loss + lam / 2 * np.sum(theta**2))

    return objective


def nonlinear_least_squares_gradient(
    features: np.ndarray, targets: np.ndarray, parts: Parts, lam: float
) -> Gradient:
    """Return (1/N) sum_{S_m} (s_n - y_n) s_n (1 - s_n) x_n + (lam/M) theta.

    Here s_n = sigmoid(x_n.theta).
    """
    x, y = _as_float(features, targets)

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        x_m, y_m = x[parts[m]], y[parts[m]]
        s = _sigmoid(x_m @ theta)
        slope = (s - y_m) * s * (1.0 - s)
        return x_m.T @ slope / len(x) + lam / len(parts) * theta

    return gradient


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


def rle_string(message: np.ndarray, value_bits: int) -> str:
    """Return gamma(n + 1), then gamma(zeros before + 1) and the value, per entry."""
    sent = _nonzero_flags(message)
    if not any(sent):
        return ""
    stream = [elias_gamma(sum(sent) + 1)]
    zeros = 0
    for is_sent in sent:
        if is_sent:
            stream.append(elias_gamma(zeros + 1))
            stream.append(_value(value_bits))
            zeros = 0
        else:
            zeros += 1
    return "".join(stream)


def rle_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of a message as run lengths of zeros in Elias gamma."""
    return len(rle_string(message, value_bits))


def coo_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of a message as a count and (index, value) pairs."""
    sent = _nonzero_flags(message)
    if not any(sent):
        return 0
    count = _fixed_width(sum(sent), len(sent) + 1)
    return len(count) + coo_bare_bits(message, value_bits)


def coo_bare_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of the (index, value) pairs alone, a published convention."""
    sent = _nonzero_flags(message)
    stream = []
    for index, is_sent in enumerate(sent):
        if is_sent:
            stream.append(_fixed_width(index, len(sent)))
            stream.append(_value(value_bits))
    return len("".join(stream))


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
    if not any(sent):
        return 0
    flags = ["1" if is_sent else "0" for is_sent in sent]
    values = [_value(value_bits) for is_sent in sent if is_sent]
    return len("".join(flags + values))


def dense_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of every value, zeros included."""
    sent = _nonzero_flags(message)
    if not any(sent):
        return 0
    return len("".join(_value(value_bits) for _ in sent))
