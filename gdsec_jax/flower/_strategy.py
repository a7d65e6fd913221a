"""The server: Flower's Strategy, which any method and any optimizer step behind."""

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from gdsec_jax import _checks
from gdsec_jax.federation._halves import parts_of
from gdsec_jax.files import _whole
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower import _saved
from gdsec_jax.flower._client import KEPT
from gdsec_jax.flower._history import history_of
from gdsec_jax.flower._need import flwr, record_of
from gdsec_jax.flower._server import Server
from gdsec_jax.simulation import _history

_LOG = logging.getLogger("flwr")


def strategy_of(
    algorithm: Any,
    optimizer: optax.GradientTransformation,
    params: Any,
    error: Callable[[Any], Any] | None,
    error_name: str,
    folder: str | os.PathLike | None,
    patience: float,
) -> Any:
    """`gdsec_jax.flower.Compressed`, which says what these are."""
    if error is not None:
        _checks.function("error", error)
    patience = _checks.positive("patience", patience)
    place = None if folder is None else _whole.folder(folder)
    server = Server(algorithm, optimizer, params, error)
    before = None if place is None else _saved.load(place, server)
    initial = float("nan") if error is None else float(error(params))
    return _strategy_class()(
        server, before, place, patience,
        functools.partial(
            history_of, initial_error=initial, error_name=error_name,
            wire=parts_of(algorithm).wire,
        ),
    )  # fmt: skip


class Rounds:
    """What a Strategy does, whatever Flower's own class adds."""

    start: Any  # Flower's

    def __init__(self, server, before, place, patience, history):
        self._server, self._interrupted = server, before is not None
        self._state = before or server.init()
        self._place, self._patience = place, patience
        self._history = history
        self._indices: dict[int, int] = {}  # of nodes that have said which they are
        self._asked = np.zeros(server.num_workers, bool)
        self._returned: Any = None  # the parameters as they were handed out last
        self._sent: dict[int, int] = {}  # bytes of the instructions to each node
        self._begun = time.monotonic()

    @property
    def params(self) -> Any:
        """theta, after the last round."""
        return self._state.params

    @property
    def history(self) -> _history.History:
        """What was recorded so far."""
        return self._history(self._state)

    def run(self, grid: Any, rounds: int, timeout: float = 3600.0):
        """Run until so many rounds are done, those of before counted."""
        rounds = _checks.integer("rounds", rounds, 1)
        if self._interrupted and self._state.round < rounds:
            self._end([])  # instructions may have gone out, and messages be lost
        left = rounds - self._state.round
        if left > 0:
            self.start(grid, self._arrays(), num_rounds=left, timeout=timeout)
        else:
            _LOG.warning("%d rounds are done already.", self._state.round)
        return self.history

    def summary(self) -> None:
        """Log what the run is."""
        _LOG.info("\t%s", self._server.agreed.text)

    def configure_train(self, server_round, arrays, config, grid):
        """The instructions of a round, for each node that it asks."""
        del config
        if server_round == 1:
            _check_initial(arrays, self._arrays())
        elif arrays is not self._returned:
            raise ValueError(
                "the parameters were changed outside of this Strategy, expected its "
                "own: Flower's wrappers for differential privacy have no effect here."
            )
        self._asked = self._server.asks(self._state)
        self._sent = {}
        messages = []
        for node in self._nodes(grid):
            index = self._indices.get(node)
            if index is not None and not self._asked[index]:
                continue
            data = self._server.instruct(self._state, index, self._asked)
            self._sent[node] = len(data)
            content = flwr().RecordDict({KEPT: record_of(data)})
            messages.append(
                flwr().Message(
                    content, node, "train", group_id=str(self._state.round + 1)
                )
            )
        self._begun = time.monotonic()
        return messages

    def _nodes(self, grid):
        """Those that are there; it waits for as many as workers, for a while."""
        end, said = time.monotonic() + self._patience, False
        while True:
            nodes = sorted(grid.get_node_ids())
            absent = self._server.num_workers - len(nodes)
            if absent <= 0:
                return nodes
            if time.monotonic() > end:
                _LOG.warning("%s did not come: the round begins.", self._absent(nodes))
                return nodes
            if not said:
                what, said = self._absent(nodes), True
                _LOG.info("waiting %g s at most for %s.", self._patience, what)
            time.sleep(0.2)

    def _absent(self, nodes):
        """How many workers have no node among these and, if that is known, which."""
        there = {self._indices.get(node) for node in nodes}
        every = range(self._server.num_workers)
        numbers = [str(m) for m in every if m not in there]
        who = f" (number {', '.join(numbers)})" if None not in there else ""
        return f"{len(every) - len(nodes)} of {len(every)} workers{who}"

    def aggregate_train(self, server_round, replies):
        """The parameters after a round, and what it cost."""
        del server_round
        heard, silent, reasons = [], dict(self._sent), []
        for message in replies:
            node = message.metadata.src_node_id
            sender = f"node {node}"
            if message.has_error() and node not in self._sent:
                reasons.append(message.error.reason)  # the SuperLink's own error
                continue
            silent.pop(node, None)
            if message.has_error():
                heard.append((sender, f"it failed: {message.error.reason}"))
                continue
            record = message.content.get(KEPT)
            data = None if record is None else record.get("bytes")
            if not isinstance(data, bytes):
                heard.append((sender, f"it sent no record {KEPT!r} of bytes"))
                continue
            heard.append((sender, data))
            self._learn(node, data)
        heard.sort(key=lambda each: each[0])
        why = "; ".join(dict.fromkeys(reasons)) or "no reply came in time"
        heard += [(self._name(node), f"it is not heard: {why}") for node in silent]
        told = self._end(heard)
        self._returned = self._arrays()
        return self._returned, flwr().MetricRecord(self._metrics(told))

    def _end(self, heard):
        """End the round with what was heard in it; the clients' own metrics."""
        sent = [0] * self._server.num_workers
        for node, index in self._indices.items():
            sent[index] += self._sent.get(node, 0)
        seconds = time.monotonic() - self._begun
        self._state, said, told = self._server.receive(
            self._state, heard, self._asked, sent, seconds
        )
        self._interrupted = False
        if self._place is not None:
            _saved.save(self._place, self._server, self._state)
        for sentence in said:
            _LOG.warning("%s", sentence)
        return told

    def _name(self, node):
        index = self._indices.get(node)
        return f"node {node}" if index is None else f"worker {index}"

    def _learn(self, node, data):
        """Which worker a node is, from now on; one that refuses may be another."""
        try:
            reply = protocol.read_reply(data)
        except ValueError:
            return
        if reply.kind == "refuses" or reply.index >= self._server.num_workers:
            self._indices.pop(node, None)
        else:
            self._indices[node] = reply.index

    def _metrics(self, told):
        row = self._state.rows[-1]
        own = {
            "bits": row.bits, "entries": row.entries, "bytes-up": row.received,
            "bytes-down": row.sent, "broadcast-bits": row.broadcast_bits,
            "participants": sum(row.participants), "dropped": row.dropped,
            "missing": row.missing,
        }  # fmt: skip
        return own | told | ({} if row.error is None else {"error": row.error})

    def initialize_parameters(self, client_manager):
        """Where Flower's older servers begin, and secure aggregation on them.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            "Compressed was given to an older server of Flower's, a workflow such as "
            "SecAggPlusWorkflow say, expected its own start(grid, ...) or run(grid, "
            "rounds): messages are bytes, which no mask of integers can hide."
        )

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Nothing: the error is the server's."""
        return []

    def aggregate_evaluate(self, server_round, replies):
        """Nothing."""
        return None

    def _arrays(self):
        array = flwr().Array
        leaves = jax.tree_util.tree_leaves_with_path(self._state.params)
        return flwr().ArrayRecord(
            {
                jax.tree_util.keystr(path) or "params": array(
                    np.ascontiguousarray(leaf)
                )
                for path, leaf in leaves
            }
        )


def _check_initial(arrays: Any, own: Any) -> None:
    """`start` is given the Strategy's own parameters, or none."""
    given, expected = (
        [array.numpy().tobytes() for array in record.values()]
        for record in (arrays, own)
    )
    if given and given != expected:
        raise ValueError(
            "initial_arrays are other parameters than the Strategy's, expected none, "
            "ArrayRecord(), or the same: Compressed(params=...) takes them."
        )


@functools.cache
def _strategy_class() -> type:
    return type("Compressed", (Rounds, flwr().Strategy), {"__doc__": Rounds.__doc__})
