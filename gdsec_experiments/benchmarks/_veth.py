"""Hosts that are network namespaces, joined by links of a fixed rate.

A namespace lives as long as a process is in it, and a veth pair as long as its
namespaces. Every process that is started here is killed by the kernel when this one
ends, however it ends, so nothing is left behind, and there is no name to clash.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TOOLS = ("ip", "tc", "nsenter", "setpriv", "unshare")
BURST = "64kb"  # that goes through at once: of a larger one much would go for free
LATENCY = "100ms"  # that a packet waits at most, else it is dropped
DEVICE = "gdsec"  # what a host's end of the link is called

_WITH_US = ("setpriv", "--pdeathsig", "KILL")
# Libraries look for the address of the host's own name: it is the name.
_HOLD = """
import socket, sys
socket.sethostname(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


class Host(NamedTuple):
    """A namespace, and the process that holds it."""

    holder: subprocess.Popen
    address: str

    def start(self, *command: str, **options) -> subprocess.Popen:
        """Start a process in the namespace; options are of `subprocess.Popen`."""
        return subprocess.Popen([*_WITH_US, *self.inside, *command], **options)

    def do(self, *command: str) -> None:
        """Run a command in the namespace, to its end."""
        _do(*self.inside, *command)

    def counters(self) -> dict[str, int]:
        """Bytes that its link has received and sent."""
        ran = subprocess.run(
            [*self.inside, "cat", "/proc/self/net/dev"],
            capture_output=True,
            text=True,
            check=True,
        )
        return _counted(ran.stdout)

    @property
    def inside(self) -> tuple[str, ...]:
        """The command that enters it."""
        return ("nsenter", "--net", "--uts", "--target", str(self.holder.pid))


class Network(NamedTuple):
    """Hosts that reach each other."""

    hosts: tuple[Host, ...]
    ends: tuple[tuple[Host, str], ...]  # where packets leave: host and device

    def shape(self, rate: int, fast: int = 0, loss: float = 0.0) -> None:
        """Let packets leave at so many Mbit/s, where a percentage of them is lost; but
        at 10,000 on the first links, which lose none.

        Raises:
          RuntimeError: the kernel can lose none.
        """
        for number, (host, device) in enumerate(self.ends):
            own, lossy = (10_000, 0.0) if number < 2 * fast else (rate, loss)
            bucket = ("tbf", "rate", f"{own}mbit", "burst", BURST, "latency", LATENCY)
            host.do(*f"tc qdisc replace dev {device} root handle 1:".split(), *bucket)
            if lossy:
                _lose(host, device, lossy)


def _lose(host: Host, device: str, percent: float) -> None:
    """Lose packets by netem or, where the kernel has none, by a program of a filter: a
    random number, modulo 10,000, below the share, leads into a qdisc that drops all."""
    try:
        lost = ("netem", "loss", f"{percent}%", "limit", "1000")
        host.do(*f"tc qdisc replace dev {device} parent 1:1".split(), *lost)
    except RuntimeError:
        share = round(100 * percent)
        program = (
            f"5,32 0 0 4294963256,148 0 0 10000,53 1 0 {share},6 0 0 4294967295,6 0 0 0"
        )
        for command in (
            "qdisc replace dev {} parent 1:1 handle 2: htb",  # all else goes directly
            "class add dev {} parent 2: classid 2:1 htb rate 1mbit",
            "qdisc add dev {} parent 2:1 handle 3: blackhole",
            "filter add dev {} parent 2: protocol all bpf flowid 2:1 bytecode",
        ):
            more = (program,) if command.endswith("bytecode") else ()
            host.do("tc", *command.format(device).split(), *more)


def unable(loss: float = 0.0) -> str:
    """Why there can be no such network here, with such a loss; "" if there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is absent: apt install iproute2 util-linux"
    if os.geteuid():
        return "network namespaces need root"
    try:
        with joined(2) as network:
            network.shape(1000, loss=loss)
    except RuntimeError as error:
        return f"no such network here: {error}"
    return ""


@contextlib.contextmanager
def joined(number: int) -> Iterator[Network]:
    """A network of hosts: two on one link, more on a bridge, each by a link of its own.

    Raises:
      RuntimeError: a tool refuses; the text is what it said.
    """
    with contextlib.ExitStack() as stack:
        addresses = [f"10.77.0.{1 + m}" for m in range(number)]
        hosts = tuple(Host(stack.enter_context(_held(a)), a) for a in addresses)
        if number == 2:
            _link(hosts[0], DEVICE, hosts[1], DEVICE)
            ends = [(host, DEVICE) for host in hosts]
        else:
            middle = Host(stack.enter_context(_held("bridge")), "bridge")
            middle.do("ip", "link", "add", "bridge", "type", "bridge")
            middle.do("ip", "link", "set", "bridge", "up")
            ends = []
            for m, host in enumerate(hosts):
                _link(host, DEVICE, middle, f"port{m}")
                middle.do(*f"ip link set port{m} master bridge".split())
                ends += [(host, DEVICE), (middle, f"port{m}")]
        for host in hosts:
            host.do("ip", "link", "set", "lo", "up")
            host.do(*f"ip address add {host.address}/24 dev {DEVICE}".split())
        yield Network(hosts, tuple(ends))


def counters() -> dict[str, int]:
    """Bytes that the link of this process's host has received and sent."""
    return _counted(Path("/proc/self/net/dev").read_text())


def _counted(text: str) -> dict[str, int]:
    lines = text.splitlines()
    (line,) = [line for line in lines if line.strip().startswith(f"{DEVICE}:")]
    fields = line.partition(":")[2].split()
    return {"received": int(fields[0]), "sent": int(fields[8])}


@contextlib.contextmanager
def _held(name: str) -> Iterator[subprocess.Popen]:
    command = ("unshare", "--net", "--uts", sys.executable, "-c", _HOLD, name)
    with ended(
        subprocess.Popen(
            [*_WITH_US, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as holder:
        if not holder.stdout.readline():  # pyright: ignore[reportOptionalMemberAccess]
            raise RuntimeError(holder.communicate()[1].strip())
        yield holder


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """A process that is killed in the end: on SIGTERM alone JAX goes on."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def _link(one: Host, first: str, other: Host, second: str) -> None:
    pids = one.holder.pid, other.holder.pid
    pair = f"type veth peer name {second} netns {pids[1]}"
    _do(*f"ip link add {first} netns {pids[0]} {pair}".split())
    for host, device in ((one, first), (other, second)):
        # One segment a packet, or the counters would miss the headers of the others.
        host.do(*f"ip link set {device} gso_max_segs 1 up".split())


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise RuntimeError(f"{' '.join(command)}: {said}")
