"""Processes on the hosts of a network that do what they are asked, all at once.

A rank is a module of this package that calls `serve`. A request and its answer are each
a line of JSON.
"""

import contextlib
import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from gdsec_experiments.benchmarks import _veth as veth

PORT = 5333  # nobody else's: the namespaces are our own
TIMEOUT = 600.0  # seconds


class Ranks:
    """One process a host, started together."""

    def __init__(self, processes, said):
        self._processes, self._said = processes, said

    def ask(self, what: str, *arguments: Any) -> list[Any]:
        """What each rank answers to a request.

        Raises:
          RuntimeError: one ended, or took too long; the text is what it said last.
        """
        for process in self._processes:
            process.stdin.write(json.dumps([what, *arguments]) + "\n")
            process.stdin.flush()
        end = time.monotonic() + TIMEOUT
        return [self._answer(m, end, f"{what} {arguments}") for m in range(len(self))]

    def __len__(self) -> int:
        return len(self._processes)

    def _answer(self, m: int, end: float, request: str) -> Any:
        answers = self._processes[m].stdout
        ready, _, _ = select.select([answers], [], [], max(0, end - time.monotonic()))
        line = answers.readline() if ready else ""
        if not line:
            self._said[m].seek(0)
            why = "ended" if ready else f"took more than {TIMEOUT:.0f} s"
            said = self._said[m].read()[-2000:]
            raise RuntimeError(f"rank {m} {why} at {request}: {said}")
        return json.loads(line)


@contextlib.contextmanager
def started(
    network: veth.Network, module: str, shape: tuple[int, int]
) -> Iterator[Ranks]:
    """A rank on every host of a network; all are killed in the end.

    Args:
      network: its first host is where the ranks meet.
      module: of this package, which calls `serve`.
      shape: of the matrix of parameters.
    """
    with contextlib.ExitStack() as stack:
        processes, said = [], []
        where = f"{network.hosts[0].address}:{PORT}"
        for m, host in enumerate(network.hosts):
            said.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            python = (sys.executable, "-P", "-m", f"{__package__}.{module}")
            process = host.start(
                *(*python, str(m), str(len(network.hosts)), where, *map(str, shape)),
                stdin=-1,
                stdout=-1,
                stderr=said[m],
                text=True,
            )
            processes.append(stack.enter_context(veth.ended(process)))
        yield Ranks(processes, said)


def serve(rank: Callable[..., Any]) -> None:
    """Do what is asked until nobody asks any more. What else is printed is no answer.

    Args:
      rank: from this rank, their number, where they meet, and the matrix's shape, to
        an object with a method for each request.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    own, number, where, rows, columns = sys.argv[1:]
    made = rank(int(own), int(number), where, (int(rows), int(columns)))
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(getattr(made, what)(*arguments)), file=answers, flush=True)
    os._exit(0)  # the libraries would wait for the others


def timed(
    update: Callable[[], Any], barrier: Callable[[], Any], repeats: int
) -> dict[str, Any]:
    """Seconds of each update, and bytes on this host's link for one, less barriers'."""

    def counted(call):
        barrier()
        before, made = veth.counters(), []
        for _ in range(repeats):
            barrier()
            made.append(call())
        barrier()
        after = veth.counters()
        return {way: (after[way] - before[way]) / repeats for way in after}, made

    def one():
        begin = time.perf_counter()
        update()
        return time.perf_counter() - begin

    beside, _ = counted(lambda: None)
    bytes, seconds = counted(one)
    return {"seconds": seconds} | {way: bytes[way] - beside[way] for way in bytes}
