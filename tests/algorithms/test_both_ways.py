"""What goes down in the methods that compress both ways, and steps that are signs.

Their iterates, and what goes up, are held against the same loops in test_rivals.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_rivals as rivals
import oracle_signs as signs
import pytest
from cases import real_problem
from inside import _both_ways
from oracles import library

import gdsec_jax
from gdsec_jax import problems, worker

M, ROUNDS = 5, 25


def course(problem, algorithm, alpha):
    """theta after each round, and the bits that went down in it."""
    optimizer = optax.chain(algorithm, optax.sgd(alpha))
    _, thetas, down = library(problem, optimizer, ROUNDS, gdsec_jax.last_broadcast)
    return np.asarray(thetas), np.asarray(down.bits)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("ef21_p", {"k": 6}),
        ("ef21_muon", {"k": 6, "eta": 0.3}),
        ("one_bit_adam", {"warmup": 8, "b1": 0.8, "b2": 0.9, "eps": 0.1}),
    ],
)
def test_what_goes_down_is_counted(name, own):
    """A mean of M f_m gives the same iterates as the sum, too."""
    problem, x, y, parts = real_problem("digits")
    gradient = oracle.ridge_gradient(x, y, parts, 1 / y.size)
    mean = dataclasses.replace(
        problem, worker_loss=lambda p, data: M * problem.worker_loss(p, data)
    )
    algorithm = getattr(gdsec_jax, name)(M, **own, wire="rle", reduction="mean")
    thetas, bits = course(mean, algorithm, 0.02)
    start = rivals.Start(gradient, np.zeros(64), 0.02, ROUNDS, M)
    made = getattr(signs, name)(start, **own)
    close = 1e-7 if name == "one_bit_adam" else 1e-11  # the scales are float32
    np.testing.assert_allclose(thetas, made.run.thetas[1:], rtol=close, atol=close)
    if name == "one_bit_adam":
        assert not thetas[:, 0].any()  # a blank pixel, of no gradient
        expected = np.where(np.arange(ROUNDS) < 8, 64 * 64, 64 + 32)
    else:
        expected = [oracle.rle_bits(u, 64) for u in made.down]
    np.testing.assert_array_equal(bits, expected)


@pytest.mark.usefixtures("x64")
def test_ef21_muon_of_a_matrix():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((60, 7)), rng.integers(0, 4, 60)
    parts = np.array_split(np.arange(60), M)
    problem = problems.softmax(x, labels, M, split=parts)
    gradient = oracle.softmax_gradient(x, labels, parts, 1 / 60)
    known = gdsec_jax.theory("ef21_muon", problem, k=5)
    first = sum(gradient(m, np.zeros((7, 4))) for m in range(M))
    values = np.linalg.svd(first, compute_uv=False)
    rank = np.linalg.matrix_rank(first)
    assert rank == 3  # the classes' gradients add up to 0
    expected = values.sum() / rank / 100 / float(problem.smoothness)
    assert known.learning_rate == pytest.approx(expected)
    thetas, _ = course(problem, gdsec_jax.ef21_muon(M, k=5, eta=0.3), 0.05)
    start = rivals.Start(gradient, np.zeros((7, 4)), 0.05, ROUNDS, M)
    made = signs.ef21_muon(start, k=5, eta=0.3)
    np.testing.assert_allclose(thetas, made.run.thetas[1:], rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_step_is_nearly_orthogonal():
    """Of every leaf as a matrix; of a vector and a number exactly."""
    rng = np.random.default_rng(1)
    shapes = (5, 3), (2, 3, 4), (6,), (), (3,)
    tree = [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]
    tree[-1] *= 0
    made, _ = jax.jit(_both_ways.orthogonal().update)(tree, ())
    for g, ours in zip(tree[:2], made[:2], strict=True):
        u, _, v = np.linalg.svd(np.reshape(g, (-1, g.shape[-1])), full_matrices=False)
        values = u.T @ np.reshape(ours, (-1, g.shape[-1])) @ v.T
        np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-12)
        assert np.diag(values).min() > 0.65 and np.diag(values).max() < 1.25
    np.testing.assert_allclose(made[2], tree[2] / np.linalg.norm(tree[2]))
    assert made[3] == np.sign(tree[3]) and not made[4].any()


def test_a_worker_that_has_no_gradient_does_not_vote():
    algorithm, params = gdsec_jax.sign_majority(3), {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = {
        "a": jnp.array([[1.0, -1.0], [0.0, 0.0], [-2.0, -3.0]]),
        "b": jnp.array([[0.0, 5.0], [0.0, 0.0], [-2.0, 1.0]]),
    }
    state = algorithm.init(params)
    direction, state = jax.jit(algorithm.update)(grads, state, params)
    assert direction["a"].tolist() == [0, -1] and direction["b"].tolist() == [0, 1]
    assert gdsec_jax.last_round(state).bits.tolist() == [4, 0, 4]
    mean = gdsec_jax.sign_majority(3, reduction="mean", weights=[5.0, 1.0, 1.0])
    again, _ = jax.jit(mean.update)(grads, mean.init(params), params)
    assert again["a"].tolist() == [0, -1]  # a vote is a vote


def test_what_is_wrong_with_them_is_said():
    for make, match in (
        (lambda: gdsec_jax.one_bit_adam(M, 0), "^warmup is 0, expected"),
        (lambda: gdsec_jax.one_bit_adam(M, 5, b1=1.5), "^b1 is 1.5, expected"),
        (lambda: gdsec_jax.one_bit_adam(M, 5, b1=1.0), "^b1 is 1.0, expected less"),
        (lambda: gdsec_jax.one_bit_adam(M, 5, b2=-1.0), "^b2 is -1, expected"),
        (lambda: gdsec_jax.one_bit_adam(M, 5, eps=0.0), "^eps is 0"),
        (lambda: gdsec_jax.demo(M, k=0), "^k is 0, expected"),
        (lambda: gdsec_jax.demo(M, k=9, chunk=8), "^k is 9, expected at most the ch"),
        (lambda: gdsec_jax.demo(M, decay=2.0), "^decay is 2, expected"),
        (lambda: gdsec_jax.ef21_p(M, k=0), "^k is 0, expected"),
        (lambda: gdsec_jax.ef21_muon(M, k=3, eta=2.0), "^eta is 2, expected"),
        (lambda: worker.sign(scope="leaf", scaled=False), "^scope is 'leaf', expect"),
        (lambda: worker.first_whole(worker.sign(), rounds=-1), "^rounds is -1, exp"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
