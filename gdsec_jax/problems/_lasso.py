r"""The optimum of the lasso: coordinate descent, then Newton steps on the support."""

import functools
import itertools
import warnings

import numpy as np
import scipy

from gdsec_jax.problems._constants import DENSE_LIMIT, Matrix, dense, squared_columns
from gdsec_jax.problems._optima import (
    ACCURACY,
    Optimum,
    Squares,
    minimise,
    rounding_of,
)

_FEW = DENSE_LIMIT // 4  # coefficients of which the nearest dual point is looked for


def solve_lasso(features: Matrix, targets: np.ndarray, regularization: float):
    """The minimiser of |X theta - y|^2 / 2N + lambda |theta|_1, to rounding."""
    if regularization == 0:
        return minimise(features, Squares(targets), 0.0)
    given = features, targets, regularization
    theta = _polished(*given, _descent(*given))
    value, gap = _judged(*given, theta)
    if gap > ACCURACY * max(1.0, value) and theta.size <= _FEW:
        other = _polished(*given, _from_dual(dense(features), *given[1:]))
        its_value, its_gap = _judged(*given, other)
        least = max(value - gap, its_value - its_gap)  # f* is more
        if its_value < value:
            value, gap, theta = its_value, its_gap, other
        gap = min(gap, max(value - least, 0.0))
    residual = targets - features @ theta
    rounding = functools.partial(rounding_of, features, residual, theta, value)
    return Optimum(value, float(gap + rounding()), theta, rounding=rounding)


def _judged(x: Matrix, y: np.ndarray, lam: float, theta) -> tuple[float, float]:
    """f, and what it is above its least value at most."""
    residual = y - x @ theta
    value, gap = _bounded(residual, x.T @ residual / y.size, theta, lam)
    if gap > ACCURACY / 10 and theta.size <= _FEW:
        gap = min(gap, _projected(dense(x), residual, theta, lam))
    return value, gap


def _descent(x: Matrix, y: np.ndarray, lam: float) -> np.ndarray:
    """Where scikit-learn's coordinate descent ends, for a start."""
    import sklearn.exceptions
    import sklearn.linear_model

    if scipy.sparse.issparse(x):
        x = x.tocsc()
        x.indices, x.indptr = x.indices.astype(np.int32), x.indptr.astype(np.int32)
    solver = sklearn.linear_model.Lasso(
        alpha=lam, fit_intercept=False, tol=1e-13, max_iter=1_000
    )
    # It says when its steps do not suffice. More follow, and what they leave is said.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        return solver.fit(x, y).coef_


def _bounded(residual, c, theta, lam: float) -> tuple[float, float]:
    r"""f, and the duality gap as a sum of what is not negative.

    With the residual r, :math:`c = X^T r / N` and
    :math:`s = \min(1, \lambda / \max_i |c_i|)` the point s r is feasible, and

    .. math:: f(\theta) - f^* \le \sum_i (\lambda |\theta_i| - s \theta_i c_i)
       + (1 - s)^2 |r|^2 / 2N
    """
    share = min(1.0, lam / max(np.abs(c).max(), lam))
    gap = np.sum(lam * np.abs(theta) - share * theta * c)
    square = residual @ residual / (2 * residual.size)
    value = float(square + lam * np.abs(theta).sum())
    return value, min(float(gap + (1 - share) ** 2 * square), value)


def _projected(x: np.ndarray, residual, theta, lam: float) -> float:
    """The gap by the feasible point u that is the nearest to r, about.

    Where rounding of theta moves X^T r by much of lambda, s r is too short a point.
    """
    num_samples, gaps = residual.size, []
    for u, _ in itertools.islice(_nearest(x, residual, lam), 4):
        c = x.T @ u / num_samples
        share = min(1.0, lam / max(np.abs(c).max(), lam))
        gap = np.sum(lam * np.abs(theta) - share * theta * c)
        gaps.append(gap + np.sum((residual - share * u) ** 2) / (2 * num_samples))
    return float(min(gaps))


def _from_dual(x: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    """The parameters whose residuals are the feasible point that is nearest to y."""
    norms = np.sqrt(squared_columns(x))
    norms = np.where(norms > 0, norms, 1.0)
    u, at_bound = next(_nearest(x, y, lam))
    return np.where(at_bound, scipy.linalg.lstsq(x / norms, y - u)[0] / norms, 0.0)


def _nearest(x: np.ndarray, r: np.ndarray, lam: float):
    """Points u near r with X^T u / N in the box, ever less rounded; what is at it."""
    norms = np.sqrt(squared_columns(x))
    norms = np.where(norms > 0, norms, 1.0)
    scaled, box = x / norms, lam / norms
    _, s, v = scipy.linalg.svd(scaled, full_matrices=False)
    moves = v * (s[-1] / np.maximum(s, 1e-15 * s[0]))[:, None]
    c = scaled.T @ r / r.size
    found = scipy.optimize.lsq_linear(moves * box, moves @ c, (-1, 1), method="bvls")
    u = r
    while True:
        excess = scaled.T @ u / r.size - found.x * box
        u = u - r.size * scipy.linalg.lstsq(scaled.T, excess)[0]
        yield u, found.active_mask != 0


def _polished(x: Matrix, y: np.ndarray, lam: float, theta: np.ndarray) -> np.ndarray:
    """Exact steps on the support, which grows by one coefficient at a time.

    With signs that stay as they are f is a quadratic on the support. A step goes to its
    minimum, or to where f along the way is the least; what is 0 there leaves the
    support. If nothing is left to gain on it, the coefficient joins whose slope is the
    steepest. Lee et al., Efficient sparse coding algorithms, 2007.
    """
    x = x.tocsc() if scipy.sparse.issparse(x) else x  # to take columns of
    theta, norms = theta.copy(), np.sqrt(squared_columns(x))
    eps = np.finfo(np.float64).eps
    best, gap, least, patience = theta.copy(), np.inf, np.inf, 4
    for _ in range(20 * (DENSE_LIMIT + theta.size)):
        residual = y - x @ theta
        c = x.T @ residual / y.size
        value, bound = _bounded(residual, c, theta, lam)
        if bound < gap:
            best, gap = theta.copy(), bound
        # Rounding alone moves it in the end, and may do so in circles.
        patience = 4 if value < (1 - 1e-14) * least else patience - 1
        least = min(least, value)
        # What c is rounded by, and what of that the residual is.
        rounded = np.linalg.norm(residual) + np.linalg.norm(norms * theta)
        noise = 4 * eps * norms * rounded / y.size
        support = np.flatnonzero(theta)
        signs = np.sign(theta[support])
        settled = np.abs(lam * signs - c[support]).max(initial=0.0)
        excess = np.abs(c) - lam - noise
        excess[support] = -np.inf
        steepest = int(excess.argmax())
        if excess[steepest] > 1e3 * settled:
            support = np.append(support, steepest)
            signs = np.append(signs, np.sign(c[steepest]))
        if not 0 < support.size <= DENSE_LIMIT or not patience:
            break
        step = _step(x[:, support], lam * signs - c[support], norms[support])
        before = theta[support]
        moved = x[:, support] @ step
        slopes = -c[support] @ step, moved @ moved / y.size
        size, stops = _along(before, step, slopes, lam)
        after = before + size * step
        after[stops] = 0.0
        theta[support] = after
    return best


def _step(x: Matrix, gradient: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """To the minimum of the quadratic, or along what has none.

    Columns are made as long as each other. Their Gram matrix squares the condition:
    where that is too much, singular values do not.
    """
    scaled, num_samples = gradient / norms, x.shape[0]
    gram = dense(x.T @ x) / norms / norms[:, None]
    values, vectors = scipy.linalg.eigh(gram)
    cut = 1e-10
    if values[0] <= cut * values[-1]:
        wide = x.shape[0] < x.shape[1]  # then thin factors leave directions out
        _, s, rows = scipy.linalg.svd(dense(x) / norms, full_matrices=wide)
        values, vectors = np.zeros(norms.size), rows.T
        values[: s.size], cut = s**2, (max(x.shape) * np.finfo(np.float64).eps) ** 2
    along, kept = vectors.T @ scaled, values > cut * values.max()
    flat = vectors[:, ~kept] @ along[~kept]
    if np.abs(flat).max(initial=0.0) > 1e-6 * np.abs(scaled).max():
        return -flat / norms
    return -num_samples * (vectors[:, kept] @ (along[kept] / values[kept])) / norms


def _along(before, step, slopes, lam: float) -> tuple[float, np.ndarray]:
    """The least of f along a step: how far, and which coefficients are 0 there.

    slopes: the smooth part's first derivative at the start, and its second.
    """
    first, second = slopes
    meets = np.full(step.size, np.inf)
    np.divide(-before, step, out=meets, where=before * step < 0)
    of_norm = np.where(before == 0, np.abs(step), np.sign(before) * step).sum()
    slope = first + lam * of_norm
    for i in np.argsort(meets):
        if not np.isfinite(meets[i]) or slope + second * meets[i] >= 0:
            break
        if slope + second * meets[i] + 2 * lam * abs(step[i]) >= 0:
            return float(meets[i]), meets == meets[i]
        slope += 2 * lam * abs(step[i])
    size = -slope / second if second > 0 and slope < 0 else 0.0
    return float(size), np.zeros(step.size, bool)
