"""What passes between processes: frames, a length and then so many bytes."""

import socket
import struct
import time

import jax
import numpy as np

HEAD = struct.Struct("!I")  # of a frame: how many bytes follow


def send_frame(connection: socket.socket, payload: bytes) -> None:
    """Send one, within the connection's timeout."""
    connection.sendall(HEAD.pack(len(payload)) + payload)


def receive_frame(connection: socket.socket, most: int) -> bytes:
    """Receive one of at most so many bytes, all of it within the timeout.

    Raises:
      ValueError: a longer one is announced.
      OSError: the connection ends, or the timeout does.
    """
    wait = connection.gettimeout()
    until = None if wait is None else time.monotonic() + wait
    try:
        (size,) = HEAD.unpack(_receive(connection, HEAD.size, until))
        if size > most:
            raise ValueError(f"{size} bytes are announced, expected at most {most}")
        return _receive(connection, size, until)
    finally:
        connection.settimeout(wait)


def _receive(connection: socket.socket, size: int, until: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if until is not None:  # else a byte now and then would do
            connection.settimeout(max(until - time.monotonic(), 1e-3))
        part = connection.recv(min(size - len(data), 2**20))
        if not part:
            raise ConnectionError("it closed the connection")
        data += part
    return bytes(data)


def to_floats(params) -> bytes:
    """Theta as it is broadcast: its leaves in order, little-endian."""
    return b"".join(
        np.asarray(p).astype("<f4").tobytes() for p in jax.tree.leaves(params)
    )


def from_floats(payload: bytes, like):
    """The inverse of `to_floats`."""
    leaves, structure = jax.tree.flatten(like)
    flat = np.frombuffer(payload, "<f4").astype(np.float32)
    if flat.size != sum(leaf.size for leaf in leaves):
        raise ConnectionError(f"theta came as {len(payload)} bytes, expected another")
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    pieces = np.split(flat, ends)
    shaped = [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)
