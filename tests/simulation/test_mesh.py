"""Runs and sweeps over several devices equal those on one.

On one machine: a fresh process that takes its CPU for four devices.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from inside import mesh_of

import gdsec_jax
from gdsec_jax import problems

START = """
import os
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
import sys
sys.path[:0] = {path!r}
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import gdsec_jax
from cases import KINDS, METHODS
from gdsec_jax import problems, worker
from inside import mesh_of
jax.config.update("jax_enable_x64", True)

M = 8
mesh = jax.make_mesh((4,), ("devices",))
rng = np.random.default_rng(0)
x, y = rng.standard_normal((80, 6)), rng.standard_normal(80)
problem = problems.ridge(x, y, M)
step = optax.sgd(0.1 / problem.smoothness)
"""


def on_four_devices(program: str) -> None:
    """Run a program in a process with four devices; it fails with what that says."""
    tests = Path(__file__).parents[1]
    code = START.format(path=[str(tests), str(tests.parent)]) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_a_run_on_four_devices_is_that_on_one():
    # 300 rounds, away from divergence, far from what rounding leaves of the error.
    on_four_devices(
        """
        algorithm = gdsec_jax.gdsec(M, 5.0, 0.01, wire="rle")
        optimizer = optax.chain(algorithm, step)
        alone = gdsec_jax.simulate(problem, optimizer, 300)
        for mesh, worker_batch in (
            (jax.make_mesh((4,), ("a",)), None), (jax.make_mesh((2, 2), ("a", "b")), 1)
        ):
            run = gdsec_jax.simulate(
                problem, optimizer, 300, mesh=mesh, worker_batch=worker_batch
            )
            np.testing.assert_allclose(run.params, alone.params, rtol=1e-12)
            errors = run.objective_error, alone.objective_error
            atol = 4 * problem.resolution
            np.testing.assert_allclose(*errors, rtol=1e-12, atol=atol)
            np.testing.assert_array_equal(run.bits, alone.bits)
            np.testing.assert_array_equal(run.participants, alone.participants)
        """
    )


@pytest.mark.slow
def test_methods_of_every_kind_run_on_four_devices():
    on_four_devices(
        """
        drawn = problems.minibatch(problem, 3)
        present = lambda key, round: jax.random.bernoulli(key, 0.7, (M,))
        for method in METHODS:
            if method.name not in (*KINDS, "power_sgd"):
                continue
            options = {"key": 0} if method.draws else {}
            optimizer = optax.chain(method.make(M, **options), step)
            runs = [
                gdsec_jax.simulate(
                    drawn, optimizer, 20, key=1, observe=gdsec_jax.norms, mesh=where,
                    uplink=gdsec_jax.Uplink(present),
                )
                for where in (None, mesh)
            ]
            # A message may flip at a tie of rounding; what is chaotic, grows it.
            np.testing.assert_allclose(
                runs[1].params, runs[0].params, rtol=1e-6, err_msg=method.name
            )
            np.testing.assert_array_equal(runs[1].participants, runs[0].participants)
            for name, norm in runs[0].observed.items():
                np.testing.assert_allclose(runs[1].observed[name], norm, rtol=1e-6)
        """
    )


def test_each_device_holds_its_own_workers():
    on_four_devices(
        """
        import gdsec_jax.simulation._mesh as placing
        from gdsec_jax.federation import FederationState
        mesh = mesh_of(mesh, M)
        placed = placing.place_problem(problem, mesh)
        for leaf in jax.tree.leaves(placed.worker_data):
            assert leaf.addressable_shards[0].data.shape[0] == M // 4
        assert placed.init_params.sharding.is_fully_replicated
        optimizer = optax.chain(gdsec_jax.gdsec(M, 5.0, 0.01), optax.adam(0.1))
        state = jax.jit(
            lambda p: placing.constrain(optimizer.init(p), mesh)
        )(placed.init_params)
        federation = state[0]
        assert isinstance(federation, FederationState)
        for leaf in jax.tree.leaves(federation.workers):
            assert leaf.addressable_shards[0].data.shape[0] == M // 4
        for leaf in jax.tree.leaves((federation.clock, state[1])):
            assert leaf.sharding.is_fully_replicated
        """
    )


@pytest.mark.slow
def test_a_sweep_on_four_devices_is_that_on_one(tmp_path):
    on_four_devices(
        f"""
        def optimizer(xi, beta):
            return optax.chain(gdsec_jax.gdsec(M, xi, beta, wire="rle"), step)

        grid = {{"xi": [0.0, 5.0, 50.0], "beta": [0.01, 0.1]}}
        alone = gdsec_jax.sweep(problem, optimizer, grid, 60)
        path = {str(tmp_path / "sweep.nc")!r}
        for options in ({{}}, {{"memory_limit": 2**21}}, {{"path": path}}):
            spread = gdsec_jax.sweep(
                problem, optimizer, grid, 60, mesh=mesh, **options
            )
            np.testing.assert_allclose(
                spread.objective_error, alone.objective_error, rtol=1e-11
            )
            np.testing.assert_array_equal(spread.total_bits, alone.total_bits)
        """
    )


def test_what_is_no_mesh_for_the_workers():
    problem = problems.ridge(np.eye(6), np.arange(6.0), 3)
    optimizer = optax.chain(gdsec_jax.gd(3), optax.sgd(0.1))
    with pytest.raises(ValueError, match="mesh is 4, expected a jax.sharding.Mesh"):
        gdsec_jax.simulate(problem, optimizer, 2, mesh=4)  # pyright: ignore
    mesh = jax.sharding.AbstractMesh((4,), ("devices",))
    with pytest.raises(ValueError, match="mesh is .*, expected a jax.sharding.Mesh"):
        mesh_of(mesh, 3)  # pyright: ignore
    on_four_devices(
        """
        small = problems.ridge(x, y, 6)
        optimizer = optax.chain(gdsec_jax.gd(6), step)
        with pytest.raises(ValueError, match="mesh has 4 devices, expected a divisor "):
            gdsec_jax.simulate(small, optimizer, 2, mesh=mesh)
        """
    )


@pytest.mark.slow
def test_data_that_are_spread_and_loops_of_ones_own():
    on_four_devices(
        """
        from gdsec_jax import data

        def load(m):
            return {"x": x[10 * m : 10 * m + 10], "y": y[10 * m : 10 * m + 10]}

        def loss(params, own):
            return ((own["x"] @ params - own["y"]) ** 2).sum() / 160

        optimizer = optax.chain(gdsec_jax.gdsec(M, 1.0, 0.01), optax.sgd(0.1))
        alone, together = (
            gdsec_jax.simulate(
                problems.from_loss(loss, data.spread(load, M, own), np.zeros(6)),
                optimizer, 20, mesh=where,
            )
            for own, where in ((jax.make_mesh((1,), ("a",)), None), (mesh, mesh))
        )
        np.testing.assert_allclose(together.params, alone.params, rtol=1e-12)

        grads = jnp.asarray(rng.standard_normal((M, 6)))
        params = jnp.zeros(6)
        update = jax.jit(optimizer.update)
        expected, _ = update(grads, optimizer.init(params), params)
        auto = (jax.sharding.AxisType.Auto,)
        own = jax.make_mesh((4,), (gdsec_jax.DEVICE_AXIS,), axis_types=auto)
        with jax.set_mesh(own):
            direction, _ = update(grads, optimizer.init(params), params)
        np.testing.assert_allclose(direction, expected, rtol=1e-12)

        def refused(sentence, mesh, M):
            algorithm = gdsec_jax.gd(M)
            with jax.set_mesh(mesh), pytest.raises(ValueError, match=sentence):
                algorithm.update(jnp.ones((M, 6)), algorithm.init(params), params)

        refused("mesh has 4 devices, expected a divisor", own, 6)
        explicit = jax.make_mesh((4,), (gdsec_jax.DEVICE_AXIS,))
        refused("worker_devices is Explicit, expected Auto", explicit, 8)
        # Another mesh is none of ours.
        with jax.set_mesh(jax.make_mesh((4,), ("model",), axis_types=auto)):
            algorithm = gdsec_jax.gd(3)
            algorithm.update(jnp.ones((3, 6)), algorithm.init(params), params)
        """
    )
