"""Smoothness constants and optima, computed on the host in float64."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

DENSE_LIMIT = 2000  # above it iterative linear algebra, below it factorisations

Matrix = Any  # np.ndarray or scipy.sparse.csr_array, of which type checkers know little


def dense(matrix: Matrix) -> np.ndarray:
    """The matrix as an array, where it may be sparse."""
    return matrix.toarray() if scipy.sparse.issparse(matrix) else matrix


def gram_norm(features: Matrix) -> float:
    """The largest eigenvalue of X^T X, to rounding."""
    smaller, wide = min(features.shape), features.shape[0] < features.shape[1]
    if smaller == 0 or not squared_columns(features).any():
        return 0.0
    if smaller <= DENSE_LIMIT:
        gram = dense(features @ features.T if wide else features.T @ features)
        last = [smaller - 1, smaller - 1]
        value = scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=last)[0]
    else:
        start = np.random.default_rng(0).standard_normal(smaller)
        x = features.T if wide else features
        gram = _operator(smaller, lambda v: x.T @ (x @ v))
        value = scipy.sparse.linalg.eigsh(
            gram,
            k=1,
            v0=start,
            tol=1e-12,  # pyright: ignore
            return_eigenvectors=False,
        )[0]
    return float(max(value, 0.0))


def squared_columns(features: Matrix) -> np.ndarray:
    """The sum of squares of each column."""
    if scipy.sparse.issparse(features):
        return np.asarray(features.multiply(features).sum(axis=0)).ravel()
    return np.einsum("nd,nd->d", features, features)


def solve_ridge(features: Matrix, targets: np.ndarray, regularization: float):
    """The minimiser of |X theta - y|^2 / 2N + lambda |theta|^2 / 2."""
    num_samples, length = features.shape
    right = features.T @ targets / num_samples
    if length <= DENSE_LIMIT:
        gram = dense(features.T @ features / num_samples)
        if regularization == 0:  # it may be singular: the shortest solution
            return np.linalg.lstsq(gram, right)[0]
        return scipy.linalg.solve(
            gram + regularization * np.eye(length), right, assume_a="pos"
        )

    def hessian_product(v):
        return features.T @ (features @ v) / num_samples + regularization * v

    return _conjugate_gradients(hessian_product, right, 1e-13)


def solve_lasso(features: Matrix, targets: np.ndarray, regularization: float):
    """The minimiser of |X theta - y|^2 / 2N + lambda |theta|_1, to rounding."""
    import sklearn.exceptions
    import sklearn.linear_model

    if regularization == 0:
        return solve_ridge(features, targets, 0.0)
    x = features
    if scipy.sparse.issparse(features):
        x = features.tocsc()
        x.indices, x.indptr = x.indices.astype(np.int32), x.indptr.astype(np.int32)
    solver = sklearn.linear_model.Lasso(
        alpha=regularization, fit_intercept=False, tol=1e-13, max_iter=100_000
    )
    with warnings.catch_warnings():  # the polish below reaches what its steps do not
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        theta = solver.fit(x, targets).coef_
    support = np.flatnonzero(theta)
    if not 0 < support.size <= min(DENSE_LIMIT, features.shape[0]):
        return theta
    # On the true support with the true signs the optimum is a linear system's solution.
    columns = x[:, support]
    gram = dense(columns.T @ columns)
    signs = np.sign(theta[support])
    right = columns.T @ targets - targets.size * regularization * signs
    polished = np.linalg.lstsq(gram, right)[0]
    if np.array_equal(np.sign(polished), signs):
        theta[support] = polished
    return theta


def newton(
    value: Callable[[np.ndarray], float],
    gradient: Callable[[np.ndarray], np.ndarray],
    hessian_product: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    start: np.ndarray,
    hessian: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Minimise a smooth strongly convex f of theta [D] by damped Newton steps.

    `hessian_product` maps theta to v to H v, `hessian` theta to H; without the latter
    steps are found by conjugate gradients.
    """
    theta, best = start, value(start)
    tolerance = 1e-14 * max(1.0, float(np.linalg.norm(gradient(start))))
    for _ in range(200):
        g = gradient(theta)
        norm = float(np.linalg.norm(g))
        if norm <= tolerance:
            break
        if hessian is not None:
            step = scipy.linalg.solve(hessian(theta), -g, assume_a="pos")
        else:
            step = _conjugate_gradients(
                hessian_product(theta), -g, np.clip(norm, 1e-10, 0.1)
            )
        size, decrease = 1.0, float(g @ step)
        rounding = 1e-15 * abs(best)
        while value(theta + size * step) > best + 1e-4 * size * decrease + rounding:
            size /= 2
            if size < 1e-10:
                return theta
        theta = theta + size * step
        best = value(theta)
        if -decrease <= 1e-24 * max(1.0, abs(best)):  # f - f* is half of it, or less
            break
    return theta


def _conjugate_gradients(product, right, tolerance):
    operator = _operator(right.size, product)
    return scipy.sparse.linalg.cg(operator, right, rtol=tolerance, maxiter=20_000)[0]


def _operator(size, product):
    return scipy.sparse.linalg.LinearOperator(
        (size, size),  # pyright: ignore
        matvec=product,  # pyright: ignore
        dtype=np.float64,  # pyright: ignore
    )
