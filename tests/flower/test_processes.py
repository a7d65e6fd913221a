"""Flower's real processes on loopback, and what befalls them.

Not in `make test-slow`, whose environment cannot have Flower beside its pins: `make
test-flower` has one of its own.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import optax
import psutil
import pytest
from apart import Federation

import gdsec_jax
from gdsec_experiments import flower_processes as processes

pytest.importorskip(
    "flwr", reason="Flower is not installed: pip install 'gdsec-jax[flower]'"
)
APP = Path(__file__).parent / "app"
sys.path.insert(0, str(APP))

import ridge_data as data  # noqa: E402 (the app's own module)

sys.path.remove(str(APP))


class Run:
    """A run of the app, and what it leaves behind."""

    def __init__(self, place, monkeypatch, kind, rounds, **settings):
        self.place, self.signs = place, place / "signs"
        self.signs.mkdir()
        monkeypatch.setenv("RIDGE_SIGNS", str(self.signs))
        monkeypatch.setenv("RIDGE_KIND", kind)
        self.settings = {"rounds": rounds, "out": str(place / "run.nc")} | settings

    def submit(self, own):
        own.submit(APP, self.settings)

    @property
    def history(self):
        return gdsec_jax.History.load(self.place / "run.nc")

    def done(self):
        """How many times the server has looked at the parameters."""
        path = self.signs / "rounds"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def replay(self, gone=None):
        """The same in one process: who computed where says its log, who was heard says
        the history, and `gone` by round whose state was lost before it."""
        computed = [
            set((self.signs / f"computed-{m}").read_text().splitlines())
            for m in range(data.M)
        ]
        algorithm = gdsec_jax.gdsec(data.M, data.XI, data.BETA, wire="rle")
        federation = Federation(
            algorithm, optax.sgd(data.STEP), data.init_params(),
            lambda params, m: data.gradient(np.asarray(params), m),
        )  # fmt: skip
        for number, heard in enumerate(self.history.participants):
            for m in (gone or {}).get(number, ()):
                federation.clients[m].kept = None
            at = np.asarray(federation.state.params).tobytes().hex()
            replies = [
                (m, federation.reply_of(m, there=False))
                for m in range(data.M)
                if at in computed[m]
            ]
            assert {m for m, _ in replies} >= set(np.flatnonzero(heard))
            said = federation.close([(m, own) for m, own in replies if heard[m]])
            assert said == []
        return federation.state


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_six_rounds_of_three_processes_are_the_simulators(kind, tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch, kind, rounds=6)
    with processes.started(tmp_path, data.M) as own:
        run.submit(own)
        assert own.wait_for_run(200) == "finished:completed"
    history = run.history
    assert history.participants.all()
    state = run.replay()
    np.testing.assert_array_equal(history.params, np.asarray(state.params))
    np.testing.assert_array_equal(history.bits, [row.bits for row in state.rows])
    payload = history.observed["payload_bytes"]
    np.testing.assert_array_equal(payload, -(-history.bits // 8))
    step = optax.sgd(data.STEP)
    algorithm = gdsec_jax.gdsec(data.M, data.XI, data.BETA, wire="rle")
    optimizer = optax.chain(algorithm, step)
    params = data.init_params()
    kept = optimizer.init(params)
    for _ in range(6):
        each = [data.gradient(np.asarray(params), m) for m in range(data.M)]
        updates, kept = optimizer.update(np.stack(each), kept, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(history.params, params, rtol=1e-6)


@pytest.mark.slow
def test_nothing_is_lost_or_counted_twice_over_six_kills(tmp_path, monkeypatch):
    monkeypatch.setenv("RIDGE_FOLDER", str(tmp_path / "clients"))
    run = Run(
        tmp_path, monkeypatch, "numpy", rounds=24, timeout=20.0,
        folder=str(tmp_path / "server"),
    )  # fmt: skip
    gone = {}
    with processes.started(tmp_path, data.M) as own:
        run.submit(own)
        mid = Middle(run, own)
        # A client's process, while it computes.
        with mid.of_a_round(0):
            mid.client_of(0).kill()
        # A SuperNode, whose memories lie in a folder.
        with mid.of_a_round(1):
            own.kill("node-1")
        own.start_node(1)
        # The SuperLink, which has a database.
        with mid.of_a_round(2):
            own.kill("link")
            time.sleep(3)
            own.start_link()
        # The server's process, which is started again with its folder.
        with mid.of_a_round(0):
            own.kill("exec")
        own.start_exec()
        own.wait_until("the SuperLink", own.healthy, 30)
        run.submit(own)
        # A SuperNode that comes back with nothing.
        with mid.of_a_round(2):
            own.kill("node-2")
            (tmp_path / "clients" / "worker-2.state").unlink()
        own.start_node(2)
        # The SuperLink again.
        with mid.of_a_round(1):
            own.kill("link")
            own.start_link()
        assert own.wait_for_run(500) == "finished:completed"
    history = run.history
    forgotten = np.flatnonzero(history.observed["forgotten"][1:]) + 1
    assert forgotten.size == 1
    gone = {int(forgotten[0]): [2]}
    state = run.replay(gone)
    np.testing.assert_array_equal(history.params, np.asarray(state.params))
    np.testing.assert_array_equal(history.bits, [row.bits for row in state.rows])
    missed = (~history.participants).sum()
    print(f"{history.num_rounds} rounds, {missed} messages missed")
    assert history.participants[-1].all()


class Middle:
    """The middle of a round, in which a client waits."""

    def __init__(self, run, own):
        self.run, self.own = run, own

    def of_a_round(self, m):
        return _Middle(self.run, self.own, m)

    def client_of(self, m):
        """The process that computes for a SuperNode."""
        node = psutil.Process(self.own.processes[f"node-{m}"].pid)
        for process in node.children(recursive=True):
            if "flwr-clientapp" in " ".join(process.cmdline()):
                return process
        raise AssertionError(f"node {m} has no client")


class _Middle:
    def __init__(self, run, own, m):
        self.run, self.own, self.m = run, own, m

    def __enter__(self):
        before = self.run.done()
        self.own.wait_until("two rounds", lambda: self.run.done() >= before + 2, 200)
        begins, wait = (self.run.signs / f"{x}-{self.m}" for x in ("begins", "wait"))
        wait.touch()
        begins.unlink(missing_ok=True)
        self.own.wait_until("a client", begins.exists, 200)

    def __exit__(self, *error):
        (self.run.signs / f"wait-{self.m}").unlink()


@pytest.mark.slow
def test_nothing_runs_on_where_the_one_who_started_it_is_killed(tmp_path):
    import subprocess

    program = f"""
import pathlib, time
from gdsec_experiments import flower_processes as processes
with processes.started(pathlib.Path({str(tmp_path)!r}), 1) as own:
    print("started", flush=True)
    time.sleep(1000)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=-1, text=True, env=environment
    ) as made:
        assert made.stdout.readline() == "started\n"
        all_of_it = psutil.Process(made.pid).children(recursive=True)
        assert len(all_of_it) >= 3
        made.kill()
    _, alive = psutil.wait_procs(all_of_it, timeout=20)
    assert not alive


def test_where_a_process_does_not_start_the_log_says_why(tmp_path):
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in processes.TOOLS:
        (bin / name).write_text("#!/bin/sh\necho no such option >&2; exit 2\n")
        (bin / name).chmod(0o755)
    with (
        pytest.raises(processes.FlowerError, match=r"link ended.*no such option"),
        processes.started(tmp_path, 1, bin=bin),
    ):
        pass
