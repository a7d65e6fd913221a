"""A float64 NumPy oracle of the methods of signs, and of those that compress both ways.

As oracle_rivals.py, from the formulas alone; the last three as their papers write them,
with the server's own parameters, where the package keeps what the workers lack.
"""

from typing import NamedTuple

import numpy as np
from oracle_rivals import (
    Run,
    Start,
    _descend,
    _flush,
    compress_sign,
    compress_top_k,
)

# Coefficients of the quintic Newton-Schulz step of Muon.
QUINTIC = 3.4445, -4.7750, 2.0315


class BothWays(NamedTuple):
    """A run, and what went down in each of its rounds."""

    run: Run
    down: np.ndarray  # [rounds, *theta.shape]


def sign_majority(start: Start) -> Run:
    """Run u_m = sign(g_m), sign(0) = 1; theta <- theta - alpha sign(sum u_m)."""

    def speak(k, m, g, thetas):
        u = np.where(g < 0, -1.0, 1.0)
        return u, u, False

    return _descend(start, speak, np.sign)


def demo(start: Start, k: int, chunk: int, decay: float) -> Run:
    """Run e <- beta e + g; u = T^-1 top_k(T e) of each chunk; e <- e - u; sign(sum u).

    theta is a vector, whose last chunk is filled with zeros.
    """
    e, length = start.zeros(), np.size(start.theta)
    transform = cosines(min(chunk, length))

    def speak(_round, m, g, thetas):
        e[m] = decay * e[m] + g
        rows = np.pad(e[m], (0, -length % len(transform))).reshape(-1, len(transform))
        kept = np.stack([compress_top_k(transform @ row, k) for row in rows])
        u = (kept @ transform).ravel()[:length]
        e[m] -= u
        return u, u, False

    return _descend(start, speak, np.sign)._replace(e=e)


def cosines(n: int) -> np.ndarray:
    """The orthonormal cosine transform of type II, [n, n]."""
    j, i = np.arange(n)[:, None], np.arange(n)
    rows = np.sqrt(2 / n) * np.cos(np.pi * (i + 0.5) * j / n)
    rows[0] /= np.sqrt(2)
    return rows


def ef21_p(start: Start, k: int) -> BothWays:
    """Run x <- x - gamma sum grad f_m(w); w <- w + top_k(x - w); theta is w."""
    x = np.array(start.theta, np.float64)
    made, down = _loop(start)
    for r in range(start.rounds):
        w = made.thetas[r]
        for m in range(start.num_workers):
            made.messages[r, m] = _flush(start.gradient(m, w))
            made.whole[r, m] = made.messages[r, m].any()
        x = x - start.alpha * made.messages[r].sum(axis=0)
        down[r] = compress_top_k(x - w, k)
        made.thetas[r + 1] = w + down[r]
    return BothWays(made, down)


def ef21_muon(start: Start, k: int, eta: float) -> BothWays:
    """Run M_m <- (1 - eta) M_m + eta g_m(W); G_m <- G_m + top_k(M_m - G_m);

    X <- X - t U V^T(sum G_m); W <- W + top_k(X - W); theta is W. M_m and G_m begin as
    the first gradient.
    """
    x = np.array(start.theta, np.float64)
    average, known = start.zeros(), start.zeros()
    made, down = _loop(start)
    for r in range(start.rounds):
        w = made.thetas[r]
        for m in range(start.num_workers):
            g = start.gradient(m, w)
            average[m] = (1 - eta) * average[m] + eta * g if r else g
            v = average[m] - known[m]
            made.messages[r, m] = compress_top_k(v, k) if r else _flush(v)
            made.whole[r, m] = r == 0
            known[m] += made.messages[r, m]
        x = x - start.alpha * orthogonal(known.sum(axis=0))
        down[r] = compress_top_k(x - w, k)
        made.thetas[r + 1] = w + down[r]
    return BothWays(made._replace(h=known), down)


def orthogonal(g: np.ndarray) -> np.ndarray:
    """U V^T by five steps of a quintic, of a matrix; a vector over its norm."""
    x = g / (np.linalg.norm(g) + 1e-8 * (g.ndim > 1) or 1.0)
    if g.ndim < 2:
        return x
    a, b, c = QUINTIC
    for _ in range(5):
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


def one_bit_adam(
    start: Start, warmup: int, b1: float, b2: float, eps: float
) -> BothWays:
    """Run Adam without corrections for the warm-up; then v is frozen, and

    u_m = C(b1 m / M + (1 - b1) g_m + e_m), m <- C(sum u_m + e), signs and a scale.
    """
    mean, square, e = np.zeros(start.theta.shape), np.zeros(start.theta.shape), 0.0
    own = start.zeros()
    made, down = _loop(start)
    for r in range(start.rounds):
        theta = made.thetas[r]
        for m in range(start.num_workers):
            g = start.gradient(m, theta)
            if r < warmup:
                made.messages[r, m], made.whole[r, m] = _flush(g), True
                continue
            v = b1 * mean / start.num_workers + (1 - b1) * g + own[m]
            made.messages[r, m] = compress_sign(v)[0]
            own[m] = v - made.messages[r, m]
        total = made.messages[r].sum(axis=0)
        if r < warmup:
            mean = b1 * mean + (1 - b1) * total
            square = b2 * square + (1 - b2) * total**2
            down[r] = total
        else:
            mean = down[r] = compress_sign(total + e)[0]
            e = total + e - mean
        step = mean / (np.sqrt(square) + eps)
        made.thetas[r + 1] = theta - start.alpha * np.where(square > 0, step, 0.0)
    return BothWays(made._replace(e=own), down)


def _loop(start: Start) -> tuple[Run, np.ndarray]:
    """A run before its first round, and what will go down."""
    shape = np.shape(start.theta)
    thetas = np.zeros((start.rounds + 1, *shape))
    thetas[0] = start.theta
    messages = np.zeros((start.rounds, start.num_workers, *shape))
    whole = np.zeros(messages.shape[:2], bool)
    return Run(thetas, messages, whole), np.zeros((start.rounds, *shape))
