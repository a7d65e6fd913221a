"""What the fields of a config may be, grids of their values, and what is wrong."""

import contextlib
import inspect
import itertools
import math
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pydantic
from pydantic import Field

from gdsec_jax import _checks
from gdsec_jax.simulation import _grid
from gdsec_jax.study._tools import Reading

MOST_VALUES = 10_000  # of an axis of a grid; each is checked by itself
Count = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Delay = Annotated[int, Field(ge=1, le=1000, strict=True)]


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{value}, expected a number")
    return value


_NO_FLAG = pydantic.BeforeValidator(_no_flag)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _NO_FLAG]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _NO_FLAG]
Unit = Annotated[float, Field(ge=0, le=1), _NO_FLAG]
Fraction = Annotated[float, Field(gt=0, le=1), _NO_FLAG]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1), _NO_FLAG]
ADAPTIVE = "adaptive"  # in place of a number for xi


def _number(k: int | float) -> int | float:
    if k < 1 if isinstance(k, int) else not 0 < k <= 1:
        raise ValueError(f"{k}, expected an integer of at least 1 or a float in (0, 1]")
    return k


Number = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
    pydantic.AfterValidator(_number),
]


def _xi(value: Any) -> Any:
    if isinstance(value, str) and value != ADAPTIVE:
        try:
            float(value)
        except ValueError:
            message = f"{value!r}, expected a number or {ADAPTIVE!r}"
            raise ValueError(message) from None
    return value


Xi = Annotated[NonNegative | Literal["adaptive"], pydantic.BeforeValidator(_xi)]


class Model(pydantic.BaseModel):
    """Fields that do not change, and no others."""

    stranger: ClassVar[str] = "{name} is an unknown field"  # said of any other
    model_config = pydantic.ConfigDict(
        frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _has_no_other_fields(cls, values):
        fields = cls.model_fields
        for name in values if isinstance(values, Mapping) else ():
            if name not in fields:
                known = cls.names()
                said = cls.stranger.format(name=name, model=cls.__name__)
                said += f"{_checks.expected(name, known)} one of"
                raise ValueError(f"{said} {', '.join(known)}")
        return values

    @classmethod
    def names(cls) -> list[str]:
        """Its fields, a class's own before those that it inherits."""
        own = [vars(model).get("__annotations__", {}) for model in cls.__mro__]
        return [name for names in own for name in names if name in cls.model_fields]


class Parameter(NamedTuple):
    """What a parameter may be in a config, whichever method takes it."""

    kind: Any  # a type, as pydantic understands it
    description: str
    traced: bool = False  # a sweep runs its values side by side; others are compiled


# A name means the same to all methods. A parameter of another name needs no entry: its
# type is that of the function's signature, its description the docstring's.
PARAMETERS = {
    "xi": Parameter(NonNegative, "Threshold, in the units of L.", True),
    "budget": Parameter(
        Fraction, "Of an adaptive xi: the share of entries to send on average.", True
    ),
    "coordinate_xi": Parameter(bool, "Whether entry i's threshold is xi / L^i."),
    "floor": Parameter(
        NonNegative,
        "Of a threshold: standard deviations of the noise that it is at least.",
        True,
    ),
    "noise_multiplier": Parameter(
        NonNegative,
        "sigma of the noise that makes every gradient private, of a problem with a "
        "clip.",
        True,
    ),
    "beta": Parameter(Unit, "Of the memory of the gradient, in [0, 1].", True),
    "k": Parameter(
        Number, "Entries that are sent: how many, or a fraction of D as a float."
    ),
    "scope": Parameter(
        Literal["message", "leaf"], "Whether k or a scale is of the message or a leaf."
    ),
    "levels": Parameter(Count, "s of the quantiser."),
    "bits": Parameter(
        Annotated[int, Field(ge=1, le=30, strict=True)], "b of the quantiser."
    ),
    "steps": Parameter(Count, "Of each worker, in a round."),
    "local_learning_rate": Parameter(
        Positive, "Of these steps; by default that of theory.", True
    ),
    "inner": Parameter(
        Literal["adamw", "sgd", "muon"], "Optimizer of each worker; by default adamw."
    ),
    "outer_learning_rate": Parameter(Positive, "alpha of the server.", True),
    "outer_momentum": Parameter(Unit, "beta of the server.", True),
    "merging": Parameter(
        Unit, "What workers keep of their own when common parameters come.", True
    ),
    "rank": Parameter(Count, "r of the factors."),
    "zeta": Parameter(NonNegative, "Of the trigger.", True),
    "eta": Parameter(Unit, "Of the momentum, or of what is left unsent.", True),
    "probability": Parameter(Fraction, "Of a full round, or of a meeting.", True),
    "strong_convexity": Parameter(Positive, "mu; by default the problem's.", True),
    "owners": Parameter(Count, "Workers that send an entry."),
    "cohort": Parameter(Count, "Workers that take part in a round; by default all."),
    "nu": Parameter(Unit, "Of the messages, when they are added up.", True),
    "momentum": Parameter(Fraction, "Of the memory, towards the gradient.", True),
    "decay": Parameter(Unit, "Of what is left unsent: how much is kept.", True),
    "eps": Parameter(
        Positive, "Added to the root of Adam's second moment; or that of theory.", True
    ),
    "second_k": Parameter(Number, "k of the second compressor."),
    "compressor": Parameter(
        Literal["random_k", "qsgd", "natural", "terngrad", "whole"],
        "With its own k, levels and scope.",
    ),
    "max_delay": Parameter(Delay, "Rounds that are waited for late messages."),
    "acknowledged": Parameter(
        bool, "Whether memories wait until late messages have arrived."
    ),
    "max_norm_ratio": Parameter(
        Annotated[float, Field(ge=1)],
        "Of a gradient's norm to the running median, beyond which its worker is left "
        "out.",
        True,
    ),
    "server": Parameter(
        Literal["total", "running"],
        "What it adds up: what it knows of each worker and the messages, or the "
        "messages alone, to a memory of its own.",
    ),
    "capacity": Parameter(
        Count, "Entries of a message at most, the largest; devices exchange so many."
    ),
    "aggregation": Parameter(
        Literal["median", "trimmed_mean"], "A robust rule in the place of the sum."
    ),
    "trim": Parameter(
        Annotated[float, Field(ge=0, lt=0.5)],
        "Share that trimmed_mean leaves out on each side; by default 0.1.",
    ),
}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlist = _short.maxdict = 20


def sentence(error: pydantic.ValidationError) -> str:
    """The first fault of a config in one sentence: the field, its value, what to do."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if not _of_a_union(part))
    message = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    message = message.removeprefix("Input should be ")
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "value_error":  # a sentence already, or from the value on
        between = " is" if re.match(r"[-'\d]|True|False", message) else ":"
        return f"{where}{between} {message}." if where else f"{message}."
    if fault["type"].startswith("model") and _is_range(fault["loc"][-1]):
        message = "a list of values, or a table of start, stop, num and scale"
    elif fault["type"] == "unexpected_keyword_argument":
        known = inspect.signature(Reading).parameters  # of the one dataclass
        said = f"{_checks.expected(fault['loc'][-1], known)} one of {', '.join(known)}"
        return f"{where} is an unknown field{said}."
    elif fault["type"].startswith(("model", "dict", "dataclass")):
        message = "a table of fields"
    words = re.findall(r"'([^']*)'", message if "literal" in fault["type"] else "")
    between = _checks.expected(fault["input"], words)
    try:
        shown = _short.repr(fault["input"])  # the ends of what would be pages
    except ValueError:  # Python prints no integer of thousands of digits
        shown = "an integer of thousands of digits"
    return f"{where} is {shown}{between} {message}."


@contextlib.contextmanager
def of_method(label: str) -> Iterator[None]:
    """What is wrong within is said of the method of this label."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"methods.{label}: {error}") from error


def check_names_a_file(what: str, name: str) -> None:
    """A ValueError if a name is none of a file, in the folder that it is for."""
    if not re.fullmatch(r"[^\W_][\w .+-]*", name):
        raise ValueError(f"{what} {name!r} may hold letters, digits, blanks and _.+-")


def _of_a_union(part: str | int) -> bool:
    """Whether a part of a location is no field, but one of the types it may have."""
    typed = str(part).startswith(("tuple[", "function-before["))
    plain = part in ("int", "float", "bool", "constrained-float")
    return typed or plain or _is_range(part)


def _is_range(part: str | int) -> bool:
    """Whether a part of a location is the type `Range`."""
    return str(part).endswith("Range]")  # no label has a bracket


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
    """The fields of a grid's key."""
    return tuple(name.strip() for name in key.split(","))


def values_of(grid: Grid) -> dict[str | tuple[str, ...], list[Any]]:
    """A grid's values by name, as `sweep` takes them."""
    axes = {}
    for key, values in grid.items():
        names = names_of(key)
        rows = values.values() if isinstance(values, Range) else list(values)
        axes[names[0] if len(names) == 1 else names] = rows
    return axes


def axes_of(grid: Grid) -> tuple[_grid.Axis, ...]:
    """A grid's axes, once `sweep`'s own checks are passed; none of an empty grid."""
    return _grid.axes_of(values_of(grid)) if grid else ()


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
    """That every value of a model's grid is one that `validate` takes for its field.

    Fields whose names are in `fixed` a grid cannot vary.
    """
    given = [name for key in grid for name in names_of(key)]
    for name in given:
        if not name or name in fixed:
            raise ValueError(f"the grid has {name!r}, which is no field to vary")
        if given.count(name) > 1:
            raise ValueError(f"the grid has {name!r} twice, expected it once")
    own = model.model_dump(exclude_unset=True, exclude={"grid", "search"})
    changes = []  # of each axis's rows, by field
    for axis in axes_of(grid):
        if len(axis.rows) > MOST_VALUES:
            raise ValueError(
                f"the grid has {len(axis.rows)} values of {', '.join(axis.names)}, "
                f"expected at most {MOST_VALUES}"
            )
        changes.append([dict(zip(axis.names, row, strict=True)) for row in axis.rows])
    first = {}  # one axis may need a value of another
    for change, *_ in changes:
        first |= change
    for change in itertools.chain(*changes):
        try:
            checked = validate(own | first | change)
        except ValueError as error:
            values = ", ".join(f"{n} = {v!r}" for n, v in (first | change).items())
            invalid = isinstance(error, pydantic.ValidationError)
            fault = sentence(error).removesuffix(".") if invalid else error
            raise ValueError(f"with {values} of the grid, {fault}") from error
        for name, value in change.items():
            as_field = getattr(checked, name)
            # They label the result: a word must not stand for a number there.
            if type(value) is not type(as_field) and isinstance(value, str | bool):
                raise ValueError(
                    f"the grid has {value!r} for {name}, expected a value such as "
                    f"{as_field!r}"
                )
