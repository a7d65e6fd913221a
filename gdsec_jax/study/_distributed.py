"""Several processes, on one machine or many, that run one program together."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import rich.console


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> jax.sharding.Mesh:
    """Meet the other processes; before anything else is asked of jax.

    Args:
      coordinator: HOST:PORT of the first process. Without it, and the others, SLURM,
        Open MPI, a TPU pod or the like says who meets where.
      num_processes: how many there are.
      process_id: of this one, 0 for the first.

    Returns:
      The mesh of all devices of all processes.
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
        raise ValueError(
            f"the processes do not meet: {_first_line(error)} "
            "Expected SLURM, Open MPI or a TPU pod, or an explicit coordinator, "
            "num_processes and process_id."
        ) from error
    return jax.sharding.Mesh(jax.devices(), ("workers",))


@contextlib.contextmanager
def one_writes(
    results: Path, console: rich.console.Console
) -> Iterator[tuple[Path, rich.console.Console]]:
    """The folder and console of the first process; others write what nobody keeps."""
    if jax.process_index() == 0:
        yield results, console
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), rich.console.Console(quiet=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else f"{type(error).__name__}."
