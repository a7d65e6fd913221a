"""Sparse features of a real size: never dense, on the host or on the device."""

import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import gdsec_jax
from gdsec_jax import data, problems

WORKERS = 5
DENSE_BYTES = 20_242 * 47_236 * 8  # 7.6 GB


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.mark.slow
def test_a_set_of_rcv1s_shape(x64):
    before = peak_bytes()
    _, x, y = data.sparse_binary(20_242, 47_236, 0.0016)
    num_samples, length = x.shape
    parts = data.split(y, WORKERS)
    problem = problems.logistic(x, y, WORKERS, split=parts)
    held = sum(
        leaf.nbytes for leaf in jax.tree.leaves(problem) if hasattr(leaf, "nbytes")
    )
    assert held < 4 * x.nnz * (8 + 4) + 2**22  # twice, and padded

    theta = np.random.default_rng(0).standard_normal(length)
    lam = 1 / num_samples
    expected = []
    for part in parts:
        rows, signs = x[part], y[part]
        slope = -signs * scipy.special.expit(-signs * (rows @ theta)) / num_samples
        expected.append(rows.T @ slope + lam / WORKERS * theta)
    gradients_of = jax.jit(problems.Problem.gradients)
    gradients = gradients_of(problem, jnp.asarray(theta))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        gradients, np.stack(expected), rtol=0, atol=1e-12 * scale
    )

    optimizer = optax.chain(
        gdsec_jax.gdsec(WORKERS, xi=1e-3, wire="rle"), optax.sgd(1 / problem.smoothness)
    )
    history = gdsec_jax.simulate(problem, optimizer, 6)
    assert history.num_rounds == 6
    assert (np.diff(history.objective_error) < 0).all()
    assert (history.entries > 0).all()
    dense_bits = WORKERS * history.broadcast_bits.sum()
    assert 0.1 * dense_bits < history.bits.sum() < 0.8 * dense_bits
    assert peak_bytes() - before < DENSE_BYTES / 6

    # f - f* is at most |gradient|^2 / 2 lambda
    gradient = gradients_of(problem, problem.solution).sum(0)
    assert (gradient @ gradient) / (2 * problem.regularization) < 1e-15
    assert history.initial_error > 0.01
