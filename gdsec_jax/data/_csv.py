"""The reader of CSV files."""

import csv
import io
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked

_UNNAMED = ("", "Unnamed: 0")  # as pandas writes an index, and reads it
_MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>", "inf", "-inf", "?")
_TRUTHS = {"true": 1.0, "false": 0.0}


def read_csv(
    path: str | os.PathLike[str],
    *,
    header: bool | None = None,
    target: str | int | None = None,
    index: str | int | bool | None = None,
) -> Dataset:
    """Read a file of comma-separated numbers, compressed or not.

    True and False are 1 and 0. Empty lines are left out; a value that is missing, or no
    finite number, is an error. What was decided of what is None below is in the data
    set's `read_as`.

    Args:
      path: the file; gzip, bzip2 and xz are recognised by their first bytes.
      header: whether the first line is the columns' names. None decides: names have no
        number among them, but for the column's own, counted from 0, as pandas has it.
        Where the first line could be either, it is an error.
      target: the target's column, by name or by number from 0; the last by default.
      index: a column that numbers or names the samples and is left out, by name or by
        number; False for none. None takes for one a first column without a name, as
        pandas and R write it; one that counts the lines of a file without names is an
        error.

    Returns:
      The data set, named after the file, features float64 [N, D], targets float64 [N].

    Raises:
      FileNotFoundError, OSError: as `read`.
      ValueError: the content is not as above, or there is no such column.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from gdsec_jax.data import read_csv
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "houses.txt")
      ...     _ = path.write_text(",price,rooms\\nelm,300,4\\noak,250,3\\n")
      ...     houses = read_csv(path, target="price")
      >>> houses.features.tolist(), houses.targets.tolist()
      ([[4.0], [3.0]], [300.0, 250.0])
      >>> houses.read_as
      {'header': True, 'target': 'price', 'index': 0}
    """
    path = Path(path)
    if not (header is None or isinstance(header, bool)):
        raise ValueError(f"header is {header!r}, expected True, False or None.")
    if index is True:
        raise ValueError("index is True, expected a column's name or number, or False.")
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{str(path)!r} holds no row of numbers, expected at least 1")
    cells, width = first[1], len(first[1])
    guessed, unsaid = header is None, index is None
    if header is None:
        header = _is_header(path, cells, index)
    names = cells if header else []
    if not header:
        rows = itertools.chain([first], rows)
    if index is None:
        index = 0 if names and names[0] in _UNNAMED else False
    kept = list(range(width))
    if index is not False:
        kept.remove(_column(path, names, width, "index", index))
    if target is None:
        target = kept[-1] if kept else 0
    column = _column(path, names, width, "target", target)
    if column not in kept:
        raise ValueError(
            f"index and target are one column of {str(path)!r}, {column}, expected two."
        )
    guessed = guessed and not header
    told = " (with header=True it is a name)" if guessed else ""
    # Columns with a whole number in the first line alone, of which years are names.
    own = {cells[i] for i in kept if cells[i].isdigit()}
    above = kept if guessed and len(own) == len(kept) else []
    table = []
    for line, row in rows:
        table.append(_numbers(path, line, row, kept, width, told))
        if above and len(table) > 1:
            above = [i for i in above if not row[i].lstrip("-").isdigit()]
    if not table:
        raise ValueError(f"{str(path)!r} holds no row of numbers, expected at least 1")
    if above and len(table) > 2:
        raise _undecided(path, "line", cells, "header=True or header=False")
    array, place = np.array(table, np.float64), kept.index(column)
    counted = array[:, 0] == np.arange(len(array)) + (array[0, 0] == 1)
    if unsaid and not names and len(table) > 2 and counted.all():
        counts = [f"{x:g}" for x in array[:4, 0]]
        raise _undecided(path, "column", counts, "index=0 or index=False")
    named = names and names[column] and names.count(names[column]) == 1
    read_as = {
        "header": header,
        "target": names[column] if named else column,
        "index": index,
    }
    return checked(path.name, np.delete(array, place, axis=1), array[:, place], read_as)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty: their numbers, and their cells without blanks."""
    with _compressed.opened(path) as stream:
        # Undecodable bytes become cells that are not numbers, and are reported so.
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        lines = csv.reader(text)
        try:
            for cells in lines:
                cells = [cell.strip() for cell in cells]
                if cells and cells != [""]:
                    yield lines.line_num, cells
        except csv.Error as error:
            raise ValueError(
                f"{str(path)!r} is not a CSV file at line {lines.line_num} ({error})"
            ) from error


def _is_header(path: Path, cells: Sequence[str], index) -> bool:
    """Whether the cells of the first line are names."""
    given = list(range(len(cells)))
    if type(index) is int and -len(cells) <= index < len(cells):
        given.remove(index % len(cells))
    words = [i for i in given if cells[i].lower() not in _MISSING]
    numbers = [i for i in words if _number(cells[i]) is not None]
    if not numbers:
        return bool(words)
    # Columns without names pandas counts from 0, behind the index.
    if all(any(cells[i] != str(i - start) for i in numbers) for start in (0, 1)):
        return False
    if len(numbers) == len(given) and cells[0] not in _UNNAMED:
        raise _undecided(path, "line", cells, "header=True or header=False")
    return cells[0] in _UNNAMED or (len(words) > len(numbers) > 1)


def _undecided(path: Path, what: str, cells: Sequence[str], options: str) -> ValueError:
    shown = f"{', '.join(cells[:3])}{', ...' if len(cells) > 3 else ''}"
    kinds = (
        "a sample or names" if what == "line" else "a feature or the samples' numbers"
    )
    return ValueError(
        f"the first {what} of {str(path)!r} is {shown}, {kinds}: expected {options}."
    )


def _numbers(
    path: Path, line: int, cells: Sequence[str], kept: Sequence[int], width: int, told
) -> list[float]:
    if len(cells) != width:
        raise ValueError(
            f"line {line} of {str(path)!r} has {len(cells)} cells, expected {width} as "
            "in its first line"
        )
    values = []
    for column in kept:
        value = _number(cells[column])
        if value is None:
            raise ValueError(
                f"line {line}, column {column + 1} of {str(path)!r} is "
                f"{cells[column]!r}, expected a finite number"
                f"{told if line == 1 else ''}"
            )
        values.append(value)
    return values


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return _TRUTHS.get(cell.lower())
    # Python's own spelling of numbers, 1_000, is nobody else's.
    return value if math.isfinite(value) and "_" not in cell else None


def _column(
    path: Path, names: Sequence[str], width: int, option: str, given: str | int
) -> int:
    """Where a column is, by its name or number."""
    if isinstance(given, str):
        if names.count(given) != 1:
            number = "no" if given not in names else "more than one"
            raise ValueError(
                f"{str(path)!r} has {number} column {given!r}, expected one of "
                f"{', '.join(names) or '(none: the file has no header)'}"
            )
        return names.index(given)
    name = f"{option}, a column of {str(path)!r},"
    return _checks.integer(name, given, -width, width - 1) % width
