r"""Optima of smooth convex losses, in float64 on the host, and how good they are.

They are found in coordinates in which the condition of the features is gone, and judged
by a bound on :math:`f(\hat\theta) - f^*` that does not trust whoever found them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy

from gdsec_jax.problems._constants import (
    DENSE_LIMIT,
    Matrix,
    conjugate_gradients,
    dense,
    operator,
    squared_columns,
)

ACCURACY = 1e-12  # of an optimum: a gap of so much max(1, |f*|) is not worth a word
_LARGEST = 2**27  # numbers of a dense array, a GiB
_EPS = float(np.finfo(np.float64).eps)


class Optimum(NamedTuple):
    """The least value that was found, and what is known of it."""

    value: Any = None
    gap: Any = None  # value - f* is at most this
    solution: Any = None  # None where no parameters have the least value
    attained: bool = True
    rounding: Callable[..., float] | None = None  # what it moves the value by, of eps
    lost: int = 0  # directions of the features that rounding hides

    def note(self, name: str) -> str:
        """A sentence, where the optimum is not what the word says."""
        if self.value is None:  # nothing is claimed
            return ""
        if not self.attained:
            return (
                f"{name} has no minimiser: without a penalty, classes that a plane "
                f"separates are told apart the better the larger the parameters are, "
                f"and optimum {self.value:.4g} is the infimum."
            )
        if self.lost:
            return (
                f"{name} has an optimum that leaves {self.lost} of the features' "
                "directions out: beside the longest they are so short that rounding "
                "hides them, and f may be less along them."
            )
        if self.gap <= ACCURACY * max(1.0, abs(self.value)):
            return ""
        return (
            f"{name} has an optimum that is not exact: {self.value:.6g} may lie up to "
            f"{self.gap:.1e} above the least value, and errors below that say nothing."
        )


class Squares(NamedTuple):
    """Half the squared residuals, a function of z [N, 1]."""

    targets: np.ndarray  # [N]

    curvature = 1.0  # the largest second derivative
    basis = np.ones((1, 1))
    alive = None
    attained = True  # whether there always is a minimiser

    def value(self, z):
        return (z[:, 0] - self.targets) ** 2 / 2

    def slope(self, z):
        return z - self.targets[:, None]

    def product(self, z):
        """The second derivative as a function of a direction, [N, K]."""
        del z
        return lambda s: s

    def divergence(self, z, s):
        """How far the slopes at z are from those that s changes by the derivative."""
        del z
        return s[:, 0] ** 2 / 2

    def ahead(self, z):
        """Whether all samples' losses fall for ever along z."""
        del z
        return False


class Classes(NamedTuple):
    r"""The loss :math:`\log \sum_c e^{s_c} - s_y` of the scores s = z B, z [N, K].

    For logistic regression s = (0, z). For softmax regression the rows of B are
    orthonormal and add up to nothing: it does not see what all scores have in common.
    Scores are taken less that of the sample's own class, and its probability as what
    the others leave: no digits of a small one are lost.
    """

    labels: np.ndarray  # y, [N], from 0
    basis: np.ndarray  # B, [K, C]
    # [N, C]: False for what a sample cannot be mistaken for any more.
    alive: np.ndarray | None = None

    curvature = 0.5  # of softmax; that of logistic regression is a quarter
    attained = False

    def _margins(self, z):
        scores = z @ self.basis
        return scores - np.take_along_axis(scores, self.labels[:, None], 1)

    def _living(self, z):
        margins = self._margins(z)
        return margins if self.alive is None else np.where(self.alive, margins, -np.inf)

    def value(self, z):
        return scipy.special.logsumexp(self._living(z), axis=1)

    def slope(self, z):
        p = scipy.special.softmax(self._living(z), axis=1)
        np.put_along_axis(p, self.labels[:, None], 0.0, 1)
        np.put_along_axis(p, self.labels[:, None], -p.sum(1, keepdims=True), 1)
        return p @ self.basis.T

    def _changes(self, p, s):
        """Of the probabilities along s, relative to them."""
        margins = self._margins(s)
        return margins - (p * margins).sum(1, keepdims=True)

    def product(self, z):
        p = scipy.special.softmax(self._living(z), axis=1)
        return lambda s: (p * self._changes(p, s)) @ self.basis.T

    def divergence(self, z, s):
        """Kullback and Leibler's; infinity where a probability would be negative."""
        p = scipy.special.softmax(self._living(z), axis=1)
        change = np.where(p > 0, self._changes(p, s), 0.0)
        if change.min() < -1:
            return np.full(len(z), np.inf)
        return (p * (scipy.special.xlog1py(1 + change, change) - change)).sum(1)

    def ahead(self, z):
        margins = self._margins(z)
        np.put_along_axis(margins, self.labels[:, None], -np.inf, 1)
        return bool((margins < -1e-9 * np.abs(z).max()).all())


class Fit(NamedTuple):
    r"""f in coordinates w [r, K]: mean phi(F w) + sum of penalty |w|^2 / 2.

    The parameters are theta = T w B.
    """

    loss: Any
    features: Matrix  # F, [N, r]
    penalty: np.ndarray  # [r]
    transform: Matrix  # T, [D, r]
    rounding: float = 0.0  # of a direction of w, relative: eps times the condition of T
    lost: int = 0  # directions of the features that are left out

    @property
    def direct(self) -> bool:
        """Whether Hessians are factorised; else conjugate gradients find the steps."""
        return self.penalty.size * len(self.loss.basis) <= DENSE_LIMIT

    def value(self, w) -> float:
        penalty = self.penalty @ (w * w).sum(1) / 2
        return self.loss.value(self.features @ w).mean() + penalty

    def gradient(self, w):
        slope = self.loss.slope(self.features @ w) / self.features.shape[0]
        return self.features.T @ slope + self.penalty[:, None] * w

    def hessian(self, w) -> np.ndarray:
        """[r K, r K]."""
        (num_samples, r), classes = self.features.shape, w.shape[1]
        product = self.loss.product(self.features @ w)
        out = np.zeros((r, classes, r, classes))
        for k, unit in enumerate(np.eye(classes)):
            weights = product(np.tile(unit, (num_samples, 1))) / num_samples
            for l in range(k + 1):
                weight = weights[:, l : l + 1]
                if scipy.sparse.issparse(self.features):
                    weighted = self.features.multiply(weight).tocsr()
                else:
                    weighted = self.features * weight
                out[:, k, :, l] = dense(self.features.T @ weighted)
                out[:, l, :, k] = out[:, k, :, l]
            out[:, k, :, k] += np.diag(self.penalty)
        return out.reshape(r * classes, r * classes)

    def hessian_product(self, w):
        product = self.loss.product(self.features @ w)

        def times(v):
            v = v.reshape(w.shape)
            of_samples = product(self.features @ v) / self.features.shape[0]
            return (self.features.T @ of_samples + self.penalty[:, None] * v).ravel()

        return operator(w.size, times)

    def parameters(self, w) -> np.ndarray:
        return self.transform @ w @ self.loss.basis


def minimise(features: Matrix, loss: Any, regularization: float) -> Optimum:
    """The least of the mean loss plus lambda |theta|^2 / 2, theta [D, C].

    Of several minimisers the shortest.
    """
    fit = _in_coordinates(features, loss, regularization)
    w, attained = _newton(fit), True
    if regularization == 0 and loss.ahead(fit.features @ w):
        return Optimum(0.0, 0.0, None, attained=False)
    gap, curved = _gap(fit, w)
    curved = curved and math.isfinite(gap)  # a Hessian of rounding alone bounds nothing
    surely = loss.attained or curved or regularization > 0
    alive = None if surely else _alive(features, loss)
    if alive is not None:
        rest = fit._replace(loss=loss._replace(alive=alive))
        of_rest = _newton(rest)
        gap_of_rest, _ = _gap(rest, of_rest)
        if gap_of_rest <= max(gap, ACCURACY):
            fit, w, gap, attained = rest, of_rest, gap_of_rest, False
    theta = fit.parameters(w)
    if regularization == 0 and len(w) < len(theta):
        theta = _shortest(features, theta)
    z = features @ theta @ loss.basis.T
    penalty = regularization / 2 * np.vdot(theta, theta)
    value = float(fit.loss.value(z).mean() + penalty)
    # What was bounded is f(w); and no loss is negative.
    gap = min(gap + abs(value - fit.value(w)), value)
    slopes = fit.loss.slope(z) @ loss.basis
    rounding = functools.partial(rounding_of, features, slopes, theta, value)
    gap += rounding()
    solution = theta if attained else None
    return Optimum(value, float(gap), solution, attained, rounding, fit.lost)


def rounding_of(
    features: Matrix, slopes, theta, value: float, eps: float = _EPS
) -> float:
    """What rounding moves the value by: slopes [N, ...] of the samples' scores.

    Products and samples are rounded each on its own: squares add up.
    """
    of_scores = (features * features) @ theta**2
    first = math.sqrt(np.vdot(slopes**2, of_scores))
    second = 32 * eps * of_scores.sum()  # where a residual is nothing but rounding
    return 4 * eps * (value + (first + second) / len(slopes))


def _newton(fit: Fit) -> np.ndarray:
    """Damped Newton steps from zero, until rounding stops them."""
    loss = fit.loss
    w = np.zeros((fit.penalty.size, len(loss.basis)))
    best, factor = fit.value(w), None
    for _ in range(200):
        g = fit.gradient(w)
        free = not fit.penalty.any() and loss.ahead(fit.features @ w)
        if free or not g.any():
            break
        if not fit.direct:
            rtol = min(0.1, max(1e-10, float(np.linalg.norm(g))))
            step = conjugate_gradients(fit.hessian_product(w), -g.ravel(), rtol)
        else:
            if factor is None or isinstance(loss, Classes):
                factor = _inverse(fit.hessian(w), loss)
            if factor is None:  # all losses are far in their flat parts
                break
            step = factor(-g.ravel())
        step = step.reshape(w.shape)
        size, decrease = 1.0, float(np.vdot(g, step))
        # Below what rounding leaves of f it cannot say whether a step is good.
        rounding = 1e-15 * abs(best)
        while (value := fit.value(w + size * step)) > (
            best + 1e-4 * size * decrease + rounding
        ):
            size /= 2
            if size < 1e-10:
                return w
        w, best = w + size * step, value
        if -decrease <= 1e-24 * max(1.0, abs(best)):  # f - f* is half of it, or less
            break
    return w


def _inverse(hessian: np.ndarray, loss: Any):
    """The Hessian's inverse as a function, on its range where samples are left out."""
    if loss.alive is not None:
        return _on_range(hessian)[0]
    try:
        factor = scipy.linalg.cho_factor(hessian)
    except np.linalg.LinAlgError:
        return None
    return lambda g: scipy.linalg.cho_solve(factor, g)


def _on_range(hessian: np.ndarray):
    """The inverse on the range, to rounding, and whether that is all, by far.

    Where f has no minimiser, Newton steps end when its flat parts are rounding of f.
    """
    values, vectors = scipy.linalg.eigh(hessian)
    kept = values > 1e-13 * values[-1]
    vectors = vectors[:, kept] / np.sqrt(values[kept])
    return lambda g: vectors @ (vectors.T @ g), values[0] > 1e-9 * values[-1]


def _gap(fit: Fit, w: np.ndarray) -> tuple[float, bool]:
    r"""A bound on f(w) - f*, and whether f is curved in all directions there.

    It is the duality gap of any step s, which need not be a good one: at the slopes
    that the losses would have after it, were they straight. With a divergence D_n of
    those from the slopes at w, for classes that of Kullback and Leibler, and
    :math:`r = \nabla f + H s`,

    .. math:: f(w) - f^* \le \frac1N \sum_n D_n(s) + |r - \lambda s|^2 / 2\lambda,

    :math:`|\nabla f|^2 / 2\lambda` for s = 0. Without a penalty the last term is
    :math:`|r| |w^*|`, r what rounding leaves, and w stands for w*.
    """
    z, g, penalty = fit.features @ w, fit.gradient(w), fit.penalty[:, None]
    slope = fit.loss.slope(z)
    # What the coordinates themselves are rounded by.
    lost = fit.rounding**2 * np.vdot(slope, slope) / len(slope)

    def of(step):
        step = step.reshape(w.shape)
        r = g + fit.hessian_product(w).matvec(step.ravel()).reshape(w.shape)
        if penalty.all():
            rest = np.sum((r - penalty * step) ** 2 / penalty) / 2
        else:
            rest = np.linalg.norm(r) * np.linalg.norm(w)
        divergence = fit.loss.divergence(z, fit.features @ step)
        return float(divergence.mean() + rest) + lost

    bound = of(np.zeros(w.shape)) if penalty.all() or not g.any() else math.inf
    if bound <= ACCURACY / 100 and (penalty.all() or not fit.direct):
        return bound, True
    if not fit.direct:
        step = conjugate_gradients(fit.hessian_product(w), -g.ravel(), 1e-10)
        return min(bound, of(step)), True
    inverse, curved = _on_range(fit.hessian(w))
    return min(bound, of(inverse(-g.ravel()))), curved


def _alive(features: Matrix, loss: Any) -> np.ndarray | None:
    """What the infimum depends on, where f has no minimiser; [N, C].

    Some direction, a linear program finds, raises no loss and makes as many margins as
    possible grow for ever; the rest of them it leaves as they are.
    """
    norms = np.sqrt(squared_columns(features))
    scale = scipy.sparse.diags_array(1 / np.where(norms > 0, norms, 1.0))
    scaled = scipy.sparse.csr_array(features) @ scale
    num_samples, scores = features.shape[0], loss.basis.shape[1]
    # A row for each sample and each other class: how its margin grows.
    n, c = np.nonzero(np.arange(scores) != loss.labels[:, None])
    away = loss.basis[:, loss.labels[n]] - loss.basis[:, c]  # [K, rows]
    if scaled[n].nnz * len(away) > _LARGEST // 8:
        return None
    rows = scipy.sparse.hstack([scaled[n].multiply(each[:, None]) for each in away])
    lengths = np.sqrt(squared_columns(rows.T))
    rows = scipy.sparse.diags_array(1 / np.where(lengths > 0, lengths, 1.0)) @ rows
    found = scipy.optimize.linprog(
        np.append(np.zeros(rows.shape[1]), -np.ones(n.size)),
        A_ub=scipy.sparse.hstack([-rows, scipy.sparse.eye_array(n.size)]).tocsc(),
        b_ub=np.zeros(n.size),
        bounds=[(None, None)] * rows.shape[1] + [(0, 1)] * n.size,
        options={"time_limit": 60},
    )
    if found.x is None or (rows @ found.x[: rows.shape[1]]).min() < -1e-11:
        return None  # it lets a loss rise by less than its own tolerance
    grows = found.x[rows.shape[1] :] > 0.5
    if not grows.any():
        return None
    alive = np.ones((num_samples, scores), bool)
    alive[n[grows], c[grows]] = False
    return alive


def _shortest(features: Matrix, theta: np.ndarray) -> np.ndarray:
    """The shortest parameters with the same scores, where there are several."""
    short = scipy.linalg.lstsq(dense(features), features @ theta)[0]
    error = features @ (short - theta)
    size = np.abs(features @ theta).max(initial=0.0)
    return short if np.abs(error).max(initial=0.0) <= 1e-12 * size else theta


def _in_coordinates(features: Matrix, loss: Any, regularization: float) -> Fit:
    """As it is where the penalty is not too small; else all directions are alike.

    By singular values, or of large features the columns alone. Directions of which
    rounding leaves nothing are taken for ones that the features do not have.
    """
    num_samples, length = features.shape
    size = length * len(loss.basis)
    norms = np.sqrt(squared_columns(features))
    # The least that a second derivative is, and the most, times N.
    least = num_samples * regularization / loss.curvature
    if size <= DENSE_LIMIT and least >= 1e-10 * norms @ norms:
        penalty = np.full(length, regularization)
        return Fit(loss, features, penalty, scipy.sparse.eye_array(length))
    if min(features.shape) > DENSE_LIMIT or num_samples * length > _LARGEST:
        scale = np.sqrt(norms**2 + least)
        scale = np.divide(math.sqrt(num_samples), scale, where=scale > 0, out=0 * scale)
        transform = scipy.sparse.diags_array(scale)
        return Fit(loss, features @ transform, regularization * scale**2, transform)
    # A power of 2 for each column rounds nothing; a penalty tells columns apart.
    scale = np.ones(length)
    if regularization == 0:
        scale = np.exp2(-np.round(np.log2(np.where(norms > 0, norms, 1.0))))
    u, s, v = scipy.linalg.svd(dense(features) * scale, full_matrices=False)
    cut = _EPS * max(features.shape) * s[0]
    kept = np.maximum(s, math.sqrt(least)) > cut
    u, s, v = u[:, kept], s[kept], v[kept]
    own = math.sqrt(num_samples) / np.sqrt(s**2 + least)
    condition = s[0] / max(s[-1], math.sqrt(least)) if s.size else 1.0
    transform = scale[:, None] * v.T * own
    penalty = regularization * own**2
    lost = 0 if kept.all() else _rank(dense(features)) - s.size
    return Fit(loss, u * (s * own), penalty, transform, _EPS * condition, max(lost, 0))


def _rank(x: np.ndarray) -> int:
    """The exact rank, of numbers modulo a prime: hardly ever that is less.

    Of more than a thousand columns it is not asked for: 0.
    """
    x, prime = x[:, x.any(axis=0)], 65_521
    size = min(x.shape)
    if size > 1_000 or len(x) > 2**21:  # the sums below are exact
        return 0
    digits, exponents = np.frexp(x)
    least = int(exponents.min(initial=0))
    powers = range(int(exponents.max(initial=0)) - least + 1)
    powers = np.array([pow(2, power, prime) for power in powers])
    whole = np.ldexp(digits, 53).astype(np.int64) % prime
    whole = (whole * powers[exponents - least] % prime).astype(float)
    rng, rank = np.random.default_rng(0), 0
    rows = (rng.integers(prime, size=(size, len(x))).astype(float) @ whole) % prime
    rows = rows.astype(np.int64)
    for column in range(x.shape[1]):
        (below,) = np.nonzero(rows[rank:, column])
        if below.size:
            rows[[rank, rank + below[0]]] = rows[[rank + below[0], rank]]
            pivot = rows[rank] * pow(int(rows[rank, column]), -1, prime) % prime
            rest = rows[rank + 1 :]
            rest -= rest[:, column : column + 1] * pivot
            rest %= prime
            rank += 1
    return rank
