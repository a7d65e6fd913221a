"""Methods that are compositions, of the names elsewhere: their loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from cases import real_problem
from oracles import library

from gdsec_jax import federate, robust, worker
from gdsec_jax import server as servers

M, CHUNK = 5, 16


def ridge():
    problem, x, y, parts = real_problem("digits")
    gradient = oracle.ridge_gradient(x, y, parts, 1 / y.size)
    return problem, lambda theta: np.stack([gradient(m, theta) for m in range(M)])


def top_of_chunks(v, k):
    rows = v.reshape(-1, CHUNK)
    kept = np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :k]
    out = np.zeros_like(rows)
    np.put_along_axis(out, kept, np.take_along_axis(rows, kept, 1), 1)
    return out.ravel()


def top_of_all(v, k):
    kept = np.argsort(-np.abs(v), kind="stable")[:k]
    return np.where(np.isin(np.arange(v.size), kept), v, 0)


def test_fast_compressed_communication_of_top_k():
    """v <- v + C(x - v), p times: with top-k it is top-k of p k entries."""
    x = np.random.default_rng(0).standard_normal(64)
    for p, k in ((1, 3), (2, 5), (4, 16), (5, 16)):
        v = np.zeros(64)
        for _ in range(p):
            v += top_of_all(x - v, k)
        piece = worker.top_k(p * k)
        ours, _ = piece.update(jnp.asarray(x), piece.init(x), jnp.asarray(x))
        np.testing.assert_allclose(ours, v, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_compression_of_sparse_loco():
    """Of gradients in the place of pseudo-gradients; no step's bins are all equal."""
    problem, gradients = ridge()
    beta, k, alpha = 0.95, 4, 0.2 / float(problem.smoothness)
    rule = robust.clipped_to_median
    piece = worker.error_feedback(
        worker.chunk_top_k(k, chunk=CHUNK, bits=2), decay=beta
    )
    algorithm = federate(piece, M, server=servers.robust(rule))
    optimizer = optax.chain(algorithm, optax.sgd(alpha))
    thetas = np.asarray(library(problem, optimizer, 60)[1])
    theta, e = np.zeros(64), np.zeros((M, 64))
    for ours in thetas:
        e = beta * e + gradients(theta)
        sent = np.stack([top_of_chunks(own, k) for own in e])
        for m in range(M):
            chosen = np.zeros(64, bool)
            rows = np.argsort(-np.abs(e[m].reshape(-1, CHUNK)), 1, kind="stable")[:, :k]
            chosen[(rows + CHUNK * np.arange(4)[:, None]).ravel()] = True
            values = sent[m][chosen]
            width = 6 * values.std(ddof=1) / 4
            bins = np.clip(np.floor((values - values.mean()) / width) + 2, 0, 3)
            means = [values[bins == b].mean() for b in bins]
            sent[m][chosen] = np.float32(means)
        e -= sent
        norms = np.linalg.norm(sent, axis=1)
        factors = np.minimum(1, np.median(norms) / norms)
        theta = theta - alpha * (factors[:, None] * sent).sum(0)
        np.testing.assert_allclose(ours, theta, atol=1e-8)
    assert problem.error(thetas[-1]) < 0.5 * problem.error(problem.init_params)
