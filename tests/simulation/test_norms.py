"""Norms of a run: those of its gradients and memories, from a loop of our own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import problems, simulate

ROUNDS = 12


def toy():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((24, 4))
    return problems.ridge(x, x.sum(axis=1) + rng.standard_normal(24), 3)


def expected(problem, optimizer, memories):
    """Norms by round, from the states of a plain loop."""
    params, state = problem.init_params, optimizer.init(problem.init_params)
    rows = []
    for _ in range(ROUNDS):
        gradients = np.asarray(problem.gradients(params))
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        row = {"gradient_norm": np.linalg.norm(gradients.sum(axis=0))}
        row |= {name: np.linalg.norm(of(state[0])) for name, of in memories.items()}
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


H = {"h_norm": lambda state: state.workers.memory}
E_INSIDE = {"e_norm": lambda state: state.workers.compressor.error}
E = {"e_norm": lambda state: state.workers.error}


@pytest.mark.parametrize(
    ("algorithm", "memories"),
    [
        (gdsec_jax.gdsec(3, 1.0, 0.1), H | E_INSIDE),
        (gdsec_jax.gdsoec(3, 0.5, 0.1), H),
        (gdsec_jax.top_j(3, 1), E),
        (gdsec_jax.gd(3), {}),
    ],
    ids=["gdsec", "gdsoec", "top_j", "gd"],
)
def test_they_are_those_of_the_states(algorithm, memories, x64):
    problem = toy()
    optimizer = optax.chain(algorithm, optax.sgd(0.5 / problem.smoothness))
    history = simulate(problem, optimizer, ROUNDS, observe=gdsec_jax.norms)
    wanted = expected(problem, jax.tree.map(lambda x: x, optimizer), memories)
    assert set(history.observed) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(history.observed[name], values, 1e-9, err_msg=name)


def test_workers_that_train_have_those_of_memories_alone(x64):
    """Their gradients at the common parameters nobody computes."""
    problem = toy()
    optimizer = optax.chain(
        gdsec_jax.local(3, optax.sgd(0.1), 2),
        gdsec_jax.gdsec(3, 1.0, 0.1, reduction="mean"),
        optax.sgd(1.0),
    )

    def seen(now):
        state = now.new_state[1].workers
        e = jnp.linalg.norm(state.compressor.error)
        return gdsec_jax.norms(now) | {"h": jnp.linalg.norm(state.memory), "e": e}

    found = simulate(problem, optimizer, ROUNDS, observe=seen).observed
    assert set(found) == {"h_norm", "e_norm", "h", "e"}
    for name in ("h", "e"):
        assert found[name].any()
        np.testing.assert_allclose(found[f"{name}_norm"], found[name], 1e-9)
