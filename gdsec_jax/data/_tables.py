"""Dense tables: CSV and NPZ files."""

import csv
import io
import math
import zipfile
from pathlib import Path

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data import _compressed
from gdsec_jax.data._dataset import Dataset, checked

_NPZ_NAMES = (("features", "targets"), ("X", "y"))
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path) -> Dataset:
    """Read the arrays ``features`` and ``targets`` (or ``X`` and ``y``)."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with path.open("rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                _check_sizes(archive, _compressed.most_bytes(path))
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    # Of a damaged archive's errors some are documented nowhere: RuntimeError if a bit
    # says that it is encrypted, TokenError or MemoryError for an array's header.
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{str(path)!r} is not an NPZ archive of plain arrays ({why})"
        ) from error
    for features, targets in _NPZ_NAMES:
        if features in arrays and targets in arrays:
            return checked(path.name, arrays[features], arrays[targets])
    raise ValueError(
        f"{str(path)!r} holds the arrays {', '.join(arrays) or '(none)'}, expected "
        "features and targets, or X and y"
    )


def _check_sizes(archive: zipfile.ZipFile, most: int) -> None:
    """The arrays are as large as their files, which are not too large.

    NumPy allocates what an array's header claims.
    """
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > most:
        raise ValueError(
            f"it claims {total:,} bytes, expected at most {most:,} of a file of its "
            "size: numpy.savez writes larger ones"
        )
    for member in members:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADERS:
                raise ValueError(f"{member.filename} is no plain array")
            shape, _, dtype = _HEADERS[version](stream)
            size = stream.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python's objects")
        if size != member.file_size:
            raise ValueError(
                f"{member.filename} holds {member.file_size} bytes, expected {size} "
                f"for the shape {shape}"
            )


def read_csv(path: Path, target: str | int | None) -> Dataset:
    """Read comma-separated numbers; ``target`` is a column's name or index."""
    header, table = _numbers(path)
    column = _target_column(path, header, table.shape[1], target)
    features = np.delete(table, column, axis=1)
    return checked(path.name, features, table[:, column])


def _numbers(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the header, empty where there is none, and the numbers below it."""
    header: list[str] = []
    rows: list[list[float | None]] = []
    width = 0
    with _compressed.opened(path) as stream:
        # Undecodable bytes become cells that are not numbers, and are reported so.
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        lines = csv.reader(text)
        try:
            for cells in lines:
                if not any(cell.strip() for cell in cells):
                    continue
                row = [_number(cell) for cell in cells]
                if not width:
                    width = len(cells)
                    if not any(value is not None for value in row):
                        header = [cell.strip() for cell in cells]
                        continue
                if len(cells) != width:
                    raise ValueError(
                        f"line {lines.line_num} of {str(path)!r} has {len(cells)} "
                        f"cells, expected {width} as in its first line"
                    )
                if None in row:
                    column = row.index(None)
                    raise ValueError(
                        f"line {lines.line_num}, column {column + 1} of {str(path)!r} "
                        f"is {cells[column]!r}, expected a finite number"
                    )
                rows.append(row)
        except csv.Error as error:
            raise ValueError(
                f"{str(path)!r} is not a CSV file at line {lines.line_num} ({error})"
            ) from error
    if not rows:
        raise ValueError(f"{str(path)!r} holds no row of numbers, expected at least 1")
    return header, np.array(rows, np.float64)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _target_column(
    path: Path, header: list[str], width: int, target: str | int | None
) -> int:
    if target is None:
        return width - 1
    if isinstance(target, str):
        if target not in header:
            raise ValueError(
                f"{str(path)!r} has no column {target!r}, expected one of "
                f"{', '.join(header) or '(none: the file has no header)'}"
            )
        return header.index(target)
    name = f"target, a column of {str(path)!r},"
    return _checks.integer(name, target, -width, width - 1) % width
