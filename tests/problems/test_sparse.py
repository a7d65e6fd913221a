"""Products by segments against dense ones; the loss's derivatives against JAX's own."""

import functools
import resource
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _sparse

import gdsec_jax
from gdsec_jax import data, problems


@st.composite
def stacks(draw):
    """Workers' matrices of one shape, of rows of very different lengths."""
    workers, rows, columns = (draw(st.integers(1, most)) for most in (3, 8, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = rng.choice([0.0, 0.02, 0.3, 1.0], size=(workers, rows, 1))
    dense = rng.standard_normal((workers, rows, columns))
    return dense * (rng.random(dense.shape) < share)


def segments_of(dense):
    return _sparse.segments_of([scipy.sparse.csr_array(x) for x in dense])


@settings(max_examples=50, deadline=None)
@given(stacks())
def test_segments_add_up_to_the_matrices(dense):
    segments = segments_of(dense)
    assert np.count_nonzero(segments.values) == np.count_nonzero(dense)
    assert segments.columns.dtype == np.int32
    rows = segments.rows
    if rows is None:
        rows = np.broadcast_to(np.arange(dense.shape[1]), segments.values.shape[:2])
    else:
        assert (np.diff(rows, axis=1) >= 0).all()
        assert rows.dtype == np.int32
    rebuilt = np.zeros_like(dense)
    workers = np.arange(len(dense))[:, None, None]
    np.add.at(rebuilt, (workers, rows[..., None], segments.columns), segments.values)
    np.testing.assert_array_equal(rebuilt, dense)


@pytest.mark.parametrize("trailing", [(), (3,)], ids=["[D]", "[D, C]"])
@pytest.mark.parametrize("long", [False, True])
def test_products_are_the_dense_ones(long, trailing, x64):
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((2, 30, 200)) * (rng.random((2, 30, 200)) < 0.02)
    if long:
        dense[:, 4] = 1.0
    segments = segments_of(dense)
    assert (segments.rows is None) != long
    x = rng.standard_normal((200, *trailing))
    product = jax.jit(jax.vmap(lambda s, x: _sparse.times(s, x, 30), (0, None)))
    np.testing.assert_allclose(product(segments, x), dense @ x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("lengths", "width", "whole"),
    [([7] * 50, 7, True), ([2] * 500 + [500], 4, False), ([0, 0], 1, True)],
    ids=["even", "one long row", "empty"],
)
def test_segments_are_as_wide_as_pays(lengths, width, whole):
    dense = np.zeros((len(lengths), 600))
    for row, length in enumerate(lengths):
        dense[row, :length] = 1 + row
    segments = segments_of([dense])
    assert segments.values.shape[-1] == width
    assert (segments.rows is None) == whole


def squares(z, y):
    return (z - y) ** 2 / 2


def log_sum_exp(z, y):
    return jax.nn.logsumexp(z, axis=1) - y


@functools.partial(jax.jit, static_argnums=0)
def derivatives(loss, both, shards):
    """Value, gradient and Hessian at one point, and gradients at two at once."""
    of = functools.partial(loss, shards=shards)
    own = jax.value_and_grad(of)(both[0]), jax.hessian(of)(both[0])
    return own, jax.vmap(jax.grad(of))(both)


@pytest.mark.parametrize(
    ("phi", "trailing", "number"),
    [(squares, (), 1), (squares, (), 9), (log_sum_exp, (3,), 9)],
    ids=["one row", "[D]", "[D, C]"],
)
def test_derivatives_are_those_of_the_dense_loss(phi, trailing, number, x64):
    rng = np.random.default_rng(0)
    features = scipy.sparse.random_array((number, 20), density=0.3, rng=1, format="csr")
    stacked = _sparse.sparse_features(features, [np.arange(number)])
    y, weight = rng.standard_normal((2, number))
    sparse = data.Shards(jax.tree.map(lambda x: x[0], stacked), y, weight)
    dense = data.Shards(features.toarray(), y, weight)

    def dense_loss(theta, shards):
        return shards.weight @ phi(shards.features @ theta, shards.targets)

    both = rng.standard_normal((2, 20, *trailing))
    chex.assert_trees_all_close(
        derivatives(_sparse.weighted_loss(phi), both, sparse),
        derivatives(dense_loss, both, dense),
        rtol=1e-12,
        atol=1e-14,
    )


# Of a real size: never dense, on the host or on the device


WORKERS = 5
DENSE_BYTES = 20_242 * 47_236 * 8  # 7.6 GB


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.mark.slow
def test_a_set_of_rcv1s_shape(x64):
    before = peak_bytes()
    _, x, y, *_ = data.sparse_binary(20_242, 47_236, 0.0016)
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
