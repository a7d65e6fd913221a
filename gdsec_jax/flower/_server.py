"""The server's half of any method: rounds of bytes, and what is kept between them."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._broadcast import BroadcastState
from gdsec_jax.federation._counts import LastRound, RoundCounts
from gdsec_jax.federation._halves import ServerSide, Settled, parts_of, server_half
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._down import after_step, write_step
from gdsec_jax.flower._layout import layout_of
from gdsec_jax.flower._worker import agreed
from gdsec_jax.wire import message_of, packing_of
from gdsec_jax.wire._uploads import layout_of as bits_of
from gdsec_jax.wire._uploads import nonzeros_of, tally


class Row(NamedTuple):
    """What one round left behind, of what JSON can hold."""

    bits: list[int]  # [M], counted: what the messages cost in the wire format
    entries: list[int]  # [M]
    payload: list[int]  # [M], bytes of the messages
    received: list[int]  # [M], bytes of the replies, the protocol's own beside
    sent: list[int]  # [M], bytes of the instructions
    broadcast_bits: int
    participants: list[bool]  # [M], whose message was added up
    dropped: int  # whose gradient was not finite, or that lost entries which were not
    missing: int  # who was asked, and was not heard
    taken_back: int  # messages that their senders did not remember
    forgotten: int  # workers that began anew
    seconds: float
    error: float | None


class ServerState(NamedTuple):
    """What a server keeps from round to round."""

    run: int
    round: int  # the one that comes
    known: tuple[protocol.Known, ...]  # of each client
    params: Any
    side: ServerSide
    optimizer: Any
    step: bytes  # by which the parameters were changed last, if that goes down
    rows: tuple[Row, ...]

    @property
    def arrays(self) -> Any:
        """What of it is arrays."""
        return self.params, self.side, self.optimizer


class Heard(NamedTuple):
    """One reply of a round that can be added up."""

    reply: protocol.Reply
    size: int  # bytes of it
    settles: protocol.Settles
    told: dict[str, float]  # the client's own metrics


class Server:
    """The server of a method: functions of its `ServerState`.

    Args:
      algorithm: of this package.
      optimizer: any of optax, behind it; with a `broadcast` at its end the server sends
        its step compressed.
      params: theta^1.
      error: from parameters to what is recorded after each round; or None.
    """

    def __init__(
        self,
        algorithm: Any,
        optimizer: optax.GradientTransformation,
        params: Any,
        error: Callable[[Any], Any] | None = None,
    ):
        _checks.optimizer(optimizer)
        self.agreed = agreed(algorithm, params)
        self.num_workers = parts_of(algorithm).federation.num_workers
        self._half = server_half(algorithm)
        self._optimizer = optax.with_extra_args_support(optimizer)
        self._params, self._error = params, error
        like = self.agreed.like
        self._method = protocol.digest(self.agreed.text)
        self._silence = jax.tree.map(np.zeros_like, like)
        self._bits = bits_of(like, self.agreed.form, self.agreed.code)
        self._thetas = layout_of(like)
        self.begun = protocol.checksum(self._thetas.write(params)).hex()  # of theta^1
        first = jax.eval_shape(self._first, like)
        self._clocks = layout_of(first[1].clock)
        self.arrays = layout_of(first)
        compressed = _trees.of_type(first[2], BroadcastState)
        _check_broadcast(compressed)
        self._form = compressed[0].sent.layout.format if compressed else None
        self._add, self._step = jax.jit(self._added), jax.jit(self._stepped)

    def _first(self, params):
        return params, self._half.init(params), self._optimizer.init(params)

    def init(self) -> ServerState:
        """Before the first round."""
        own = jax.tree.map(jnp.array, self._params)
        params, side, optimizer = jax.jit(self._first)(own)
        known = (protocol.Known(),) * self.num_workers
        return ServerState(
            secrets.randbits(63), 0, known, params, side, optimizer, b"", ()
        )

    def asks(self, state: ServerState) -> np.ndarray:
        """Whom it asks in the coming round, bool [M]."""
        return np.asarray(self._half.asks(state.side))

    def instruct(
        self, state: ServerState, index: int | None, asked: Sequence[bool]
    ) -> bytes:
        """The instructions for a client; None: it has not said yet which one it is."""
        alone = index is not None
        there = alone and state.round and state.known[index].seen == state.round - 1
        rows = tuple(
            own.row._replace(asked=bool(takes_part))
            for own, takes_part in zip(state.known, asked, strict=True)
        )
        # In the first round what all parties know has them already.
        whole = self._form is None and state.round > 0
        told = protocol.Instructions(
            state.round,
            state.run,
            self._method,
            first=index if alone else 0,
            rows=rows[index : index + 1] if alone else rows,
            base=b"" if there else self._clocks.write(state.side.clock),
            step=self._thetas.write(state.params) if whole else state.step,
            whole=whole,
        )
        return protocol.write_instructions(told)

    def receive(
        self,
        state: ServerState,
        replies: Iterable[tuple[str, bytes | str]],
        asked: Sequence[bool],
        sent: Sequence[int] | None = None,
        seconds: float = float("nan"),
    ) -> tuple[ServerState, list[str], dict[str, float]]:
        """The next state, a sentence for each that was not added up, and metrics.

        The metrics are those that the clients of the other replies tell, by name and
        worker.

        Args:
          state: before the round.
          replies: bytes, or a text that says why there are none, each behind the name
            of who sent it.
          asked: bool [M].
          sent: bytes of each one's instructions, [M], for the record.
          seconds: that the round took, for the record.
        """
        taken: dict[int, Heard] = {}
        said = []
        for sender, data in replies:
            try:
                heard = self._understood(state, data, taken, asked)
                if heard is not None:
                    taken[heard.reply.index] = heard
            except ValueError as error:
                why = str(error).rstrip(".")
                said.append(f"{sender} is left out in round {state.round + 1}: {why}.")
        said += [
            f"worker {index} rests in round {state.round + 1}: its gradient is not "
            "finite."
            for index, heard in taken.items()
            if heard.reply.kind == "rests"
        ]
        total, parts, uploads = self._sum(state, taken)
        senders = {m for m, heard in taken.items() if heard.reply.kind == "message"}
        present = np.isin(np.arange(self.num_workers), list(senders))
        side, step, optimizer, params = self._step(
            total, present, state.params, state.side._replace(known=()), state.optimizer
        )
        side = side._replace(known=parts)
        written, cost = b"", 8 * self._thetas.size
        if self._form is not None:
            (down,) = _trees.of_type(optimizer, BroadcastState)
            cost = int(down.sent.bits())
            written = write_step(message_of(step, down.compressor), self._form)
            params = jax.tree.map(jnp.asarray, after_step(state.params, written))
        known = list(state.known)
        for index, heard in taken.items():
            known[index] = protocol.accepted(known[index], heard.reply, heard.settles)
        row = Row(
            **_counted(taken, uploads, np.asarray(asked, bool), present),
            sent=[0] * self.num_workers if sent is None else list(sent),
            broadcast_bits=cost,
            taken_back=sum(own.settles == "undo" for own in taken.values()),
            forgotten=sum(own.settles == "forget" for own in taken.values()),
            seconds=seconds,
            error=None if self._error is None else float(self._error(params)),
        )
        following = ServerState(
            state.run, state.round + 1, tuple(known), params, side, optimizer,
            written, (*state.rows, row),
        )  # fmt: skip
        told = {
            f"{name}-{index}": x
            for index, heard in taken.items()
            for name, x in heard.told.items()
        }
        return following, said, told

    def _understood(self, state, data, taken, asked) -> Heard | None:
        """A reply, judged and decoded; None of who is idle, as it ought to be.

        Raises:
          ValueError: it is none that can be added up; the text says why.
        """
        if isinstance(data, str):
            raise ValueError(data)
        reply = protocol.read_reply(data)
        index, who = reply.index, f"worker {reply.index}"
        if index >= self.num_workers:
            raise ValueError(f"it is {who}, expected 0 to {self.num_workers - 1}")
        if reply.kind == "refuses":
            raise ValueError(f"{who} {self._refusal(reply.told)}")
        if reply.run != state.run:
            raise ValueError(f"{who} answers another federation, or a run before this")
        if reply.round != state.round:
            raise ValueError(f"{who} answers round {reply.round + 1}, which is over")
        if index in taken:
            raise ValueError(f"{who} has answered already: two nodes say they are it")
        if reply.kind == "idle" and not asked[index]:
            return None
        if reply.kind == "idle" or not asked[index]:
            raise ValueError(f"{who} was not asked")
        if reply.kind == "behind":
            raise ValueError(f"{who} has not what all know, and is told next round")
        try:
            settles = protocol.judge(state.known[index], reply)
            if reply.kind == "message":
                self.agreed.decode(reply.payload, reply.whole)  # and again, to add it
            told = _numbers(reply.told)
        except ValueError as error:
            raise ValueError(f"{who} sent no message: {error}") from error
        return Heard(reply, len(data), settles, told)

    def _refusal(self, told: Any) -> str:
        """Why a client refuses."""
        if isinstance(told, dict) and "method" in told:
            own = _checks.shown(told["method"])
            return f"has {own}, expected {self.agreed.text}"
        return f"refuses: {_checks.shown(told)}"

    def _sum(self, state: ServerState, taken: dict[int, Heard]):
        """Over the workers, one by one; what is known of each then, and the counts."""
        total, known, uploads = self._half.nothing(self.agreed.like), [], []
        for index, own in enumerate(state.known):
            heard = taken.get(index)
            reply = None if heard is None else heard.reply
            settles = "nothing" if heard is None else heard.settles
            total, after, counts = self._add(
                total,
                self._values(reply.payload, reply.whole) if reply else self._silence,
                reply is not None and reply.whole,
                self._values(own.pending, own.whole),
                Settled(*(settles == name for name in Settled._fields)),
                state.side.known[index],
                state.params,
            )
            known.append(after)
            uploads.append(counts)
        stacked = jax.tree.map(lambda *each: np.stack(each), *uploads)
        return total, tuple(known), stacked

    def _values(self, payload: bytes, whole: bool) -> Any:
        """Of a message; no bytes are none."""
        return self.agreed.decode(payload, whole) if payload else self._silence

    def _added(self, total, message, whole, pending, settled, known, params):
        total, known = self._half.add(total, message, pending, settled, known, params)
        counts = tally(nonzeros_of(message), message, self._bits, whole=whole)
        return total, known, counts

    def _stepped(self, total, heard, params, side, own):
        direction, side = self._half.step(total, heard, side, params)
        step, own = self._optimizer.update(direction, own, params)
        return side, step, own, optax.apply_updates(params, step)


def _numbers(told: Any) -> dict[str, float]:
    """A client's metrics; JSON's integers may be larger than any float.

    Raises:
      ValueError: one of them is.
    """
    known = told if isinstance(told, dict) else {}
    try:
        return {n: float(x) for n, x in known.items() if isinstance(x, int | float)}
    except OverflowError as error:
        raise ValueError(
            f"it tells {_checks.shown(told)}, expected numbers that are floats"
        ) from error


def _check_broadcast(found: list[BroadcastState]) -> None:
    """There is one at most, and its message travels itself."""
    if len(found) > 1:
        raise ValueError(f"the optimizer has {len(found)} broadcasts, expected one.")
    for each in found:
        packing = packing_of(each.compressor)
        if packing is not None and packing.payload is not None:
            raise ValueError(
                "the broadcast's compressor sends factors in the place of its message, "
                "expected one whose message travels itself: worker.top_k, say."
            )


def _counted(taken: dict[int, Heard], uploads, asked, present) -> dict[str, Any]:
    """What a round cost, by worker."""
    answered, dropped = np.zeros_like(asked), np.zeros_like(asked)
    payload, received = np.zeros(asked.size, int), np.zeros(asked.size, int)
    for index, heard in taken.items():
        answered[index] = True
        dropped[index] = heard.reply.kind == "rests" or heard.reply.dropped
        payload[index], received[index] = len(heard.reply.payload), heard.size
    missing = asked & ~answered
    counts = RoundCounts(uploads, present, asked, present, dropped, missing)
    last = LastRound((jax.tree.map(np.asarray, counts),))
    return {
        "bits": last.bits.tolist(),
        "entries": last.entries.tolist(),
        "payload": payload.tolist(),
        "received": received.tolist(),
        "participants": present.tolist(),
        "dropped": int(dropped.sum()),
        "missing": int(missing.sum()),
    }
