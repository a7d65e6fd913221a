"""Commands about no config: benches, and data sets."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import rich.console
import rich.markup
import rich.table
import scipy
import tyro

from gdsec_jax import data
from gdsec_jax.files import _whole
from gdsec_jax.study import _arguments

_Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
data_app = tyro.extras.SubcommandApp()


def bench(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    json: Path | None = None,
    repeats: int = 5,
    small: bool = False,
    results: Path = Path("results"),
) -> None:
    """Measure how fast it is, against rivals and the machine's memory.

    Prints what was measured, what must be reached, and whether it was.

    Args:
      names: Of benches, or all; none to list them.
      json: Where to write the result too, for gdsec bench-compare.
      repeats: Of each timed call.
      small: At sizes that show that the benches work, and measure nothing.
      results: Folder with bench/history.jsonl, which each run adds a line to.
    """
    from gdsec_experiments import benchmarks

    console = rich.console.Console()
    if not names:
        table = rich.table.Table("name", "what it measures")
        for name in benchmarks.available():
            table.add_row(name, benchmarks.about(name))
        console.print(table)
        return
    settings = benchmarks.Settings(repeats, small, console)
    # All that can be wrong is found before the work, not after it.
    benchmarks.chosen(names, settings)
    if json is not None:
        _whole.target(json, "--json", ".json")
    history = _whole.target(results / "bench" / "history.jsonl")
    result = benchmarks.run(names, settings)
    benchmarks.append(result, history)
    try:
        benchmarks.show(result, console)
    finally:  # whoever reads the table may have gone
        if json is not None:
            benchmarks.save(result, json)
    failed = [name for name, report in result.reports.items() if report.failed]
    if failed:
        raise ValueError(f"{', '.join(failed)} failed, as said above.")


def bench_compare(
    old: tyro.conf.Positional[Path], new: tyro.conf.Positional[Path]
) -> None:
    """Compare two results of gdsec bench, measure by measure.

    Args:
      old: What --json wrote, or a history, of which the last whole line counts.
      new: The same, of a later run.
    """
    from gdsec_experiments import benchmarks

    before, after = benchmarks.load(old), benchmarks.load(new)
    benchmarks.compare(before, after, rich.console.Console())


@data_app.command(name="list")
@_arguments.later
def data_list() -> None:
    """List the named data sets, and where each is found now."""
    table = rich.table.Table("name", "task", "split", "samples x features", "found in")
    for entry in data.available():
        for split, (samples, features) in entry.shapes.items():
            shape = f"{samples:,} x {features:,}"
            table.add_row(entry.name, entry.task, split, shape, entry.found[split])
    rich.console.Console().print(table)


@data_app.command(name="fetch")
@_arguments.later
def data_fetch(name: _Name) -> None:
    """Download what is missing of a data set, and verify its files.

    Args:
      name: Of the data set, as gdsec data list has it.
    """
    for path in data.fetch(name, progress=sys.stderr.isatty()):
        print(path)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file of data is read: the options of `data.read`.

    Args:
      header: Of CSV: whether the first line is the columns' names; by default as it
        looks.
      target: Of CSV the target's column, by name or by number from 0, by default the
        last; of npz its array; of IDX its file, in the folder of the other.
      index: Of CSV: a column that is left out, or false; by default a first one without
        a name.
      features: Of npz: the array of the features.
      zero_based: Of LIBSVM: whether indices start at 0; by default if a 0 occurs.
      num_features: Of LIBSVM: D, by default the largest index.
    """

    header: bool | None = None
    target: int | bool | str | None = None
    index: int | bool | str | None = None
    features: str | None = None
    zero_based: bool | None = None
    num_features: int | None = None
    __pydantic_config__: ClassVar = {"extra": "forbid"}  # in a config


@data_app.command(name="show")
@_arguments.later
def data_show(
    name: _Name,
    reading: Annotated[Reading, tyro.conf.arg(name="")],
    *,
    split: str = "train",
) -> None:
    """Load a data set and print what is in it, and how its file was read.

    Args:
      name: Of the data set, or the path of an npz, CSV, LIBSVM or IDX file.
      reading: See there.
      split: Part of a named data set.
    """
    from gdsec_jax.study import config as configs

    loaded = configs.load_data(name, split, **vars(reading))
    sparse = scipy.sparse.issparse(loaded.features)
    # Zeros that are not stored are values too.
    stored = np.asarray(loaded.features.data if sparse else loaded.features)
    values = np.append(stored, 0.0) if sparse else stored
    labels = np.unique(loaded.targets)
    table = rich.table.Table(title=loaded.name, show_header=False, title_justify="left")
    samples, columns = loaded.features.shape  # pyright: ignore
    table.add_row("samples x features", f"{samples:,} x {columns:,}")
    table.add_row("stored", "sparse" if sparse else "dense")
    table.add_row("non-zeros", f"{np.count_nonzero(values) / samples / columns:.2%}")
    table.add_row("feature values", f"{values.min():g} to {values.max():g}")
    table.add_row(
        "targets",
        f"{labels[0]:g} to {labels[-1]:g}, {labels.size:,} different values",
    )
    for option, value in loaded.read_as.items():
        table.add_row(f"read with {option}", rich.markup.escape(repr(value)))
    rich.console.Console().print(table)
