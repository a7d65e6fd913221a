"""A round in batches of workers equals the round at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CORE, KINDS, METHODS, methods, random_gradients, slow_but, tree_params
from hypothesis import given
from hypothesis import strategies as st
from inside import _batches, _parts

import gdsec_jax
from gdsec_jax import server as servers
from gdsec_jax import worker

NUM_WORKERS = 5
ROUNDS = 4


def rounds_of(algorithm, params, gradients, size=None, *, jit=True, actives=None):
    """Updates and counts of all rounds, and the last state.

    Args:
      size: of batches that gradients are handed in; None for all at once.
    """

    def one(grads, state, params, active):
        if size is not None:
            grads = gdsec_jax.WorkerBatches(lambda index, own: own, grads, size)
        more = {} if active is None else {"active": active}
        updates, state = algorithm.update(grads, state, params, **more)
        moved = jax.tree.map(
            lambda p, u: (p - 0.1 * u).astype(p.dtype), params, updates
        )
        return updates, state, moved

    one = jax.jit(one) if jit else one
    state, out = algorithm.init(params), []
    for k in range(ROUNDS):
        grads = jax.tree.map(lambda g, k=k: g[k], gradients)
        active = None if actives is None else actives[k]
        updates, state, params = one(grads, state, params, active)
        out.append((updates, gdsec_jax.last_round(state)))
    return out, state


def assert_same(a, b, tolerance=1e-12):
    """Sums are formed in another order; what is no float is equal."""
    chex.assert_trees_all_equal_structs(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jnp.floating):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(x, y)


def independent(method):
    return method.name in (*KINDS, "top_j", "clag", "ef21_sgdm")


@pytest.mark.usefixtures("x64")
@methods(independent, dear=True)
def test_methods(method):
    params = tree_params(jnp.float64)
    gradients = random_gradients(params, NUM_WORKERS, 0, ROUNDS)
    algorithm = method.make(NUM_WORKERS, **({"key": 0} if method.draws else {}))
    at_once = rounds_of(algorithm, params, gradients)
    for size in (2, 5) if method.name in CORE else (2,):
        # Chaotic in rounding: a last bit of the sums grows.
        tolerance = 1e-6 if method.name == "low_rank" else 1e-12
        batched = rounds_of(algorithm, params, gradients, size)
        assert_same(batched, at_once, tolerance)


OPTIONS = {
    "rle": {"wire": "rle"},
    "golomb, mean": {"wire": "golomb", "reduction": "mean"},
    "running": {"server": servers.running(), "reduction": "mean"},
    "weights": {"weights": np.array([0.5, 2.0, 1.0, 0.0, 3.0])},
    "bfloat16": {"state_dtype": "bfloat16"},
    "propagate": {"on_nonfinite": "propagate"},
    "hold": {"on_standstill": "hold"},
    "participation": {
        "key": 0,
        "server": servers.Server(
            asks=gdsec_jax.participation.bernoulli(NUM_WORKERS, 0.5)
        ),
    },
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(("golomb, mean", "weights"), OPTIONS))
def test_options(name):
    params = tree_params(jnp.float64)
    gradients = random_gradients(params, NUM_WORKERS, 1, ROUNDS)
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=5.0, beta=0.1, **OPTIONS[name])
    at_once = rounds_of(algorithm, params, gradients)
    # A memory in half precision may round a last bit otherwise.
    tolerance = 1e-2 if name == "bfloat16" else 1e-12
    assert_same(rounds_of(algorithm, params, gradients, 2), at_once, tolerance)


@pytest.mark.parametrize("jit", [True, False])
def test_masks_and_gradients_that_are_not_finite(jit):
    params = tree_params()
    gradients = random_gradients(params, NUM_WORKERS, 2, ROUNDS)
    # Of the last worker, which is a batch of its own.
    gradients["scale"] = gradients["scale"].at[1, 4].set(jnp.nan)
    actives = jnp.array(
        [[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0] * 5, [0, 1, 1, 1, 1]], bool
    )
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, xi=5.0, beta=0.1)
    options = {"actives": actives, "jit": jit}
    at_once = rounds_of(algorithm, params, gradients, **options)
    batched = rounds_of(algorithm, params, gradients, 2, **options)
    assert_same(batched, at_once, 1e-5)
    sent = batched[0][1][1]
    assert sent.participants.tolist() == [True, False, True, True, False]
    assert int(sent.dropped) == 1


def test_messages_that_overflow_leave_their_worker_out():
    twice = optax.stateless(lambda tree, _: jax.tree.map(lambda x: x * 2, tree))
    params = tree_params()
    gradients = random_gradients(params, NUM_WORKERS, 3, ROUNDS)
    gradients["scale"] = gradients["scale"].at[0, 2].set(3.2e38)
    algorithm = gdsec_jax.federate(worker.error_feedback(twice), NUM_WORKERS)
    at_once = rounds_of(algorithm, params, gradients)
    batched = rounds_of(algorithm, params, gradients, 3)
    assert_same(batched, at_once, 1e-5)
    assert batched[0][0][1].participants.tolist() == [True, True, False, True, True]


def test_inside_a_chain_and_in_injected_hyperparams():
    params = tree_params()
    gradients = random_gradients(params, NUM_WORKERS, 4)
    batched = gdsec_jax.WorkerBatches(
        lambda index, _: jax.tree.map(lambda g: g[index], gradients), None, 2
    )
    optimizer = optax.chain(
        optax.inject_hyperparams(gdsec_jax.gdsec, static_args=("num_workers",))(
            num_workers=NUM_WORKERS, xi=2.0
        ),
        optax.adam(0.1),
    )
    state = optimizer.init(params)
    chex.assert_trees_all_close(
        optimizer.update(batched, state, params)[0],
        optimizer.update(gradients, state, params)[0],
        rtol=1e-5,
    )


def test_what_is_wrong_is_said():
    params = jnp.zeros(3)
    with pytest.raises(ValueError, match="size is 0, expected"):
        gdsec_jax.WorkerBatches(lambda index, _: jnp.zeros((index.size, 3)), None, 0)
    algorithm = gdsec_jax.gd(NUM_WORKERS)
    short = gdsec_jax.WorkerBatches(
        lambda index, _: jnp.zeros((index.size, 2)), None, 2
    )
    with pytest.raises(ValueError, match=r"gradients .*, 2\), expected .*, 3\)"):
        algorithm.update(short, algorithm.init(params), params)
    algorithm = gdsec_jax.power_sgd(NUM_WORKERS, rank=1, key=0)
    params = jnp.zeros((3, 2))
    right = gdsec_jax.WorkerBatches(
        lambda index, _: jnp.zeros((index.size, 3, 2)), None, 2
    )
    with pytest.raises(ValueError, match="WorkerBatches.* sums over all workers"):
        algorithm.update(right, algorithm.init(params), params)

    def wrong(index, _):
        raise NameError("name 'dta' is not defined")

    algorithm = gdsec_jax.gd(NUM_WORKERS)
    with pytest.raises(NameError, match="dta"):
        algorithm.update(
            gdsec_jax.WorkerBatches(wrong, None, 2), algorithm.init(params), params
        )


@given(st.integers(1, 300), st.integers(1, 320))
def test_no_batch_is_larger_than_asked_for(num_workers, size):
    number = _batches.number_of_size(size, num_workers)
    each, rest = divmod(num_workers, number)
    assert 1 <= each <= size and rest <= size


# Groups that are chosen where they are faster.


@pytest.fixture
def taken(monkeypatch):
    """The numbers of batches of the rounds that are traced, for small arrays."""
    monkeypatch.setattr(_parts, "LEAST_BYTES", 0)
    monkeypatch.setattr(_parts, "PART_BYTES", {"cpu": 128, "tpu": 128})
    numbers, original = [], _batches.in_batches

    def spy(*args, **keywords):
        numbers.append(args[4])
        return original(*args, **keywords)

    monkeypatch.setattr(_batches, "in_batches", spy)
    return numbers


@pytest.mark.parametrize("method", [m for m in METHODS if m.name in ("gd", "top_j")])
def test_many_workers_of_small_models_go_in_batches(method, taken, monkeypatch):
    monkeypatch.setattr(_batches, "LEAST_WORKERS", 1)
    params = tree_params()
    gradients = random_gradients(params, NUM_WORKERS, 5, ROUNDS)
    algorithm = method.make(NUM_WORKERS)
    in_batches = rounds_of(algorithm, params, gradients)
    assert taken and all(number > 1 for number in taken)
    monkeypatch.setattr(_parts, "LEAST_BYTES", 2**60)
    taken.clear()
    at_once = rounds_of(algorithm, params, gradients)
    assert not taken
    assert_same(in_batches, at_once, 1e-5)


def test_few_workers_and_those_that_meet_do_not(taken, monkeypatch):
    params = tree_params()
    gradients = random_gradients(params, NUM_WORKERS, 6, ROUNDS)
    rounds_of(gdsec_jax.gd(NUM_WORKERS), params, gradients)
    assert not taken
    monkeypatch.setattr(_batches, "LEAST_WORKERS", 1)
    algorithm = gdsec_jax.power_sgd(NUM_WORKERS, rank=1, key=0)
    rounds_of(algorithm, params, gradients)
    assert not taken


def test_large_memories_change_in_place():
    num_workers, size = 4, 10**6
    algorithm = gdsec_jax.gdsec(num_workers, xi=1.0, beta=0.1)
    params = jax.ShapeDtypeStruct((size,), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)

    def step(state, params):
        batched = gdsec_jax.WorkerBatches(
            lambda index, _: jnp.sin(params * (1.0 + index[:, None])), None, 1
        )
        return algorithm.update(batched, state, params)

    compiled = jax.jit(step, donate_argnums=0).lower(state, params).compile()
    # A gradient, what is made of it, and the sums: not a worker's memory more.
    assert compiled.memory_analysis().temp_size_in_bytes < 9 * 4 * size
