"""The tables of docs/neighbours.md: what happens where real libraries meet this one.

`python -m gdsec_experiments.neighbours [NAME ...]` writes them, each between the
markers of its name. A table is a module of this package with a HEADER, a `caption()`
with the versions that were seen, and `rows()`; tests hold rows against the page. Where
a library is not installed, `Skipped` says which, and the page keeps what it has.
"""

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gdsec_experiments.benchmarks import Skipped as Skipped

PAGE = Path(__file__).parents[2] / "docs" / "neighbours.md"
TABLES = (
    "behind",
    "codecs",
    "hooks",
    "methods",
    "edges",
    "readers",
    "rounds",
    "bits",
    "handed",
    "processes",
)
_TABLE = r"(<!-- table: {} -->\n).*?(<!-- end -->)"


def table(name: str) -> ModuleType:
    """The module of a table."""
    return importlib.import_module(f"{__name__}.{name}")


def needed(name: str) -> Any:
    """Another library.

    Raises:
      Skipped: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Skipped(f"{name} is not installed") from error


def versions(*names: str) -> str:
    """Distributions with their versions, as a caption says them."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def told(command: Sequence[Any], settings: Mapping[str, str] | None = None) -> Any:
    """What a process of its own prints, as JSON; settings are environment variables.

    Raises:
      RuntimeError: it failed, with the end of what it said.
    """
    done = subprocess.run(
        command,
        env=os.environ | (settings or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-1000:]}")
    return json.loads(done.stdout)


def made(name: str) -> str:
    """A table and its caption in Markdown, computed now."""
    module = table(name)
    cells = [module.HEADER, ("---",) * len(module.HEADER), *module.rows()]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([*lines, "", f"*{module.caption()}*"])


def written(page: str, name: str, text: str) -> str:
    """The page with the text in the place of its table of that name."""
    found = re.compile(_TABLE.format(name), re.DOTALL)
    if not found.search(page):
        raise ValueError(f"the page has no markers of {name!r}.")
    return found.sub(lambda match: match[1] + text + "\n" + match[2], page)


def shown(name: str) -> list[tuple[str, ...]]:
    """The rows of a table as the page has them, without its header."""
    lines = [x for x in _lines(name) if x.startswith("| ")][2:]
    return [tuple(re.split(r" \| ", line[2:-2])) for line in lines]


def shown_caption(name: str) -> str:
    """The caption of a table as the page has it."""
    return next(x[1:-1] for x in _lines(name) if x.startswith("*"))


def _lines(name: str) -> list[str]:
    match = re.search(_TABLE.format(name), PAGE.read_text("utf-8"), re.DOTALL)
    if match is None:
        raise ValueError(f"the page has no markers of {name!r}.")
    return match[0].splitlines()
