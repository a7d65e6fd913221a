"""The gdsec command."""

import functools
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import rich.console
import tyro

from gdsec_jax.files import _whole
from gdsec_jax.study import _arguments, _running, _show, _start, _tools

_DESCRIPTION = """\
Communication-efficient distributed optimisation: GD-SEC and its rivals.

gdsec configs lists configs to begin with; gdsec init FILE writes one of your own.
gdsec run CONFIG.toml --help lists the fields of a config, each an option.
gdsec --version says which version this is, gdsec doctor what it finds here.
GDSEC_DATA_DIR names a folder of data sets, GDSEC_CACHE_DIR that of downloads."""

later = _arguments.later
app = tyro.extras.SubcommandApp()  # in the order of the help
app.command(name="init")(later(_start.init))
app.command(name="configs")(later(_start.configs))
app.command(name="run")(later(_running.run))
app.command(name="show")(later(_show.show))
app.command(name="sweep")(later(_running.sweep))
app.command(name="tune")(later(_running.tune))


@app.command(name="figures")
@later
def figures(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    results: Path = Path("results"),
    data: Literal["embedded", "real"] = "embedded",
    jobs: int | None = None,
) -> None:
    """Make the figures of the field, all or those named, and one page of them.

    Args:
      names: Of figures; none for all but those that are made by name alone: adaptive,
        cnn, decay, drift, faults, local, privacy, transformer and wireless.
      results: Folder for the page, index.html, and the figures: PNG, PDF, SVG, CSV.
      data: Embedded data, or the real data sets of the field where they can be had.
      jobs: Figures made at a time, in a process each; by default as many as cores.
    """
    from gdsec_jax.study.figures import make

    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    console = rich.console.Console()
    print(make(names, results, console=console, real=data == "real", jobs=jobs))


@app.command(name="league")
@later
def league(
    config: tyro.conf.Positional[Path | None] = None,
    *,
    results: Path = Path("results"),
    quick: bool = False,
    problems: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    jobs: int | None = None,
) -> None:
    """Run every method on eight problems, each tuned by one rule, and rank them.

    A run that was killed goes on when the same command is given again.

    Args:
      config: A TOML file that adds to the league, or says other numbers: a method of
        yours by methods.Mine.name = "module:function".
      results: Folder for the page, league.html, the picture and the numbers.
      quick: Three problems, fewer rounds and seeds: about three minutes on two cores.
      problems: Names of those to run; none for all.
      methods: Labels of those to run; none for all.
      jobs: Problems at a time, in a process each; by default as many as cores.
    """
    from gdsec_jax.study.league import make

    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    console = rich.console.Console()
    print(
        make(
            config,
            results,
            quick=quick,
            problems=problems,
            methods=methods,
            jobs=jobs,
            console=console,
        )
    )


app.command(name="methods")(later(_start.methods))
app.command(_tools.data_app, name="data", help="List, download and look at data sets.")
app.command(name="doctor")(later(_start.doctor))
app.command(name="bench")(later(_tools.bench))
app.command(name="bench-compare")(later(_tools.bench_compare))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 if all went well, 2 and a sentence if the input was wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--version"]:
        print(f"gdsec {importlib.metadata.version('gdsec-jax')}")
        return 0
    try:
        rest = arguments[1:]
        position = _running.config_among(rest) if arguments[:1] == ["run"] else None
        if position is not None:
            path = Path(rest.pop(position))
            _running.run_with_overrides(path, rest)
        else:
            parse = functools.partial(app.cli, description=_DESCRIPTION)
            _arguments.read(parse, "gdsec", arguments or ["--help"])()
    except BrokenPipeError:  # the reader of our output has seen enough
        return 0
    except BaseException as error:
        status, said = _ended_by(error)
        if status is None:
            raise
        print(f"gdsec: {said}", file=sys.stderr)
        return status
    return 0


def _ended_by(error: BaseException) -> tuple[int | None, str]:
    """The status and the sentence for an error; no status if it is a fault of ours."""
    behind: BaseException | None = error
    while behind is not None:  # what is interrupted may fail in another way for it
        if isinstance(behind, KeyboardInterrupt):
            return 130, "interrupted."
        behind = behind.__cause__ or behind.__context__
    said = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        said = f"{error.filename}: {error.strerror}."
    if isinstance(error, ValueError | OSError | ImportError):  # an extra may be missing
        return 2, said.replace("append=True", "--append")  # as it is spelt here
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in said
    )
    if exhausted or isinstance(error, MemoryError):
        what, *_ = said.splitlines() or [type(error).__name__]
        return 2, f"more memory is asked for than there is: {what}"
    return None, said


def _keep(option: str, value: str | float) -> None:
    """Set an option of JAX here, and in the processes that are started from here."""
    jax.config.update(option, value)
    os.environ[option.upper()] = str(value)


def command() -> int:
    """`main` as a process of its own, which keeps compiled programs for later ones."""
    sys.path.append(str(Path.cwd()))  # where a method of the user's own may lie
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # else the user has said where
        _keep("jax_compilation_cache_dir", str(_whole.cache_folder() / "xla"))
        if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
            _keep("jax_persistent_cache_min_compile_time_secs", 0.1)
    return main()
