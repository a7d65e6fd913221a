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
the bits that it counted, and theta after each round, bit for bit. For that the gradient
needs care. A matrix product over the samples of all workers at once rounds otherwise
than the same over one worker's: the compiler picks another kernel, or its rows fall
into other tiles. So this problem's loss computes its gradient worker by worker, in the
simulator too: under `jax.vmap` it becomes a loop, each turn of which is the kernel that
a worker runs. All behind the gradient is the package's own code, and rounds alike with
an axis of one worker and of M. Theta is float32, and all is computed on the CPU.
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
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import gdsec_jax
from gdsec_jax import _trees, data, problems, server_memory, wire, worker

XI, BETA, LEVELS, K, KEY = 4.0, 0.05, 64, 20, 7
LAQ_BITS, LAQ_ZETA = 8, 0.08
HEAD = struct.Struct("!I")  # of a frame: how many bytes follow
FINISHED = b""  # in theta's place, when a job is done
GREETING = 2.0  # seconds that who connects has to say who it is


class TransportError(RuntimeError):
    """A worker did not start, or none is left."""


class Method(NamedTuple):
    """A method as the server and the workers run it."""

    arguments: dict[str, Any]  # of the package's function of this name
    pipeline: optax.GradientTransformation  # of a worker
    server: optax.GradientTransformation | None = None  # its memory, if it has one
    key: int | None = None
    first_whole: bool = False  # the receiver knows that a first message is


class Job(NamedTuple):
    """What one run through the sockets is."""

    method: str
    wire: str
    rounds: int


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


def methods(num_workers: int, step: float) -> dict[str, Method]:
    """The pieces of each method, with the numbers that a worker uses."""
    difference, censor = worker.gradient_difference, worker.censor(XI / num_workers)
    rounded = optax.chain(censor, worker.qsgd(LEVELS))
    sec = {"xi": XI, "beta": BETA}
    laq = worker.laq(learning_rate=step, bits=LAQ_BITS, zeta=LAQ_ZETA / num_workers**2)
    return {
        "gd": Method({}, worker.whole()),
        "gdsec": Method(
            sec, difference(worker.error_feedback(censor), BETA), server_memory(BETA)
        ),
        "qsgdsec": Method(
            sec | {"levels": LEVELS},
            difference(worker.error_feedback(rounded), BETA),
            server_memory(BETA),
            KEY,
        ),
        "laq": Method(
            {"learning_rate": step, "bits": LAQ_BITS, "zeta": LAQ_ZETA},
            difference(laq),
            server_memory(),
        ),
        "ef21": Method(
            {"k": K},
            difference(worker.first_whole(worker.top_k(K))),
            server_memory(),
            first_whole=True,
        ),
        "top_j": Method({"k": K}, worker.error_feedback(worker.top_k(K))),
        "sign_ef": Method({}, worker.error_feedback(worker.sign())),
        "natural": Method({}, worker.natural(), key=KEY),
        "terngrad": Method({}, worker.terngrad(), key=KEY),
    }


# The problem: softmax regression on digits, with a bias, so that theta is a tree.


def _cross_entropy(params, shard: data.Shards):
    scores = jnp.matmul(
        shard.features, params["weights"], precision=jax.lax.Precision.HIGHEST
    )
    scores = scores + params["bias"]
    own = jnp.take_along_axis(scores, jnp.asarray(shard.targets)[:, None], axis=1)[:, 0]
    return jnp.sum(shard.weight * (jax.nn.logsumexp(scores, axis=1) - own))


@jax.custom_batching.sequential_vmap
def _value_and_gradient(params, shard):
    return jax.value_and_grad(_cross_entropy)(params, shard)


@jax.custom_vjp
def worker_loss(params, shard):
    """f_m, whose gradient is computed for one worker at a time, whoever asks."""
    return _value_and_gradient(params, shard)[0]


def _backward(gradient, cotangent):
    return jax.tree.map(lambda g: cotangent * g, gradient), None


worker_loss.defvjp(_value_and_gradient, _backward)


def init_params(features: int, classes: int):
    """theta^1."""
    weights = jnp.zeros((features, classes), jnp.float32)
    return {"weights": weights, "bias": jnp.zeros(classes, jnp.float32)}


def make_problem(num_workers: int) -> problems.Problem:
    """Softmax regression on digits, features centred, with its constant L."""
    digits = data.load("digits")
    x = (digits.features - digits.features.mean(axis=0)).astype(np.float32)
    y = digits.targets.astype(np.int32)
    shards = data.stack(x, y, data.split(y, num_workers))
    rows = np.hstack([x, np.ones((y.size, 1))])
    return problems.from_loss(
        worker_loss,
        shards,
        init_params(x.shape[1], int(y.max()) + 1),
        name="softmax regression on digits",
        smoothness=float(np.linalg.norm(rows, 2) ** 2 / (2 * y.size)),
    )


# Frames: a length, then so many bytes.


def send_frame(connection: socket.socket, payload: bytes) -> None:
    """Send one, within the connection's timeout."""
    connection.sendall(HEAD.pack(len(payload)) + payload)


def receive_frame(connection: socket.socket, most: int) -> bytes:
    """Receive one of at most so many bytes, all of it within the timeout.

    Raises:
      ValueError: a longer one is announced.
      OSError: the connection ends, or the timeout does.
    """
    wait = connection.gettimeout()
    until = None if wait is None else time.monotonic() + wait
    try:
        (size,) = HEAD.unpack(_receive(connection, HEAD.size, until))
        if size > most:
            raise ValueError(f"{size} bytes are announced, expected at most {most}")
        return _receive(connection, size, until)
    finally:
        connection.settimeout(wait)


def _receive(connection: socket.socket, size: int, until: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if until is not None:  # else a byte now and then would do
            connection.settimeout(max(until - time.monotonic(), 1e-3))
        part = connection.recv(min(size - len(data), 2**20))
        if not part:
            raise ConnectionError("it closed the connection")
        data += part
    return bytes(data)


def to_floats(params) -> bytes:
    """Theta as it is broadcast: its leaves in order, little-endian."""
    return b"".join(
        np.asarray(p).astype("<f4").tobytes() for p in jax.tree.leaves(params)
    )


def from_floats(payload: bytes, like):
    """The inverse of `to_floats`."""
    leaves, structure = jax.tree.flatten(like)
    flat = np.frombuffer(payload, "<f4").astype(np.float32)
    if flat.size != sum(leaf.size for leaf in leaves):
        raise ConnectionError(f"theta came as {len(payload)} bytes, expected another")
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    pieces = np.split(flat, ends)
    shaped = [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


# A worker.


def worker_main(settings: dict[str, Any]) -> None:
    """Serve every job, from one connection, with no samples but its own."""
    index, num_workers = settings["index"], settings["num_workers"]
    with np.load(settings["shard"]) as file:
        shard = data.Shards(**file)
    like = init_params(shard.features.shape[1], settings["classes"])
    known = methods(num_workers, settings["step"])
    jobs = [Job(*job) for job in settings["jobs"]]
    pieces = {job.method: known[job.method] for job in jobs}
    steps = {
        name: _worker_step(method, index, num_workers, like)
        for name, method in pieces.items()
    }
    # Compiled by itself, as in the simulator's loop over the workers: the compiler
    # cannot mix it with what comes behind.
    gradient_of = jax.jit(jax.grad(worker_loss))
    address, size = ("127.0.0.1", settings["port"]), len(to_floats(like))
    with socket.create_connection(address, settings["timeout"]) as connection:
        send_frame(connection, HEAD.pack(index))
        for job in jobs:
            init, step = steps[job.method]
            state = init()
            while (payload := receive_frame(connection, size)) != FINISHED:
                params = from_floats(payload, like)
                gradient = gradient_of(params, shard)
                update, own, state = step(gradient, params, state)
                if not all(np.isfinite(u).all() for u in jax.tree.leaves(update)):
                    raise FloatingPointError("the message is not finite")
                message = wire.message_of(update, own)
                send_frame(connection, wire.encode(message, job.wire))


def _worker_step(method: Method, index: int, num_workers: int, like):
    """What a worker starts with, and its round behind the gradient."""
    pipeline = optax.with_extra_args_support(method.pipeline)
    rounds = gdsec_jax.rounds(num_workers, key=method.key)

    def init():
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], pipeline.init(like))
        return rounds.init(like), one

    @jax.jit
    def step(gradient, params, state):
        common, own, known = rounds.begin(state[0], params)
        own = jax.tree.map(lambda x: x[index][None], own)
        own |= {"active": jnp.ones(1, bool)}

        def run(gradient, state, own):
            return pipeline.update(gradient, state, params, **(common | own))

        # An axis of one worker, for pieces that sum over the axis.
        lifted = jax.vmap(run, axis_name=worker.WORKER_AXIS)
        gradient = jax.tree.map(lambda g: g[None], gradient)
        updates, states = lifted(gradient, state[1], own)
        updates = wire.flush(_trees.cast_like(updates, common["like"]))
        update, one = jax.tree.map(lambda x: x[0], (updates, states))
        return update, one, (known, states)

    return init, step


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
                    [sys.executable, str(Path(__file__).resolve()), "--as-worker", own],
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
            (index,) = HEAD.unpack(receive_frame(connection, HEAD.size))
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
    packing = wire.packing_of(method.pipeline.init(like))
    code = wire.Code() if packing is None else packing.code
    params, state = like, init()
    heard = set()  # whose first message has come: that one may be whole
    silence = jax.tree.map(np.zeros_like, like)
    for number in range(1, job.rounds + 1):
        _broadcast(crew, to_floats(params), number)
        messages, sizes = [silence] * problem.num_workers, [0] * problem.num_workers
        for index, connection in sorted(crew.connections.items()):
            with _speaking_to(crew, index, number):
                form = (like, job.wire, code, method.first_whole and index not in heard)
                payload = receive_frame(connection, wire.most_bytes(*form))
                messages[index] = wire.decode(payload, *form, finite=True).values
                sizes[index] = len(payload)
                heard |= {index} if payload else set()
        if not crew.connections:
            raise TransportError("; ".join(crew.dropped.values()))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *messages)
        params, state = update(stacked, params, state)
        yield params, sizes
    _broadcast(crew, FINISHED, job.rounds)


def _broadcast(crew: Crew, payload: bytes, number: int) -> None:
    for index, connection in sorted(crew.connections.items()):
        with _speaking_to(crew, index, number):
            send_frame(connection, payload)


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
        options["server"] = "running"
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
    parser.add_argument("--as-worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_worker:
        worker_main(json.loads(arguments.as_worker))
        return 0
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
