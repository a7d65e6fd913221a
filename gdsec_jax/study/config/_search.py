"""What a search for each method's best setting is given."""

from typing import Annotated

from pydantic import Field

from gdsec_jax.study.config import _fields

# Of a field: where its search begins, or the label of the method whose choice it takes.
Starts = dict[
    str,
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)] | str,
]
STEPS = ("step_factor", "learning_rate")  # whose ladders double


class SearchConfig(_fields.Model):
    """How gdsec tune looks for each method's best setting, the same for all."""

    settings: _fields.Count = 32
    """Settings of each method; more only while its best lies at the edge of them."""
    batch: _fields.Count = 8
    """Settings that are run side by side, before the search looks again."""
    seeds: Annotated[int, Field(ge=0, le=2**16, multiple_of=2, strict=True)] = 0
    """Of methods that draw: the first half of so many chooses, the other reports."""
    start: Starts = Field(default={"step_factor": 1.0})
    """Of all methods: fields, and where their search begins."""
    most: dict[str, int | float] = Field(default={})
    """Fields, and bounds of theirs beyond which no setting is tried."""

    def halves(self) -> tuple[list[int], list[int]]:
        """The seeds that choose, and those that report."""
        half = self.seeds // 2
        return list(range(half)), list(range(half, self.seeds))
