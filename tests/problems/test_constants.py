"""Eigenvalues against NumPy's, and the curvature of a sigmoid's squares."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _constants

from gdsec_jax import problems


def test_the_curvature_of_a_sigmoids_squares_is_its_maximum():
    z = np.linspace(-8, 8, 20_001)
    s = 1 / (1 + np.exp(-z))
    # of (y - s)^2 / 2, linear in y: the largest at y = 0 or 1
    second = [(s - y) * s * (1 - s) * (1 - 2 * s) + (s * (1 - s)) ** 2 for y in (0, 1)]
    problem = problems.nonlinear_least_squares(
        np.ones((2, 1)), np.array([0, 1]), 1, regularization=0.0
    )
    assert np.max(second) <= problem.smoothness < np.max(second) + 1e-5


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_gram_norm_of_any_matrix(shape, density, seed):
    rng = np.random.default_rng(seed)
    x = scipy.sparse.random_array(shape, density=density, format="csr", rng=rng)
    expected = np.linalg.norm(x.toarray(), 2) ** 2
    values = [_constants.gram_norm(x), _constants.gram_norm(x.toarray())]
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)], ids=str)
@pytest.mark.parametrize("fill", [0.0, 1.0], ids=["zeros", "random"])
def test_gram_norm_by_lanczos(shape, fill, monkeypatch):
    monkeypatch.setattr(_constants, "DENSE_LIMIT", 1)
    x = fill * np.random.default_rng(1).standard_normal(shape)
    expected = np.linalg.norm(x, 2) ** 2
    values = [_constants.gram_norm(x), _constants.gram_norm(scipy.sparse.csr_array(x))]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_gram_norm_above_the_limit_needs_no_gram_matrix():
    x = scipy.sparse.random_array((2300, 2100), density=0.002, rng=1, format="csr")
    value = _constants.gram_norm(x)
    v = np.random.default_rng(0).standard_normal(2100)
    for _ in range(3000):
        v = x.T @ (x @ v)
        v /= np.linalg.norm(v)
    assert value == pytest.approx(v @ (x.T @ (x @ v)), rel=1e-10)
