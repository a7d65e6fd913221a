"""The gdsec command."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import jax
import numpy as np
import rich.console
import rich.table
import scipy
import tyro

from gdsec_jax import _checks, data, logs
from gdsec_jax.algorithms import METHODS
from gdsec_jax.files import _whole
from gdsec_jax.simulation import _observe as observe

if TYPE_CHECKING:
    from gdsec_jax.study import config as configs

_DESCRIPTION = """\
Communication-efficient distributed optimisation: GD-SEC and its rivals.

gdsec run CONFIG.toml --help lists the fields of a config, each an option.
GDSEC_DATA_DIR names a folder of data sets, GDSEC_CACHE_DIR that of downloads."""

# Fields that are tables of any names: no options of the command.
_IN_FILES_ALONE = ("grid", "options", "real")

app = tyro.extras.SubcommandApp()
data_app = tyro.extras.SubcommandApp()


@app.command(name="run")
def run(
    config: tyro.conf.Positional[Path],
    *,
    results: Path = Path("results"),
    log: Path | None = None,
    norms: bool = False,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    checkpoint_every: int | None = None,
) -> None:
    """Run the methods of a config; save their histories, a figure and a table.

    Args:
      config: A TOML file. Each of its fields is an option that overrides it:
        --num-rounds 100 --problem.data mnist --methods.GD-SEC.xi 10.
      results: Folder for what the run leaves.
      log: Where to log each round: NAME.csv, NAME.jsonl, or a TensorBoard folder.
      norms: Keep the norms of the gradient and of the memories too.
      checkpoint_every: Rounds after each of which a run is saved, in the folder
        checkpoints among the results. The same command goes on from there if it was
        killed, and writes its log anew. Removed when all is done. Not with
        --distributed.
      distributed: Workers over all devices of all processes that are started so, by
        SLURM, Open MPI or on a TPU pod, or with the three options below. The first one
        writes. Not with --checkpoint-every.
      coordinator: HOST:PORT of the first process.
      num_processes: How many there are.
      process_id: Of this one, 0 for the first.
    """
    from gdsec_jax.study import config as configs

    around = _Around(
        *(results, log, norms, checkpoint_every),
        *(distributed, coordinator, num_processes, process_id),
    )
    _run(configs.load(config), config.stem, around)


@app.command(name="sweep")
def sweep(
    config: tyro.conf.Positional[Path],
    *,
    results: Path = Path("results"),
    memory_limit: int | None = None,
    log: Path | None = None,
    append: bool = False,
    norms: bool = False,
) -> None:
    """Run every setting of the grids of a config, many side by side.

    A sweep that was killed goes on where it was.

    Args:
      config: A TOML file with grids: of a method, [methods.NAME.grid]; of all, [grid].
      results: Folder for a NetCDF file a method, with a dimension for each axis.
      memory_limit: Bytes that may be used at once; by default half of what is free.
      log: Where to log each round: NAME.csv, NAME.jsonl, or a TensorBoard folder.
      append: Go on with the log that is there, as for a sweep that was killed.
      norms: Keep the norms of the gradient and of the memories too.
    """
    from gdsec_jax.study import config as configs
    from gdsec_jax.study import experiment

    if append and log is None:
        raise ValueError("--append is given without --log, expected the log to go on.")
    console = rich.console.Console()
    with _logged(log, append) as logs_to:
        experiment.sweep(
            configs.load(config),
            config.stem,
            results,
            console,
            memory_limit=memory_limit,
            log=logs_to,
            observe=observe.norms if norms else None,
        )


@app.command(name="tune")
def tune(
    config: tyro.conf.Positional[Path],
    *,
    output: Path | None = None,
    results: Path = Path("results"),
    memory_limit: int | None = None,
) -> None:
    """Choose each method's parameters from its grid, by one rule for all methods.

    Fewest bits to the target among the settings that take at most a share `slack` more
    rounds than the baseline, gradient descent at the best step of its own grid.

    Args:
      config: A TOML file with grids: of a method, [methods.NAME.grid]; of all, [grid].
      output: The file with the parameters that were chosen, and how; it may be the
        config itself. By default NAME.toml in the folder of results.
      results: Folder for what the sweeps leave.
      memory_limit: Bytes that may be used at once; by default half of what is free.
    """
    from gdsec_jax.study import config as configs
    from gdsec_jax.study import experiment

    console = rich.console.Console()
    output = output or results / f"{config.stem}.toml"
    _whole.target(output)  # tried before the work, not after it
    tuned = experiment.tune(
        configs.load(config), config.stem, results, console, memory_limit=memory_limit
    )
    configs.write_chosen(config, tuned, output)
    experiment.say(console, f"wrote {output}")


@app.command(name="figures")
def figures(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    results: Path = Path("results"),
    data: Literal["embedded", "real"] = "embedded",
    jobs: int | None = None,
) -> None:
    """Make the figures of the field, all or those named, and one page of them.

    Args:
      names: Of figures; none for all but those that take minutes: of networks, links,
        faults and adaptive_xi.
      results: Folder for the page, index.html, and the figures: PNG, PDF, SVG, CSV.
      data: Embedded data, or the real data sets of the field where they can be had.
      jobs: Figures made at a time, in a process each; by default as many as cores.
    """
    from gdsec_jax.study.figures import make

    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    console = rich.console.Console()
    page = make(names, results, console=console, real=data == "real", jobs=jobs)
    print(page)


@app.command(name="bench")
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
        _whole.target(json)
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


@app.command(name="bench-compare")
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


@app.command(name="methods")
def methods() -> None:
    """List the methods: name, what each is in a line, and its paper."""
    table = rich.table.Table("name", "method", "what it is")
    table.add_column("paper", overflow="fold")
    for method in METHODS.values():
        table.add_row(method.name, method.title, method.line, method.paper)
    rich.console.Console().print(table)


@data_app.command(name="list")
def data_list() -> None:
    """List the named data sets, and where each is found now."""
    table = rich.table.Table("name", "task", "split", "samples x features", "found in")
    for entry in data.available():
        for split, (samples, features) in entry.shapes.items():
            shape = f"{samples:,} x {features:,}"
            table.add_row(entry.name, entry.task, split, shape, entry.found[split])
    rich.console.Console().print(table)


@data_app.command(name="fetch")
def data_fetch(name: tyro.conf.Positional[str]) -> None:
    """Download what is missing of a data set, and verify its files.

    Args:
      name: Of the data set, as gdsec data list has it.
    """
    for path in data.fetch(name, progress=sys.stderr.isatty()):
        print(path)


@data_app.command(name="show")
def data_show(name: tyro.conf.Positional[str], *, split: str = "train") -> None:
    """Load a data set and print what is in it.

    Args:
      name: Of the data set, or the path of an npz, CSV or LIBSVM file.
      split: Part of a named data set.
    """
    from gdsec_jax.study import config as configs

    loaded = configs.load_data(name, split)
    sparse = scipy.sparse.issparse(loaded.features)
    # Zeros that are not stored are values too.
    stored = np.asarray(loaded.features.data if sparse else loaded.features)
    values = np.append(stored, 0.0) if sparse else stored
    labels = np.unique(loaded.targets)
    table = rich.table.Table(title=loaded.name, show_header=False, title_justify="left")
    samples, features = loaded.features.shape  # pyright: ignore
    table.add_row("samples x features", f"{samples:,} x {features:,}")
    table.add_row("stored", "sparse" if sparse else "dense")
    table.add_row("non-zeros", f"{np.count_nonzero(values) / samples / features:.2%}")
    table.add_row("feature values", f"{values.min():g} to {values.max():g}")
    table.add_row(
        "targets",
        f"{labels[0]:g} to {labels[-1]:g}, {labels.size:,} different values",
    )
    rich.console.Console().print(table)


app.command(data_app, name="data", help="List, download and look at data sets.")


class _Around(NamedTuple):
    """The options of a run that are no fields of its config."""

    results: Path = Path("results")
    log: Path | None = None
    norms: bool = False
    checkpoint_every: int | None = None
    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def _run(config: "configs.RunConfig", name: str, around: _Around) -> None:
    from gdsec_jax.simulation._own_log import own_log
    from gdsec_jax.study import _distributed, experiment

    every, log = around.checkpoint_every, around.log
    if every is not None:
        _checks.integer("checkpoint_every", every, 1, 2**31 - 1)
        if around.distributed:  # said before the processes meet
            raise ValueError(
                f"--checkpoint-every is {every}, expected none with --distributed: a "
                "run of several processes is not saved."
            )
    meeting = (around.coordinator, around.num_processes, around.process_id)
    mesh = None
    if around.distributed:
        mesh = _distributed.start(*meeting)
    elif any(x is not None for x in meeting):
        raise ValueError(
            "coordinator, num_processes or process_id is given, expected --distributed "
            "with them."
        )
    own = (around.results, rich.console.Console())
    if mesh is not None and jax.process_index() > 0:
        log = None
    logged = _logged(log)
    if every is not None and log is not None:
        logged = own_log(log, around.results / name / experiment.CHECKPOINTS)
    with (
        _distributed.one_writes(*own) if mesh else contextlib.nullcontext(own) as where,
        logged as logs_to,
    ):
        results, console = where
        experiment.run(
            *(config, name, results, console),
            log=logs_to,
            observe=observe.norms if around.norms else None,
            checkpoint_every=every,
            mesh=mesh,
        )


def _logged(path: Path | None, append: bool = False):
    """The log at a path, or none."""
    if path is None:
        return contextlib.nullcontext()
    return logs.open_log(path, append=append)


def _run_with_overrides(path: Path, arguments: Sequence[str]) -> None:
    """`gdsec run`, with the fields of the file as options."""
    from gdsec_jax.study import config as configs

    # Tyro reads the words; whether the values are right the config itself decides, in
    # the same sentences as for a file.
    loaded = configs.load(path)
    config = _unchecked(loaded)
    top = Annotated[type(config), tyro.conf.arg(name="")]
    around = [(name, kind) for name, kind in _Around.__annotations__.items()]
    options = dataclasses.make_dataclass("Options", [("config", top), *around])
    given = tyro.cli(
        options,
        prog=f"gdsec run {path}",
        description=f"Run the config {path}, with these fields overridden.",
        args=arguments,
        default=options(config, *_Around()),
    )
    given_values = dataclasses.asdict(given.config)
    values = configs.merged(loaded.model_dump(), given_values)
    checked = configs.validate(values, "options")
    own = {name: getattr(given, name) for name in _Around._fields}
    _run(checked, path.stem, _Around(**own))


def _unchecked(value):
    """A config as a plain dataclass: the same fields, types and help, no validation."""
    import pydantic

    if isinstance(value, dict):
        return {label: _unchecked(inner) for label, inner in value.items()}
    if not isinstance(value, pydantic.BaseModel):
        return value
    fields, values = [], {}
    for name, info in type(value).model_fields.items():
        if name in _IN_FILES_ALONE:
            continue
        values[name] = _unchecked(getattr(value, name))
        plain = info.annotation
        if values[name] is not getattr(value, name):
            plain = type(values[name])
        if isinstance(values[name], dict):
            plain = dict[str, type(next(iter(values[name].values())))]
        help_text = tyro.conf.arg(help=info.description)
        fields.append((name, Annotated[plain, help_text]))
    return dataclasses.make_dataclass(type(value).__name__, fields)(**values)


def _config_among(arguments: Sequence[str]) -> int | None:
    """Where the config's path stands in the arguments of run."""
    for position, argument in enumerate(arguments):
        if argument.endswith(".toml"):
            return position
    return 0 if arguments and not arguments[0].startswith("-") else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 if all went well, 2 and a sentence if the input was wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        rest = arguments[1:]
        position = _config_among(rest) if arguments[:1] == ["run"] else None
        if position is not None:
            path = Path(rest.pop(position))
            _run_with_overrides(path, rest)
        else:
            app.cli(
                prog="gdsec", description=_DESCRIPTION, args=arguments or ["--help"]
            )
    except KeyboardInterrupt:
        print("gdsec: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        return 0
    except (ValueError, OSError) as error:
        print(f"gdsec: {error}", file=sys.stderr)
        return 2
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            what = str(error).splitlines()[:1] or [type(error).__name__]
            print(
                f"gdsec: more memory is asked for than there is: {what[0]}",
                file=sys.stderr,
            )
            return 2
        raise
    return 0


def command() -> int:
    """`main` as a process of its own, which keeps compiled programs for later ones."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # else the user has said where
        folder = _whole.cache_folder() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return main()
