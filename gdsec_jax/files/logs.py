"""Logs of a run while it goes on: CSV, JSON lines, TensorBoard.

A log is a function ``log(rows, setting=None)``. ``rows`` maps a column's name to its
values in the rounds since the last call, all columns of one length; ``setting`` names
the coordinates of the run in a sweep, e.g. ``{"xi": 10.0, "method": "gdsec"}``, which
stand before the columns. After each call all its rounds are in the file.

A log that is there is not replaced, other than a result saved once more: of a run that
was broken off its log is all there is, and forgetting ``append`` must not cost it. With
``append`` the log goes on where it is; rounds run again since the last checkpoint stand
there twice, and the later ones count.
"""

import contextlib
import csv as _csv
import io
import json
import math
import os
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from gdsec_jax.files import _whole

Log = Callable[..., None]  # (rows, setting=None)
_EVENTS = "events.out.tfevents."  # TensorBoard looks for the last word


def open_log(
    path: str | os.PathLike, *, append: bool = False
) -> contextlib.AbstractContextManager[Log]:
    """The log that a path asks for.

    Args:
      path: a name ending in ``.csv`` makes a `csv`, one in ``.jsonl`` `json_lines`, one
        without a suffix, or of a folder that is there, a `tensorboard` log. Folders are
        made if need be.
      append: go on with what is there. A line that was cut short is taken away.

    Returns:
      A context manager that yields ``log(rows, setting=None)``. That raises ValueError,
      and writes nothing, if the columns are not of one length and one axis, or hold
      other things than numbers and words.

    Raises:
      ValueError: the name has another suffix.
      FileExistsError: on entering, there is such a log, and `append` is False. An empty
        file is as good as none.
      OSError: on entering, it cannot be written to.
      ImportError: on entering, `tensorboard` lacks its library.

    Examples:
      >>> import pathlib, tempfile
      >>> from gdsec_jax import logs
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with logs.open_log(pathlib.Path(folder, "gd.csv")) as log:
      ...         log({"round": [1, 2], "bits": [64, 0]})
    """
    kinds = {".csv": csv, ".jsonl": json_lines}
    path = Path(path)
    kind = kinds.get(path.suffix.lower(), tensorboard)
    named = re.match(r"\.[A-Za-z]", path.suffix)  # 0.5 is no name with a suffix
    if kind is tensorboard and named and not path.is_dir():
        raise ValueError(
            f"the log is {str(path)!r}, expected a name that ends in .csv or .jsonl, "
            "or a folder's without a suffix, for TensorBoard."
        )
    return kind(path, append=append)


@contextlib.contextmanager
def csv(path: str | os.PathLike, *, append: bool = False) -> Iterator[Log]:
    """A line of comma-separated values a round.

    The first line names the columns of the first call. Numbers are written with all
    their digits, NaN and the infinities as ``nan``, ``inf`` and ``-inf``, which pandas
    and NumPy read.

    Args, Raises: as in `open_log`.

    Yields:
      A log; it raises ValueError also if the columns are others than the file's.

    Examples:
      >>> import pathlib, tempfile
      >>> from gdsec_jax import logs
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "sweep.csv")
      ...     with logs.csv(path) as log:
      ...         log({"round": [1, 2], "bits": [64, 0]}, setting={"xi": 10.0})
      ...     print(path.read_text(), end="")
      xi,round,bits
      10.0,1,64
      10.0,2,0
    """
    with _stream(path, append) as file:
        header = _header(path)

        def lines(columns: dict[str, list]) -> str:
            nonlocal header
            text = io.StringIO()
            writer = _csv.writer(text, lineterminator="\n")
            if header is None:
                writer.writerow(columns)
                header = list(columns)
            elif set(columns) != set(header):
                raise ValueError(
                    f"rows and setting are of the columns {', '.join(columns)}, "
                    f"expected those in {path}: {', '.join(header)}."
                )
            writer.writerows(zip(*(columns[name] for name in header), strict=True))
            return text.getvalue()

        yield _log_into(file, lines)


@contextlib.contextmanager
def json_lines(path: str | os.PathLike, *, append: bool = False) -> Iterator[Log]:
    """A line with an object of JSON a round.

    The keys are the columns' names; calls may differ in them. JSON knows no NaN and no
    infinity: they become null.

    Args, Yields, Raises: as in `open_log`.

    Examples:
      >>> import pathlib, tempfile
      >>> from gdsec_jax import logs
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "gd.jsonl")
      ...     with logs.json_lines(path) as log:
      ...         log({"round": [1], "objective_error": [float("nan")]})
      ...     path.read_text()
      '{"round": 1, "objective_error": null}\\n'
    """

    def finite(x: Any) -> Any:
        return None if isinstance(x, float) and not math.isfinite(x) else x

    def lines(columns: dict[str, list]) -> str:
        rows = zip(*columns.values(), strict=True)
        objects = (dict(zip(columns, map(finite, row), strict=True)) for row in rows)
        return "".join(json.dumps(one) + "\n" for one in objects)

    with _stream(path, append) as file:
        yield _log_into(file, lines)


@contextlib.contextmanager
def tensorboard(folder: str | os.PathLike, *, append: bool = False) -> Iterator[Log]:
    """Scalars for TensorBoard, which draws them while the run goes on.

    The column ``round`` is the step, and every other column a tag. In a sweep each
    setting is a run of its own, in a sub-folder named by its coordinates, such as
    ``xi=10,beta=0.01``. Event files hold float32: a value that is not finite in it is
    left out, and a count above 2^24 is rounded.

    Args:
      folder: of the event files; TensorBoard could not tell two runs in it apart.
      append: go on in further files. TensorBoard drops what the earlier ones held from
        the first new round on.

    Yields, Raises: as in `open_log`; the log raises ValueError also if a column holds
      words, or none is ``round``, and one in a sub-folder is a log that is there.

    Examples:
      >>> import pathlib, tempfile
      >>> from gdsec_jax import logs
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with logs.tensorboard(folder) as log:
      ...         log({"round": [1, 2], "bits": [64, 0]}, setting={"xi": 10.0})
      ...     [path.name for path in pathlib.Path(folder).iterdir()]
      ['xi=10']
    """
    event, record = _event_and_record()
    folder = _whole.folder(Path(folder).absolute())
    if not append and any(
        next(folder.glob(depth + _EVENTS + "*"), None) for depth in ("", "*/")
    ):
        raise FileExistsError(
            f"{folder} holds a TensorBoard log, expected a folder without one, or "
            "append=True to go on with it."
        )
    files: dict[Path, Path] = {}

    def log(rows: Mapping[str, Any], setting: Mapping[str, Any] | None = None):
        columns, _ = _checked(rows, setting)
        steps, tags = _scalars(columns)
        run, now = folder / _run_name(setting or {}), time.time()
        events = []
        if run not in files:
            events.append(event(wall_time=now, file_version="brain.Event:2"))
            if append and steps:
                start = {"status": 1}  # START: what an earlier file has from here on is
                events.append(event(wall_time=now, step=steps[0], session_log=start))
        for step, *values in zip(steps, *tags.values(), strict=True):
            value = [
                {"tag": tag, "simple_value": number}
                for tag, number in zip(tags, values, strict=True)
                if math.isfinite(number)
            ]
            if value:
                events.append(event(wall_time=now, step=step, summary={"value": value}))
        # No other file's name, and behind all earlier ones as TensorBoard sorts them.
        name = f"{_EVENTS}{now:017.6f}.{socket.gethostname()}.{os.getpid()}"
        file = files.get(run) or run / name
        run.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:  # not kept open: a sweep has too many
            stream.write(b"".join(record(one.SerializeToString()) for one in events))
        files[run] = file

    yield log


def _log_into(file: TextIO, lines: Callable[[dict[str, list]], str]) -> Log:
    """A log that writes the lines which a function makes of columns."""

    def log(rows: Mapping[str, Any], setting: Mapping[str, Any] | None = None):
        columns, coordinates = _checked(rows, setting)
        length = len(next(iter(columns.values())))
        leading = {name: [value] * length for name, value in coordinates.items()}
        file.write(lines(leading | columns))
        file.flush()

    return log


def _checked(
    rows: Mapping[str, Any], setting: Mapping[str, Any] | None
) -> tuple[dict[str, list], dict[str, Any]]:
    """Python's numbers and words, by name: lists of one length, and a setting's."""
    columns = {name: _column(name, values) for name, values in rows.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"rows is of columns of the lengths {lengths}, expected one length."
        )
    coordinates = {}
    for name, value in (setting or {}).items():
        if name in columns:
            raise ValueError(
                f"setting names {name!r}, expected a name that no column of rows has."
            )
        if np.ndim(value) != 0:
            raise ValueError(
                f"setting[{name!r}] is {value!r}, expected a number or a word."
            )
        [coordinates[name]] = _column(name, [value])
    return columns, coordinates


def _column(name: str, values: Any) -> list:
    # A list keeps its elements: NumPy would make one word's neighbours words.
    array = np.asarray(values, None if hasattr(values, "dtype") else object)
    if array.ndim != 1:
        raise ValueError(
            f"rows[{name!r}] has shape {array.shape}, expected one value a round."
        )
    column = [x.item() if hasattr(x, "item") else x for x in array.tolist()]
    for value in column:
        if not isinstance(value, int | float | str | None):
            raise ValueError(
                f"{name} holds {value!r}, expected numbers, words or None."
            )
    return column


def _scalars(columns: dict[str, list]) -> tuple[list[int], dict[str, list[float]]]:
    """The rounds, and the other columns in the precision of an event file."""
    if "round" not in columns:
        raise ValueError(
            f"rows is of the columns {', '.join(columns)}, expected one named round."
        )
    for name, column in columns.items():
        for value in column:
            if not isinstance(value, int | float):
                raise ValueError(
                    f"rows[{name!r}] holds {value!r}, expected numbers: TensorBoard "
                    "takes a run's coordinates as setting."
                )
    with np.errstate(over="ignore"):
        tags = {
            name: np.asarray(column, np.float64).astype(np.float32).tolist()
            for name, column in columns.items()
            if name != "round"
        }
    return [int(step) for step in columns["round"]], tags


@contextlib.contextmanager
def _stream(path: str | os.PathLike, append: bool) -> Iterator[TextIO]:
    """The file, open for lines at its end."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", newline="")
    except OSError as error:
        raise OSError(
            f"{path} is no file that can be written to: {error.strerror}."
        ) from error
    with file:
        if path.stat().st_size and not append:
            raise FileExistsError(
                f"{path} is there already, expected a new file, or append=True to go "
                "on with it."
            )
        _drop_cut_line(path)
        yield file


def _drop_cut_line(path: Path) -> None:
    """Takes away what stands behind the last line's end."""
    with path.open("rb+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _header(path: str | os.PathLike) -> list[str] | None:
    """The columns that a file names; None where nothing stands yet."""
    # What is no text becomes names that no column has.
    with Path(path).open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            return next(_csv.reader(file), None)
        except _csv.Error as error:
            raise OSError(f"{path} is no CSV file to go on with: {error}.") from error


def _run_name(setting: Mapping[str, Any]) -> str:
    """A folder's name for a setting."""

    def quoted(value):
        word = value if isinstance(value, str) else str(value).removesuffix(".0")
        # Also = and , : else two settings might have one name.
        return re.sub(
            r"[^\w.+() -]", lambda found: urllib.parse.quote(found[0], safe=""), word
        )

    return ",".join(
        f"{quoted(name)}={quoted(value)}" for name, value in setting.items()
    )


def _event_and_record() -> tuple[Callable[..., Any], Callable[[bytes], bytes]]:
    """The message that an event file is made of, and its framing."""
    # tensorboardX's own writer flushes its queue late, and keeps a thread a run.
    try:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore
        from tensorboardX.record_writer import masked_crc32c
    except ImportError as error:
        raise ImportError(
            "tensorboardX is missing, expected for a TensorBoard log: "
            "pip install 'gdsec-jax[tensorboard]'."
        ) from error

    def checked(data: bytes) -> bytes:
        return data + masked_crc32c(data).to_bytes(4, "little")

    def record(data: bytes) -> bytes:
        return checked(len(data).to_bytes(8, "little")) + checked(data)

    return Event, record
