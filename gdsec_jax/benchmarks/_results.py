"""What benches leave, and the files it is kept in."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import rich.console

from gdsec_jax import _files


class Settings(NamedTuple):
    """What a bench is handed."""

    repeats: int = 5
    small: bool = False  # at sizes that show that it works, and time nothing
    console: rich.console.Console = rich.console.Console()


class Measure(NamedTuple):
    """What was measured, and what it should be."""

    name: str
    value: float
    unit: str = ""
    spread: float = 0.0  # interquartile range of the repeats over their median
    must: float | None = None
    goal: float | None = None
    larger_is_better: bool = False
    note: str = ""


class Skipped(Exception):
    """A bench cannot run here; its text says why."""


class Report(NamedTuple):
    """What a bench left: measures, or why there are none."""

    measures: tuple[Measure, ...] = ()
    seconds: float = 0.0
    skipped: str = ""
    failed: str = ""

    @property
    def outcome(self) -> str:
        """In a line."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        if self.failed:
            return f"failed: {self.failed}"
        return f"{len(self.measures)} measures in {self.seconds:.0f} s"


class Result(NamedTuple):
    """One run of the command."""

    date: str
    environment: dict[str, str]  # machine, its load before, versions, commit
    repeats: int
    small: bool
    reports: dict[str, Report]  # by bench, in the order they ran


def as_json(result: Result) -> dict[str, Any]:
    """A result as JSON has it."""
    reports = {
        name: report._asdict() | {"measures": [m._asdict() for m in report.measures]}
        for name, report in result.reports.items()
    }
    return _files.plain("result", result._asdict() | {"reports": reports})


def from_json(values: Mapping[str, Any]) -> Result:
    """What `as_json` was of.

    Raises:
      ValueError: it is no result.
    """
    try:
        reports = {
            name: Report(**report)._replace(
                measures=tuple(Measure(**m) for m in report["measures"])
            )
            for name, report in values["reports"].items()
        }
        return Result(**{**values, "reports": reports})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"no result of gdsec bench, expected what --json wrote: {error!r}."
        ) from error


def save(result: Result, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    with _files.whole(path) as temporary:
        temporary.write_text(json.dumps(as_json(result), indent=1) + "\n", "utf-8")


def load(path: Path) -> Result:
    """Read what `save` wrote, or of a history the last line.

    Raises:
      ValueError: the file holds no result.
      OSError: it cannot be read.
    """
    text = Path(path).read_text("utf-8")
    if Path(path).suffix == ".jsonl":
        text = (text.splitlines() or [""])[-1]
    try:
        return from_json(json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def append(result: Result, path: Path) -> None:
    """Add a result to a history, a line for each, in one write of the whole line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(as_json(result)) + "\n"
    with path.open("a+b") as history:
        if history.tell() and _last_byte(history) != b"\n":
            line = "\n" + line  # a line that was cut short spoils no other
        os.write(history.fileno(), line.encode())


def _last_byte(file) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
