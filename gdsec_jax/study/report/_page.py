"""One page of all sections, in one file."""

import base64
import importlib.resources
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gdsec_jax.files import _whole
from gdsec_jax.study.report import _compose
from gdsec_jax.study.report._compose import Section

_PHONE = 720  # CSS pixels: up to here the panels stand one below the other
_ABREAST = 1100  # as much, where three stand side by side
_LONG = 24  # letters: such cells are broken into lines
_NUMBER = re.compile(r"\W*\d[\d.,]*(e[+-]?\d+)?( ?\S{1,4})?")  # with a unit


def page(
    sections: Sequence[Section],
    path: str | os.PathLike,
    *,
    title: str,
    environment: Mapping[str, str],
    command: str,
    introduction: Sequence[str] = (),
    papers: Mapping[str, str] = {},
    notes: Sequence[str] = (),
    saved: bool = False,
) -> None:
    """Write one HTML file of all sections, whole or not at all.

    The file needs nothing else: every figure is in it as SVG, both narrow and wide, and
    there are no scripts. It links to NAME.pdf, NAME.png and NAME.csv in its own folder,
    which `save` writes. A claim that does not hold says so.

    Args:
      sections: in their order on the page.
      path: of the file.
      title: of the page.
      environment: what the results depend on beside the configs: versions, hardware.
      command: that makes the page again.
      introduction: paragraphs for who has not read the papers.
      papers: to be linked: the address by what it is of.
      notes: sentences at the top, such as what had to be replaced.
      saved: whether `save` has just written the sections into the page's folder: their
        pictures are then taken from there rather than drawn again.

    Raises:
      ValueError: there are no sections, two have the same name, or one has a name that
        is none for a file, no panels, or a config that JSON cannot hold.

    Examples:
      >>> import pathlib, tempfile
      >>> import pandas as pd
      >>> from gdsec_jax.study import report
      >>> section = report.Section(
      ...     name="line", title="A line", text="It goes up.",
      ...     panels=(lambda axes: axes.plot([1, 2]),),
      ...     data=pd.DataFrame({"x": [0, 1], "y": [1, 2]}), command="make figures",
      ...     claims=(report.Claim("y < 2 everywhere", False, "y is at most 2"),))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "index.html"
      ...     report.page([section], path, title="", environment={}, command="make")
      ...     "our data do not show this" in path.read_text("utf-8")
      True
    """
    if not sections:
        raise ValueError(f"sections is {sections!r}, expected at least one.")
    names = [section.name for section in sections]
    if len(set(names)) < len(names):
        raise ValueError(f"sections have the names {names}, expected different ones.")
    source = importlib.resources.files("gdsec_jax.study.report") / "page.html"
    template = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).from_string(source.read_text("utf-8"))
    folder = Path(path).parent if saved else None
    text = template.render(
        title=title,
        introduction=introduction,
        papers=papers,
        notes=notes,
        command=command,
        environment=environment,
        seconds=_duration(sum(section.seconds for section in sections)),
        sections=[_shown(section, folder) for section in sections],
    )
    with _whole.whole(path) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")


def _shown(section: Section, folder: Path | None) -> dict[str, Any]:
    """What the template needs of a section."""
    _compose.check_name(section)
    config = _whole.plain(f"section.config of {section.name}", dict(section.config))
    _, columns = _compose.shape(len(section.panels), narrow=False)
    frames = [("Results", section.table)]
    frames += [("How the parameters were chosen", section.chosen)]
    tables = [(title, _table(frame)) for title, frame in frames if frame is not None]
    return section._asdict() | {
        "wide": _picture(section, folder, narrow=False),
        "narrow": _picture(section, folder, narrow=True),
        "until": _PHONE if columns < 3 else _ABREAST,
        "held": sum(claim.holds is True for claim in section.claims),
        "failed": sum(claim.holds is False for claim in section.claims),
        "tables": tables,
        "config": json.dumps(config, indent=2, ensure_ascii=False),
        "seconds": _duration(section.seconds),
    }


def _picture(section: Section, folder: Path | None, *, narrow: bool) -> dict[str, Any]:
    """An SVG image, as saved in a folder or drawn anew, and its size in CSS pixels."""
    name = _compose.svg_name(section, narrow=narrow)
    if folder is None:
        with tempfile.TemporaryDirectory() as own:
            figure = _compose.compose(section, narrow=narrow)
            _compose.write(figure, Path(own) / name)
            svg = (Path(own) / name).read_bytes()
    else:
        svg = (folder / name).read_bytes()
    found = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert found is not None, "matplotlib says how large an SVG is"
    width, height = (round(float(points) * 96 / 72) for points in found.groups())
    uri = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
    return {"uri": uri, "width": width, "height": height}


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    """A data frame's columns, by name and kind, and its rows, in words."""
    cells = frame.map(
        lambda x: "-" if pd.api.types.is_scalar(x) and pd.isna(x) else str(x)
    )
    columns = [(str(name), _kind(list(column))) for name, column in cells.items()]
    return {"columns": columns, "rows": cells.to_numpy().tolist()}


def _kind(cells: list[str]) -> str:
    """The class of a column, for its alignment and for where lines may break."""
    if 2 * sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) > len(cells):
        return "number"
    return "long" if any(len(cell) > _LONG for cell in cells) else "short"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
