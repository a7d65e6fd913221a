"""A float64 NumPy oracle of the rival methods, written from the formulas alone.

As in oracle.py a visible formula comes before speed.  M is the number of workers,
D the length of theta, f = sum_m f_m.  Round k of the code is round k + 1 of the
formulas.  Arrays of randomness have one row a round and one column a worker:
uniforms [rounds, M, D] in [0, 1), masks [rounds, M, D] with k True each.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from oracle import (
    Gradient,
    _censor,
    _is_zero,
    _nonzero_flags,
    _value,
    bitmap_bits,
    coo_bare_bits,
    coo_bits,
    dense_bits,
    elias_gamma,
    rle_bits,
    values_only_bits,
)

Compress = Callable[[int, int, np.ndarray], np.ndarray]  # (k, m, v) -> message
Scaled = tuple[np.ndarray, float]  # a message and its float32 scale

SMALLEST_NORMAL = 2.0**-126  # of float32
LAG_WINDOW = 10
LAQ_MOST_SKIPS = 100


class Run(NamedTuple):
    """All that was sent in a run; row k of thetas is before round k."""

    thetas: np.ndarray  # [rounds + 1, *theta.shape]
    messages: np.ndarray  # [rounds, M, *theta.shape], zeros where a worker is silent
    whole: np.ndarray  # bool [rounds, M], an uncompressed vector that is not zero
    scales: np.ndarray  # [rounds, M, S], what quantisers send along; S may be 0


def _empty_run(
    theta: np.ndarray, rounds: int, num_workers: int, num_scales: int = 0
) -> Run:
    """Return a run of zeros that starts at theta."""
    theta = np.asarray(theta, dtype=np.float64)
    run = Run(
        thetas=np.zeros((rounds + 1, *theta.shape)),
        messages=np.zeros((rounds, num_workers, *theta.shape)),
        whole=np.zeros((rounds, num_workers), dtype=bool),
        scales=np.zeros((rounds, num_workers, num_scales)),
    )
    run.thetas[0] = theta
    return run


def _flush(message: np.ndarray) -> np.ndarray:
    """Return a message with -0.0 and the subnormals replaced by 0."""
    message = np.asarray(message, dtype=np.float64)
    return np.where(_is_zero(message), 0.0, message)


def _squared_norm(values: np.ndarray) -> float:
    """Return |values|_2^2."""
    return float(np.sum(values**2))


# Compressors


def up32(x: float) -> float:
    """Return the smallest float32 >= x; at least the smallest normal if x > 0."""
    if x == 0.0:
        return 0.0
    scale = np.float32(x)
    if float(scale) < x:
        scale = np.nextafter(scale, np.float32(np.inf))
    return max(float(scale), SMALLEST_NORMAL)


def _round_to_levels(
    v: np.ndarray, step: float, levels: int, u: np.ndarray
) -> np.ndarray:
    """Return sign(v) l step, l = floor(x) + (u < x - floor(x)), x = |v| / step."""
    x = np.abs(v) / step
    l = np.floor(x) + (np.reshape(u, v.shape) < x - np.floor(x))
    l = np.minimum(l, levels)
    return _flush(np.sign(v) * l * step)


def compress_qsgd(v: np.ndarray, levels: int, u: np.ndarray) -> Scaled:
    """Round |v| at random to multiples of step = |v|_2 / s; the scale is the step."""
    step = up32(math.sqrt(_squared_norm(v)) / levels)
    if step == 0.0:
        return np.zeros_like(v), 0.0
    return _round_to_levels(v, step, levels, u), step


def compress_terngrad(v: np.ndarray, u: np.ndarray) -> Scaled:
    """Round |v| at random to 0 or |v|_inf."""
    step = up32(float(np.max(np.abs(v))))
    if step == 0.0:
        return np.zeros_like(v), 0.0
    return _round_to_levels(v, step, 1, u), step


def compress_natural(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Round |v| at random to a neighbouring power of two, 2^-126 the smallest."""
    size = np.abs(v).ravel()
    u = np.ravel(u)
    rounded = np.zeros_like(size)
    for i in range(size.size):
        if size[i] < SMALLEST_NORMAL:
            up = u[i] < size[i] / SMALLEST_NORMAL
            rounded[i] = SMALLEST_NORMAL if up else 0.0
        else:
            _, exponent = math.frexp(size[i])  # size = mantissa 2^exponent, in [1/2, 1)
            low = math.ldexp(1.0, exponent - 1)
            rounded[i] = 2.0 * low if u[i] < size[i] / low - 1.0 else low
    return _flush(np.sign(v) * rounded.reshape(v.shape))


def compress_sign(v: np.ndarray) -> Scaled:
    """Return (|v|_1 / D) sign(v), the sign of 0 being +1; the mean is a float32."""
    scale = float(np.float32(np.sum(np.abs(v)) / v.size))
    return _flush(scale * np.where(v >= 0, 1.0, -1.0)), scale


def compress_grid(v: np.ndarray, bits: int) -> Scaled:
    """Round v to step (2q - (2^b - 1)), q in [0, 2^b - 1], step = |v|_inf / (2^b - 1).

    With R = step (2^b - 1), q = floor((v + R) / (2 step) + 1/2).
    """
    top = 2**bits - 1
    step = up32(float(np.max(np.abs(v))) / top)
    if step == 0.0:
        return np.zeros_like(v), 0.0
    q = np.floor((v + step * top) / (2.0 * step) + 0.5)
    q = np.clip(q, 0, top)
    return _flush(step * (2.0 * q - top)), step


def compress_top_k(v: np.ndarray, k: int) -> np.ndarray:
    """Keep the k largest magnitudes; of equal ones the lower index wins."""
    kept = np.argsort(-np.abs(v).ravel(), kind="stable")[:k]
    message = np.zeros(v.size)
    message[kept] = v.ravel()[kept]
    return _flush(message.reshape(v.shape))


def compress_rand_k(
    v: np.ndarray, k: int, mask: np.ndarray, unbiased: bool = True
) -> np.ndarray:
    """Keep the entries of the mask, times D / k if unbiased."""
    factor = v.size / k if unbiased else 1.0
    return _flush(np.where(np.reshape(mask, v.shape), factor * v, 0.0))


# Methods without memory, and with error feedback


def _memoryless(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    compress: Callable[[int, int, np.ndarray], tuple[np.ndarray, list[float]]],
    num_scales: int,
) -> Run:
    """Run msg = C(g); theta <- theta - alpha sum msg."""
    run = _empty_run(theta, rounds, num_workers, num_scales)
    for k in range(rounds):
        total = np.zeros_like(run.thetas[k])
        for m in range(num_workers):
            g = gradient(m, run.thetas[k])
            message, scales = compress(k, m, g)
            total += message
            run.messages[k, m] = message
            run.scales[k, m] = scales
        run.thetas[k + 1] = run.thetas[k] - alpha * total
    return run


def _error_feedback(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    compress: Callable[[int, int, np.ndarray], tuple[np.ndarray, list[float]]],
    num_scales: int,
) -> Run:
    """Run v = g + e; msg = C(v); e <- v - msg; theta <- theta - alpha sum msg."""
    run = _empty_run(theta, rounds, num_workers, num_scales)
    e = np.zeros_like(run.messages[0])
    for k in range(rounds):
        total = np.zeros_like(run.thetas[k])
        for m in range(num_workers):
            v = gradient(m, run.thetas[k]) + e[m]
            message, scales = compress(k, m, v)
            e[m] = v - message
            total += message
            run.messages[k, m] = message
            run.scales[k, m] = scales
        run.thetas[k + 1] = run.thetas[k] - alpha * total
    return run


def top_j(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    k: int,
) -> Run:
    """Run error feedback with the k largest magnitudes."""
    return _error_feedback(
        gradient,
        theta,
        alpha,
        rounds,
        num_workers,
        lambda _round, _m, v: (compress_top_k(v, k), []),
        num_scales=0,
    )


def rand_k(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    k: int,
    masks: np.ndarray,
    error_feedback: bool,
) -> Run:
    """Run k random entries: times D / k without memory, or with error feedback."""
    loop = _error_feedback if error_feedback else _memoryless
    return loop(
        gradient,
        theta,
        alpha,
        rounds,
        num_workers,
        lambda r, m, v: (
            compress_rand_k(v, k, masks[r, m], unbiased=not error_feedback),
            [],
        ),
        num_scales=0,
    )


def sign_ef(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
) -> Run:
    """Run EF-sign: error feedback with (|v|_1 / D) sign(v)."""

    def compress(_round: int, _m: int, v: np.ndarray):
        message, scale = compress_sign(v)
        return message, [scale]

    return _error_feedback(gradient, theta, alpha, rounds, num_workers, compress, 1)


def natural(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    uniforms: np.ndarray,
) -> Run:
    """Run gradients rounded at random to powers of two."""
    return _memoryless(
        gradient,
        theta,
        alpha,
        rounds,
        num_workers,
        lambda k, m, v: (compress_natural(v, uniforms[k, m]), []),
        num_scales=0,
    )


def terngrad(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    uniforms: np.ndarray,
) -> Run:
    """Run TernGrad: entries rounded at random to 0 or +-|g|_inf."""

    def compress(k: int, m: int, v: np.ndarray):
        message, scale = compress_terngrad(v, uniforms[k, m])
        return message, [scale]

    return _memoryless(gradient, theta, alpha, rounds, num_workers, compress, 1)


def qgd(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    levels: int,
    uniforms: np.ndarray,
) -> Run:
    """Run QGD: gradients through the unbiased quantiser of s levels."""

    def compress(k: int, m: int, v: np.ndarray):
        message, scale = compress_qsgd(v, levels, uniforms[k, m])
        return message, [scale]

    return _memoryless(gradient, theta, alpha, rounds, num_workers, compress, 1)


def _basis(columns: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns."""
    return np.linalg.qr(columns)[0]


def _initial_factor(
    initial: np.ndarray, rank: int, shape: tuple[int, int]
) -> np.ndarray:
    """Return the first Q in float64, [cols, rank]."""
    initial = np.array(initial, dtype=np.float64)
    if initial.shape != (shape[1], rank):
        raise ValueError(f"initial is {initial.shape}, not {(shape[1], rank)}")
    return initial


def low_rank(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    rank: int,
    initial: np.ndarray,
    shape: tuple[int, int],
) -> Run:
    """Run error feedback with a rank-r factorisation by every worker for itself.

    V = G + E; P = basis(V Q); Q <- V^T P; msg = P Q^T; E <- V - msg.
    """
    run = _empty_run(theta, rounds, num_workers)
    q = [_initial_factor(initial, rank, shape) for _ in range(num_workers)]
    e = np.zeros((num_workers, *shape))
    for k in range(rounds):
        total = np.zeros_like(run.thetas[k])
        for m in range(num_workers):
            v = gradient(m, run.thetas[k]).reshape(shape) + e[m]
            p = _basis(v @ q[m])
            q[m] = v.T @ p
            message = _flush(p @ q[m].T)
            e[m] = v - message
            run.messages[k, m] = message.reshape(run.thetas[k].shape)
            total += run.messages[k, m]
        run.thetas[k + 1] = run.thetas[k] - alpha * total
    return run


def power_sgd(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    rank: int,
    initial: np.ndarray,
    shape: tuple[int, int],
) -> Run:
    """Run PowerSGD: error feedback with factors formed by all workers together.

    V_m = G_m + E_m; P = basis((sum V_m) Q); msg_m = P (V_m^T P)^T;
    E_m <- V_m - msg_m; Q <- sum V_m^T P.
    """
    run = _empty_run(theta, rounds, num_workers)
    q = _initial_factor(initial, rank, shape)
    e = np.zeros((num_workers, *shape))
    for k in range(rounds):
        v = np.zeros_like(e)
        for m in range(num_workers):
            v[m] = gradient(m, run.thetas[k]).reshape(shape) + e[m]
        p = _basis(sum(v[m] for m in range(num_workers)) @ q)
        q = np.zeros((shape[1], p.shape[1]))
        total = np.zeros_like(run.thetas[k])
        for m in range(num_workers):
            q_m = v[m].T @ p
            q += q_m
            message = _flush(p @ q_m.T)
            e[m] = v[m] - message
            run.messages[k, m] = message.reshape(run.thetas[k].shape)
            total += run.messages[k, m]
        run.thetas[k + 1] = run.thetas[k] - alpha * total
    return run


# Methods with gradient differences


def cgd(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    xi: float,
) -> Run:
    """Run censored GD: v = g - h_m goes iff |v| > (xi/M) |theta^k - theta^(k-1)|."""
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    for k in range(rounds):
        change = run.thetas[k] - run.thetas[max(k - 1, 0)]  # theta^0 = theta^1
        threshold = xi / num_workers * math.sqrt(_squared_norm(change))
        for m in range(num_workers):
            v = _flush(gradient(m, run.thetas[k]) - h[m])
            if math.sqrt(_squared_norm(v)) > threshold:
                run.messages[k, m] = v
                run.whole[k, m] = v.any()
                h[m] += v
        run.thetas[k + 1] = run.thetas[k] - alpha * h.sum(axis=0)
    return run


def _lag_threshold(
    thetas: np.ndarray, k: int, alpha: float, num_workers: int, zeta: float
) -> float:
    """Return (1 / (alpha M)^2) sum_{d=1}^{10} zeta |theta^(k+1-d) - theta^(k-d)|^2."""
    motion = 0.0
    for d in range(1, LAG_WINDOW + 1):
        if k - d >= 0:
            motion += zeta * _squared_norm(thetas[k + 1 - d] - thetas[k - d])
    return motion / (alpha**2 * num_workers**2)


def lag(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    zeta: float = 0.1,
) -> Run:
    """Run LAG-WK: v = g - h_m stays back iff |v|^2 <= the threshold above."""
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    for k in range(rounds):
        threshold = _lag_threshold(run.thetas, k, alpha, num_workers, zeta)
        for m in range(num_workers):
            v = _flush(gradient(m, run.thetas[k]) - h[m])
            if not _squared_norm(v) <= threshold:
                run.messages[k, m] = v
                run.whole[k, m] = v.any()
                h[m] += v
        run.thetas[k + 1] = run.thetas[k] - alpha * h.sum(axis=0)
    return run


def laq(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    bits: int = 4,
    zeta: float = 0.08,
) -> Run:
    """Run LAQ: msg = grid(g - h_m) and eps = v - msg; it stays back iff

    |msg|^2 <= LAG's threshold + 3 (|eps|^2 + |eps_hat|^2), fewer than 100 rounds
    were skipped in a row and this is not the first; eps_hat is the last upload's eps.
    """
    run = _empty_run(theta, rounds, num_workers, 1)
    h = np.zeros_like(run.messages[0])
    eps_hat = np.zeros_like(h)
    skips = [0] * num_workers
    for k in range(rounds):
        threshold = _lag_threshold(run.thetas, k, alpha, num_workers, zeta)
        for m in range(num_workers):
            v = gradient(m, run.thetas[k]) - h[m]
            message, scale = compress_grid(v, bits)
            eps = v - message
            slack = 3.0 * (_squared_norm(eps) + _squared_norm(eps_hat[m]))
            small = _squared_norm(message) <= threshold + slack
            if k > 0 and small and skips[m] < LAQ_MOST_SKIPS:
                skips[m] += 1
                continue
            skips[m] = 0
            eps_hat[m] = eps
            run.messages[k, m] = message
            run.scales[k, m] = scale
            h[m] += message
        run.thetas[k + 1] = run.thetas[k] - alpha * h.sum(axis=0)
    return run


def qsgdsec(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    xi: float | np.ndarray,
    beta: float,
    levels: int,
    uniforms: np.ndarray,
) -> Run:
    """Run QSGD-SEC: GD-SEC whose surviving entries are quantised.

    delta = g - h_m + e_m; msg = qsgd(censor(delta)); h_m <- h_m + beta msg;
    e_m <- delta - msg; theta <- theta - alpha (h + sum msg) with the h of before.
    """
    run = _empty_run(theta, rounds, num_workers, 1)
    h = np.zeros_like(run.messages[0])
    e = np.zeros_like(h)
    for k in range(rounds):
        change = np.abs(run.thetas[k] - run.thetas[max(k - 1, 0)])
        threshold = np.asarray(xi) / num_workers * change
        total = h.sum(axis=0)
        for m in range(num_workers):
            delta = gradient(m, run.thetas[k]) - h[m] + e[m]
            survivors = _censor(delta, threshold)
            message, scale = compress_qsgd(survivors, levels, uniforms[k, m])
            total += message
            run.messages[k, m] = message
            run.scales[k, m] = scale
            h[m] += beta * message
            e[m] = delta - message
        run.thetas[k + 1] = run.thetas[k] - alpha * total
    return run


def iag(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    chosen: np.ndarray,
) -> Run:
    """Run incremental aggregated gradients: only worker chosen[k] renews its h_m."""
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    for k in range(rounds):
        m = int(chosen[k])
        v = _flush(gradient(m, run.thetas[k]) - h[m])
        run.messages[k, m] = v
        run.whole[k, m] = v.any()
        h[m] += v
        run.thetas[k + 1] = run.thetas[k] - alpha * h.sum(axis=0)
    return run


def ef21(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    k: int,
) -> Run:
    """Run EF21: msg = top_k(g - h_m), the first one whole; h_m <- h_m + msg."""
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    for r in range(rounds):
        for m in range(num_workers):
            v = gradient(m, run.thetas[r]) - h[m]
            message = _flush(v) if r == 0 else compress_top_k(v, k)
            run.messages[r, m] = message
            run.whole[r, m] = r == 0 and message.any()
            h[m] += message
        run.thetas[r + 1] = run.thetas[r] - alpha * h.sum(axis=0)
    return run


def ef21_sgdm(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    k: int,
    eta: float,
) -> Run:
    """Run EF21 on v^k = (1 - eta) v^(k-1) + eta g^k, v^1 = g^1."""
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    v = np.zeros_like(h)
    for r in range(rounds):
        for m in range(num_workers):
            g = gradient(m, run.thetas[r])
            v[m] = g if r == 0 else (1.0 - eta) * v[m] + eta * g
            difference = v[m] - h[m]
            message = _flush(difference) if r == 0 else compress_top_k(difference, k)
            run.messages[r, m] = message
            run.whole[r, m] = r == 0 and message.any()
            h[m] += message
        run.thetas[r + 1] = run.thetas[r] - alpha * h.sum(axis=0)
    return run


def diana(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    compress: Compress,
    omega: float,
) -> Run:
    """Run DIANA: msg = C(g - h_m); h_m <- h_m + msg / (1 + omega).

    The server steps with sum (h_m + msg), h_m from before the round.
    """
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    for k in range(rounds):
        total = h.sum(axis=0)
        for m in range(num_workers):
            v = gradient(m, run.thetas[k]) - h[m]
            message = _flush(compress(k, m, v))
            total += message
            run.messages[k, m] = message
            h[m] += message / (1.0 + omega)
        run.thetas[k + 1] = run.thetas[k] - alpha * total
    return run


def marina(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    compress: Compress,
    p: float,
    coins: np.ndarray,
) -> Run:
    """Run MARINA: msg = g - g_m in a full round, else C(g - p_m); p_m <- g.

    g_m <- g_m + msg, and the server steps with sum g_m.  Round 0 is full; the others
    are where coins [rounds] is True.  The coins are given, so p is only checked.
    """
    if not 0.0 < p <= 1.0:
        raise ValueError(f"p is a probability above 0, not {p}")
    run = _empty_run(theta, rounds, num_workers)
    estimate = np.zeros_like(run.messages[0])  # g_m
    previous = np.zeros_like(estimate)  # p_m
    for k in range(rounds):
        full = k == 0 or bool(coins[k])
        for m in range(num_workers):
            g = gradient(m, run.thetas[k])
            if full:
                message = _flush(g - estimate[m])
            else:
                message = _flush(compress(k, m, g - previous[m]))
            run.messages[k, m] = message
            run.whole[k, m] = full and message.any()
            estimate[m] += message
            previous[m] = g
        run.thetas[k + 1] = run.thetas[k] - alpha * estimate.sum(axis=0)
    return run


def clag(
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    k: int,
    zeta: float,
) -> Run:
    """Run CLAG: with v = g - h_m, top_k(v) goes iff |v|^2 > zeta |g - p_m|^2.

    p_m is the gradient of the round before; the first message is v, whole.
    """
    run = _empty_run(theta, rounds, num_workers)
    h = np.zeros_like(run.messages[0])
    previous = np.zeros_like(h)  # p_m
    for r in range(rounds):
        for m in range(num_workers):
            g = gradient(m, run.thetas[r])
            v = g - h[m]
            if r == 0:
                message = _flush(v)
            elif _squared_norm(v) > zeta * _squared_norm(g - previous[m]):
                message = compress_top_k(v, k)
            else:
                message = np.zeros_like(v)
            run.messages[r, m] = message
            run.whole[r, m] = r == 0 and message.any()
            h[m] += message
            previous[m] = g
        run.thetas[r + 1] = run.thetas[r] - alpha * h.sum(axis=0)
    return run


# Bits of one message, by writing it out as a string and taking the length


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


def rice(number: int, b: int) -> str:
    """Return floor(number / 2^b) in unary, ended by a 0, and b low bits."""
    low = format(number % 2**b, "b").zfill(b) if b else ""
    return "1" * (number // 2**b) + "0" + low


def golomb_string(message: np.ndarray, value_bits: int, b: int) -> str:
    """Return gamma(n + 1), b in 5 bits, then a Rice code and the value, per entry."""
    runs = _runs_of_zeros(message)
    if not runs:
        return ""
    stream = [elias_gamma(len(runs) + 1), format(b, "05b")]
    for run in runs:
        stream.append(rice(run, b))
        stream.append(_value(value_bits))
    return "".join(stream)


def golomb_bits(message: np.ndarray, value_bits: int) -> int:
    """Return the bits of a message as Rice codes with the cheapest b in 0..31."""
    return min(len(golomb_string(message, value_bits, b)) for b in range(32))


def entropy_bits(message: np.ndarray, value_bits: int) -> int:
    """Return ceil(log2 C(D, n)) + n v."""
    sent = _nonzero_flags(message)
    supports = math.comb(len(sent), sum(sent))
    index = "i" * (supports - 1).bit_length()  # the number of the support
    return len(index + _value(value_bits) * sum(sent))


FORMS: dict[str, Callable[[np.ndarray, int], int]] = {
    "dense": dense_bits,
    "coo": coo_bits,
    "bitmap": bitmap_bits,
    "rle": rle_bits,
    "golomb": golomb_bits,
    "entropy": entropy_bits,
    "values only": values_only_bits,
    "coo bare": coo_bare_bits,
}


def quantised_bits(
    message: np.ndarray,
    form: str | Callable[[np.ndarray, int], int],
    value_bits: int,
    scales: int,
) -> int:
    """Return the form's bits and 32 for each scale; nothing where all is zero.

    The form is a name in FORMS or a function (message, value_bits) -> bits.
    """
    if not any(_nonzero_flags(message)):
        return 0
    bits = FORMS[form] if isinstance(form, str) else form
    return bits(message, value_bits) + len("s" * 32 * scales)
