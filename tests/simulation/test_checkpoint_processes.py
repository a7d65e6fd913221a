"""Runs in processes of their own: killed, and with other devices."""

import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from test_checkpoint import saves
from test_simulate import assert_same_course

import gdsec_jax

SCRIPT = """
    import sys
    import numpy as np, optax, gdsec_jax
    from gdsec_jax import problems

    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 300))
    problem = problems.minibatch(problems.ridge(x, x.sum(1), 4), 5)
    optimizer = optax.chain(
        gdsec_jax.marina(4, gdsec_jax.worker.random_k(30), 0.2, key=1), optax.sgd(1e-3)
    )
"""


def python(body, *arguments, **environment):
    """A process that runs the script above and then `body`."""
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


ROUNDS = 6000
RUN = """
    history = gdsec_jax.simulate(
        problem, optimizer, int(sys.argv[3]), key=2,
        checkpoint=gdsec_jax.Checkpoints(sys.argv[1], 50),
    )
    history.save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_is_the_undisturbed_one(tmp_path):
    finish(python(RUN, tmp_path / "undisturbed", tmp_path / "undisturbed.nc", ROUNDS))
    folder, left, rng = tmp_path / "killed", tmp_path / "killed.nc", random.Random(0)
    folder.mkdir()
    went_on = 0
    for kill in range(2):
        before = saves(folder)
        process = python(RUN, folder, left, ROUNDS)
        # Half of them at any moment until it has saved something, the others after it.
        until = time.monotonic() + (math.inf if kill % 2 else rng.uniform(0.0, 3.0))
        while saves(folder) == before and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.001)
        if kill % 2:
            time.sleep(rng.uniform(0.0, 0.2))
        assert process.poll() is None, "it was finished before it was killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        went_on += saves(folder) != before
    assert went_on >= 1
    assert saves(folder)[-1] < ROUNDS
    assert not left.exists()
    assert "damaged" not in finish(python(RUN, folder, left, ROUNDS))
    one, other = (
        gdsec_jax.History.load(tmp_path / f"{name}.nc")
        for name in ("undisturbed", "killed")
    )
    assert_same_course(one, other)


OTHER_DEVICES = """
    import jax
    from pathlib import Path
    from jax.sharding import NamedSharding, PartitionSpec
    from inside import _saves

    folder = Path(sys.argv[1])
    mesh = jax.make_mesh((4,), ("workers",))
    assert mesh.size == 4

    def course(num_rounds, name=None, **options):
        if name is not None:
            options["checkpoint"] = gdsec_jax.Checkpoints(folder / name, 50)
        return gdsec_jax.simulate(problem, optimizer, num_rounds, key=2, **options)

    def alike(one, other):
        np.testing.assert_array_equal(one.bits, other.bits)
        error = other.objective_error
        np.testing.assert_allclose(one.objective_error, error, rtol=1e-4)
        np.testing.assert_allclose(one.params, other.params, rtol=1e-4, atol=1e-6)

    alone, spread = course(250), course(250, mesh=mesh)
    out = course(250, "out", mesh=mesh)
    alike(out, alone)
    np.testing.assert_array_equal(out.bits[:120], alone.bits[:120])
    course(120, "in", mesh=mesh)
    alike(course(250, "in"), alone)
    course(120, "same", mesh=mesh)
    same = course(250, "same", mesh=mesh)
    np.testing.assert_array_equal(same.params, spread.params)
    course(120, "batches", worker_batch=2)
    alike(course(250, "batches"), alone)

    over = NamedSharding(mesh, PartitionSpec("workers"))
    tree = {"a": np.arange(8.0, dtype="float32"), "none": np.zeros((4, 0))}
    tree = jax.tree.map(jax.numpy.asarray, tree) | {"k": jax.random.key(3)}
    shardings = {"a": over, "none": over, "k": NamedSharding(mesh, PartitionSpec())}
    states = _saves.manager(folder / "tree")
    _saves.write_state(states, 7, tree)
    loaded = _saves.read_state(states, 7, jax.device_put(tree, shardings))
    for name, array in loaded.items():
        assert array.sharding.is_equivalent_to(shardings[name], array.ndim)
        assert array.dtype == tree[name].dtype
        assert (array == tree[name]).all()
    assert len({s.device for s in loaded["a"].addressable_shards}) == 4
"""


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(tmp_path):
    finish(python(RUN, tmp_path / "out", tmp_path / "out.nc", 120))
    flag = "--xla_force_host_platform_device_count=4"
    finish(python(OTHER_DEVICES, tmp_path, XLA_FLAGS=flag))
