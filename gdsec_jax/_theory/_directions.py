"""The first gradient, and what is gained along directions of a length of their own."""

import jax
import numpy as np

from gdsec_jax.problems import Problem


def first_gradient(problem: Problem) -> list[np.ndarray]:
    """Of f at the start, a float64 array a leaf."""
    each = jax.tree.leaves(problem.gradients(problem.init_params))
    return [np.asarray(x, np.float64).sum(axis=0) for x in each]


def along_signs(gradient: list[np.ndarray]) -> float:
    """The best step along the signs of g for L = 1: <g, d> / |d|^2, or 1 for g = 0."""
    total, size = (sum(map(f, gradient)) for f in (lambda g: np.abs(g).sum(), np.size))
    return float(total) / size if total else 1.0


def along_orthogonal(gradient: list[np.ndarray]) -> float:
    """The same along U V^T of every leaf as a matrix, of vectors as a column."""
    matrices = [g.reshape(-1, g.shape[-1] if g.ndim > 1 else 1) for g in gradient]
    nuclear = sum(np.linalg.svd(g, compute_uv=False).sum() for g in matrices)
    return float(nuclear / sum(map(np.linalg.matrix_rank, matrices))) if nuclear else 1
