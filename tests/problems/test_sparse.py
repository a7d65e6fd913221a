"""Products by segments against dense ones; the loss's derivatives against JAX's own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _sparse

from gdsec_jax import data


@st.composite
def stacks(draw):
    """Workers' matrices of one shape, of rows of very different lengths."""
    workers, rows, columns = (draw(st.integers(1, most)) for most in (3, 8, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = rng.choice([0.0, 0.02, 0.3, 1.0], size=(workers, rows, 1))
    dense = rng.standard_normal((workers, rows, columns))
    return dense * (rng.random(dense.shape) < share)


@settings(max_examples=10, deadline=None)
@given(stacks(), st.sampled_from([(), (3,)]))
def test_products_are_the_dense_ones(dense, trailing):
    segments = _sparse.segments_of([scipy.sparse.csr_array(x) for x in dense])
    assert np.count_nonzero(segments.values) == np.count_nonzero(dense)
    assert segments.columns.dtype == np.int32
    if segments.rows is not None:
        assert (np.diff(segments.rows, axis=1) >= 0).all()
        assert segments.rows.dtype == np.int32
    x = np.random.default_rng(0).standard_normal((dense.shape[2], *trailing))
    with jax.enable_x64(True):
        product = jax.vmap(lambda s, x: _sparse.times(s, x, dense.shape[1]), (0, None))
        np.testing.assert_allclose(
            product(jax.tree.map(jnp.asarray, segments), jnp.asarray(x)),
            dense @ x,
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize(
    ("lengths", "width", "whole"),
    [([7] * 50, 7, True), ([2] * 500 + [500], 4, False), ([0, 0], 1, True)],
    ids=["even", "one long row", "empty"],
)
def test_segments_are_as_wide_as_pays(lengths, width, whole):
    dense = np.zeros((len(lengths), 600))
    for row, length in enumerate(lengths):
        dense[row, :length] = 1 + row
    segments = _sparse.segments_of([scipy.sparse.csr_array(dense)])
    assert segments.values.shape[-1] == width
    assert (segments.rows is None) == whole


def squares(z, y):
    return (z - y) ** 2 / 2


def log_sum_exp(z, y):
    return jax.nn.logsumexp(z, axis=1) - y


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
    shards = data.Shards(
        jax.tree.map(lambda x: jnp.asarray(x[0]), stacked),
        jnp.asarray(y),
        jnp.asarray(weight),
    )
    rows = jnp.asarray(features.toarray())

    def dense(theta):
        return jnp.sum(weight * phi(rows @ theta, y))

    def sparse(theta):
        return _sparse.weighted_loss(phi)(theta, shards)

    theta, other = jnp.asarray(rng.standard_normal((2, 20, *trailing)))
    for of in (jax.value_and_grad, jax.hessian):
        chex.assert_trees_all_close(
            of(sparse)(theta), of(dense)(theta), rtol=1e-12, atol=1e-14
        )
    both = jnp.stack([theta, other])
    chex.assert_trees_all_close(
        jax.vmap(jax.grad(sparse))(both), jax.vmap(jax.grad(dense))(both), rtol=1e-12
    )
