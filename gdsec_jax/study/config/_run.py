"""The fields of an experiment: a problem, and methods on it."""

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gdsec_jax.study.config._fields import Count, Model, NonNegative, Positive
from gdsec_jax.study.config._grid import Grid, check_grid, joined
from gdsec_jax.study.config._method import FIXED, MethodConfig, model_of
from gdsec_jax.study.config._problem import ProblemConfig
from gdsec_jax.study.config._sentences import of_method
from gdsec_jax.study.config._uplink import ChannelConfig
from gdsec_jax.wire._formats import CONVENTIONS, FORMATS


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
