"""The reader of CSV files."""

import csv
import io
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked

_UNNAMED = ("", "Unnamed: 0")  # as pandas writes an index, and reads it
_NAMELESS = re.compile(r"(Unnamed: \d+(\.\d+)*)?")  # and one that it wrote again
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
      target: the target's column, by name or by number from 0; the last by default. A
        number that is a column's name is that column.
      index: a column that numbers or names the samples and is left out, by name or by
        number; False for none. None takes for one a first column without a name, as
        pandas and R write it. A second one is an error, and so is a first column that
        numbers the lines of a file without names, in whatever order.

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
    path = _checks.path(path)
    if not (header is None or isinstance(header, bool)):
        raise ValueError(f"header is {header!r}, expected True, False or None.")
    if index is True:
        raise ValueError("index is True, expected a column's name or number, or False.")
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{str(path)!r} holds no row of numbers, expected at least 1")
    cells, width = first[1], len(first[1])
    for mark, word in {";": "semicolons", "\t": "tabs"}.items():
        if width == 1 and mark in cells[0]:
            raise ValueError(
                f"{str(path)!r} has {word} between its cells, expected commas."
            )
    guessed, unsaid = header is None, index is None
    if header is None:
        header = _is_header(path, cells, index)
    names = cells if header else []
    if not header:
        rows = itertools.chain([first], rows)
    if index is None:
        index = 0 if names and names[0] in _UNNAMED else False
        nameless = [repr(name) for name in names if _NAMELESS.fullmatch(name)]
        if len(nameless) > 1:
            raise ValueError(
                f"the columns {', '.join(nameless)} of {str(path)!r} have no name, as "
                "the samples' numbers have none, expected one such column, or index=."
            )
    kept = list(range(width))
    if index is not False:
        kept.remove(_column(path, names, width, "index", index))
    if target is None:
        column = kept[-1] if kept else 0
    else:
        # As pandas has it, and a command's `--target 2` is a number.
        named = names.count(str(target)) == 1
        target = str(target) if named else target
        column = _column(path, names, width, "target", target)
    if column not in kept:
        raise ValueError(
            f"index and target are one column of {str(path)!r}, {column}, expected two."
        )
    guessed = guessed and not header
    told = " (with header=True it is a name)" if guessed else ""
    table, first_lines, last_whole = [], [], dict.fromkeys(kept, 0)
    for line, row in rows:
        table.append(_numbers(path, line, row, kept, width, told))
        if guessed and len(table) <= 4:
            first_lines.append([row[i] for i in kept])
        for i in [i for i in last_whole if guessed and _is_whole(row[i])]:
            last_whole[i] = len(table)
            if len(table) > 3:  # lines of names are fewer
                del last_whole[i]
    if not table:
        raise ValueError(f"{str(path)!r} holds no row of numbers, expected at least 1")
    array, place = np.array(table, np.float64), kept.index(column)
    if guessed and len(array) > 2:
        _check_no_names(path, cells, first_lines, last_whole, array)
    unsaid = unsaid and not names and place > 0
    if unsaid and len(array) > 2 and _numbers_the_lines(array[:, 0]):
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


def _is_whole(cell: str) -> bool:
    return cell.lstrip("-").isdigit() or cell.lower() in _TRUTHS


def _check_no_names(path: Path, cells, first_lines, last_whole, array) -> None:
    """The first lines are no names, as far as the lines below tell.

    Names are whole in some column where the samples are not, or the first line alone
    ascends, or does so in equal steps.
    """
    depth = 0
    while depth < min(3, len(array) - 1) and all(map(_is_whole, first_lines[depth])):
        depth += 1
    names = set(zip(*first_lines[:depth], strict=True))
    whole = len(names) == array.shape[1] and min(last_whole.values(), default=9)
    steps = np.diff(array)
    ascends = (steps > 0).all(axis=1) & (array.shape[1] > 2)
    spread = steps.max(1, initial=0) - steps.min(1, initial=np.inf)
    equal = ascends & (spread < 1e-6 * np.abs(array[:, -1]))
    alone = any(rows[0] and rows.sum() == 1 for rows in (ascends, equal))
    if alone or (depth and whole and whole <= depth):
        several = f" ({depth} lines of names are not read)" if depth > 1 else ""
        options = f"header=True or header=False{several}"
        raise _undecided(path, "line", cells, options)


def _numbers_the_lines(column: np.ndarray) -> bool:
    """Whether its values are numbers of lines, perhaps of a part of them, shuffled.

    Many whole numbers of so small a range are no sample's if they do not repeat.
    """
    size, most = len(column), 5 * len(column) if len(column) >= 50 else len(column)
    small = (column >= 0) & (column <= most) & (column == np.floor(column))
    if size == most and column.min() == 0:
        small &= column < size
    return bool(small.all()) and len(np.unique(column)) == size


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
                f"{str(path)!r} has {number} column {given!r}"
                f"{_checks.expected(given, {*names} - {given})} one of "
                f"{', '.join(names) or '(none: the file has no header)'}"
            )
        return names.index(given)
    name = f"{option}, a column of {str(path)!r},"
    return _checks.integer(name, given, -width, width - 1) % width
