"""What benches leave, and the files it is kept in."""

import contextlib
import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import rich.console

from gdsec_jax.files import _whole


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
    told: bool = False  # in a table that the bench has printed itself


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
    return _whole.plain("result", result._asdict() | {"reports": reports})


def from_json(values: Mapping[str, Any]) -> Result:
    """What `as_json` was of.

    Raises:
      ValueError: it is no result; the sentence names the field that is wrong.
    """
    import pydantic

    if not isinstance(values, Mapping):
        raise ValueError(
            f"the result is {reprlib.repr(values)}, expected what gdsec bench --json "
            "wrote."
        )
    try:
        # By way of text: strict as to types, yet a list may become a tuple there.
        return pydantic.TypeAdapter(Result).validate_json(
            json.dumps(values), strict=True
        )
    except pydantic.ValidationError as error:
        raise ValueError(_sentence(error.errors()[0])) from error


def _sentence(fault: Mapping[str, Any]) -> str:
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "extra_forbidden":
        return f"{where} is an unknown field."
    expected = fault["msg"].removeprefix("Input should be ")
    return f"{where} is {reprlib.repr(fault['input'])}, expected {expected}."


def save(result: Result, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    with _whole.whole(path) as temporary:
        temporary.write_text(json.dumps(as_json(result), indent=1) + "\n", "utf-8")


def load(path: Path) -> Result:
    """Read what `save` wrote, or of a history the last line that is whole.

    Raises:
      ValueError: the file holds no result.
      OSError: it cannot be read.
    """
    try:
        text = Path(path).read_text("utf-8")
        return from_json(_first_json([text, *text.splitlines()[::-1]]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _first_json(texts: Iterable[str]) -> Any:
    """The first of them that is JSON."""
    for text in texts:
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    raise ValueError(
        "neither the file nor a line of it is JSON, expected what gdsec bench --json "
        "wrote, or a history."
    )


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
