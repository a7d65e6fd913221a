"""The values of fields that a sweep tries."""

import math
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

Count = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]

MOST_VALUES = 10_000  # of an axis; each is checked by itself


class Model(pydantic.BaseModel):
    """Fields that do not change, and no others."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Range(Model):
    """Values of a grid at equal distances, or at equal ratios."""

    start: Annotated[float, Field(allow_inf_nan=False)]
    stop: Annotated[float, Field(allow_inf_nan=False)]
    num: Annotated[int, Field(ge=1, le=MOST_VALUES, strict=True)]
    scale: Literal["log", "linear"] = "log"

    @pydantic.model_validator(mode="after")
    def _has_a_logarithm(self):
        if self.scale == "log" and not (self.start > 0 and self.stop > 0):
            raise ValueError(
                f"start is {self.start} and stop {self.stop}, expected numbers above 0 "
                "for the scale log"
            )
        if not math.isfinite(self.stop - self.start):
            raise ValueError(
                f"start is {self.start} and stop {self.stop}, expected a distance that "
                "is a finite number"
            )
        if self.num == 1 and self.start != self.stop:
            raise ValueError("num is 1, expected at least 2 for both ends")
        return self

    def values(self) -> list[float]:
        """The numbers, both ends among them as they are given."""
        space = np.geomspace if self.scale == "log" else np.linspace
        # To 12 digits: 0.1 rather than 0.10000000000000002.
        values = [float(f"{x:.12g}") for x in space(self.start, self.stop, self.num)]
        values[0], values[-1] = self.start, self.stop
        return values


# Values by field; several fields that change together are joined by commas.
Grid = dict[str, Range | tuple[Any, ...]]


def names_of(key: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in key.split(","))


def values_of(grid: Grid) -> dict[str | tuple[str, ...], list[Any]]:
    """A grid's values by name, as `sweep` takes them."""
    axes = {}
    for key, values in grid.items():
        names = names_of(key)
        values = values.values() if isinstance(values, Range) else list(values)
        axes[names[0] if len(names) == 1 else names] = values
    return axes


def joined(common: Grid, own: Grid) -> Grid:
    """A method's own grid, and before it what the common one has of other fields."""
    taken = {name for key in own for name in names_of(key)}
    return {k: v for k, v in common.items() if not taken & set(names_of(k))} | own
