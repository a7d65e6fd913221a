"""A server's state in a file: written whole, or not at all."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax.files import _whole
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._server import Row, Server, ServerState

_FILE, _MAGIC = "server.state", b"gdsec_jax.flower 1\n"
_LOG = logging.getLogger("flwr")


def save(folder: Path, server: Server, state: ServerState) -> None:
    """Write it in the place of the one before."""
    blobs = [*(own.pending for own in state.known), state.step]
    head = {
        "method": server.agreed.text,
        "begun": server.begun,
        "run": state.run,
        "round": state.round,
        "known": [[*own.row[:3], own.whole] for own in state.known],
        "rows": [row._asdict() for row in state.rows],
        "blobs": [len(blob) for blob in blobs],
    }
    text = json.dumps(head).encode()
    size, arrays = len(text).to_bytes(8, "little"), server.arrays.write(state.arrays)
    parts = (size, text, *blobs, arrays)
    with _whole.whole(folder / _FILE) as temporary, temporary.open("wb") as file:
        file.writelines((_MAGIC, protocol.checksum(*parts), *parts))


def load(folder: Path, server: Server) -> ServerState | None:
    """What `save` wrote; None if there is nothing.

    Nobody counts as being at his place, and the round that comes may have begun: end it
    as one in which nobody was heard.

    Raises:
      ValueError: it is damaged, or another method's or optimizer's.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        head, parts = _parsed(path.read_bytes())
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is no state of a server: {error}.") from error
    if head["method"] != server.agreed.text:
        raise ValueError(
            f"{path} is of {head['method']}, expected {server.agreed.text}: name "
            "another folder."
        )
    if len(head["known"]) != server.num_workers:
        raise ValueError(
            f"{path} is of {len(head['known'])} workers, expected {server.num_workers}:"
            " name another folder."
        )
    *pending, step, data = parts
    try:
        arrays = server.arrays.read(data)
    except ValueError as error:
        raise ValueError(
            f"{path} is of another optimizer: {error} Name another folder."
        ) from error
    _LOG.info("%s goes on: %d rounds are done.", path, head["round"])
    if head["begun"] != server.begun:
        _LOG.warning(
            "%s began at other parameters than these, which are not used: name another "
            "folder for another run.",
            path,
        )
    known = tuple(
        protocol.Known(protocol.Row(*row), blob, whole)
        for (*row, whole), blob in zip(head["known"], pending, strict=True)
    )
    rows = tuple(Row(**row) for row in head["rows"])
    params, side, own = jax.tree.map(jnp.asarray, arrays)
    return ServerState(head["run"], head["round"], known, params, side, own, step, rows)


def _parsed(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    if not data.startswith(_MAGIC):
        raise ValueError("it begins otherwise")
    begin = len(_MAGIC) + 4
    at = begin + 8
    if data[len(_MAGIC) : begin] != protocol.checksum(data[begin:]):
        raise ValueError("it is damaged, expected another checksum")
    size = int.from_bytes(data[begin:at], "little")
    head, at, parts = json.loads(data[at : at + size]), at + size, []
    for length in head["blobs"]:
        parts.append(data[at : at + length])
        at += length
    return head, [*parts, data[at:]]
