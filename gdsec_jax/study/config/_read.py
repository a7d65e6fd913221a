"""Configs from files, and back."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import tomlkit

from gdsec_jax.files import _whole
from gdsec_jax.study.config._run import RunConfig
from gdsec_jax.study.config._sentences import sentence

_MOST_BYTES = 2**20  # read whole, so that a file of samples is not


def load(path: str | os.PathLike) -> RunConfig:
    """Read and validate a TOML file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no TOML, or a field is unknown, missing or out of range; the
        message names the file and the field.

    Examples:
      >>> import pathlib, tempfile
      >>> from gdsec_jax.study import config
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "run.toml"
      ...     _ = path.write_text("num_rounds = 10\\n")
      ...     config.load(path).num_rounds
      10
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file, expected a TOML config.")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(
            f"{path} has more than {_MOST_BYTES:,} bytes, expected a TOML config."
        )
    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise ValueError(f"{path} is not valid TOML: {error}.") from error
    return validate(values, str(path))


def validate(values: Mapping[str, Any], source: str) -> RunConfig:
    """The config of these values; `source` is where they come from.

    Raises:
      ValueError: in one sentence that names the source, the field and its value.
    """
    try:
        return RunConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(f"{source}: {sentence(error)}") from error


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config with others in their stead; an empty table empties one."""
    result = dict(values)
    for name, change in changes.items():
        inner = result.get(name)
        if isinstance(inner, Mapping) and isinstance(change, Mapping) and change:
            change = merged(inner, change)
        result[name] = change
    return result


def write_chosen(
    source: str | os.PathLike, tuned: RunConfig, path: str | os.PathLike
) -> None:
    """The TOML file of a config with the fields that were chosen, comments and all.

    Args:
      source: the file that the config was loaded from.
      tuned: the same config with other fields of its methods.
      path: to write to, whole or not at all; it may be the source.
    """
    document = tomlkit.parse(Path(source).read_text("utf-8"))
    before = load(source)
    tables: Any = document.get("methods", {})  # without, GD alone: nothing to choose
    for label, method in tuned.methods.items() if tables else ():
        table = tables[label]
        old = dict(before.methods[label])
        for name, value in method:
            if name not in old or value != old[name] or name == "chosen":
                table[name] = value
    with _whole.whole(path) as temporary:
        temporary.write_text(tomlkit.dumps(document), "utf-8")
