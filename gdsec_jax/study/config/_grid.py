"""The values of fields that a sweep tries."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from gdsec_jax.study.config._fields import Model, sentence

MOST_VALUES = 10_000  # of an axis; each is checked by itself


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
    for key, rows in _rows(grid).items():
        names = names_of(key)
        axes[names[0] if len(names) == 1 else names] = rows
    return axes


def _rows(grid: Grid) -> dict[str, list[Any]]:
    """A grid with lists of values alone."""
    return {
        key: values.values() if isinstance(values, Range) else list(values)
        for key, values in grid.items()
    }


def joined(common: Grid, own: Grid) -> Grid:
    """A method's own grid, and before it what the common one has of other fields."""
    taken = {name for key in own for name in names_of(key)}
    return {k: v for k, v in common.items() if not taken & set(names_of(k))} | own


def check_grid(
    model: pydantic.BaseModel,
    grid: Grid,
    validate: Callable[[dict[str, Any]], pydantic.BaseModel],
    fixed: Collection[str],
) -> None:
    """That every value of a grid is one that its field takes.

    Args:
      model: with the fields that are given beside it.
      grid: to be checked.
      validate: from fields to such a model.
      fixed: names of fields that a grid cannot vary.
    """
    given = [name for key in grid for name in names_of(key)]
    for name in given:
        if not name or name in fixed:
            raise ValueError(f"the grid has {name!r}, which is no field to vary")
        if given.count(name) > 1:
            raise ValueError(f"the grid has {name!r} twice, expected it once")
    own = model.model_dump(exclude_unset=True, exclude={"grid"})
    changes = [_changes(names_of(key), rows) for key, rows in _rows(grid).items()]
    first = {}  # one axis may need a value of another
    for change, *_ in changes:
        first |= change
    for change in itertools.chain(*changes):
        try:
            checked = validate(own | first | change)
        except pydantic.ValidationError as error:
            values = ", ".join(f"{n} = {v!r}" for n, v in (first | change).items())
            fault = sentence(error).removesuffix(".")
            raise ValueError(f"with {values} of the grid, {fault}") from error
        for name, value in change.items():
            as_field = getattr(checked, name)
            # They label the result: a word must not stand for a number there.
            if type(value) is not type(as_field) and isinstance(value, str | bool):
                raise ValueError(
                    f"the grid has {value!r} for {name}, expected a value such as "
                    f"{as_field!r}"
                )


def _changes(names: tuple[str, ...], rows: Sequence[Any]) -> list[dict[str, Any]]:
    """What each row of an axis changes, by field."""
    named = ", ".join(names)
    if not rows:
        raise ValueError(f"the grid has no values of {named}")
    if len(rows) > MOST_VALUES:
        raise ValueError(
            f"the grid has {len(rows)} values of {named}, expected at most "
            f"{MOST_VALUES}"
        )
    changes = []
    for row in rows:
        row = (row,) if len(names) == 1 else row
        if not isinstance(row, list | tuple) or len(row) != len(names):
            raise ValueError(
                f"the grid has {row!r} for {named}, expected a list of {len(names)} "
                "values"
            )
        changes.append(dict(zip(names, row, strict=True)))
    return changes
