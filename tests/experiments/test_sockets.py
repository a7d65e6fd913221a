"""Real processes and real bytes reach the simulator's iterates, and fail loudly."""

import contextlib
import itertools
import re
import signal
import socket
import subprocess
import threading
import time

import jax
import numpy as np
import pytest
from inside import _packing

from gdsec_experiments import _frames as frames
from gdsec_experiments import _softmax, sockets
from gdsec_jax import wire


@pytest.mark.slow
def test_every_method_and_every_format():
    names, formats = _softmax.methods(1, 1.0), itertools.cycle(wire.FORMATS)
    jobs = [_softmax.Job(name, next(formats), 10) for name in names]
    seen = []
    for job, result in sockets.run(jobs, 3):
        assert result.payload.shape == (job.rounds, 3)
        np.testing.assert_array_equal(result.thetas, result.simulated, str(job))
        assert result.same_iterates, job
        np.testing.assert_array_equal(result.payload, result.counted, str(job))
        assert result.payload.sum() > 0, job
        seen.append(job)
    assert seen == jobs


def test_a_killed_worker_is_dropped_and_the_other_goes_on():
    problem, job = _softmax.make_problem(2), _softmax.Job("gd", "dense", 4)
    with (
        jax.default_device(jax.devices("cpu")[0]),
        sockets.crew_of(problem, [job], timeout=60.0) as crew,
    ):
        sent = []
        for number, (_, sizes) in enumerate(sockets.play(crew, problem, job), 1):
            sent.append(sizes)
            if number == 2:
                crew.processes[1].kill()
                crew.processes[1].wait()
    assert sent == [[2600, 2600]] * 2 + [[2600, 0]] * 2  # 650 floats each
    assert crew.dropped == {1: "worker 1 was ended by SIGKILL, in round 3"}
    assert all(process.returncode is not None for process in crew.processes)


@pytest.mark.slow
def test_a_worker_that_hangs_is_dropped_after_the_timeout():
    problem, job = _softmax.make_problem(2), _softmax.Job("gd", "dense", 3)
    with sockets.crew_of(problem, [job], timeout=60.0) as crew:
        rounds = sockets.play(crew, problem, job)
        next(rounds)
        crew.processes[0].send_signal(signal.SIGSTOP)
        crew.connections[0].settimeout(0.5)
        assert [sizes for _, sizes in rounds] == [[0, 2600]] * 2
    assert crew.dropped == {0: "worker 0 did not answer for 0.5 s in round 2"}
    assert crew.processes[0].returncode == -signal.SIGKILL
    assert crew.processes[1].returncode is not None


# Hostile workers, which are threads: what one does with its connection in round 2

MESSAGE = np.ones(650, ">f4")
FRAME = frames.HEAD.pack(2600) + MESSAGE.tobytes()


def drips(connection):
    for byte in FRAME[:8]:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


HOSTILE = {
    "garbage": (
        lambda c: frames.send_frame(c, b"garbage"),
        "sent no message in round 2: data are 7 bytes, expected 2600",
    ),
    "not a number": (
        lambda c: frames.send_frame(c, np.full(650, np.nan, ">f4").tobytes()),
        r"sent no message in round 2: data hold infinities or NaNs as values of like\[",
    ),
    "half a message": (
        lambda c: (c.sendall(FRAME[:1000]), c.close()),
        "closed its connection, but runs on, in round 2",
    ),
    "a length of 4 GB": (
        lambda c: c.sendall(b"\xff" * 2000),
        "sent no message in round 2: 4294967295 bytes are announced, expected at most "
        "2600",
    ),
    "one byte more": (
        lambda c: frames.send_frame(c, bytes(2601)),
        "sent no message in round 2: 2601 bytes are announced, expected at most 2600",
    ),
    "nothing": (lambda c: None, "did not answer for 0.3 s in round 2"),
    "a byte now and then": (drips, "did not answer for 0.3 s in round 2"),
}


@contextlib.contextmanager
def crew_of_threads(*behaviours, timeout):
    """A crew whose workers are functions of their connections."""
    crew, threads = sockets.Crew([], {}, [], {}), []
    with contextlib.ExitStack() as stack:
        for index, behaviour in enumerate(behaviours):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            ours.settimeout(timeout)
            theirs.settimeout(5.0)
            crew.connections[index] = ours
            crew.processes.append(subprocess.Popen(["sleep", "60"]))
            threads.append(threading.Thread(target=behaviour, args=(theirs,)))
        for thread in threads:
            thread.start()
        try:
            yield crew
        finally:
            sockets._reap(crew, 0.0)
            for thread in threads:
                thread.join()


def honest(connection, rounds=3):
    for _ in range(rounds):
        frames.receive_frame(connection, 2600)
        frames.send_frame(connection, MESSAGE.tobytes())


@pytest.mark.parametrize("hostile, why", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_worker_is_dropped_and_the_other_goes_on(hostile, why, monkeypatch):
    monkeypatch.setattr(
        sockets, "_end_of", lambda *_: "closed its connection, but runs on"
    )

    def second(connection):
        honest(connection, 1)
        with contextlib.suppress(OSError):
            frames.receive_frame(connection, 2600)
            hostile(connection)

    problem, job = _softmax.make_problem(2), _softmax.Job("gd", "dense", 3)
    step = np.float32(1 / problem.smoothness)
    expected = np.zeros(650, np.float32)
    with crew_of_threads(honest, second, timeout=0.3) as crew:
        crew.connections[0].settimeout(5.0)
        for number, (params, sizes) in enumerate(sockets.play(crew, problem, job), 1):
            expected -= step * (2 if number == 1 else 1)
            np.testing.assert_allclose(sockets._flat(params), expected, rtol=1e-6)
            assert sizes == [2600, 2600 if number == 1 else 0]
    assert list(crew.dropped) == [1]
    assert re.match(f"worker 1 {why}", crew.dropped[1])


def test_without_a_worker_there_is_no_run():
    problem, job = _softmax.make_problem(1), _softmax.Job("gd", "dense", 3)
    with (
        crew_of_threads(lambda connection: connection.close(), timeout=1.0) as crew,
        pytest.raises(sockets.TransportError, match="worker 0 .*in round 1"),
    ):
        crew.processes[0].kill()
        next(sockets.play(crew, problem, job))


def test_strangers_hold_up_no_worker(monkeypatch):
    monkeypatch.setattr(sockets, "GREETING", 0.1)
    crew = sockets.Crew([subprocess.Popen(["sleep", "60"])], {}, [], {})
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.callback(sockets._reap, crew, 0.0)

        def connected(said):
            own = stack.enter_context(socket.create_connection(listener.getsockname()))
            own.sendall(said)

        connected(b"")
        connected(b"\xff" * 8)
        connected(frames.HEAD.pack(4) + frames.HEAD.pack(1))  # there is no worker 1
        connected(frames.HEAD.pack(3) + b"abc")
        connected(frames.HEAD.pack(4) + frames.HEAD.pack(0))
        sockets._accept(listener, crew, 5.0)
        assert list(crew.connections) == [0]
        assert crew.connections[0].gettimeout() == 5.0


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_an_error():
    problem, job = _softmax.make_problem(2), _softmax.Job("no such method", "rle", 1)
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
    sender = threading.Thread(target=frames.send_frame, args=(pair[0], payload))
    sender.start()
    received = frames.receive_frame(pair[1], size)
    sender.join()
    assert received == payload


def test_broken_frames(pair):
    ours, theirs = pair
    ours.sendall(frames.HEAD.pack(2**32 - 1))
    with pytest.raises(ValueError, match="4294967295 bytes are announced, expected at"):
        frames.receive_frame(theirs, 9)
    ours.sendall(frames.HEAD.pack(5) + b"four")
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="closed the connection"):
        frames.receive_frame(theirs, 9)
    theirs.settimeout(0.05)
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        frames.receive_frame(ours, 9)


def test_theta_travels_bit_for_bit():
    rng = np.random.default_rng(0)
    params = {
        "weights": rng.standard_normal((3, 2), np.float32),
        "bias": np.float32([np.inf, -0.0]),
    }
    again = frames.from_floats(frames.to_floats(params), params)
    for name, leaf in params.items():
        assert again[name].tobytes() == leaf.tobytes()
        assert again[name].shape == leaf.shape
    with pytest.raises(ConnectionError, match="theta came as 4 bytes"):
        frames.from_floats(bytes(4), params)


def test_the_gradient_of_one_worker_is_its_part_of_all():
    """What equal iterates rest on, for a gradient away from zero."""
    problem = _softmax.make_problem(5)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: rng.standard_normal(p.shape, np.float32), problem.init_params
    )
    every = jax.jit(problem.gradients)(params)
    one = jax.jit(jax.grad(_softmax.worker_loss))
    for m in range(5):
        shard = jax.tree.map(lambda x, m=m: np.asarray(x[m]), problem.worker_data)
        own = one(params, shard)
        for name in params:
            np.testing.assert_array_equal(own[name], every[name][m])


def test_messages_are_of_the_parameters_shapes():
    """The server decodes them so."""
    problem = _softmax.make_problem(2)
    for name, method in _softmax.methods(2, 1.0).items():
        packing = _packing.packing_of(method.pipeline.init(problem.init_params))
        assert packing is None or packing.payload is None, name
