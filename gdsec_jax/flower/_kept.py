"""What a client keeps between rounds, as bytes."""

import struct

import numpy as np

from gdsec_jax.flower import _protocol as protocol

# version, method, run, round, epoch, last, if heard, if lost
_KEPT = struct.Struct("<BQQIQQQQ")


def write_state(worker: protocol.Worker, state: protocol.ClientState) -> bytes:
    """A client's state as bytes, the one where it differs from the other."""
    lost, heard = worker.states.write(state.lost), worker.states.write(state.heard)
    head = _KEPT.pack(protocol.VERSION, worker.method, *state[:6])
    differs = _differences(lost, heard)
    return b"".join([head, worker.clocks.write(state.clock), lost, differs])


def read_state(worker: protocol.Worker, data: bytes) -> protocol.ClientState | None:
    """The inverse of `write_state`; None if it is none of this worker's."""
    ends = np.cumsum([_KEPT.size, worker.clocks.size, worker.states.size]).tolist()
    if len(data) < ends[-1]:
        return None
    version, method, *numbers = _KEPT.unpack_from(data)
    if (version, method) != (protocol.VERSION, worker.method):
        return None
    clock, lost = data[ends[0] : ends[1]], data[ends[1] : ends[2]]
    heard = _changed(lost, data[ends[2] :])
    if heard is None:
        return None
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


def _changed(before: bytes, differs: bytes) -> bytes | None:
    if differs[:1] == b"\0":
        return differs[1:] if len(differs) == 1 + len(before) else None
    size = len(before) // 4 * 4
    rest, words = 1 + len(before) - size, np.frombuffer(before, np.uint32, size // 4)
    if differs[:1] != b"\1" or len(differs) < rest or (len(differs) - rest) % 8:
        return None
    where, new = np.frombuffer(differs, np.uint32, offset=rest).reshape(2, -1)
    if where.size and where.max() >= words.size:
        return None
    words = words.copy()
    words[where] = new
    return words.tobytes() + differs[1:rest]
