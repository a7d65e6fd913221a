"""A league: methods, problems, and how many settings and seeds all are given."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from gdsec_jax.algorithms import METHODS
from gdsec_jax.simulation import _grid
from gdsec_jax.study import shipped
from gdsec_jax.study.config import _fields, _run
from gdsec_jax.study.config._method import FIXED, MethodConfig
from gdsec_jax.study.config._problem import ProblemConfig

# Numbers of a grid that are multiples of what theory says of a method on a problem.
RELATIVE = ("xi", "local_learning_rate", "probability")


class LeagueProblem(_fields.Model):
    """A problem of a league, and how far methods are to get on it."""

    problem: ProblemConfig
    """What is minimised; its seed is the league's."""
    num_rounds: _fields.Count = 400
    """K, of every setting."""
    eval_every: _fields.Count = 2
    """Rounds between two evaluations."""
    target: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Error to reach, relative to the initial one."""
    step: _fields.Positive | None = None
    """Of gradient descent, where the problem knows no L."""
    quick: bool = False
    """Whether it is one of the quick form's."""


class LeagueConfig(_fields.Model):
    """Every method on every problem, by one rule."""

    title: str = ""
    """Of the page."""
    choosing: _fields.Count = 1
    """Seeds, of data, splits and draws, by which settings are chosen."""
    reporting: _fields.Count = 3
    """Further seeds, of which the page tells."""
    value_bits: Annotated[int, Field(ge=1, le=64)] | None = None
    """Bits that a float counts, a convention; by default the dtype's."""
    default: _fields.Grid
    """Settings of a method that has no grid."""
    problems: dict[str, LeagueProblem]
    """By name."""
    methods: dict[str, pydantic.SerializeAsAny[MethodConfig]]
    """By label."""

    @pydantic.model_validator(mode="after")
    def _is_fair(self):
        number = _number(self.default)
        for label, method in self.methods.items():
            with _fields.of_method(label):
                grid = self.grid_of(label)
                _fields.check_grid(method, grid, MethodConfig.model_validate, FIXED)
                if _number(grid) != number:
                    raise ValueError(
                        f"the grid has {_number(grid)} settings, expected {number}, "
                        "as many as the league's default"
                    )
        for name in self.problems:
            _fields.check_names_a_file("the problem's name", name)
        for label in self.methods:
            _fields.check_names_a_file("the label", label)
        for name in ("problems", "methods"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, expected at least one")
        return self

    def grid_of(self, label: str) -> _fields.Grid:
        """The settings of a method: its own grid, or the default."""
        return self.methods[label].grid or self.default

    def one(self, label: str, name: str, seed: int) -> _run.RunConfig:
        """The run of a method on a problem, its grid still in multiples.

        Raises:
          ValueError: it does not run there, as far as the configs say.
        """
        given = self.problems[name]
        grid = self.grid_of(label)
        method = self.methods[label].model_copy(update={"grid": grid, "seed": seed})
        try:
            return _run.RunConfig(
                problem=given.problem.model_copy(update={"seed": seed}),
                num_rounds=given.num_rounds,
                eval_every=given.eval_every,
                target=given.target,
                value_bits=self.value_bits,
                methods={label: method},
            )
        except pydantic.ValidationError as error:
            raise ValueError(_fields.sentence(error)) from error


def _number(grid: _fields.Grid) -> int:
    """How many settings a grid has."""
    return len(list(_grid.settings_of(_fields.axes_of(grid))))


def load_league(own: Path | None = None) -> LeagueConfig:
    """The shipped league; a file of one's own adds to it, or says other numbers.

    Raises:
      ValueError: a field is wrong; it names the file and the field.
    """
    source = shipped.folder() / "league" / "league.toml"
    values = _read(source)
    if own is not None:
        if not own.is_file():
            raise FileNotFoundError(f"{own} is not a file, expected a TOML config.")
        values, source = _run.merged(values, _read(own)), own
    try:
        return LeagueConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(f"{source}: {_fields.sentence(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from error


def missing(league: LeagueConfig) -> list[str]:
    """The registered methods that a league has no row of."""
    there = {method.name for method in league.methods.values()}
    return [name for name in METHODS if name not in there]
