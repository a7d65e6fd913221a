"""What a step of a saved run must hold: its manifest, with a checksum of each file.

Only a file that is not there, or not what was written, is damage. One that cannot be
read now, for the disk or the network, is an error: it may be sound.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

RECORDS, STATE = "records.npz", "state"
_MANIFEST = "manifest.json"
_NO_MANIFEST = (ValueError, KeyError, AttributeError, TypeError, RecursionError)
_MISSING = (FileNotFoundError, NotADirectoryError)


def read(step: Path) -> dict[str, Any] | None:
    """What was written, if that is still there.

    Raises:
      OSError: the file is there and cannot be read.
    """
    try:
        manifest = json.loads((step / _MANIFEST).read_text("utf-8"))
        digest = manifest.pop("sum")
    except (*_MISSING, *_NO_MANIFEST):
        return None
    return manifest if digest == _sum_of_json(manifest) else None


def write(step: Path, about: dict[str, Any]) -> None:
    """Write the manifest of a step whose other files are there."""
    about = about | {"files": {name: _sum(step / name) for name in _files_in(step)}}
    text = json.dumps(about | {"sum": _sum_of_json(about)})
    (step / _MANIFEST).write_text(text, "utf-8")


def has_only_ours(step: Path) -> bool:
    """Whether it is a folder of what a step holds, or would have held."""
    if not step.is_dir():
        return False
    # The state has a longer name while orbax writes it.
    names = {path.name.split(".orbax-checkpoint-tmp")[0] for path in step.iterdir()}
    return names <= {RECORDS, STATE, _MANIFEST, ".DS_Store"}


def damage(steps: list[Path]) -> str | None:
    """What is wrong with a run that was saved in these steps; None if nothing is.

    Raises:
      OSError: a file is there and cannot be read.
    """
    end = 0
    for path in steps:
        manifest = read(path)
        if manifest is None:
            return f"{path.name}/{_MANIFEST} is missing or not what was written"
        if manifest["begin"] != end:
            return f"the rounds from {end + 1} to {manifest['begin']} are missing"
        end = round_of(path)
        for name, digest in manifest["files"].items():
            if path != steps[-1] and name != RECORDS:
                continue
            try:
                sound = _sum(path / name) == digest
            except _MISSING:
                return f"{path.name}/{name} is missing"
            if not sound:
                return f"{path.name}/{name} is not what was written"
    return None


def differences(manifest: dict[str, Any], fingerprint: dict[str, str]) -> list[str]:
    """In what a run differs from that of a manifest."""
    theirs = manifest["run"]
    names = sorted(fingerprint.keys() | theirs.keys())
    return [name for name in names if theirs.get(name) != fingerprint.get(name)]


def round_of(step: Path) -> int:
    """The last of its rounds."""
    return int(step.name.removeprefix("round-"))


def _sum_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]
