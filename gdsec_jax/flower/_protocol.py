r"""What a server and its clients tell each other, so that no loss is counted twice.

Pure functions over bytes and named tuples; nothing here knows Flower, or JAX. A client
cannot know whether its message arrived, so every round's instructions say, by number,
which message of its was the last one heard, and which the one heard before that. Until
then it keeps two states: the one in which its message was `heard`, and the one in which
it was `lost`, as if all had been censored. The server keeps the last message of each
client beside what it knows of it, for a client may come back with an older state and
not remember that it was heard: then the server takes that message back.

========================  ==========================================================
what happens              what the next instructions, or the next reply, settle
========================  ==========================================================
all is well               heard = the client's last number: `heard`; the server
                          commits the message to what it knows of the client
reply lost or too late    heard = the number before: `lost`
state stored, no reply    the same
reply sent, no state      the client's state is older: it goes on from there, and says
                          on what it builds; the server takes the message back
two copies of a client    each message's number has a part drawn at random, so neither
                          takes the other's for its own: as if its state were older
state gone                a new epoch; the server forgets what it knew, and the first
                          message of a fresh state is whole
server killed             its state was written before the instructions: it ends that
                          round as one in which nobody was heard
========================  ==========================================================

A client that has an older state than the server takes it to have, or none, holds until
it is heard: what is known of it stands for its gradients meanwhile.
"""

import functools
import hashlib
import json
import secrets
import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

VERSION = 1

# version, whether the step is whole, round, run, method, first row, rows, bytes of base
_DOWN = struct.Struct("<BBIQQIII")
_ROW = struct.Struct("<QQQ?")
# version, kind, whole, dropped, round, run, index, epoch, number, built on, bytes told
_UP = struct.Struct("<BBBBIQIQQQI")


class Row(NamedTuple):
    """What a server has heard of one client; numbers are of an epoch, 0 is none.

    A number counts messages in its upper 32 bits. Those below are random: of two copies
    of a client's state each makes a next message, and neither is to believe that it was
    its own that was heard.
    """

    epoch: int = 0  # of the client's state: 0 before its first message
    heard: int = 0  # the number of the last message heard
    before: int = 0  # of the last one that what is known of the client includes
    asked: bool = True  # whether it takes part in this round


class Instructions(NamedTuple):
    """What a server tells a client in a round."""

    round: int  # k, the first is 0
    run: int  # a number of its own for each run
    method: int  # the first bytes of a digest of what both must agree on
    first: int  # the index of the client of the first row
    rows: tuple[Row, ...]
    base: bytes  # what all parties know before the round; none where the client has it
    step: bytes  # the parameters, or what is added to those of the round before
    whole: bool  # whether it is the parameters

    def row_of(self, index: int) -> Row | None:
        """That of a client, if there is one."""
        number = index - self.first
        return self.rows[number] if 0 <= number < len(self.rows) else None


Kind = Literal["message", "rests", "idle", "behind", "refuses"]
KINDS: tuple[Kind, ...] = ("message", "rests", "idle", "behind", "refuses")


class Reply(NamedTuple):
    """What a client answers.

    A `message`; or it `rests`, for its gradient is not finite; or it is `idle`, for it
    was not asked; or it is `behind`, and must be told what all parties know; or it
    `refuses`, and says why in `told`, or there what its "method" is.
    """

    kind: Kind
    round: int
    run: int
    index: int
    epoch: int = 0
    number: int = 0  # of this message, in this epoch
    built_on: int = 0  # the number of the last message that its state includes as heard
    whole: bool = False  # whether the message is
    dropped: bool = False  # whether entries that are not finite were left out
    told: Any = None  # what JSON holds: the user's metrics, or why it refuses
    payload: bytes = b""  # of `wire.encode`


def write_instructions(told: Instructions) -> bytes:
    """Their bytes."""
    head = _DOWN.pack(
        VERSION, told.whole, told.round, told.run, told.method,
        told.first, len(told.rows), len(told.base),
    )  # fmt: skip
    rows = b"".join(_ROW.pack(*row) for row in told.rows)
    return checked(head, rows, told.base, told.step)


def read_instructions(data: bytes) -> Instructions:
    """The inverse of `write_instructions`.

    Raises:
      ValueError: they are no instructions of this version.
    """
    body = body_of(data, "the instructions are", _DOWN.size)
    _, whole, number, run, method, first, rows, base = _DOWN.unpack_from(body)
    start = _DOWN.size + rows * _ROW.size
    if start + base > len(body):
        raise ValueError(
            f"the instructions are {len(body)} bytes, expected {start + base} at least."
        )
    told = tuple(
        Row(*_ROW.unpack_from(body, _DOWN.size + n * _ROW.size)) for n in range(rows)
    )
    return Instructions(
        number, run, method, first, told,
        bytes(body[start : start + base]), bytes(body[start + base :]), bool(whole),
    )  # fmt: skip


def write_reply(reply: Reply) -> bytes:
    """Its bytes."""
    told = b"" if reply.told is None else json.dumps(reply.told).encode()
    head = _UP.pack(
        VERSION, KINDS.index(reply.kind), reply.whole, reply.dropped, reply.round,
        reply.run, reply.index, reply.epoch, reply.number, reply.built_on, len(told),
    )  # fmt: skip
    return checked(head, told, reply.payload)


def read_reply(data: bytes) -> Reply:
    """The inverse of `write_reply`, of bytes that may come from anywhere.

    Raises:
      ValueError: they are no reply of this version.
    """
    body = body_of(data, "the reply is", _UP.size)
    _, kind, whole, dropped, number, run, index, *counts, told = _UP.unpack_from(body)
    if kind >= len(KINDS):
        raise ValueError(f"the reply is of kind {kind}, expected one of {KINDS}.")
    end = _UP.size + told
    try:
        said = json.loads(bytes(body[_UP.size : end])) if told else None
    except (ValueError, RecursionError) as error:
        raise ValueError("the reply tells what is no JSON, expected some.") from error
    return Reply(
        KINDS[kind], number, run, index, *counts,
        whole=bool(whole), dropped=bool(dropped), told=said, payload=bytes(body[end:]),
    )  # fmt: skip


def digest(text: str) -> int:
    """Eight bytes of a hash of it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


_SUM = 4  # bytes of a checksum


def checksum(*parts: bytes | memoryview) -> bytes:
    """That of all of them: Adler-32, which takes a sixth of the time of CRC-32."""
    found = functools.reduce(lambda own, part: zlib.adler32(part, own), parts, 1)
    return found.to_bytes(_SUM, "little")


def checked(*parts: bytes) -> bytes:
    """All of them behind their checksum; the first byte is the version."""
    return b"".join([checksum(*parts), *parts])


def body_of(data: bytes, name: str, least: int) -> memoryview:
    """The inverse of `checked`, a view of it.

    Args:
      data: what `checked` made.
      name: what it is, and a verb.
      least: how many bytes there are in it.

    Raises:
      ValueError: it is shorter, of another version, or damaged.
    """
    if not isinstance(data, bytes) or len(data) < _SUM + least:
        size = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise ValueError(f"{name} {size}, expected {_SUM + least} or more.")
    body = memoryview(data)[_SUM:]
    if body[0] != VERSION:
        raise ValueError(
            f"{name} of version {body[0]}, expected {VERSION}: install one "
            "version of gdsec-jax on the server and on all clients."
        )
    if data[:_SUM] != checksum(body):
        raise ValueError(f"{name} damaged, expected another checksum.")
    return body


# The client's half.


class Answer(NamedTuple):
    """What a worker makes of its gradient."""

    payload: bytes
    whole: bool
    heard: Any  # its state if the message is heard
    lost: Any  # and if it is not
    dropped: bool = False  # whether entries that are not finite were left out


class Layout(NamedTuple):
    """How a tree of arrays of known shapes lies in bytes."""

    size: int  # of all
    write: Callable[[Any], bytes]
    read: Callable[[bytes | bytearray | memoryview], Any]


class Worker(NamedTuple):
    """The worker's half of a method, as functions; states are opaque.

    A `clock` is what all parties know before a round, the parameters of the round
    before among it.
    """

    method: int  # the first bytes of a digest of what it says of itself
    describe: str  # that
    init: Callable[[Any], Any]  # from parameters
    clock: Callable[[bytes], Any]  # of the instructions' base
    params: Callable[[Any, bytes, bool], Any]  # (clock, step, whole) -> theta^k
    # (gradient, state, clock, params, fresh, round) -> (answer, None where it rests;
    # the clock of the next round)
    answer: Callable[[Any, Any, Any, Any, bool, int], tuple[Answer | None, Any]]
    clocks: Layout
    states: Layout


class ClientState(NamedTuple):
    """What a client keeps from round to round."""

    run: int
    round: int  # the last one that it has seen
    epoch: int
    last: int  # the highest number that it gave a message
    if_heard: int  # the number of the last message heard, if `heard` is its state
    if_lost: int  # the same, if `lost` is
    clock: Any  # what all parties know after that round
    heard: Any  # the worker's state if the last message was heard
    lost: Any  # and if it was not


def settled(state: ClientState, row: Row) -> tuple[int, Any] | None:
    """The worker's state by what the server has heard, with the number it builds on.

    None: the server knows of none of the two.
    """
    if not row.epoch:  # it has heard nothing at all of this worker
        row = Row(state.epoch)
    for number in (row.heard, row.before) if row.epoch == state.epoch else ():
        if number == state.if_heard:
            return number, state.heard
        if number == state.if_lost:
            return number, state.lost
    return None


_MARK = 32  # bits of a number that are random


def _number_after(last: int) -> int:
    return (((last >> _MARK) + 1) << _MARK) + secrets.randbits(_MARK)


def respond(
    worker: Worker,
    state: ClientState | None,
    told: Instructions,
    index: int,
    gradient: Callable[[Any], tuple[Any, Any]],
    new_epoch: Callable[[], int] = lambda: secrets.randbits(63) + 1,
) -> tuple[Reply, ClientState | None]:
    """A client's round: what it answers, and what it keeps.

    Args:
      worker: the worker's half of the method.
      state: what it kept; None if it has nothing.
      told: the server's instructions.
      index: which of the workers it is.
      gradient: from the parameters to its gradient and what JSON holds, to be told.
      new_epoch: a number of its own for each state that begins.
    """
    say = Reply("refuses", told.round, told.run, index)
    row = told.row_of(index)
    if row is None:
        why = f"the server told nothing to number {index}"
        return say._replace(told=why), state
    if told.method != worker.method:
        return say._replace(told={"method": worker.describe}), state
    if not row.asked:
        return say._replace(kind="idle"), state
    if state is not None and state.run != told.run:
        state = None
    if state is not None and state.round >= told.round:
        why = f"it has seen round {state.round + 1} of this run already"
        return say._replace(told=why), state
    if told.base:
        clock = worker.clock(told.base)
    elif state is not None and state.round == told.round - 1:
        clock = state.clock
    else:
        return say._replace(kind="behind"), state
    params = worker.params(clock, told.step, told.whole)
    found = None if state is None else settled(state, row)
    if state is None or found is None:  # the first message of a fresh state is whole
        fresh, epoch, last = True, new_epoch(), 0
        built_on, before = 0, worker.init(params)
    else:
        fresh, epoch, (built_on, before) = False, state.epoch, found
        last = max(state.last, row.heard)
    # Else the server takes what it knows of this worker for more than it is.
    agrees = built_on == row.heard and row.epoch in (0, epoch)
    own, said = gradient(params)
    answer, following = worker.answer(own, before, clock, params, fresh, told.round)
    say = say._replace(epoch=epoch, built_on=built_on, told=said)
    keeps = ClientState(
        told.run, told.round, epoch, last, built_on, built_on,
        following, before, before,
    )  # fmt: skip
    if answer is None:
        return say._replace(kind="rests", number=last), keeps
    number = _number_after(last)
    reply = say._replace(
        kind="message", number=number, payload=answer.payload,
        whole=answer.whole, dropped=answer.dropped,
    )  # fmt: skip
    return reply, keeps._replace(
        last=number,
        if_heard=number,
        heard=answer.heard,
        lost=answer.lost if agrees else before,
    )


# The server's half.


class Known(NamedTuple):
    """What a server keeps of one client, beside its part of h."""

    row: Row = Row()
    pending: bytes = b""  # the last message heard, not yet part of what is known
    whole: bool = False  # whether that is
    seen: int = -1  # the last round in which it was at its place


Settles = Literal["commit", "undo", "forget", "nothing"]


def judge(known: Known, reply: Reply) -> Settles:
    """What a reply settles of the message that was heard before it.

    `commit` it to what is known of the client, `undo` it, `forget` all that is known of
    the client, or `nothing`.

    Raises:
      ValueError: no client that keeps to the protocol sends this.
    """
    row = known.row
    if reply.epoch != row.epoch or not row.epoch:
        if reply.built_on or not reply.epoch:
            raise ValueError(
                f"its state, of epoch {reply.epoch}, builds on message "
                f"{reply.built_on}, which was not heard"
            )
        return "forget" if reply.kind == "message" else "nothing"
    if reply.kind == "message" and reply.number <= row.heard:
        raise ValueError(f"message {reply.number} was heard already")
    if reply.built_on == row.heard:
        return "commit"
    if reply.built_on == row.before:
        return "undo"
    raise ValueError(
        f"its state builds on message {reply.built_on}, expected {row.heard} or "
        f"{row.before}"
    )


def accepted(known: Known, reply: Reply, settles: Settles) -> Known:
    """What is kept of a client once its reply was judged, and can be decoded."""
    seen = known._replace(seen=reply.round)
    if settles == "nothing":
        return seen
    if reply.kind == "rests":
        row = known.row._replace(heard=reply.built_on, before=reply.built_on)
        return seen._replace(row=row, pending=b"", whole=False)
    row = Row(reply.epoch, reply.number, reply.built_on)
    return Known(row, reply.payload, reply.whole, reply.round)
