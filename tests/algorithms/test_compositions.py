"""Methods that are compositions, of the names elsewhere: their loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
import scipy.fft
from cases import real_problem

import gdsec_jax
from gdsec_jax import federate, robust, worker
from gdsec_jax import server as servers

M, CHUNK = 5, 16


def ridge():
    problem, x, y, parts = real_problem("digits")
    gradient = oracle.ridge_gradient(x, y, parts, 1 / y.size)
    return problem, lambda theta: np.stack([gradient(m, theta) for m in range(M)])


def course(problem, optimizer, rounds):
    """The parameters after each round."""

    @jax.jit
    def all_rounds(params):
        def one(carry, _):
            params, state = carry
            grads = problem.gradients(params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(one, (params, optimizer.init(params)), length=rounds)[1]

    return np.asarray(all_rounds(problem.init_params))


def top_of_chunks(v, k):
    rows = v.reshape(-1, CHUNK)
    kept = np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :k]
    out = np.zeros_like(rows)
    np.put_along_axis(out, kept, np.take_along_axis(rows, kept, 1), 1)
    return out.ravel()


def top_of_all(v, k):
    kept = np.argsort(-np.abs(v), kind="stable")[:k]
    return np.where(np.isin(np.arange(v.size), kept), v, 0)


transform = functools.partial(scipy.fft.dct, norm="ortho")
back = functools.partial(scipy.fft.idct, norm="ortho")


@pytest.mark.usefixtures("x64")
def test_demo():
    problem, gradients = ridge()
    beta, k, alpha = 0.9, 3, 2e-3
    piece = worker.error_feedback(
        worker.chunk_top_k(k, chunk=CHUNK, dct=True), decay=beta
    )
    demo = optax.chain(federate(piece, M), optax.scale_by_sign(), optax.sgd(alpha))
    thetas = course(problem, demo, 60)
    theta, delta = np.zeros(64), np.zeros((M, 64))
    for ours in thetas:
        delta = beta * delta + gradients(theta)
        sent = np.zeros((M, 64))
        for m in range(M):
            rows = transform(delta[m].reshape(-1, CHUNK)).ravel()
            sent[m] = top_of_chunks(rows, k)
            delta[m] -= back(sent[m].reshape(-1, CHUNK)).ravel()
        total = back(sent.sum(0).reshape(-1, CHUNK)).ravel()
        theta = theta - alpha * np.sign(total)
        np.testing.assert_allclose(ours, theta, atol=1e-10)
    assert problem.error(thetas[-1]) < 0.9 * problem.error(problem.init_params)


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
    thetas = course(problem, optax.chain(algorithm, optax.sgd(alpha)), 60)
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


@pytest.mark.usefixtures("x64")
def test_sign_sgd_with_majority_vote():
    problem, gradients = ridge()
    algorithm = federate(worker.sign(), M, server=servers.robust(robust.majority))
    thetas = course(problem, optax.chain(algorithm, optax.sgd(1e-4)), 60)
    theta = np.zeros(64)
    for ours in thetas:
        votes = np.where(gradients(theta) < 0, -1, 1).sum(0)
        theta = theta - 1e-4 * np.sign(votes)
        np.testing.assert_allclose(ours, theta, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_ef21_p():
    """w <- w + C(x - w), x <- x - gamma grad f(w); at alpha/(16 L) it converges."""
    problem, *_ = real_problem("digits", regularization=1.0)
    k, length = 32, 64
    gamma = k / length / (16 * float(problem.smoothness))
    down = gdsec_jax.broadcast(worker.error_feedback(worker.top_k(k)))
    optimizer = optax.chain(gdsec_jax.gd(M), optax.sgd(gamma), down)
    thetas = course(problem, optimizer, 50)
    w = x = np.zeros(length)
    for ours in thetas:
        x = x - gamma * np.asarray(problem.gradients(jnp.asarray(w))).sum(0)
        kept = np.argsort(-np.abs(x - w), kind="stable")[:k]
        w = w.copy()
        w[kept] = x[kept]
        np.testing.assert_allclose(ours, w, rtol=1e-9, atol=1e-12)
    target = 1e-10 * float(problem.error(problem.init_params))
    run = gdsec_jax.simulate(
        problem, optimizer, 12_000, stop=gdsec_jax.Stop(target), eval_every=100
    )
    assert run.outcome == "target"


@pytest.mark.usefixtures("x64")
@pytest.mark.promotes
def test_ef21_muon_and_one_bit_adam_descend():
    """Their parts are tested elsewhere: here that together they are of use."""
    params = {"w": jnp.ones((8, 6)), "b": jnp.ones(6)}
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((M, 20, 8)))
    weights = jnp.asarray(rng.standard_normal((8, 6)))

    def loss(params, x):
        return jnp.mean((x @ (params["w"] - weights) + params["b"][None]) ** 2) / M

    def last(optimizer, rounds):
        def one(carry, _):
            params, state = carry
            value, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, x)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value.sum()

        start = params, optimizer.init(params)
        return jax.lax.scan(one, start, length=rounds)[1]

    muon = optax.chain(
        gdsec_jax.ef21_sgdm(M, k=0.25, eta=0.5, scope="leaf"),
        optax.contrib.muon(0.05),
        gdsec_jax.broadcast(worker.error_feedback(worker.top_k(0.25, scope="leaf"))),
    )
    adam = optax.chain(
        federate(
            worker.chain(worker.momentum(0.1), worker.error_feedback(worker.sign())), M
        ),
        optax.sgd(1e-3),
        gdsec_jax.broadcast(worker.error_feedback(worker.sign())),
    )
    for optimizer in (muon, adam):
        losses = last(optimizer, 400)
        assert losses[-1] < 0.8 * losses[0]
