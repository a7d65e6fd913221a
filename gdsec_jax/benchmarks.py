"""What a benchmark is given, and what it reports."""

from typing import NamedTuple

from rich.console import Console


class Measure(NamedTuple):
    """A number that a benchmark reports, with what it must and should reach."""

    name: str
    value: float
    unit: str = ""
    spread: float = 0.0
    must: float | None = None
    goal: float | None = None
    larger_is_better: bool = False
    note: str = ""


class Settings(NamedTuple):
    """How a benchmark runs."""

    repeats: int
    small: bool  # sizes for a test
    console: Console


class Skipped(Exception):
    """A benchmark cannot run here; its text says why."""
