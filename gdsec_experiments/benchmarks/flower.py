"""Flower's clients over links of 1 to 20 Mbit/s: seconds and bytes of a round.

A SuperLink and three SuperNodes in network namespaces of their own; the clients' links
are shaped, both ways, and lose 2 % of packets; the server's is fast. A network of 1.1
million parameters is trained locally in NumPy; its differences travel whole, by GD-SEC,
top-j or QSGD-SEC, the last three with a compressed step back. "floor" trains alike, and
sends nothing: its round is Flower's own time. What is prepared once, the first round,
is left out.

Bytes to a loss are those of runs in this process, of the same messages; seconds a round
are the server's, from the instructions to the last reply; bytes on the interface are
its own counters', of a whole run over its rounds, polls among them.

It needs root, Linux and Flower, and takes most of an hour.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rich.table

import gdsec_jax
from gdsec_experiments import flower_processes as processes
from gdsec_experiments.benchmarks import Measure, Settings, Skipped
from gdsec_experiments.benchmarks import _veth as veth
from gdsec_jax import channel
from gdsec_jax.flower import _numpy
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._kept import read_state, write_state
from gdsec_jax.flower._server import Server
from gdsec_jax.study import experiment

APP = Path(__file__).parents[1] / "flower_links"
SEGMENT = 1514 / 1448  # bytes on the link for one that is carried


class Setup(NamedTuple):
    """How fast links, how many rounds, how wide a network."""

    rates: tuple[int, ...] = (1, 5, 20)  # Mbit/s
    methods: tuple[str, ...] = ("floor", "dense", "gdsec", "top_j", "qsgdsec")
    rounds: int = 5
    width: int = 1000
    course: int = 120  # rounds of dense training whose loss is the target
    loss: float = 2.0  # percent of packets


SMALL = Setup((20,), ("floor", "gdsec"), 3, 30, 3)


class Course(NamedTuple):
    """A run in this process."""

    losses: list[float]
    up: list[int]  # bytes of a round's messages, of all workers
    cpu: list[float]  # seconds of a client's round beyond its gradient

    def to(self, target: float) -> int | None:
        """After how many rounds the loss is at most the target."""
        found = [k for k, loss in enumerate(self.losses, 1) if loss <= target]
        return found[0] if found else None


class Row(NamedTuple):
    """A method over one link."""

    seconds: float  # the median round
    up: float  # bytes of a client's link in a round
    down: float
    carried: float  # bytes of messages and instructions, both ways


def bench(settings: Settings) -> list[Measure]:
    """Every method over every link, and in this process.

    Raises:
      Skipped: there can be no such links here, or no Flower.
    """
    if importlib.util.find_spec("flwr") is None:
        raise Skipped("Flower is not installed: pip install 'gdsec-jax[flower]'")
    setup = SMALL if settings.small else Setup()
    if reason := veth.unable(setup.loss):
        raise Skipped(reason)
    with _app_on_path():
        courses = {
            name: course(name, setup.width, setup.course)
            for name in setup.methods
            if name != "floor"
        }
    rows = {rate: over_link(setup, rate, settings) for rate in setup.rates}
    # Flower's own time knows no rate: what others took of the machine is no part of it.
    least = min((own["floor"] for own in rows.values()), key=lambda row: row.seconds)
    measures = _of_courses(courses, setup)
    for rate, own in rows.items():
        settings.console.print(_table(own, least, rate, setup))
        measures += _of_rows(own, least, courses, rate, setup)
    return measures


@contextmanager
def _app_on_path() -> Iterator[None]:
    sys.path.insert(0, str(APP))
    try:
        yield
    finally:
        sys.path.remove(str(APP))


def course(name: str, width: int, rounds: int) -> Course:
    """A method's run in this process: the same server, clients and bytes."""
    import links_model as model  # pyright: ignore[reportMissingImports]
    import links_server  # pyright: ignore[reportMissingImports]

    x, y = model.digits()
    own = slice(model.HELD_OUT)
    algorithm, optimizer, params = links_server.parts(name, width)
    server = Server(
        algorithm, optimizer, params, lambda at: model.loss(at, x[own], y[own])
    )
    method, wire = model.worker_of(name)
    workers = [_numpy.worker_of(method, params, wire) for _ in range(model.WORKERS)]
    kept: list[Any] = [None] * model.WORKERS
    state, everyone, cpu = server.init(), np.ones(model.WORKERS, bool), []
    for _ in range(rounds):
        replies = []
        for m, worker in enumerate(workers):
            told = server.instruct(state, m, everyone)
            data, kept[m], seconds = _answer(
                worker, m, told, kept[m], lambda at, m=m: model.difference(at, m)
            )
            replies.append((str(m), data))
            cpu.append(seconds)
        state, said, _ = server.receive(state, replies, everyone)
        if said:
            raise RuntimeError(said[0])
    rows = state.rows
    return Course(
        [float(row.error or 0) for row in rows], [sum(row.payload) for row in rows], cpu
    )


def _answer(worker, m, told, kept, difference) -> tuple[bytes, bytes, float]:
    """A client's reply, what it keeps, and its CPU seconds beyond the difference.

    Of this thread: those of BLAS wait for more work, busily, when the gradient is done.
    """
    spent = 0.0

    def timed(at):
        nonlocal spent
        begin = time.thread_time()
        made = difference(at)
        spent += time.thread_time() - begin
        return made, None

    begin = time.thread_time()
    state = None if kept is None else read_state(worker, kept)
    reply, state = protocol.respond(
        worker, state, protocol.read_instructions(told), m, timed
    )
    data = protocol.write_reply(reply)
    kept = write_state(worker, state)  # pyright: ignore[reportArgumentType]
    return data, kept, time.thread_time() - begin - spent


def over_link(setup: Setup, rate: int, settings: Settings) -> dict[str, Row]:
    """Each method over links of so many Mbit/s."""
    with veth.joined(4) as network, tempfile.TemporaryDirectory() as folder:
        network.shape(rate, fast=1, loss=setup.loss)
        server, *clients = (
            processes.Place(host.address, host.inside) for host in network.hosts
        )
        with processes.started(Path(folder), clients, server) as own:
            found = {}
            for name in setup.methods:
                found[name] = _row(own, network, name, setup, Path(folder))
                said = f"  {rate} Mbit/s, {name}: {found[name].seconds:.1f} s a round"
                experiment.say(settings.console, said)
    return found


def _row(own, network, name: str, setup: Setup, folder: Path) -> Row:
    before = [host.counters() for host in network.hosts[1:]]
    path = folder / f"{name}.nc"
    told = {"method": name, "rounds": setup.rounds, "width": setup.width}
    own.submit(APP, told | {"history": str(path)})
    if (status := own.wait_for_run(3600)) != "finished:completed":
        raise RuntimeError(f"the run of {name} is {status}: {own.said('exec')[-2000:]}")
    after = [host.counters() for host in network.hosts[1:]]
    history = gdsec_jax.History.load(path)
    # The first round prepares what is said once; what it carried is taken off.
    whole = sum(history.observed[x] for x in ("reply_bytes", "instruction_bytes"))
    clients, rest = len(before), setup.rounds - 1

    def of(way: str, said: str) -> float:
        moved = sum(a[way] - b[way] for a, b in zip(after, before, strict=True))
        return (moved - history.observed[said][0].sum()) / clients / rest

    return Row(
        statistics.median(history.time_s[1:].tolist()),
        of("sent", "reply_bytes"),
        of("received", "instruction_bytes"),
        float(np.median(whole[1:].sum(1))) / clients,
    )


def predicted(row: Row, floor: Row, rate: int, loss: float = 0.0) -> float:
    """What `channel` makes of a round: the floor, and what is carried at the rate, with
    the headers of its packets, of which a percentage is sent again."""
    of_one = np.ones(1)
    each = SEGMENT / (rate * 1e6) / (1 - loss / 100)
    met = channel.Conditions(
        of_one > 0, np.zeros(1, int), each * of_one, 0 * of_one,
        floor.seconds * of_one,
    )  # fmt: skip
    sent = channel.upload_s(met, 8 * (row.carried - floor.carried) * of_one)
    return float(floor.seconds + np.asarray(sent).max())


def _table(
    rows: dict[str, Row], least: Row, rate: int, setup: Setup
) -> rich.table.Table:
    title = f"{rate} Mbit/s, {setup.loss:g} % lost, {_congestion()}, a client and round"
    table = rich.table.Table(title=title)
    table.add_column("method", no_wrap=True)
    names = ("s", "s beyond floor", "predicted s", "kB up", "kB down", "kB carried")
    for name in names:
        table.add_column(name, justify="right")
    floor = rows["floor"]
    for name, row in rows.items():
        numbers = (
            row.seconds,
            row.seconds - floor.seconds,
            predicted(row, least, rate, setup.loss),
        )
        kilobytes = (row.up / 1e3, row.down / 1e3, row.carried / 1e3)
        table.add_row(name, *(f"{x:.1f}" for x in (*numbers, *kilobytes)))
    return table


def _congestion() -> str:
    """By what TCP here judges how fast it may send: loss slows some of them."""
    path = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return f"TCP {path.read_text().strip()}"


def _target(courses: dict[str, Course], setup: Setup) -> float:
    """The least loss of dense training's first half."""
    return min(courses["dense"].losses[: setup.course // 2])


def _of_courses(courses: dict[str, Course], setup: Setup) -> list[Measure]:
    measures = []
    for name, own in courses.items():
        measures.append(
            Measure(
                f"client CPU beyond the gradient, {name}",
                1e3 * statistics.median(own.cpu[3:]),
                "ms",
                must=50 if name == "gdsec" else None,
                goal=15 if name == "gdsec" else None,
            )
        )
    if "dense" not in courses:
        return measures
    target = _target(courses, setup)
    begun = courses["dense"].to(target)
    dense = sum(courses["dense"].up[:begun])
    for name, own in courses.items():
        rounds = own.to(target)
        if name == "dense":
            continue
        if rounds is None:
            note = f"loss {target:.3f} is not reached in {setup.course} rounds"
            measures.append(Measure(f"bytes to the loss, {name}", np.nan, note=note))
            continue
        measures.append(
            Measure(
                f"payload bytes to the same loss, {name} / dense",
                sum(own.up[:rounds]) / dense,
                must=0.06 if name == "gdsec" else None,
                goal=0.02 if name == "gdsec" else None,
                note=f"loss {target:.3f} in {rounds} rounds, dense {begun}",
            )
        )
    return measures


def _of_rows(
    rows: dict[str, Row], least: Row, courses, rate: int, setup: Setup
) -> list[Measure]:
    floor, measures = rows["floor"], []
    for name, row in rows.items():
        here = f"{name}, {rate} Mbit/s"
        measures.append(Measure(f"a round of {here}", row.seconds, "s", told=True))
        if name in courses and "dense" in courses:
            number = courses[name].to(_target(courses, setup)) or np.nan
            said = f"{number:g} rounds of so many seconds"
            seconds = number * row.seconds
            measures.append(Measure(f"to the loss, {here}", seconds, "s", note=said))
        if name in ("floor", "dense") or "dense" not in rows:
            continue
        dense = rows["dense"]
        beyond = row.seconds - floor.seconds
        asked = name == "gdsec" and rate == 1
        measures += [
            Measure(
                f"seconds beyond the floor, dense / {here}",
                (dense.seconds - floor.seconds) / beyond if beyond > 0 else np.nan,
                must=8 if asked else None,
                goal=20 if asked else None,
                larger_is_better=True,
                note="" if beyond > 0 else "it took no longer than the floor",
            ),
            Measure(
                f"bytes on the interface, {here} / dense",
                (row.up + row.down) / (dense.up + dense.down),
                must=0.1 if name == "gdsec" else None,
                goal=0.04 if name == "gdsec" else None,
            ),
        ]
    for name, row in rows.items():
        if name != "floor":
            found = predicted(row, least, rate, setup.loss)
            off = abs(found / row.seconds - 1)
            said = f"channel's seconds, {name}, {rate} Mbit/s: off by"
            measures.append(Measure(said, off, must=0.3))
    return measures
