"""How a figure becomes a file."""

import os
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure

from gdsec_jax.files import _whole

# Curves of thousands of rounds are thinned to what the eye can see.
THINNED: dict[Any, Any] = {"path.simplify": True, "path.simplify_threshold": 0.5}


def save_figure(figure: matplotlib.figure.Figure, path: str | os.PathLike) -> None:
    """Write a figure in the format of the path's suffix, whole or not at all.

    Args:
      figure: to be written, raster formats at 150 dots an inch.
      path: of the file; its folders are made.

    Raises:
      ValueError: matplotlib knows no such format.
      OSError: the file cannot be written.

    Examples:
      >>> import pathlib, tempfile
      >>> import matplotlib.figure
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
    with matplotlib.rc_context(THINNED | text):
        metadata = {dated[suffix]: None} if suffix in dated else None
        figure.savefig(path, dpi=150, metadata=metadata)
    if suffix == ".svg":
        path = Path(path)
        path.write_text(_rounded(path.read_text("utf-8")), "utf-8", newline="\n")


def _rounded(svg: str) -> str:
    """A hundredth of a point is enough for what is drawn."""

    def path(match: re.Match) -> str:
        return re.sub(r"-?\d+\.\d{3,}", number, match[0])

    def number(match: re.Match) -> str:
        return f"{float(match[0]):.2f}"

    return re.sub(r'(?<= d=")[^"]*', path, svg)
