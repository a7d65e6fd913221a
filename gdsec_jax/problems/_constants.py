"""Smoothness constants and optima, computed on the host in float64."""

import warnings
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
        norm = scipy.sparse.linalg.svds(  # which squares the tolerance
            features, k=1, v0=start, tol=1e-6, return_singular_vectors=False
        )
        value = norm[0] ** 2
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

    hessian = scipy.sparse.linalg.LinearOperator(
        (length, length),  # pyright: ignore
        matvec=hessian_product,  # pyright: ignore
        dtype=np.float64,  # pyright: ignore
    )
    return scipy.sparse.linalg.cg(hessian, right, rtol=1e-13, maxiter=20_000)[0]


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


def solve_logistic(features: Matrix, labels: np.ndarray, regularization: float):
    """The minimiser of the mean logistic loss + lambda |theta|^2 / 2, [D]."""
    small = features.shape[1] <= DENSE_LIMIT
    solver = "newton-cholesky" if small else "newton-cg"
    return _rows_of_classes(features, labels, regularization, solver)[0]


def solve_softmax(features: Matrix, labels: np.ndarray, regularization: float):
    """The minimiser of the mean softmax loss + lambda |theta|^2 / 2, [D, C]."""
    if labels.max() > 1:
        return _rows_of_classes(features, labels, regularization, "newton-cg").T
    # Those of two classes are opposite, their difference is logistic regression's.
    half = solve_logistic(features, labels, regularization / 2) / 2
    return np.stack([-half, half], axis=1)


def _rows_of_classes(features, labels, regularization, solver: str) -> np.ndarray:
    """Parameters [C, D]; of two classes a single row, for the upper one."""
    import sklearn.linear_model

    model = sklearn.linear_model.LogisticRegression(
        C=1 / (labels.size * regularization) if regularization else np.inf,
        solver=solver,
        fit_intercept=False,
        tol=1e-14,
        max_iter=200,
    )
    with warnings.catch_warnings():  # rounding may end it before the tolerance does
        warnings.simplefilter("ignore")
        return model.fit(features, labels).coef_
