"""Flower's processes on this machine: started, waited for, and gone in the end.

A SuperLink, a SuperExec and a SuperNode for each client listen on free ports of
127.0.0.1, or of hosts that are network namespaces. All of them are killed when
`started` is left, and by the kernel when this process ends, however it ends.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = ("flower-superlink", "flower-superexec", "flower-supernode", "flwr")
# Flower's own words; nothing is to be looked up, or installed.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}
_WITH_US = ("setpriv", "--pdeathsig", "KILL")
# Where one may: a process is then the first of a namespace of its own, with which all
# that it has started ends.
_ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


class FlowerError(RuntimeError):
    """A process of Flower's did not start, or a run did not end as it should."""


class Place(NamedTuple):
    """Where a process runs: this machine, or a host with an address of its own."""

    address: str = "127.0.0.1"
    inside: Sequence[str] = ()  # the command that enters it


HERE = Place()


def free_port(place: Place = HERE) -> int:
    """A port that nobody listens on."""
    if place.inside:
        return 8000  # a namespace of its own
    with socket.create_server((place.address, 0)) as listener:
        return listener.getsockname()[1]


class Flower:
    """Flower's processes, and what may be done to them."""

    def __init__(
        self, folder: Path, server: Place, clients: Sequence[Place], bin: Path
    ):
        self.folder, self.server, self.clients, self.bin = folder, server, clients, bin
        self.port = free_port(server)
        self.node_ports = [self._node_port(m, at) for m, at in enumerate(clients)]
        self.alone = () if os.geteuid() else _ALONE
        self.processes: dict[str, subprocess.Popen] = {}
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = '
            f'"{self.address}"\ninsecure = true\n'
        )
        path = f"{bin}{os.pathsep}{os.environ.get('PATH', '')}"
        self.environment = os.environ | QUIET | {"FLWR_HOME": str(home), "PATH": path}

    def _node_port(self, m: int, place: Place) -> int:
        return 9100 + m if place.inside else free_port(place)

    @property
    def address(self) -> str:
        """The SuperLink's."""
        return f"{self.server.address}:{self.port}"

    def start_link(self) -> None:
        """The SuperLink, whose database outlives it."""
        self._start(
            "link", self.server, "flower-superlink", "--insecure",
            "--host", self.server.address, "--port", str(self.port),
            "--disable-runtime-dependency-installation", "--isolation", "process",
            "--database", str(self.folder / "link.db"),
        )  # fmt: skip

    def start_exec(self) -> None:
        """The process that starts a run's ServerApp."""
        self._start(
            "exec", self.server, "flower-superexec", "--insecure",
            "--runtime-api-address", self.address,
        )  # fmt: skip

    def start_node(self, m: int) -> None:
        """The SuperNode of a client."""
        place = self.clients[m]
        self._start(
            f"node-{m}", place, "flower-supernode", "--insecure",
            "--superlink", self.address, "--host", "127.0.0.1",
            "--port", str(self.node_ports[m]),
            "--node-config", f"partition-id={m} num-partitions={len(self.clients)}",
        )  # fmt: skip

    def _start(self, name: str, place: Place, tool: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *_WITH_US,
                    *place.inside,
                    *self.alone,
                    str(self.bin / tool),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,  # a group, so that its children go with it
            )

    def kill(self, name: str) -> None:
        """Kill a process and its children, at once."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def said(self, name: str) -> str:
        """What a process wrote so far."""
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def wait_until(self, what: str, holds: Callable[[], Any], timeout: float) -> Any:
        """Wait until it holds.

        Raises:
          FlowerError: it does not in time, or a process has ended.
        """
        end = time.monotonic() + timeout
        while not (found := holds()):
            for name, process in self.processes.items():
                if process.poll() is not None:
                    last = self.said(name)[-1500:]
                    raise FlowerError(f"{name} ended, waiting for {what}: {last}")
            if time.monotonic() > end:
                logs = "\n".join(self.said(name)[-1500:] for name in self.processes)
                raise FlowerError(f"{what} took more than {timeout:g} s: {logs}")
            time.sleep(0.2)
        return found

    def healthy(self) -> bool:
        """Whether the SuperLink answers."""
        if self.server.inside:  # it is asked by those who are there
            return '"success": true' in self.command("list", "--format", "json")
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=2):
                return True
        except OSError:
            return False

    def command(self, *arguments: str) -> str:
        """What `flwr` answers."""
        ran = subprocess.run(
            [*self.server.inside, str(self.bin / "flwr"), *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=120,
        )
        if ran.returncode and arguments[0] != "list":  # which waits for a SuperLink
            raise FlowerError(f"flwr {' '.join(arguments)}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def submit(self, app: Path, settings: Mapping[str, Any]) -> None:
        """Start a run of an app."""
        words = " ".join(f"{name}={json.dumps(x)}" for name, x in settings.items())
        self.command("run", str(app), "here", *(["-c", words] if words else []))

    def statuses(self) -> list[str]:
        """Of all runs, the newest first."""
        told = self.command("list", "--format", "json")
        runs = json.loads(told).get("runs", ()) if told.startswith("{") else ()
        return [run["status"] for run in runs]

    def wait_for_run(self, timeout: float) -> str:
        """The newest run's status, once it has ended."""

        def ended():
            found = self.statuses()
            return found[:1] if found and found[0].startswith("finished") else None

        return self.wait_until("the run", ended, timeout)[0]


@contextlib.contextmanager
def started(
    folder: Path,
    clients: int | Sequence[Place],
    server: Place = HERE,
    bin: Path | None = None,
) -> Iterator[Flower]:
    """Flower's processes with so many SuperNodes; all are killed in the end.

    Args:
      folder: for their logs, and Flower's own files.
      clients: how many, or where they run.
      server: where the SuperLink does.
      bin: the folder of Flower's commands; that of this Python by default.

    Raises:
      FlowerError: one of them does not start.
    """
    places = [HERE] * clients if isinstance(clients, int) else list(clients)
    own = Flower(folder, server, places, bin or Path(sys.executable).parent)
    try:
        own.start_link()
        own.wait_until("the SuperLink", own.healthy, 60)
        own.start_exec()
        for m in range(len(places)):
            own.start_node(m)
        yield own
    finally:
        for name in list(own.processes):
            own.kill(name)
