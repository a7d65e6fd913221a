"""Real processes and real bytes reach the simulator's iterates, and fail loudly."""

import importlib.util
import signal
import socket
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from gdsec_jax import wire

PATH = Path(__file__).parents[2] / "experiments" / "sockets.py"
_spec = importlib.util.spec_from_file_location("experiment_sockets", PATH)
assert _spec is not None
assert _spec.loader is not None
sockets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sockets)

METHODS = ("gd", "gdsec", "qsgdsec", "laq", "ef21")


def _check(jobs, num_workers):
    seen = []
    for job, result in sockets.run(jobs, num_workers):
        assert result.payload.shape == (job.rounds, num_workers)
        np.testing.assert_array_equal(result.thetas, result.simulated, str(job))
        assert result.same_iterates, job
        np.testing.assert_array_equal(result.payload, result.counted, str(job))
        assert result.payload.sum() > 0, job
        seen.append(job)
    assert seen == jobs


@pytest.mark.slow
def test_a_few_rounds_with_two_workers():
    _check([sockets.Job("gdsec", "rle", 6), sockets.Job("ef21", "golomb", 3)], 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_workers", "formats"), [(2, ("coo", "bitmap")), (3, ("rle", "golomb"))]
)
def test_every_method_and_format(num_workers, formats):
    jobs = [sockets.Job(method, form, 25) for method in METHODS for form in formats]
    _check(jobs, num_workers)


@pytest.mark.slow
def test_the_further_methods():
    others = [name for name in sockets.methods(1, 1.0) if name not in METHODS]
    assert others
    _check([sockets.Job(name, "rle", 25) for name in others], 3)


def test_a_killed_worker_is_an_error_and_the_others_end():
    problem, job = sockets.make_problem(2), sockets.Job("gd", "dense", 100)
    with (
        jax.default_device(jax.devices("cpu")[0]),
        pytest.raises(
            sockets.TransportError, match="worker 1 was ended by SIGKILL, in round 3"
        ),
        sockets.crew_of(problem, [job], timeout=60.0) as crew,
    ):
        for number, (_, sizes) in enumerate(sockets.play(crew, problem, job), 1):
            assert sizes == [2600, 2600]  # 650 floats each
            if number == 2:
                crew.processes[1].kill()
                crew.processes[1].wait()
    assert all(process.returncode is not None for process in crew.processes)


@pytest.mark.slow
def test_a_worker_that_hangs_is_an_error_after_the_timeout():
    problem, job = sockets.make_problem(2), sockets.Job("gd", "dense", 100)
    with (
        pytest.raises(
            sockets.TransportError, match="worker 0 did not answer for 0.5 s in round 2"
        ),
        sockets.crew_of(problem, [job], timeout=60.0) as crew,
    ):
        rounds = sockets.play(crew, problem, job)
        next(rounds)
        crew.processes[0].send_signal(signal.SIGSTOP)
        crew.connections[0].settimeout(0.5)
        next(rounds)
    assert crew.processes[0].returncode == -signal.SIGKILL
    assert crew.processes[1].returncode is not None


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_an_error():
    problem, job = sockets.make_problem(2), sockets.Job("no such method", "rle", 1)
    with (
        pytest.raises(
            sockets.TransportError,
            match=r"worker \d ended with exit code 1: KeyError: 'no such method'",
        ),
        sockets.crew_of(problem, [job]) as crew,
    ):
        pytest.fail(f"{crew} started")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5.0)
        theirs.settimeout(5.0)
        yield ours, theirs


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_frames_arrive_whole(pair, size):
    payload = np.random.default_rng(0).bytes(size)
    sender = threading.Thread(target=sockets.send_frame, args=(pair[0], payload))
    sender.start()
    received = sockets.receive_frame(pair[1])
    sender.join()
    assert received == payload


def test_broken_frames(pair):
    ours, theirs = pair
    ours.sendall(sockets.HEAD.pack(2**32 - 1))
    with pytest.raises(ConnectionError, match="announced 4294967295 bytes"):
        sockets.receive_frame(theirs)
    ours.sendall(sockets.HEAD.pack(5) + b"four")
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="closed the connection"):
        sockets.receive_frame(theirs)
    theirs.settimeout(0.05)
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sockets.receive_frame(ours)


def test_theta_travels_bit_for_bit():
    rng = np.random.default_rng(0)
    params = {
        "weights": rng.standard_normal((3, 2), np.float32),
        "bias": np.float32([np.inf, -0.0]),
    }
    again = sockets.from_floats(sockets.to_floats(params), params)
    for name, leaf in params.items():
        assert again[name].tobytes() == leaf.tobytes()
        assert again[name].shape == leaf.shape
    with pytest.raises(ConnectionError, match="theta came as 4 bytes"):
        sockets.from_floats(bytes(4), params)


def test_the_gradient_of_one_worker_is_its_part_of_all():
    """What equal iterates rest on, for a gradient away from zero."""
    problem = sockets.make_problem(5)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: rng.standard_normal(p.shape, np.float32), problem.init_params
    )
    every = jax.jit(problem.gradients)(params)
    one = jax.jit(jax.grad(sockets.worker_loss))
    for m in range(5):
        shard = jax.tree.map(lambda x, m=m: np.asarray(x[m]), problem.worker_data)
        own = one(params, shard)
        for name in params:
            np.testing.assert_array_equal(own[name], every[name][m])


def test_messages_are_of_the_parameters_shapes():
    """The server decodes them so."""
    problem = sockets.make_problem(2)
    for name, method in sockets.methods(2, 1.0).items():
        packing = wire.packing_of(method.pipeline.init(problem.init_params))
        assert packing is None or packing.payload is None, name
