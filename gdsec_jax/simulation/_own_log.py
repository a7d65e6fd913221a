"""The log of a run with checkpoints, which is told of all rounds again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gdsec_jax.files import _whole, logs

_NOTE = ".log"


@contextlib.contextmanager
def own_log(path: Path, checkpoints: Path) -> Iterator[logs.Log]:
    """A log as `logs.open_log` makes it; that of the run that goes on is replaced.

    Which file that is stands in the run's folder of checkpoints, made if need be: no
    other is written anew. A run that is refused gets its old log back.
    """
    note = _whole.folder(checkpoints) / _NOTE
    again = note.is_file() and path.exists()
    again = again and note.read_text("utf-8", "replace") == _identity(path)
    aside = path.with_name(f".{path.name}.before")
    if again and path.is_file():
        path.replace(aside)
    try:
        with logs.open_log(path, append=again) as log:
            _write_note(note, path)
            yield log
    except (ValueError, OSError):
        if again and aside.is_file():
            aside.replace(path)
            _write_note(note, path)
        raise
    finally:
        if again:
            aside.unlink(missing_ok=True)


def _write_note(note: Path, path: Path) -> None:
    with _whole.whole(note) as temporary:
        temporary.write_text(_identity(path), "utf-8")


def _identity(path: Path) -> str:
    """Of this very file: another one may come to stand at the path."""
    return f"{path.stat().st_ino} {path.resolve()}"
