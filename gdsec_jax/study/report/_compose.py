"""A section of a page of results, its figure, and the files of it."""

import functools
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.axes
import matplotlib.collections
import matplotlib.figure
import matplotlib.legend
import matplotlib.text
import matplotlib.ticker
import numpy as np
import pandas as pd

from gdsec_jax.files import _whole

_WIDE, _NARROW = (4.6, 3.7), (4.1, 3.4)  # inches a panel
_A_ROW = 3
_POINTS = 72  # an inch
_LETTER = 5.5  # points, of a text of 10 points
_TITLE = 7.2  # of one of 12 points
_MARGIN = 65.0  # points beside the axes
_NAME = 13.5  # points of one of the names on an axis
_CAPTION = 9.5  # points
# Curves of thousands of rounds are thinned to what the eye can see.
_THINNED: dict[Any, Any] = {"path.simplify": True, "path.simplify_threshold": 0.5}

Panel = Callable[[matplotlib.axes.Axes], Any]


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
    caption: str = ""  # of the files: the data, the bit format, what a band is
    chosen: pd.DataFrame | None = None  # how each parameter was chosen
    config: Mapping[str, Any] = {}  # what JSON can hold
    seconds: float = 0.0  # that it took
    tall: float = 1.0  # times the usual height of a panel, for long lists


def compose(
    section: Section, *, narrow: bool = False, titled: bool = False
) -> matplotlib.figure.Figure:
    """The section's panels with one legend for all.

    A label that several panels have stands in the legend once, as the first of them
    draws it; legends that the panels make themselves are removed. Heat maps
    (`pcolormesh`) are rasterised, all else stays lines.

    Args:
      section: whose panels are drawn.
      narrow: one below the other, for a phone; else side by side, at most three a row.
      titled: with the section's title, and its caption at the foot.

    Returns:
      A figure of n panels, 4.6 inches each or 4.1 in all wide; `save_figure` writes it.

    Raises:
      ValueError: there are no panels.

    Examples:
      >>> import pandas as pd
      >>> from gdsec_jax.study import report
      >>> section = report.Section(
      ...     name="lines", title="Two lines", text="Up and down.",
      ...     panels=(lambda axes: axes.plot([1, 2], label="up"),
      ...             lambda axes: axes.plot([2, 1], label="down")),
      ...     data=pd.DataFrame({"x": [0, 1]}), command="make figures")
      >>> figure = report.compose(section)
      >>> float(figure.get_figwidth())
      9.2
      >>> [text.get_text() for text in figure.legends[0].get_texts()]
      ['up', 'down']
    """
    if not section.panels:
        raise ValueError(
            f"section.panels of {section.name} is (), expected at least one function."
        )
    words = (section.title, section.caption) if titled else ("", "")
    return draw(section.panels, words[0], narrow, caption=words[1], tall=section.tall)


def draw(
    panels: Sequence[Panel],
    title: str = "",
    narrow: bool = False,
    *,
    caption: str = "",
    tall: float = 1.0,
) -> matplotlib.figure.Figure:
    """Panels and a title as `compose` shows those of a section.

    Args:
      panels: each draws on the axes that it is given.
      title: above all of them.
      narrow: as there.
      caption: in small letters below all of them.
      tall: times the usual height of a panel.

    Examples:
      >>> from gdsec_jax.study import report
      >>> figure = report.draw([lambda axes: axes.plot([1, 2], label="up")], "A line")
      >>> figure.get_suptitle()
      'A line'
    """
    rows, columns = shape(len(panels), narrow)
    width, height = _NARROW if narrow else _WIDE
    height *= tall
    size = (columns * width, rows * height)
    heights = np.full((rows, columns), height)
    with matplotlib.rc_context(_THINNED):
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(rows, 1)
        # Each row alone: names at one panel's side take no room from those below it.
        places = [grid[row].subgridspec(1, columns) for row in range(rows)]
        for number, panel in enumerate(panels):
            place = divmod(number, columns)
            axes = figure.add_subplot(places[place[0]][place[1]])
            panel(axes)
            _finish(axes, width, height)
            heights[place] = max(height, _of_names(axes))
        grid.set_height_ratios(heights.max(1))
        head = foot = 0.0  # inches
        if title:
            title = _wrapped(title, size[0] * _POINTS, _TITLE)
            figure.suptitle(title, parse_math=False)
            head = 0.25 * (1 + title.count("\n"))
        if caption:
            caption = _wrapped(caption, size[0] * _POINTS, 0.5 * _CAPTION)
            foot = (1.35 * (1 + caption.count("\n")) + 0.5) * _CAPTION / _POINTS
            look = {"fontsize": _CAPTION, "color": "0.35", "parse_math": False}
            words = figure.text(0.5, 0, caption, ha="center", va="bottom", **look)
            words.set_in_layout(False)
        legend = _legend(figure)
        low = foot + (legend.get_window_extent().height / figure.dpi if legend else 0)
        whole = heights.max(1).sum() + head + low
        figure.set_figheight(whole)  # the panels keep their height
        if legend:
            legend.set_bbox_to_anchor((0.5, foot / whole))
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, low / whole, 1, 1 - low / whole))
    return figure


def _names(axes: matplotlib.axes.Axes) -> list[matplotlib.text.Text]:
    """The names along the side of axes that have names there, not numbers."""
    locator = axes.yaxis.get_major_locator()
    fixed = isinstance(locator, matplotlib.ticker.FixedLocator)
    return list(axes.get_yticklabels()) if fixed else []


def _of_names(axes: matplotlib.axes.Axes) -> float:
    """Inches for axes with so many names along the side; 0 without."""
    names = _names(axes)
    return (_NAME * len(names) + _MARGIN) / _POINTS if names else 0.0


def save(section: Section, folder: str | os.PathLike) -> list[Path]:
    """Write the section's figure and its data, each file whole or not at all.

    Args:
      section: to be written; its name is that of the files.
      folder: that they go into; it is made if it is not there.

    Returns:
      The paths: NAME.png and NAME.pdf with the title, NAME.svg and NAME-narrow.svg
      without, NAME.csv.

    Raises:
      ValueError: the name is none for a file, or there are no panels.

    Examples:
      >>> import tempfile
      >>> import pandas as pd
      >>> from gdsec_jax.study import report
      >>> section = report.Section(
      ...     name="line", title="A line", text="It goes up.",
      ...     panels=(lambda axes: axes.plot([1, 2]),),
      ...     data=pd.DataFrame({"x": [0, 1], "y": [1, 2]}), command="make figures")
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     [path.name for path in report.save(section, folder)]
      ['line.png', 'line.pdf', 'line.svg', 'line-narrow.svg', 'line.csv']
    """
    check_name(section)
    folder = _whole.folder(folder)
    titled = compose(section, titled=True)
    figures = {
        folder / f"{section.name}.png": titled,
        folder / f"{section.name}.pdf": titled,
        folder / svg_name(section): compose(section),
        folder / svg_name(section, narrow=True): compose(section, narrow=True),
    }
    for path, figure in figures.items():
        with _whole.whole(path) as temporary:
            write(figure, temporary)
        figure.set_layout_engine("none")  # it has found its places
    csv = folder / f"{section.name}.csv"
    with _whole.whole(csv) as temporary:
        section.data.to_csv(temporary, index=False, lineterminator="\n")
    return [*figures, csv]


def svg_name(section: Section, *, narrow: bool = False) -> str:
    """The name of the section's picture among the files that `save` writes."""
    return f"{section.name}{'-narrow' if narrow else ''}.svg"


def shape(number: int, narrow: bool) -> tuple[int, int]:
    """Rows and columns of so many panels."""
    rows = number if narrow else -(-number // _A_ROW)
    return rows, -(-number // max(rows, 1))


def check_name(section: Section) -> None:
    """A name for files on every system, and in a link as it is."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", section.name):
        raise ValueError(
            f"section.name is {section.name!r}, expected letters, digits, '-', '_' and "
            "'.'."
        )


def _finish(axes: matplotlib.axes.Axes, width: float, height: float) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    meshes = matplotlib.collections.QuadMesh
    maps = [artist for artist in axes.collections if isinstance(artist, meshes)]
    for artist in maps:  # thousands of small squares otherwise
        artist.set_rasterized(True)
    if not maps and not axes.images:
        axes.grid(alpha=0.25)
    names = [len(text.get_text()) for text in _names(axes)]
    along = width * _POINTS - max([_MARGIN, *(_LETTER * length for length in names)])
    up = height * _POINTS - _MARGIN
    axes.set_xlabel(_wrapped(axes.get_xlabel(), along))
    axes.set_ylabel(_wrapped(axes.get_ylabel(), up))
    axes.title.set_text(_wrapped(axes.get_title(), along, _TITLE))


def _legend(figure: matplotlib.figure.Figure) -> matplotlib.legend.Legend | None:
    """One legend for all panels, which stands below them, if there is a label."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        own = axes.get_legend()
        if own is not None:
            own.remove()
    # Handle and gaps of a legend take about 45 points beside its text.
    labels = [_wrapped(label, _NARROW[0] * _POINTS - 45) for label in handles]
    for columns in range(min(len(labels), 7), 0, -1):  # as many as there is room for
        legend = figure.legend(
            list(handles.values()),
            labels,
            loc="lower center",
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            handlelength=2.6,  # room for a dash and a gap of the broadest line
            columnspacing=1.2,
        )
        legend.set_in_layout(False)  # what it needs is left free
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return legend
        legend.remove()
    return None


def _wrapped(text: str, points: float, letter: float = _LETTER) -> str:
    """In as few lines as fit, about equally long."""
    # A break within $...$ would leave two halves of a formula.
    if "$" in text or not text:
        return text
    width = max(int(points / letter), 10)
    lines = textwrap.wrap(text, width)
    while width > 10 and len(shorter := textwrap.wrap(text, width - 1)) == len(lines):
        lines, width = shorter, width - 1
    return "\n".join(lines)


def save_figure(figure: matplotlib.figure.Figure, path: str | os.PathLike) -> None:
    """Write a figure in the format of the path's suffix, whole or not at all.

    Args:
      figure: to be written, raster formats at 150 dots an inch.
      path: of the file; its folders are made.

    Raises:
      ValueError: matplotlib knows no such format.

    Examples:
      >>> import matplotlib.figure, pathlib, tempfile
      >>> from gdsec_jax.study import report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "empty.png"
      ...     report.save_figure(matplotlib.figure.Figure(), path)
      ...     path.read_bytes()[1:4]
      b'PNG'
    """
    with _whole.whole(path) as temporary:
        write(figure, temporary)


def write(figure: matplotlib.figure.Figure, path: str | os.PathLike) -> None:
    """The figure in the format of the suffix; the same figure gives the same bytes."""
    suffix = Path(path).suffix
    dated = {".svg": "Date", ".pdf": "CreationDate"}
    # Paths, since no phone has the font that the figure was laid out for.
    text: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "gdsec"}
    with matplotlib.rc_context(_THINNED | text):
        metadata = {dated[suffix]: None} if suffix in dated else None
        figure.savefig(path, dpi=150, metadata=metadata)
    if suffix == ".svg":
        path = Path(path)
        path.write_text(_rounded(path.read_text("utf-8")), "utf-8", newline="\n")


def _rounded(svg: str) -> str:
    """A hundredth of a point is enough for what is drawn."""

    number = functools.partial(
        re.sub, r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}"
    )
    return re.sub(r'(?<= d=")[^"]*', lambda found: number(found[0]), svg)
