"""A server and clients apart compute what the simulator does, bit for bit."""

import jax
import numpy as np
import optax
import pytest
from apart import of_problem
from inside import history_of

import gdsec_jax
from gdsec_jax import problems, robust, server, worker

POWER = 2.0**-4  # a product with it is exact: compilers may merge it with a sum or not


# Where the sum is formed otherwise than in the simulator.
ROUNDED = ("gdsec, running", "mean, weights", "iag")


def a_problem(dtype=np.float32):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, 6)).astype(dtype)
    return problems.ridge(features, features @ np.arange(6.0).astype(dtype), 3)


def step_of(problem) -> float:
    """A power of two below 1/L."""
    return 2.0 ** np.floor(np.log2(1 / problem.smoothness))


ALGORITHMS = {
    "gd": lambda: gdsec_jax.gd(3),
    "gdsec": lambda: gdsec_jax.gdsec(3, 2.0, POWER, wire="rle"),
    "gdsec, running": lambda: gdsec_jax.gdsec(3, 2.0, POWER, server=server.running()),
    "gdsoec": lambda: gdsec_jax.gdsoec(3, 1.0, POWER, wire="bitmap"),
    "qsgdsec": lambda: gdsec_jax.qsgdsec(3, 2.0, POWER, levels=7, key=3, wire="rle"),
    "top_j": lambda: gdsec_jax.top_j(3, 2, wire="golomb"),
    "qgd": lambda: gdsec_jax.qgd(3, levels=7, key=3),
    "ef21": lambda: gdsec_jax.ef21(3, 2, wire="rle"),
    "laq": lambda: gdsec_jax.laq(3, learning_rate=0.1),
    "lag": lambda: gdsec_jax.lag(3, learning_rate=0.1),
    "clag": lambda: gdsec_jax.clag(3, 2),
    "marina": lambda: gdsec_jax.marina(3, worker.random_k(2), key=1),
    "diana": lambda: gdsec_jax.diana(3, worker.random_k(2), 0.25, key=1),
    "ef_bv": lambda: gdsec_jax.ef_bv(3, worker.top_k(3), nu=0.5, beta=0.5),
    "iag": lambda: gdsec_jax.iag(3, [0.25, 0.25, 0.5], key=5),
    "mean, weights": lambda: gdsec_jax.gdsec(
        3, 1.0, POWER, reduction="mean", weights=[1.0, 2.0, 5.0]
    ),
    "robust": lambda: gdsec_jax.gdsec(
        3, 1.0, POWER, server=server.robust(robust.median)
    ),
    "own pipeline": lambda: gdsec_jax.federate(
        optax.chain(optax.clip(50.0), worker.natural()), 3, key=2
    ),
}


def in_the_simulator(problem, algorithm, optimizer, rounds):
    return gdsec_jax.simulate(
        problem, optax.chain(algorithm, optimizer), rounds, progress=False
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_iterates_and_bits_are_the_simulators(name):
    few = name in ("gdsec", "ef21", "iag")
    rounds = 30 if few else 8
    problem, algorithm = a_problem(), ALGORITHMS[name]()
    sgd = optax.sgd(step_of(problem))
    expected = in_the_simulator(problem, algorithm, sgd, rounds)
    apart = of_problem(problem, algorithm, sgd, error=problem.error)
    for _ in range(rounds):
        assert apart.round() == []
    found = history_of(
        apart.state, initial_error=expected.initial_error, error_name="error",
        wire=apart.server.agreed.form,
    )  # fmt: skip
    np.testing.assert_array_equal(found.bits, expected.bits)
    np.testing.assert_array_equal(found.entries, expected.entries)
    np.testing.assert_array_equal(found.participants, expected.participants)
    np.testing.assert_array_equal(found.broadcast_bits, expected.broadcast_bits)
    np.testing.assert_array_equal(found.observed["payload_bytes"], -(-found.bits // 8))
    assert found.bits.sum() > 0
    same = {"rtol": 1e-6, "atol": 0} if name in ROUNDED else None
    for own, theirs in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True
    ):
        if same is None:
            np.testing.assert_array_equal(own, theirs)
        else:
            np.testing.assert_allclose(own, theirs, **same)
