"""A float64 NumPy oracle of the rival methods, written from the formulas alone.

What workers do in the methods that gdsec_jax.numpy_worker has is its own, which is
NumPy from the formulas, too.
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
    _is_zero,
    _nonzero_flags,
    _runs_of_zeros,
    _value,
    bitmap_bits,
    coo_bare_bits,
    coo_bits,
    dense_bits,
    elias_gamma,
    rle_bits,
    values_only_bits,
)

from gdsec_jax import numpy_worker

Compress = Callable[[int, int, np.ndarray], np.ndarray]  # (k, m, v) -> message
Scaled = tuple[np.ndarray, float]  # a message and its float32 scale

SMALLEST_NORMAL = 2.0**-126  # of float32
LAG_WINDOW = 10
LAQ_MOST_SKIPS = 100


class Start(NamedTuple):
    """What every run is given."""

    gradient: Gradient
    theta: np.ndarray
    alpha: float
    rounds: int
    num_workers: int

    def zeros(self) -> np.ndarray:
        """A memory of every worker, [M, *theta.shape]."""
        return np.zeros((self.num_workers, *np.shape(self.theta)))


class Run(NamedTuple):
    """All that was sent in a run; row k of thetas is before round k."""

    thetas: np.ndarray  # [rounds + 1, *theta.shape]
    messages: np.ndarray  # [rounds, M, *theta.shape], zeros where a worker is silent
    whole: np.ndarray  # bool [rounds, M], an uncompressed vector that is not zero
    h: np.ndarray | None = None  # [M, *theta.shape], the memories at the end, if any
    e: np.ndarray | None = None  # [M, *theta.shape], the errors at the end, if any


class Memory(NamedTuple):
    """What one worker keeps; a method uses some of it."""

    h: np.ndarray  # what the server knows, or will know, of its gradient
    e: np.ndarray  # what was left unsent
    p: np.ndarray  # its previous gradient
    begun: bool  # a message of it has arrived


class Round(NamedTuple):
    """What all workers know of a round."""

    k: int
    m: int  # the worker that asks
    threshold: np.ndarray  # |theta^k - theta^{k-1}| / M, entry by entry


class Method(NamedTuple):
    """Of one worker: what it would send, and what becomes of its memories."""

    # (round, g, memory) to the message, and whether it goes as a dense vector.
    offer: Callable[[Round, np.ndarray, Memory], tuple[np.ndarray, bool]]
    # (round, g, memory, what arrives or zeros, whether it does) to the next memory.
    settle: Callable[[Round, np.ndarray, Memory, np.ndarray, bool], Memory]
    beta: float | None  # of the server's memory, if it keeps one


def _descend(start: Start, speak: Callable, step: Callable = np.array) -> Run:
    """Run theta <- theta - alpha step(sum_m d_m), in every round for every worker.

    speak(k, m, g, thetas) returns a worker's message, what the server adds up for it,
    d_m, and whether the message goes whole; thetas are those of rounds 0 to k.
    """
    shape = np.shape(start.theta)
    run = Run(
        thetas=np.zeros((start.rounds + 1, *shape)),
        messages=np.zeros((start.rounds, start.num_workers, *shape)),
        whole=np.zeros((start.rounds, start.num_workers), dtype=bool),
    )
    run.thetas[0] = start.theta
    for k in range(start.rounds):
        total = np.zeros(shape)
        for m in range(start.num_workers):
            g = start.gradient(m, run.thetas[k])
            message, d, whole = speak(k, m, g, run.thetas[: k + 1])
            total += d
            run.messages[k, m] = message
            run.whole[k, m] = whole and message.any()
        run.thetas[k + 1] = run.thetas[k] - start.alpha * step(total)
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
    message, step = numpy_worker.qsgd(v.ravel(), levels, u.ravel())
    return _flush(message.reshape(v.shape)), float(step)


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
    return _flush(numpy_worker.top_k(v.ravel(), k).reshape(v.shape))


def compress_rand_k(
    v: np.ndarray, k: int, mask: np.ndarray, unbiased: bool = True
) -> np.ndarray:
    """Keep the entries of the mask, times D / k if unbiased."""
    factor = v.size / k if unbiased else 1.0
    return _flush(np.where(np.reshape(mask, v.shape), factor * v, 0.0))


# Methods without memory, and with error feedback


def gd(start: Start) -> Run:
    """Run gradient descent; a worker sends its whole gradient, zeros included."""
    return _descend(start, lambda k, m, g, thetas: (_flush(g), g, True))


def _memoryless(start: Start, compress: Compress) -> Run:
    """Run msg = C(g); theta <- theta - alpha sum msg."""

    def speak(k, m, g, thetas):
        message = compress(k, m, g)
        return message, message, False

    return _descend(start, speak)


def _error_feedback(start: Start, compress: Compress) -> Run:
    """Run v = g + e; msg = C(v); e <- v - msg; theta <- theta - alpha sum msg."""
    e = start.zeros()

    def speak(k, m, g, thetas):
        v = g + e[m]
        message = compress(k, m, v)
        e[m] = v - message
        return message, message, False

    return _descend(start, speak)._replace(e=e)


def rand_k(start: Start, k: int, masks: np.ndarray, error_feedback: bool) -> Run:
    """Run k random entries: times D / k without memory, or with error feedback."""
    loop = _error_feedback if error_feedback else _memoryless
    scaled = not error_feedback
    return loop(start, lambda r, m, v: compress_rand_k(v, k, masks[r, m], scaled))


def sign_ef(start: Start) -> Run:
    """Run EF-sign: error feedback with (|v|_1 / D) sign(v)."""
    return _error_feedback(start, lambda _round, _m, v: compress_sign(v)[0])


def natural(start: Start, uniforms: np.ndarray) -> Run:
    """Run gradients rounded at random to powers of two."""
    return _memoryless(start, lambda k, m, v: compress_natural(v, uniforms[k, m]))


def terngrad(start: Start, uniforms: np.ndarray) -> Run:
    """Run TernGrad: entries rounded at random to 0 or +-|g|_inf."""
    return _memoryless(start, lambda k, m, v: compress_terngrad(v, uniforms[k, m])[0])


def qgd(start: Start, levels: int, uniforms: np.ndarray) -> Run:
    """Run QGD: gradients through the unbiased quantiser of s levels."""
    return _memoryless(
        start, lambda k, m, v: compress_qsgd(v, levels, uniforms[k, m])[0]
    )


def _basis(columns: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns."""
    return np.linalg.qr(columns)[0]


def low_rank(start: Start, initial: np.ndarray) -> Run:
    """Run error feedback with a rank-r factorisation by every worker for itself.

    V = G + E; P = basis(V Q); Q <- V^T P; msg = P Q^T; E <- V - msg. The first Q is
    `initial`, [cols, r]; theta is a matrix.
    """
    q = [np.array(initial, np.float64) for _ in range(start.num_workers)]

    def compress(_round, m, v):
        p = _basis(v @ q[m])
        q[m] = v.T @ p
        return _flush(p @ q[m].T)

    return _error_feedback(start, compress)


def power_sgd(start: Start, initial: np.ndarray) -> Run:
    """Run PowerSGD: error feedback with factors formed by all workers together.

    V_m = G_m + E_m; P = basis((sum V_m) Q); msg_m = P (V_m^T P)^T;
    E_m <- V_m - msg_m; Q <- sum V_m^T P.
    """
    run = _descend(start, lambda k, m, g, thetas: (0 * g, 0 * g, False))  # zeros
    q, e = np.array(initial, np.float64), start.zeros()
    workers = range(start.num_workers)
    for k in range(start.rounds):
        v = [start.gradient(m, run.thetas[k]) + e[m] for m in workers]
        p = _basis(sum(v) @ q)
        q_m = [v[m].T @ p for m in workers]
        q = sum(q_m)
        for m in workers:
            run.messages[k, m] = _flush(p @ q_m[m].T)
            e[m] = v[m] - run.messages[k, m]
        run.thetas[k + 1] = run.thetas[k] - start.alpha * run.messages[k].sum(axis=0)
    return run


# Methods with gradient differences


def _differences(start: Start, choose: Callable, beta: float = 1.0) -> Run:
    """Run v = g - h_m; msg = choose(k, m, g, v, thetas); h_m <- h_m + beta msg.

    The server adds up h_m + msg, with h_m from before the round. choose returns the
    message and whether it goes whole; None is silence.
    """
    h = start.zeros()

    def speak(k, m, g, thetas):
        chosen = choose(k, m, g, g - h[m], thetas)
        message, whole = (np.zeros_like(g), False) if chosen is None else chosen
        d = h[m] + message
        h[m] += beta * message
        return message, d, whole

    return _descend(start, speak)._replace(h=h)


def _lag_threshold(start: Start, thetas: np.ndarray, zeta: float) -> float:
    """Return (1 / (alpha M)^2) sum_{d=1}^{10} zeta |theta^(k+1-d) - theta^(k-d)|^2."""
    changes = np.diff(thetas[-LAG_WINDOW - 1 :], axis=0)
    return zeta * _squared_norm(changes) / (start.alpha**2 * start.num_workers**2)


def lag(start: Start, zeta: float = 0.1) -> Run:
    """Run LAG-WK: v stays back iff |v|^2 <= the threshold above."""

    def choose(k, m, g, v, thetas):
        small = _squared_norm(v) <= _lag_threshold(start, thetas, zeta)
        return None if small else (_flush(v), True)

    return _differences(start, choose)


def laq(start: Start, bits: int = 4, zeta: float = 0.08) -> Run:
    """Run LAQ: msg = grid(v) and eps = v - msg; it stays back iff

    |msg|^2 <= LAG's threshold + 3 (|eps|^2 + |eps_hat|^2), fewer than 100 rounds
    were skipped in a row and this is not the first; eps_hat is the last upload's eps.
    """
    eps_hat, skips = start.zeros(), [0] * start.num_workers

    def choose(k, m, g, v, thetas):
        message, _ = compress_grid(v, bits)
        eps = v - message
        slack = 3.0 * (_squared_norm(eps) + _squared_norm(eps_hat[m]))
        small = _squared_norm(message) <= _lag_threshold(start, thetas, zeta) + slack
        if k > 0 and small and skips[m] < LAQ_MOST_SKIPS:
            skips[m] += 1
            return None
        skips[m], eps_hat[m] = 0, eps
        return message, False

    return _differences(start, choose)


def iag(start: Start, chosen: np.ndarray) -> Run:
    """Run incremental aggregated gradients: only worker chosen[k] renews its h_m."""
    return _differences(
        start, lambda k, m, g, v, thetas: (_flush(v), True) if m == chosen[k] else None
    )


def ef21_sgdm(start: Start, k: int, eta: float) -> Run:
    """Run EF21 on a^r = (1 - eta) a^(r-1) + eta g^r, a^1 = g^1."""
    a, h = start.zeros(), start.zeros()

    def speak(r, m, g, thetas):
        a[m] = g if r == 0 else (1.0 - eta) * a[m] + eta * g
        v = a[m] - h[m]
        message = _flush(v) if r == 0 else compress_top_k(v, k)
        h[m] += message
        return message, h[m], r == 0

    return _descend(start, speak)


# Methods of one worker, whose messages may be lost


def worker_half(method, uniforms: np.ndarray | None = None) -> Method:
    """Of gdsec_jax.numpy_worker, made for one worker: a threshold has its 1/M."""
    kept = method.init(np.zeros(1))

    def update(now, g, memory, arrives):
        known = numpy_worker.Memory(memory.h, memory.e, memory.begun)
        u = None if uniforms is None else uniforms[now.k, now.m]
        return method.update(g, known, now.threshold, uniforms=u, delivered=arrives)

    def offer(now, g, memory):
        message, _ = update(now, g, memory, True)
        return message.values, message.whole or message.code.dense

    def settle(now, g, memory, arrived, arrives):
        _, (h, e, begun) = update(now, g, memory, arrives)
        return memory._replace(h=h, e=e, begun=begun)

    return Method(offer, settle, getattr(method, "beta", 1.0) if len(kept.h) else None)


def clag(k: int, zeta: float) -> Method:
    """EF21, but where |v|^2 <= zeta |g - p|^2 once one has arrived, u = 0; p <- g."""

    def offer(now, g, memory):
        v = g - memory.h
        if not memory.begun:
            return _flush(v), True
        large = _squared_norm(v) > zeta * _squared_norm(g - memory.p)
        return (compress_top_k(v, k) if large else np.zeros_like(v)), False

    def settle(_now, g, memory, arrived, _):
        begun = memory.begun or bool(arrived.any())
        return memory._replace(h=memory.h + arrived, p=g, begun=begun)

    return Method(offer, settle, 1.0)


def diana(compress: Compress, beta: float) -> Method:
    """u = C(g - h); h += beta u."""

    def offer(now, g, memory):
        return _flush(compress(now.k, now.m, g - memory.h)), False

    def settle(_now, g, memory, arrived, _):
        return memory._replace(h=memory.h + beta * arrived)

    return Method(offer, settle, beta)


def marina(compress: Compress, full: np.ndarray) -> Method:
    """u = g - h in full rounds, else C(g - p); h += u; p <- g if u arrives."""

    def offer(now, g, memory):
        if full[now.k]:
            return _flush(g - memory.h), True
        return _flush(compress(now.k, now.m, g - memory.p)), False

    def settle(_now, g, memory, arrived, arrives):
        return memory._replace(h=memory.h + arrived, p=g if arrives else memory.p)

    return Method(offer, settle, 1.0)


def ef_bv(start: Start, compress: Compress, nu: float, beta: float) -> Run:
    """u = C(g - h); the server adds up h + nu u; h += beta u."""
    h = start.zeros()

    def speak(k, m, g, thetas):
        message = _flush(compress(k, m, g - h[m]))
        d = h[m] + nu * message
        h[m] += beta * message
        return message, d, False

    return _descend(start, speak)._replace(h=h)


def threepc(
    variant: str, k: int, second: Compress | None = None, full: np.ndarray | None = None
) -> Method:
    """h becomes 3PC of the gradient x, the last one y, and h; x at first.

    v1: y + C(x - y); v2: b + C(x - b), b = h + Q(x - y); v4: the same with
    b = h + Q(x - h); v5: x in full rounds, else h + C(x - y). C is top-k, Q `second`.
    """

    def offer(now, x, memory):
        h, y = memory.h, memory.p
        if not memory.begun or (variant == "v5" and full[now.k]):
            return _flush(x - h), True
        if variant == "v1":
            return _flush(y + compress_top_k(x - y, k) - h), True
        if variant == "v5":
            return compress_top_k(x - y, k), False
        b = h + second(now.k, now.m, x - y if variant == "v2" else x - h)
        return _flush(b + compress_top_k(x - b, k) - h), False

    def settle(_now, x, memory, arrived, arrives):
        y = x if arrives else memory.p
        return memory._replace(h=memory.h + arrived, p=y, begun=memory.begun | arrives)

    return Method(offer, settle, 1.0)


def econtrol(k: int, eta: float) -> Method:
    """u = top_k(g - h + eta e); e += g - h - u; h += u."""

    def offer(now, g, memory):
        return compress_top_k(g - memory.h + eta * memory.e, k), False

    def settle(_now, g, memory, arrived, _):
        e = memory.e + g - memory.h - arrived
        return memory._replace(h=memory.h + arrived, e=e)

    return Method(offer, settle, 1.0)


def dasha(compress: Compress, a: float) -> Method:
    """u = C(g - p - a (h - p)), p = g at first; h += u; p <- g if u arrives."""

    def offer(now, g, memory):
        p = memory.p if memory.begun else g
        return _flush(compress(now.k, now.m, g - p - a * (memory.h - p))), False

    def settle(_now, g, memory, arrived, arrives):
        p = g if arrives else memory.p
        return memory._replace(h=memory.h + arrived, p=p, begun=memory.begun | arrives)

    return Method(offer, settle, 1.0)


def alone(start: Start, method: Method) -> Run:
    """Run a method of which every message arrives."""
    zero = np.zeros(np.shape(start.theta))
    memories = [Memory(zero, zero, zero, False)] * start.num_workers

    def speak(k, m, g, thetas):
        change = np.abs(thetas[-1] - thetas[max(k - 1, 0)])  # theta^0 = theta^1
        about, memory = Round(k, m, change / start.num_workers), memories[m]
        message, whole = method.offer(about, g, memory)
        memories[m] = method.settle(about, g, memory, message, True)
        return message, message if method.beta is None else memory.h + message, whole

    run = _descend(start, speak)
    h, e = (np.array([getattr(x, name) for x in memories]) for name in "he")
    return run._replace(h=None if method.beta is None else h, e=e)


# Bits of one message, by writing it out as a string and taking the length


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
