"""An experiment: a problem and methods on it, from files and back."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomlkit
from pydantic import Field

from gdsec_jax.files import _whole
from gdsec_jax.study.config._fields import (
    Count,
    Model,
    NonNegative,
    Positive,
    of_method,
    sentence,
)
from gdsec_jax.study.config._grid import Grid, check_grid, joined
from gdsec_jax.study.config._method import FIXED, MethodConfig, model_of
from gdsec_jax.study.config._problem import ProblemConfig
from gdsec_jax.study.config._uplink import ChannelConfig
from gdsec_jax.wire._formats import CONVENTIONS, FORMATS

_MOST_BYTES = 2**20  # read whole, so that a file of samples is not


class RunConfig(Model):
    """One experiment: a problem, and the methods that are compared on it."""

    title: str = ""
    """Of the figure."""
    problem: ProblemConfig = ProblemConfig()
    num_rounds: Count = 1000
    """K."""
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    """What takes the step, momentum 0.9."""
    eval_every: Count = 1
    """Rounds between two evaluations."""
    target: Positive = 1e-4
    """Error to reach, relative to the initial one, for the table."""
    wire: Literal[*FORMATS, *CONVENTIONS] = "rle"  # pyright: ignore
    """Bit format of the uploads."""
    all_formats: bool = False
    """Whether to count, and print, all other formats too."""
    channel: ChannelConfig | None = None
    """What the uploads of all methods meet."""
    slack: NonNegative = 0.1
    """For gdsec tune: by what share a setting may take more rounds to the target than
    the baseline."""
    grid: Grid = Field(default={})
    """For gdsec sweep and tune: of every method."""
    letter: str = ""
    """Of a figure: they stand on the page in this order."""
    text: str = ""
    """What a figure shows, in sentences."""
    by_name: bool = False
    """Of a figure that is made only if it is named."""
    real: dict[str, Any] = Field(default={})
    """Fields that gdsec figures --data real overrides."""
    value_bits: Annotated[int, Field(ge=1, le=64)] | None = None
    """Bits that a float counts, a convention; by default the dtype's."""
    methods: dict[str, pydantic.SerializeAsAny[MethodConfig]] = Field(
        default={"GD": model_of("gd")(name="gd")}
    )
    """By label."""

    @pydantic.model_validator(mode="after")
    def _has_methods(self):
        if not self.methods:
            raise ValueError("methods is empty, expected at least one")
        options = {label.replace("_", "-").lower() for label in self.methods}
        if len(options) < len(self.methods):
            raise ValueError(
                f"the labels {', '.join(self.methods)} must differ by more than case "
                "and _ or -"
            )
        for label in self.methods:  # it names a file and an option
            if not re.fullmatch(r"[^\W_][\w .+-]*", label):
                raise ValueError(
                    f"the label {label!r} may hold letters, digits, blanks and _.+-"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _has_a_grid_for_all_methods(self):
        for label, method in self.methods.items() if self.grid else ():
            grid = joined(self.grid, method.grid)
            with of_method(label):
                check_grid(method, grid, MethodConfig.model_validate, FIXED)
        return self

    def wire_name(self) -> str:
        """The bit format in words, for figures and tables."""
        bits = self.value_bits or {"float32": 32, "float64": 64}[self.problem.dtype]
        return f"{self.wire}, {bits}-bit values"

    def baseline(self) -> str:
        """The label that percentages refer to: plain GD, or else the first method."""
        around = ("local_steps", "broadcast_k", "participation", "budget_bits")
        around += ("aggregation", "max_norm_ratio", "channel")
        plain = [
            label
            for label, method in self.methods.items()
            if method.name == "gd"
            and all(getattr(method, name) is None for name in around)
        ]
        return next(iter(plain or self.methods))


def load(path: str | os.PathLike) -> RunConfig:
    """Read and validate a TOML file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no TOML, or a field is unknown, missing or out of range; the
        message names the file and the field.
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
    """The config of these values; what is wrong names `source`, their place."""
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
    """The file of a config, comments and all, with the fields that were chosen.

    `path` may be that of the source; it is written whole or not at all.
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
