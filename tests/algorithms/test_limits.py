"""Arguments that make a method another one."""

import jax.numpy as jnp
import numpy as np
import optax
import oracle_rivals as rivals
import pytest
from cases import methods, real_problem, slow_but
from oracles import KEY, ROUNDS, WORKERS, library, problem_of

import gdsec_jax
from gdsec_jax import numpy_worker, problems, worker
from gdsec_jax import server as servers


@pytest.mark.usefixtures("x64")
@methods(
    lambda method: method.as_gd and method.name != "gd",
    fast=("gdsec", "top_j", "diana", "marina"),
)
def test_its_limit_case_is_gradient_descent(method):
    _is_gradient_descent(*problem_of("digits", "vectors"), method.make_gd(WORKERS))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("power_sgd", {"rank": 10}), ("rand_k", {"k": 1.0, "error_feedback": True})],
)
def test_a_further_limit_case_is_gradient_descent(name, arguments):
    """Beside those in cases.py, where the parameters are a vector."""
    algorithm = gdsec_jax.METHODS[name].factory(WORKERS, **arguments, key=KEY)
    _is_gradient_descent(*problem_of("digits", name), algorithm)


@pytest.mark.parametrize("dtype", slow_but(["bfloat16"], ["bfloat16", "float16"]))
def test_a_narrow_state_keeps_the_limit_case(dtype):
    problem, gradient = problem_of("digits", "vectors")
    alpha = 1 / float(problem.smoothness)
    narrow = gdsec_jax.gdsec(WORKERS, xi=0.0, beta=0.1, state_dtype=jnp.dtype(dtype))
    _, ours, _ = library(problem, optax.chain(narrow, optax.sgd(alpha)), 300)
    start = rivals.Start(gradient, np.zeros(64), alpha, 300, WORKERS)
    gd = rivals.gd(start).thetas[-1]
    errors = [float(problem.error(jnp.float32(theta))) for theta in (ours[-1], gd)]
    assert abs(errors[0] - errors[1]) < 1e-2 * errors[1]


def _is_gradient_descent(problem, gradient, algorithm):
    alpha = 1 / float(problem.smoothness)
    _, thetas, _ = library(problem, optax.chain(algorithm, optax.sgd(alpha)))
    zeros = np.zeros(problem.init_params.shape)
    gd = rivals.gd(rivals.Start(gradient, zeros, alpha, ROUNDS, WORKERS))
    np.testing.assert_allclose(thetas, gd.thetas[1:], rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clag", {"k": 6, "zeta": 0.0}),
        pytest.param("ef21_sgdm", {"k": 6, "eta": 1.0}, marks=pytest.mark.slow),
        (
            "ef_bv",
            {
                "compressor": worker.first_whole(worker.top_k(6)),
                "nu": 1.0,
                "beta": 1.0,
            },
        ),
        ("threepc", {"k": 4, "variant": "v4", "second_k": 2}),
    ],
)
def test_a_limit_case_is_ef21(name, arguments):
    problem, gradient = problem_of("digits", name)
    alpha = gdsec_jax.theory("ef21", problem, k=6).learning_rate
    algorithm = gdsec_jax.METHODS[name].factory(WORKERS, **arguments, wire="rle")
    _, thetas, sent = library(problem, optax.chain(algorithm, optax.sgd(alpha)))
    start = rivals.Start(gradient, np.zeros(64), alpha, ROUNDS, WORKERS)
    ef21 = rivals.alone(start, rivals.worker_half(numpy_worker.EF21(6)))
    np.testing.assert_allclose(thetas, ef21.thetas[1:], rtol=1e-10, atol=1e-10)
    entries = np.where(ef21.whole, 64, np.count_nonzero(ef21.messages, axis=-1))
    np.testing.assert_array_equal(sent.entries, entries)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("running", slow_but([False], [False, True]))
def test_ef_bv_with_nu_1_is_diana(running):
    problem, _ = problem_of("digits", "ef_bv")
    compressor = worker.qsgd(4)
    own = {"key": KEY, "server": servers.running() if running else None}
    step = optax.sgd(gdsec_jax.theory("diana", problem, compressor=compressor)[0])
    diana = gdsec_jax.diana(WORKERS, compressor, **own)
    beta = 1 / (1 + worker.variance_of(compressor, problem.init_params))
    for given in ({"beta": None}, {"beta": beta}):
        ef_bv = gdsec_jax.ef_bv(WORKERS, compressor, nu=1.0, **given, **own)
        runs = [library(problem, optax.chain(x, step)) for x in (diana, ef_bv)]
        np.testing.assert_allclose(runs[1][1], runs[0][1], rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(runs[1][2].bits, runs[0][2].bits)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_qsgdsec_with_2_to_the_20_levels_is_nearly_gdsec_on_minibatches():
    full, *_ = real_problem("digits")
    problem = problems.minibatch(full, batch_size=8)
    step = optax.sgd(0.1 / problem.smoothness)

    def final(make, **own):
        optimizer = optax.chain(make(WORKERS, xi=200.0, beta=0.02, **own), step)
        run = gdsec_jax.simulate(problem, optimizer, ROUNDS, key=KEY, eval_every=ROUNDS)
        return run.params, run.entries.mean() / run.params.size

    exact, share = final(gdsec_jax.gdsec)
    near, _ = final(gdsec_jax.qsgdsec, levels=2**20)
    assert 0.05 < share < 0.8, "censors nothing"
    apart = jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact)
    assert 0 < apart < 1e-5
