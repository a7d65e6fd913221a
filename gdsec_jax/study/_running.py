"""Commands that take a config: run, sweep and tune."""

import contextlib
import dataclasses
import functools
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import rich.console
import tyro

from gdsec_jax import _checks, logs
from gdsec_jax.files import _whole
from gdsec_jax.simulation._records import norms as norms_of
from gdsec_jax.study import _arguments, shipped

if TYPE_CHECKING:
    from gdsec_jax.study import config as configs

# Fields that are tables of any names: no options of the command.
_IN_FILES_ALONE = ("grid", "options", "real", "search")
# Options of run that take no value.
_FLAGS = ("norms", "append", "distributed", "all-formats")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a run is told beside the fields of its config.

    Args:
      results: Folder for what the run leaves.
      log: Where to log each round: NAME.csv, NAME.jsonl, or a TensorBoard folder.
      append: Go on with the log that is there. Not with --checkpoint-every, whose log
        does so by itself.
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

    results: Path = Path("results")
    log: Path | None = None
    append: bool = False
    norms: bool = False
    checkpoint_every: int | None = None
    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def run(
    config: tyro.conf.Positional[Path],
    options: Annotated[RunOptions, tyro.conf.arg(name="")],
) -> None:
    """Run the methods of a config; save their histories, a figure and a table.

    Args:
      config: A TOML file, or a name that gdsec configs lists. Each of its fields is an
        option that overrides it: --num-rounds 100 --methods.GD-SEC.xi 10.
      options: See there.
    """
    _run(_load(config), config.stem, options)


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

    Prints what each cost to the target, the best of each method marked; the same as CSV
    and in a figure. A sweep that was killed goes on where it was.

    Args:
      config: A TOML file, or a name that gdsec configs lists, with grids: of a method,
        [methods.NAME.grid]; of all, [grid].
      results: Folder for a NetCDF file a method, with a dimension for each axis.
      memory_limit: Bytes that may be used at once; by default half of what is free.
      log: Where to log each round: NAME.csv, NAME.jsonl, or a TensorBoard folder.
      append: Go on with the log that is there, as for a sweep that was killed.
      norms: Keep the norms of the gradient and of the memories too.
    """
    from gdsec_jax.study import experiment

    where = (config.stem, results, rich.console.Console())
    observed = norms_of if norms else None
    with _opened(log, append) as logs_to:
        options = {"memory_limit": memory_limit, "observe": observed, "log": logs_to}
        experiment.sweep(_load(config), *where, **options)


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
      config: A TOML file, or a name that gdsec configs lists, with grids: of a method,
        [methods.NAME.grid]; of all, [grid].
      output: The file with the parameters that were chosen, and how; it may be the
        config itself. By default NAME_tuned.toml beside it, or in the current folder
        for a config that comes with the package.
      results: Folder for what the sweeps leave.
      memory_limit: Bytes that may be used at once; by default half of what is free.
    """
    from gdsec_jax.study import config as configs
    from gdsec_jax.study import experiment

    console = rich.console.Console()
    found = shipped.find(config)
    if output is None:
        beside = config.parent if found == config else Path()
        output = beside / f"{config.stem}_tuned.toml"
    # Tried before the work, not after it.
    there = _whole.target(output, "--output", ".toml").exists()
    try:
        _ = configs.load(output) if there else None
    except ValueError as error:
        raise ValueError(
            f"--output is {str(output)!r}, a file that is no config ({error}), "
            "expected a new file, or a config to replace."
        ) from error
    where = (config.stem, results, console)
    tuned = experiment.tune(_load(config), *where, memory_limit=memory_limit)
    configs.write_chosen(found, tuned, output)
    experiment.say(console, f"wrote {output}, the config with what was chosen:")
    experiment.say(console, f"gdsec run {shlex.quote(str(output))}")


def _load(path: Path) -> "configs.RunConfig":
    config = _read(path)
    _say_what_is_run(config)
    return config


def _read(path: Path) -> "configs.RunConfig":
    from gdsec_jax.study import config as configs  # slow: only where it is needed

    try:
        return configs.load(shipped.find(path))
    except ValueError as error:
        if path.suffix in ("", ".toml"):
            raise
        raise ValueError(
            f"{path} is no config; of data gdsec init makes one: gdsec init mine.toml "
            f"--data {shlex.quote(str(path))}."
        ) from error


def _say_what_is_run(config: "configs.RunConfig") -> None:
    if "methods" not in config.model_fields_set:
        print("The config has no table [methods.NAME]: GD alone, gradient descent.")


def _opened(
    log: Path | None, append: bool
) -> contextlib.AbstractContextManager[logs.Log | None]:
    if append and log is None:
        raise ValueError("--append is given without --log, expected the log to go on.")
    return logs.open_log(log, append=append) if log else contextlib.nullcontext()


def meet(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> jax.sharding.Mesh:
    """The mesh of all devices of all processes, once they have met.

    To be called before anything else is asked of jax, with what `RunOptions` says.
    """
    given = (coordinator, num_processes, process_id)
    names = ("coordinator", "num_processes", "process_id")
    missing = [name for name, x in zip(names, given, strict=True) if x is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"{', '.join(missing)} is missing, expected coordinator, num_processes "
            "and process_id, or none of them."
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        said = str(error).strip() or f"{type(error).__name__}."
        raise ValueError(
            f"the processes do not meet: {said.splitlines()[0]} "
            "Expected SLURM, Open MPI or a TPU pod, or an explicit coordinator, "
            "num_processes and process_id."
        ) from error
    return jax.sharding.Mesh(jax.devices(), ("workers",))


def _run(config: "configs.RunConfig", name: str, options: RunOptions) -> None:
    from gdsec_jax.simulation._checkpoint import own_log
    from gdsec_jax.study import experiment

    every, log = options.checkpoint_every, options.log
    if every is not None:
        _checks.integer("checkpoint_every", every, 1, 2**31 - 1)
        if options.distributed:  # said before the processes meet
            raise ValueError(
                f"--checkpoint-every is {every}, expected none with --distributed: a "
                "run of several processes is not saved."
            )
        if options.append:
            raise ValueError(
                "--append is given with --checkpoint-every, expected one of them: a "
                "run that goes on writes its own log anew."
            )
    meeting = (options.coordinator, options.num_processes, options.process_id)
    mesh = meet(*meeting) if options.distributed else None
    if mesh is None and any(x is not None for x in meeting):
        raise ValueError(
            "coordinator, num_processes or process_id is given, expected --distributed "
            "with them."
        )
    results, console = options.results, rich.console.Console()
    with contextlib.ExitStack() as stack:
        if mesh is not None and jax.process_index() > 0:  # the first process writes
            results = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            log, console = None, rich.console.Console(quiet=True)
        opened = _opened(log, options.append and log is options.log)
        if log is not None and every is not None:
            opened = own_log(log, results / name / experiment.CHECKPOINTS)
        logs_to = stack.enter_context(opened)
        experiment.run(
            *(config, name, results, console),
            log=logs_to,
            observe=norms_of if options.norms else None,
            checkpoint_every=every,
            mesh=mesh,
        )


def run_with_overrides(path: Path, arguments: Sequence[str]) -> None:
    """`gdsec run`, with the fields of the file as options."""
    from gdsec_jax.study import config as configs

    # Tyro reads the words; whether the values are right the config itself decides, in
    # the same sentences as for a file.
    loaded = _read(path)
    config, options = _unchecked(loaded), RunOptions()
    flat = tyro.conf.arg(name="")
    both = dataclasses.make_dataclass(
        "Both",
        [
            ("config", Annotated[type(config), flat]),
            ("options", Annotated[RunOptions, flat]),
        ],
    )
    about = f"Run the config {path}, with these fields overridden."
    parse = functools.partial(
        tyro.cli, both, description=about, default=both(config, options)
    )
    given = _arguments.read(parse, f"gdsec run {path}", arguments)
    _say_what_is_run(loaded)
    changes = dataclasses.asdict(given.config)
    checked = configs.validate(configs.merged(loaded.model_dump(), changes), "options")
    _run(checked, path.stem, given.options)


def _unchecked(value):
    """A config as a plain dataclass: the same fields, types and help, no validation."""
    from gdsec_jax.study.config._fields import Model

    if isinstance(value, dict):
        return {label: _unchecked(inner) for label, inner in value.items()}
    if not isinstance(value, Model):
        return value
    fields, values = [], {}
    for name in type(value).names():
        if name in _IN_FILES_ALONE:
            continue
        info = type(value).model_fields[name]
        given = getattr(value, name)
        values[name] = _unchecked(given)
        # Of a table its own type, of a dict of tables each one's: methods differ.
        kind = info.annotation if values[name] is given else type(values[name])
        help_text = tyro.conf.arg(help=" ".join((info.description or "").split()))
        fields.append((name, Annotated[kind, help_text]))
    return dataclasses.make_dataclass(type(value).__name__, fields)(**values)


def config_among(arguments: Sequence[str]) -> int | None:
    """Where the config's path, or name, stands in the arguments of run."""
    for position, argument in enumerate(arguments):
        if argument.endswith(".toml"):
            return position
    if arguments and not arguments[0].startswith("-"):
        return 0
    for before, position in zip(arguments, range(1, len(arguments)), strict=False):
        named = arguments[position] in shipped.paths()
        flag = before.removeprefix("--").removeprefix("no-") in _FLAGS
        if named and (flag or not before.startswith("-")):  # or it is an option's value
            return position
    return None
