"""Workers and server as processes of their own, and the bytes between them.

Run it with `python gdsec_experiments/sockets.py --method gdsec --wire rle --rounds 50`;
several methods and formats may be named. A server, which is the process that you start,
and M worker processes speak over local TCP: the server broadcasts theta as raw floats,
a worker answers with the bytes of `wire.encode`, and nothing else passes. Each worker
holds its own samples alone, and keeps theta^{k-1} and the random key by itself.

What a worker sends is bounded before it is read, and checked before it is added up. One
that dies, hangs or sends nonsense is dropped, and the others go on; the table then
differs. Nobody proves to be the worker that it says: this is for one machine.

The table compares with the simulator: the payload bytes of each worker and round with
the bits that it counted, and theta after each round, bit for bit. Theta is float32, and
all is computed on the CPU.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import gdsec_jax
from gdsec_experiments import _frames as frames
from gdsec_experiments import _socket_worker
from gdsec_experiments._softmax import Job, Method, make_problem, methods
from gdsec_jax import _trees, problems, wire
from gdsec_jax.wire._packing import packing_of

GREETING = 2.0  # seconds that who connects has to say who it is


class TransportError(RuntimeError):
    """A worker did not start, or none is left."""


class Crew(NamedTuple):
    """The workers, by index, as the server sees them."""

    processes: list[subprocess.Popen]
    connections: dict[int, socket.socket]  # of those that are not dropped
    logs: list[Path]  # what each wrote to its standard error
    dropped: dict[int, str]  # why


class Result(NamedTuple):
    """A job on the sockets, beside the same in the simulator."""

    thetas: np.ndarray  # [rounds, D], after each round
    simulated: np.ndarray  # the same, of a loop over the rounds
    final: np.ndarray  # [D], what `simulate` ends with
    payload: np.ndarray  # int64 [rounds, M]: bytes on the socket
    counted: np.ndarray  # the same, of `simulate`
    seconds: float  # on the sockets, compilation included
    dropped: tuple[str, ...] = ()  # which workers were by its end, and why

    @property
    def same_iterates(self) -> bool:
        """Whether theta is the same after each round, to the last bit."""
        same = self.thetas.tobytes() == self.simulated.tobytes()
        return same and self.thetas[-1].tobytes() == self.final.tobytes()

    @property
    def same_bytes(self) -> bool:
        """Whether each worker sent, in each round, what the simulator counted."""
        return np.array_equal(self.payload, self.counted)


# The server.


@contextlib.contextmanager
def crew_of(
    problem: problems.Problem, jobs: Sequence[Job], timeout: float = 60.0
) -> Iterator[Crew]:
    """Worker processes that are connected, and that are gone when this ends."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        crew = Crew([], {}, [], {})
        stack.callback(_reap, crew, timeout)
        settings = {
            "num_workers": problem.num_workers,
            "classes": problem.init_params["bias"].size,
            "step": 1 / problem.smoothness,
            "jobs": jobs,
            "port": listener.getsockname()[1],
            "timeout": timeout,
        }
        for index in range(problem.num_workers):
            shard = jax.tree.map(
                lambda x, m=index: np.asarray(x[m]), problem.worker_data
            )
            path = folder / f"shard-{index}.npz"
            np.savez(path, **shard._asdict())
            own = json.dumps(settings | {"index": index, "shard": str(path)})
            crew.logs.append(folder / f"worker-{index}.log")
            with crew.logs[-1].open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", _socket_worker.__name__, own],
                    stdin=subprocess.DEVNULL,
                    stderr=log,
                    env=os.environ | {"JAX_PLATFORMS": "cpu"},
                )
            crew.processes.append(process)
        _accept(listener, crew, timeout)
        yield crew


def _accept(listener: socket.socket, crew: Crew, timeout: float) -> None:
    """Wait until every worker has connected and said who it is."""
    listener.settimeout(0.1)  # in between, a look at the processes
    deadline = time.monotonic() + timeout
    while missing := set(range(len(crew.processes))) - set(crew.connections):
        for index in missing:
            if crew.processes[index].poll() is not None:
                raise TransportError(f"worker {index} {_end_of(crew, index)}")
        if time.monotonic() > deadline:
            raise TransportError(
                f"worker {min(missing)} did not connect within {timeout:g} s"
            )
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.settimeout(GREETING)  # a stranger may say nothing
        try:
            said = frames.receive_frame(connection, frames.HEAD.size)
            (index,) = frames.HEAD.unpack(said)
        except (OSError, ValueError, struct.error):
            index = None
        connection.settimeout(timeout)
        if index in missing:
            crew.connections[index] = connection
        else:  # none of ours
            connection.close()


def _reap(crew: Crew, timeout: float) -> None:
    """Close the connections, on which workers end; kill those that do not."""
    for connection in crew.connections.values():
        connection.close()
    for index, process in enumerate(crew.processes):
        if index in crew.connections:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(timeout, 5.0))
        process.kill()  # does nothing to one that has ended
        process.wait()


def _end_of(crew: Crew, index: int) -> str:
    """How a worker's process ended."""
    try:
        code = crew.processes[index].wait(2.0)
    except subprocess.TimeoutExpired:
        return "closed its connection, but runs on"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    last = crew.logs[index].read_text("utf-8", "replace").strip().splitlines()[-1:]
    return f"ended with exit code {code}: {''.join(last) or 'it wrote nothing'}"


@contextlib.contextmanager
def _speaking_to(crew: Crew, index: int, number: int) -> Iterator[None]:
    """Drop a worker that fails, and note in which round, and how."""
    try:
        yield
        return
    except TimeoutError:
        wait = crew.connections[index].gettimeout()
        why = f"did not answer for {wait:g} s in round {number}"
    except OSError:
        why = f"{_end_of(crew, index)}, in round {number}"
    except ValueError as error:
        why = f"sent no message in round {number}: {error}"
    crew.dropped[index] = f"worker {index} {why}"
    crew.connections.pop(index).close()
    crew.processes[index].kill()


def play(
    crew: Crew, problem: problems.Problem, job: Job
) -> Iterator[tuple[Any, list[int]]]:
    """Theta after each round, and the payload bytes of each worker in it.

    A worker that dies, does not answer in time, or sends what is no message of finite
    numbers is dropped: from then on it counts as silent, as if it censored all.

    Raises:
      TransportError: none is left.
    """
    like = problem.init_params
    step = 1 / problem.smoothness
    method = methods(problem.num_workers, step)[job.method]
    init, update = _server_step(method, step, like)
    packing = packing_of(method.pipeline.init(like))
    code = wire.Code() if packing is None else packing.code
    params, state = like, init()
    heard = set()  # whose first message has come: that one may be whole
    silence = jax.tree.map(np.zeros_like, like)
    for number in range(1, job.rounds + 1):
        _broadcast(crew, frames.to_floats(params), number)
        messages, sizes = [silence] * problem.num_workers, [0] * problem.num_workers
        for index, connection in sorted(crew.connections.items()):
            with _speaking_to(crew, index, number):
                form = (like, job.wire, code, method.first_whole and index not in heard)
                payload = frames.receive_frame(connection, wire.most_bytes(*form))
                messages[index] = wire.decode(payload, *form, finite=True).values
                sizes[index] = len(payload)
                heard |= {index} if payload else set()
        if not crew.connections:
            raise TransportError("; ".join(crew.dropped.values()))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *messages)
        params, state = update(stacked, params, state)
        yield params, sizes
    _broadcast(crew, _socket_worker.FINISHED, job.rounds)


def _broadcast(crew: Crew, payload: bytes, number: int) -> None:
    for index, connection in sorted(crew.connections.items()):
        with _speaking_to(crew, index, number):
            frames.send_frame(connection, payload)


def _server_step(method: Method, learning_rate: float, like):
    """What the server starts with, and what it does with a round's messages."""
    memory = optax.with_extra_args_support(method.server or optax.identity())
    sgd = optax.sgd(learning_rate)

    @jax.jit
    def update(messages, params, state):
        total = _trees.over_workers(messages)
        total, kept = memory.update(total, state[0], params)
        change, sgd_state = sgd.update(_trees.cast_like(total, like), state[1], params)
        return optax.apply_updates(params, change), (kept, sgd_state)

    return lambda: (memory.init(like), sgd.init(like)), update


# Beside the simulator.


def simulated(
    problem: problems.Problem, job: Job
) -> tuple[np.ndarray, gdsec_jax.History]:
    """Theta after each round, [rounds, D], and what `simulate` returns."""
    method = methods(problem.num_workers, 1 / problem.smoothness)[job.method]
    options = method.arguments | {"wire": job.wire}
    if method.server is not None:
        options["server"] = gdsec_jax.server.running()
    if method.key is not None:
        options["key"] = method.key
    algorithm = getattr(gdsec_jax, job.method)(problem.num_workers, **options)
    optimizer = optax.chain(algorithm, optax.sgd(1 / problem.smoothness))

    @jax.jit
    def one_round(params, state):
        gradients = problem.gradients(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, state = problem.init_params, jax.jit(optimizer.init)(problem.init_params)
    thetas = []
    for _ in range(job.rounds):
        params, state = one_round(params, state)
        thetas.append(_flat(params))
    history = gdsec_jax.simulate(problem, optimizer, job.rounds, progress=False)
    return np.stack(thetas), history


def _flat(params) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def run(
    jobs: Sequence[Job], num_workers: int, timeout: float = 60.0
) -> Iterator[tuple[Job, Result]]:
    """Play the jobs on one crew, then in the simulator.

    Raises:
      TransportError: see `play`.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        problem = make_problem(num_workers)
        played = []
        with crew_of(problem, jobs, timeout) as crew:
            for job in jobs:
                start = time.perf_counter()
                rounds = list(play(crew, problem, job))
                seconds = time.perf_counter() - start
                thetas = np.stack([_flat(params) for params, _ in rounds])
                payload = np.array([sizes for _, sizes in rounds], np.int64)
                dropped = tuple(crew.dropped.values())
                played.append((thetas, payload, seconds, dropped))
        for job, (thetas, payload, *others) in zip(jobs, played, strict=True):
            expected, history = simulated(problem, job)
            final, counted = _flat(history.params), -(-history.bits // 8)
            yield job, Result(thetas, expected, final, payload, counted, *others)


def main() -> int:
    """Print the table; 0 if everything is equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(methods(1, 1.0))
    parser.add_argument("--method", nargs="+", choices=names, default=["gdsec"])
    parser.add_argument("--wire", nargs="+", choices=wire.FORMATS, default=["rle"])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds")
    arguments = parser.parse_args()
    for name in ("rounds", "workers", "timeout"):
        if getattr(arguments, name) <= 0:
            parser.error(
                f"--{name} is {getattr(arguments, name)}, expected more than 0"
            )
    jobs = [
        Job(method, form, arguments.rounds)
        for method in arguments.method
        for form in arguments.wire
    ]
    table = Table(
        title=f"softmax regression on digits, {arguments.workers} workers, "
        f"{arguments.rounds} rounds"
    )
    table.add_column("method")
    table.add_column("wire")
    for title in ("bytes on the socket", "simulator's bytes", "equal iterates"):
        table.add_column(title, justify="right")
    table.add_column("seconds", justify="right")
    equal, said = True, set()
    try:
        for job, result in run(jobs, arguments.workers, arguments.timeout):
            equal &= result.same_iterates and result.same_bytes and not result.dropped
            for why in sorted({*result.dropped} - said):
                print(f"{why}; it is dropped.", file=sys.stderr)
            said |= {*result.dropped}
            table.add_row(
                job.method,
                job.wire,
                f"{result.payload.sum():,}",
                f"{result.counted.sum():,}" + ("" if result.same_bytes else " differ"),
                "yes" if result.same_iterates else "no",
                f"{result.seconds:.2f}",
            )
    except TransportError as error:
        print(f"{error}.", file=sys.stderr)
        return 1
    Console().print(table)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
