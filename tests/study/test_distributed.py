"""Two processes with two devices each, on this machine, do what one process does."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from inside import meet

from gdsec_jax import History, data
from gdsec_jax.study import cli

ROOT = Path(__file__).parents[2]

START = """
import jax
from inside import meet
mesh = meet("localhost:{port}", {processes}, {process})
assert mesh.size == 4
jax.config.update("jax_enable_x64", True)
import numpy as np
import optax
import gdsec_jax
from gdsec_jax import data, problems, server
"""


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("localhost", 0))
        return own.getsockname()[1]


def together(command, count: int = 2) -> list[str]:
    """What processes with four devices print: of `command`, from (port, process)."""
    port = free_port()
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    own = {"env": environment, "text": True}
    own |= dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    processes = [
        subprocess.Popen([sys.executable, *command(port, process)], **own)
        for process in range(count)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [out for out, _ in said]


def program(text: str, count: int = 2):
    """A Python program for all processes, after they have met."""
    body = textwrap.dedent(text)

    def command(port, process):
        start = START.format(port=port, process=process, processes=count)
        return ["-c", start + body]

    return command


@pytest.mark.slow
def test_each_process_loads_its_own_workers_and_they_train_together():
    together(
        program(
            """
            M, rng = 8, np.random.default_rng(0)
            x, y = rng.standard_normal((M, 10, 6)), rng.standard_normal((M, 10))
            loaded = []

            def load(m):
                loaded.append(m)
                return {"x": x[m], "y": y[m]}

            def loss(params, own):
                return 0.5 * ((own["x"] @ params - own["y"]) ** 2).sum() / 80

            worker_data = data.spread(load, M, mesh)
            first = 4 * jax.process_index()
            assert sorted(loaded) == list(range(first, first + 4)), loaded
            optimizer = optax.chain(gdsec_jax.gdsec(M, 1.0, 0.01), optax.sgd(0.1))

            def run(own, mesh, **options):
                problem = problems.from_loss(loss, own, np.zeros(6))
                return gdsec_jax.simulate(problem, optimizer, 60, mesh=mesh, **options)

            alone = run({"x": x, "y": y}, None)
            both = run(worker_data, mesh, worker_batch=1)
            np.testing.assert_allclose(both.params, alone.params, rtol=1e-12)
            np.testing.assert_array_equal(both.bits, alone.bits)
            errors = both.objective_error, alone.objective_error
            np.testing.assert_allclose(*errors, rtol=1e-12)
            """
        )
    )


@pytest.mark.slow
def test_four_workers_in_two_processes_move_a_tenth_and_a_sweep_is_shared():
    together(
        program(
            """
            rng = np.random.default_rng(0)
            x, y = rng.standard_normal((40, 6)), rng.standard_normal(40)
            problem = problems.ridge(x, y, 4)
            step = optax.sgd(0.1 / problem.smoothness)

            def run(mesh, how):
                algorithm = gdsec_jax.gdsec(4, 5.0, 0.01, server=how)
                return gdsec_jax.simulate(
                    problem, optax.chain(algorithm, step), 60, mesh=mesh
                )

            dense, sparse = run(None, server.running()), run(mesh, server.sparse(6))
            np.testing.assert_allclose(sparse.params, dense.params, rtol=1e-12)
            np.testing.assert_array_equal(sparse.bits, dense.bits)

            def optimizer(xi):
                return optax.chain(gdsec_jax.gdsec(4, xi), step)

            alone, shared = (
                gdsec_jax.sweep(problem, optimizer, {"xi": [0.0, 1.0, 9.0]}, 30, mesh=m)
                for m in (None, mesh)
            )
            np.testing.assert_allclose(
                shared.objective_error, alone.objective_error, rtol=1e-11
            )
            """
        )
    )


@pytest.mark.slow
def test_four_processes_of_one_worker_move_a_tenth_of_the_bytes():
    together(
        program(
            """
            from inside import _hlo as hlo
            from inside import _mesh
            from inside import mesh_of
            M, D = 4, 20_000
            mesh = mesh_of(mesh, M)
            rng = np.random.default_rng(0)
            gradient = rng.standard_normal((M, D), np.float32)
            gradient[:, 150:] = 0  # a capacity of 200 suffices
            grads = jax.device_put(gradient, _mesh.over(mesh))
            params = jax.device_put(np.zeros(D, np.float32), _mesh.everywhere(mesh))

            def moved(how):
                algorithm = gdsec_jax.gdsec(M, 1.0, 0.1, server=how)
                start = lambda p: _mesh.constrain(algorithm.init(p), mesh)
                with jax.set_mesh(mesh):
                    state = jax.jit(start)(params)
                    update = jax.jit(algorithm.update)
                    compiled = update.lower(grads, state, params).compile()
                    direction, _ = update(grads, state, params)
                counted = hlo.traffic(compiled.as_text()).collective_bytes
                return sum(counted.values()), np.asarray(direction)

            (dense, a), (sparse, b) = moved(server.running()), moved(server.sparse(200))
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
            assert dense >= 4 * D, dense
            assert 0 < sparse < 0.1 * dense, (sparse, dense)
            """,
            count=4,
        ),
        count=4,
    )


@pytest.mark.slow
def test_the_command_runs_a_config_and_the_first_process_writes(tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(
        """
        num_rounds = 40
        wire = "rle"
        [problem]
        kind = "logistic"
        data = "breast_cancer"
        num_workers = 4
        [methods.GD-SEC]
        name = "gdsec"
        xi = 10.0
        """
    )

    def command(port, process):
        code = "import sys; from gdsec_jax.study import cli; sys.exit(cli.main())"
        return [
            *("-c", code),
            *("run", str(config), "--distributed"),
            *("--results", str(tmp_path / f"results{process}")),
            *("--coordinator", f"localhost:{port}"),
            *("--num-processes", "2", "--process-id", str(process)),
        ]

    said = together(command)
    assert "GD-SEC" in said[0]
    assert "GD-SEC" not in said[1]
    assert not (tmp_path / "results1").exists()
    alone = tmp_path / "alone"
    assert cli.main(["run", str(config), "--results", str(alone)]) == 0
    a, b = (
        History.load(folder / "small" / "GD-SEC.nc")
        for folder in (alone, tmp_path / "results0")
    )
    np.testing.assert_array_equal(a.bits, b.bits)
    np.testing.assert_allclose(a.params, b.params, rtol=1e-11)


def test_half_of_how_to_meet(capsys):
    path = str(ROOT / "configs" / "figures" / "lasso.toml")
    for options in (["--process-id", "0"], ["--coordinator", "localhost:1"]):
        assert cli.main(["run", path, *options]) == 2
        assert "expected --distributed with them" in capsys.readouterr().err
    with pytest.raises(ValueError, match="num_processes, process_id is missing"):
        meet("localhost:1")


def test_workers_whose_data_differ():
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("workers",))
    with pytest.raises(ValueError, match=r"worker 2's data is .*\(2,\).*worker 0: "):
        data.spread(lambda m: np.zeros(1 + m // 2), 4, mesh)
