"""What one section of a page of results holds."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib.axes
import pandas as pd

Panel = Callable[[matplotlib.axes.Axes], None]


class Claim(NamedTuple):
    """A sentence that the data can bear out or not."""

    text: str
    holds: bool | None  # None: these data cannot tell
    measured: str  # the numbers that decide it


class Section(NamedTuple):
    """A figure and what belongs to it; `page` shows many, `save` writes one's files."""

    name: str  # of the files and of the anchor: letters, digits, "-", "_" and "."
    title: str
    text: str  # what is shown, one to three sentences without markup
    panels: tuple[Panel, ...]  # each draws on the axes that it is given
    data: pd.DataFrame  # the curves in long form, for the CSV file
    command: str  # that makes it again
    table: pd.DataFrame | None = None  # shown as it is, without its index
    claims: tuple[Claim, ...] = ()
    chosen: pd.DataFrame | None = None  # how each parameter was chosen
    config: Mapping[str, Any] = {}  # what JSON can hold
    seconds: float = 0.0  # that it took


def check_name(name: str) -> None:
    """A name for files on every system, and in a link as it is."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"section.name is {name!r}, expected letters, digits, '-', '_' and '.'."
        )


def check_panels(section: Section) -> None:
    """There is something to draw."""
    if not section.panels:
        raise ValueError(
            f"section.panels of {section.name} is {section.panels!r}, expected at "
            "least one function."
        )
