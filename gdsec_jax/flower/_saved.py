"""A server's state in a file: written whole, or not at all."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gdsec_jax.files import _whole
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._server import Row, Server, ServerState

_FILE, _MAGIC = "server.state", b"gdsec_jax.flower 1\n"


def save(folder: Path, server: Server, state: ServerState) -> None:
    """Write it in the place of the one before."""
    blobs = [*(own.pending for own in state.known), state.step]
    head = {
        "method": server.agreed.text,
        "run": state.run,
        "round": state.round,
        "known": [[*own.row[:3], own.whole] for own in state.known],
        "rows": [row._asdict() for row in state.rows],
        "blobs": [len(blob) for blob in blobs],
    }
    text = json.dumps(head).encode()
    with _whole.whole(folder / _FILE) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + len(text).to_bytes(8, "little") + text)
        for part in (*blobs, server.arrays.write(state.arrays)):
            file.write(part)


def load(folder: Path, server: Server) -> ServerState | None:
    """What `save` wrote; None if there is nothing.

    Nobody counts as being at his place, and the round that comes may have begun: end it
    as one in which nobody was heard.

    Raises:
      ValueError: it is another method's, or broken.
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
    *pending, step, arrays = parts
    known = tuple(
        protocol.Known(protocol.Row(*row), blob, whole)
        for (*row, whole), blob in zip(head["known"], pending, strict=True)
    )
    rows = tuple(Row(**row) for row in head["rows"])
    params, side, own = jax.tree.map(jnp.asarray, server.arrays.read(arrays))
    return ServerState(head["run"], head["round"], known, params, side, own, step, rows)


def _parsed(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    at = len(_MAGIC) + 8
    if not data.startswith(_MAGIC):
        raise ValueError("it begins otherwise")
    size = int.from_bytes(data[len(_MAGIC) : at], "little")
    head, at, parts = json.loads(data[at : at + size]), at + size, []
    for length in head["blobs"]:
        parts.append(data[at : at + length])
        at += length
    return head, [*parts, data[at:]]
