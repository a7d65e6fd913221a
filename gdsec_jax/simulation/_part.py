"""What a run leaves on the disk of the rounds between two saves.

A file is named after the last of its rounds and a checksum of what it holds, as in
0000000200-5f70bf18a086007016e948b04aed3b82.npz: what is not as it was written is never
parsed.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gdsec_jax.files import _whole


class Part(NamedTuple):
    """Some rounds of a run, and what is known of the run after them."""

    begin: int  # the rounds before these
    end: int  # the last of these
    seconds: float  # that the run took until then
    fingerprint: dict[str, str]  # of the run, by what is in it
    files: dict[str, str]  # the SHA-256 of each file of the state, by its name
    records: list[np.ndarray]  # [rounds, ...] each


def write(folder: Path, part: Part) -> None:
    """Write a part into a folder, whole or not at all."""
    about, buffer = part._replace(records=[])._asdict(), io.BytesIO()
    np.savez(buffer, *part.records, about=json.dumps(about))
    path = folder / f"{part.end:010}-{_sum(buffer.getvalue())}.npz"
    with _whole.whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read(path: Path) -> Part | None:
    """The part that was written; None if the file holds anything else."""
    data = path.read_bytes()
    if path.stem.partition("-")[2] != _sum(data):
        return None
    with np.load(io.BytesIO(data)) as file:  # which gives bfloat16, say, as mere bytes
        records = [file[f"arr_{i}"] for i in range(len(file.files) - 1)]
        return Part(**json.loads(str(file["about"])))._replace(records=records)


def sums_of_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its name there."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.relative_to(folder).as_posix()] = digest
    return sums


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
