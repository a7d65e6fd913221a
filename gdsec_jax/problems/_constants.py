"""Smoothness constants, computed on the host in float64."""

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
    return (features * features).sum(axis=0)


def conjugate_gradients(system, right, tolerance) -> np.ndarray:
    """A solution of a symmetric system; how good it is its callers measure."""
    return scipy.sparse.linalg.cg(system, right, rtol=tolerance, maxiter=20_000)[0]


def operator(size, product):
    return scipy.sparse.linalg.LinearOperator(
        (size, size),  # pyright: ignore
        matvec=product,  # pyright: ignore
        dtype=np.float64,  # pyright: ignore
    )
