"""What a client keeps between rounds, as bytes."""

import struct

import numpy as np

from gdsec_jax.flower import _protocol as protocol

# version, method, run, round, epoch, last, if heard, if lost; with its checksum these
# are 64 bytes, so that the arrays behind them are read where they lie
_KEPT = struct.Struct("<BQQIQQQQ7x")


def write_state(worker: protocol.Worker, state: protocol.ClientState) -> bytes:
    """A client's state as bytes, the one where it differs from the other."""
    lost, heard = worker.states.write(state.lost), worker.states.write(state.heard)
    head = _KEPT.pack(protocol.VERSION, worker.method, *state[:6])
    differs = _differences(lost, heard)
    return protocol.checked(head, worker.clocks.write(state.clock), lost, differs)


def read_state(worker: protocol.Worker, data: bytes) -> protocol.ClientState:
    """The inverse of `write_state`.

    Raises:
      ValueError: it is damaged, or of another version or method.
    """
    body = protocol.body_of(data, "what it keeps is", _KEPT.size)
    ends = np.cumsum([_KEPT.size, worker.clocks.size, worker.states.size]).tolist()
    _, method, *numbers = _KEPT.unpack_from(body)
    clock, lost = body[ends[0] : ends[1]], body[ends[1] : ends[2]]
    fits = method == worker.method and len(body) > ends[-1]
    heard = _changed(lost, body[ends[2] :]) if fits else None
    if heard is None:
        raise ValueError(
            f"what it keeps is of another method, expected {worker.describe}."
        )
    read = worker.states.read
    arrays = worker.clocks.read(clock), read(heard), read(lost)
    return protocol.ClientState(*numbers, *arrays)  # pyright: ignore[reportCallIssue]


def _differences(before: bytes, after: bytes) -> bytes:
    """Places and words of 32 bits where they differ, or all of `after`."""
    size = len(before) // 4 * 4
    old, new = (np.frombuffer(x, np.uint32, size // 4) for x in (before, after))
    where = np.flatnonzero(old != new).astype(np.uint32)
    if 2 * where.nbytes >= size:
        return b"\0" + after
    return b"\1" + after[size:] + where.tobytes() + new[where].tobytes()


def _changed(before: memoryview, differs: memoryview) -> bytearray | memoryview | None:
    if differs[:1] == b"\0":
        return differs[1:] if len(differs) == 1 + len(before) else None
    after, size = bytearray(before), len(before) // 4 * 4
    rest, words = 1 + len(before) - size, np.frombuffer(after, np.uint32, size // 4)
    if differs[:1] != b"\1" or len(differs) < rest or (len(differs) - rest) % 8:
        return None
    where, new = np.frombuffer(differs[rest:], np.uint32).reshape(2, -1)
    if where.size and where.max() >= words.size:
        return None
    words[where], after[size:] = new, differs[1:rest]
    return after
