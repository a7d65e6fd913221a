"""Sums over devices that move what was sent alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import random_gradients, slow_but, tree_params
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _sum
from rounds import scanned
from test_mesh import on_four_devices

import gdsec_jax
from gdsec_jax import server as servers
from gdsec_jax import worker

NUM_WORKERS, ROUNDS = 4, 12


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(1, 1), (4, 5), (3, 40)]), st.integers(0, 2**32 - 1))
def test_equals_the_dense_sum(numbers, seed):
    num_workers, capacity = numbers
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (), "c": (0,), "d": (9,)}
    length = 22
    dense = np.zeros((num_workers, length), np.float32)
    for row in dense:
        sent = rng.choice(length, min(capacity, length), replace=False)
        row[sent] = rng.integers(-9, 9, sent.size)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    pieces = np.split(dense, ends, axis=1)
    messages = {
        name: jnp.asarray(piece.reshape(num_workers, *shape))
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
    total = _sum.sparse_sum(messages, capacity)
    for name, message in messages.items():
        np.testing.assert_array_equal(total[name], np.asarray(message).sum(0))


def test_half_precision_is_summed_in_float32():
    messages = jnp.array([[2048.0], [1.0], [1.0]], jnp.float16)
    total = _sum.sparse_sum(messages, 1)
    assert total.dtype == jnp.float32
    assert total.tolist() == [2050.0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(("gdsec",), ("gdsec", "gdsoec")))
def test_a_capacity_that_suffices_changes_nothing(name):
    params = tree_params(jnp.float64)
    gradients = random_gradients(params, NUM_WORKERS, 0, ROUNDS)
    make = getattr(gdsec_jax, name)
    dense = make(NUM_WORKERS, 3.0, 0.1, server=servers.running())
    sparse = make(NUM_WORKERS, 3.0, 0.1, server=servers.sparse(9))
    a, b = (scanned(x, params, gradients, {}) for x in (dense, sparse))
    chex.assert_trees_all_equal(a[1].sent.uploads.entries, b[1].sent.uploads.entries)
    chex.assert_trees_all_close(a[0], b[0], rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_what_exceeds_the_capacity_is_kept():
    # The conservation law: all directions and the last errors are all gradients.
    params = tree_params(jnp.float64)
    gradients = random_gradients(params, NUM_WORKERS, 1, ROUNDS)
    algorithm = gdsec_jax.gdsec(NUM_WORKERS, 0.5, 0.1, server=servers.sparse(2))
    directions, states = scanned(algorithm, params, gradients, {})
    assert states.sent.uploads.entries.max() == 2
    difference, server = jax.tree.map(lambda x: x[-1], (states.workers, states.server))
    passed = jax.tree.map(
        lambda e, d: e.sum(0) + d.sum(0), difference.compressor.error, directions
    )
    handed = jax.tree.map(lambda g: g.sum((0, 1)), gradients)
    chex.assert_trees_all_close(passed, handed, rtol=1e-12, atol=1e-12)
    # Both sides' memories agree.
    own = jax.tree.map(lambda h: h.sum(0), difference.memory)
    chex.assert_trees_all_close(own, server.memory, rtol=1e-12, atol=1e-14)


def test_a_message_that_is_too_long_leaves_its_worker_out():
    algorithm = gdsec_jax.federate(
        worker.error_feedback(optax.identity()), 3, server=servers.sparse(2)
    )
    params = jnp.zeros(4)
    grads = jnp.array([[1.0, 2.0, 0, 0], [1.0, 1.0, 1.0, 0], [0, 0, 0, 5.0]])
    direction, state = algorithm.update(grads, algorithm.init(params), params)
    sent = gdsec_jax.last_round(state)
    assert direction.tolist() == [1.0, 2.0, 0.0, 5.0]
    assert sent.participants.tolist() == [True, False, True]
    assert int(sent.dropped) == 1


@pytest.mark.slow
def test_four_devices_move_a_tenth_of_the_bytes():
    on_four_devices(
        """
        from inside import _hlo as hlo
        from inside import _mesh
        from gdsec_jax.server import running, sparse
        M, D = 4, 20_000
        mesh = mesh_of(mesh, M)
        params = jax.ShapeDtypeStruct(
            (D,), jnp.float32, sharding=_mesh.everywhere(mesh)
        )
        grads = jax.ShapeDtypeStruct((M, D), jnp.float32, sharding=_mesh.over(mesh))

        def moved(**options):
            algorithm = gdsec_jax.gdsec(M, 1.0, 0.1, **options)
            state = jax.eval_shape(algorithm.init, params)
            state = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                state, jax.tree.broadcast(_mesh.by_worker(state, mesh), state),
            )
            with jax.set_mesh(mesh):
                compiled = jax.jit(algorithm.update).lower(grads, state, params)
                text = compiled.compile().as_text()
            return hlo.traffic(text).collective_bytes

        dense, sparse = (
            moved(server=server) for server in (running(), sparse(D // 100))
        )
        assert dense["all-reduce"] >= 4 * D and not dense["all-gather"]
        assert sum(sparse.values()) < 0.1 * dense["all-reduce"], (sparse, dense)
        """
    )


@pytest.mark.slow
def test_four_devices_run_the_same_course():
    on_four_devices(
        """
        def run(where, **options):
            algorithm = gdsec_jax.gdsec(M, 5.0, 0.01, **options)
            return gdsec_jax.simulate(
                problem, optax.chain(algorithm, step), 100, mesh=where
            )
        for capacity in (6, 2):
            server = gdsec_jax.server.sparse(capacity)
            alone, spread = (run(where, server=server) for where in (None, mesh))
            np.testing.assert_allclose(spread.params, alone.params, rtol=1e-12)
            np.testing.assert_array_equal(spread.bits, alone.bits)
            assert spread.entries.max() == capacity
        dense = run(mesh, server=gdsec_jax.server.running())
        whole = run(mesh, server=gdsec_jax.server.sparse(6))
        np.testing.assert_allclose(whole.params, dense.params, rtol=1e-12)
        """
    )
