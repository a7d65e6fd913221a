"""The fields of a config, and what they may be."""

import inspect
import itertools
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gdsec_jax import data, robust, worker
from gdsec_jax.algorithms import METHODS
from gdsec_jax.federation._adaptive import adaptive_xi
from gdsec_jax.study.config._grid import (
    MOST_VALUES,
    Count,
    Grid,
    Model,
    Range,
    joined,
    names_of,
    values_of,
)
from gdsec_jax.study.config._link import ChannelConfig, RuleName
from gdsec_jax.study.config._sentences import is_range, sentence


def _number(k: int | float) -> int | float:
    if k < 1 if isinstance(k, int) else not 0 < k <= 1:
        raise ValueError(f"{k}, expected an integer of at least 1 or a float in (0, 1]")
    return k


Number = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
    pydantic.AfterValidator(_number),
]
Algorithm = Literal[tuple(METHODS)]  # pyright: ignore
Kind = Literal[
    "ridge", "logistic", "softmax", "lasso", "nonlinear_least_squares", "network"
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ADAPTIVE = "adaptive"  # in place of a number for xi
GENERATORS = {
    "heterogeneous": data.heterogeneous,
    "sparse_binary": data.sparse_binary,
    "characters": data.characters,
}


def _xi(value: Any) -> Any:
    if isinstance(value, str) and value != ADAPTIVE and not _is_number(value):
        raise ValueError(f"{value!r}, expected a number or {ADAPTIVE!r}")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Xi = Annotated[NonNegative | Literal["adaptive"], pydantic.BeforeValidator(_xi)]
# What a sweep runs side by side; other fields compile a loop for each value.
TRACED = (
    *("learning_rate", "xi", "budget", "beta", "zeta", "eta", "probability"),
    *("seed", "participation", "budget_bits", "max_norm_ratio"),
)
# What a grid cannot vary.
_FIXED = ("grid", "chosen", "channel", "absent", "participation_rule")
# Fields that are no arguments of the algorithm, but of what stands around it.
_AROUND = (
    *("name", "learning_rate", "step_factor", "coordinate_xi", "local_steps"),
    *("broadcast_k", "participation", "participation_rule", "budget_bits", "absent"),
    *("channel", "trim", "grid", "chosen", "budget"),
)


class ProblemConfig(Model):
    """What is minimised, and how the samples are split over the workers."""

    kind: Kind = Field(default="ridge", description="The loss.")
    model: Literal["multinomial", "mlp", "lenet", "resnet", "transformer"] | None = (
        Field(default=None, description="Of a network.")
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Share of a network's samples that its error is that of.",
    )
    data: str = Field(
        default="digits",
        description="A named data set, a path to an npz, CSV or LIBSVM file, or a "
        f"generator: {', '.join(GENERATORS)}.",
    )
    options: dict[str, int | float] = Field(
        default={}, description="Arguments of a generator, by name."
    )
    subset: Literal["train", "test"] = Field(
        default="train", description="Which part of a named data set."
    )
    num_workers: Count = Field(default=5, description="M.")
    split: Literal["shuffled", "contiguous", "sorted", "dirichlet"] = Field(
        default="shuffled", description="How samples are split over workers."
    )
    concentration: Positive = Field(default=0.5, description="Of the Dirichlet split.")
    sizes: tuple[Count, ...] | None = Field(
        default=None, description="Samples of each worker, for uneven splits."
    )
    seed: Seed = Field(default=0, description="Of the split and of the minibatches.")
    regularization: NonNegative | None = Field(
        default=None, description="lambda; by default 1/N."
    )
    batch_size: Count | None = Field(
        default=None, description="Samples a worker and round; by default all."
    )
    proximal: bool = Field(default=False, description="Lasso only: proximal steps.")
    dtype: Literal["float32", "float64"] = Field(
        default="float64", description="Of all arrays; float32 of a network."
    )
    grid: Grid = Field(
        default={}, description="For gdsec sweep: values of these fields to try."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _networks_are_float32(cls, values):
        network = isinstance(values, dict) and values.get("kind") == "network"
        return {"dtype": "float32"} | values if network else values

    @pydantic.model_validator(mode="after")
    def _fits_the_kind(self):
        network = self.kind == "network"
        if network != (self.model is not None):
            raise ValueError("a model goes with the kind network, and with it alone")
        if network and self.regularization is not None:
            raise ValueError("a network has no regularization")
        if network and self.dtype != "float32":
            raise ValueError("a network has the dtype float32")
        if self.held_out is not None and not network:
            raise ValueError("held_out is for the kind network alone")
        return self

    @pydantic.model_validator(mode="after")
    def _fits_the_generator(self):
        generator = GENERATORS.get(self.data)
        accepted = inspect.signature(generator).parameters if generator else {}
        for name in self.options:
            # Not options.
            fields = ("num_workers", "problem", "regularization", "text")
            if name not in accepted or name in fields:
                raise ValueError(f"the data {self.data} have no option {name}")
        for name, parameter in accepted.items():
            required = parameter.default is inspect.Parameter.empty
            if required and name not in self.options:
                raise ValueError(f"the data {self.data} need the option {name}")
        return self

    @pydantic.model_validator(mode="after")
    def _has_the_fields_of_its_grid(self):
        _check_grid(self)
        return self


class MethodConfig(Model):
    """An algorithm and its parameters; the key of its table is its label."""

    name: Algorithm = Field(  # pyright: ignore
        description="The algorithm: gdsec methods lists them."
    )
    learning_rate: Positive | None = Field(
        default=None, description="alpha; by default what theory recommends, or 1/L."
    )
    xi: Xi | None = Field(
        default=None,
        description='Threshold, in the units of L; or "adaptive", chosen as it runs.',
    )
    budget: Fraction | None = Field(
        default=None,
        description="Of an adaptive xi: the share of entries to send on average.",
    )
    beta: Unit | None = Field(
        default=None, description="Of the memory of the gradient, in [0, 1]."
    )
    k: Number | None = Field(
        default=None,
        description="Entries that are sent: how many, or a fraction of D as a float.",
    )
    scope: Literal["message", "leaf"] | None = Field(
        default=None, description="Whether k or a scale is of the message or a leaf."
    )
    error_feedback: bool | None = Field(
        default=None, description="rand_k only: keep an error memory."
    )
    levels: Count | None = Field(default=None, description="s of the quantiser.")
    bits: Annotated[int, Field(ge=1, le=30, strict=True)] | None = Field(
        default=None, description="b of LAQ's quantiser."
    )
    rank: Count | None = Field(default=None, description="r of the factors.")
    zeta: NonNegative | None = Field(default=None, description="Of the trigger.")
    eta: Unit | None = Field(default=None, description="Of the momentum.")
    probability: Fraction | None = Field(
        default=None, description="MARINA: of a full round."
    )
    compressor: Literal["random_k", "qsgd", "natural", "terngrad", "whole"] | None = (
        Field(default=None, description="DIANA, MARINA: with k, levels and scope.")
    )
    seed: Seed | None = Field(
        default=None,
        description="Of what the run draws: algorithm, minibatches, workers.",
    )
    step_factor: Positive = Field(
        default=1.0, description="Of the learning rate, that of theory in particular."
    )
    coordinate_xi: bool = Field(
        default=False, description="Whether entry i's threshold is xi / L^i."
    )
    local_steps: Count | None = Field(
        default=None, description="Gradient steps of a worker in a round, as FedAvg."
    )
    broadcast_k: Number | None = Field(
        default=None, description="The server sends so many entries, by top-k with EF."
    )
    participation: Fraction | None = Field(
        default=None, description="Share of the workers that take part in a round."
    )
    participation_rule: RuleName | None = Field(
        default=None, description="Which ones; by default they are drawn uniformly."
    )
    budget_bits: NonNegative | None = Field(
        default=None,
        description="Of a round: the largest unsent energy goes first, up to so many.",
    )
    absent: Literal["hold", "accumulate"] | None = Field(
        default=None, description="What absent workers do; by default they hold."
    )
    channel: ChannelConfig | None = Field(
        default=None, description="Of this method, in the place of that of all."
    )
    max_delay: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = Field(
        default=None, description="Rounds that are waited for late messages."
    )
    max_norm_ratio: Annotated[float, Field(ge=1)] | None = Field(
        default=None,
        description="Of a gradient's norm to the running median, beyond which its "
        "worker is left out.",
    )
    aggregation: Literal["median", "trimmed_mean"] | None = Field(
        default=None, description="A robust rule in the place of the sum."
    )
    trim: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        default=None, description="Share that trimmed_mean leaves out on each side."
    )
    grid: Grid = Field(
        default={}, description="For gdsec sweep and tune: values of fields to try."
    )
    chosen: str = Field(default="", description="How the parameters were chosen.")

    @pydantic.model_validator(mode="after")
    def _has_the_fields_of_its_grid(self):
        _check_grid(self)
        return self

    @pydantic.model_validator(mode="after")
    def _fits_the_algorithm(self):
        if self.grid:  # with its values, which may be needed, it was checked
            return self
        accepted = inspect.signature(METHODS[self.name].factory).parameters
        given = self._given()
        for name in given:
            if name not in accepted:
                raise ValueError(f"{self.name} has no parameter {name}")
        if self.participation_rule is not None and self.participation is None:
            raise ValueError("participation_rule needs the share participation")
        if self.absent and self.participation is None and self.budget_bits is None:
            raise ValueError("absent needs a participation or a budget_bits")
        if self.trim is not None and self.aggregation != "trimmed_mean":
            raise ValueError("trim is for the aggregation trimmed_mean alone")
        if self.coordinate_xi and self.xi is None:
            raise ValueError("coordinate_xi needs the parameter xi")
        if self.coordinate_xi and self.xi == ADAPTIVE:
            raise ValueError("coordinate_xi needs a number for xi, got 'adaptive'")
        if self.xi == ADAPTIVE and "beta" not in accepted:
            raise ValueError(f"{self.name} needs a number for xi, got 'adaptive'")
        if self.budget is not None and self.xi != ADAPTIVE:
            raise ValueError("budget is for xi = 'adaptive' alone")
        for name, parameter in accepted.items():
            required = parameter.default is inspect.Parameter.empty
            from_theory = name in ("num_workers", "learning_rate")
            if required and not from_theory and name not in given:
                raise ValueError(f"{self.name} needs the parameter {name}")
        self.parameters()  # builds the compressor, which checks its own
        return self

    def _given(self) -> dict[str, Any]:
        """The fields that are given, by the algorithm's names, without the step."""
        given = {
            name: value
            for name in type(self).model_fields
            if name not in _AROUND and (value := getattr(self, name)) is not None
        }
        seed = given.pop("seed", None)  # what else the run draws has it as well
        accepted = inspect.signature(METHODS[self.name].factory).parameters
        if seed is not None and "key" in accepted:
            given["key"] = seed
        if self.aggregation is not None:
            given["aggregation"] = (
                robust.median
                if self.aggregation == "median"
                else robust.trimmed_mean(0.1 if self.trim is None else self.trim)
            )
        if "compressor" in given:  # what is its own is not the algorithm's
            own = inspect.signature(getattr(worker, given["compressor"])).parameters
            given = {name: given[name] for name in given if name not in own}
        return given

    def parameters(self) -> dict[str, Any]:
        """The algorithm's own arguments among the fields, those that are given.

        Raises:
          ValueError: the compressor's arguments do not fit it.
        """
        given = self._given()
        if isinstance(self.xi, str):
            given["xi"] = adaptive_xi(budget=self.budget)
        if self.compressor is None:
            return given
        factory = getattr(worker, self.compressor)
        own = inspect.signature(factory).parameters
        fields = {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }
        missing = [
            name
            for name, parameter in own.items()
            if parameter.default is inspect.Parameter.empty and name not in fields
        ]
        if missing:
            raise ValueError(f"{self.compressor} needs the parameter {missing[0]}")
        arguments = {name: fields[name] for name in own if name in fields}
        return given | {"compressor": factory(**arguments)}


def _check_grid(model: "ProblemConfig | MethodConfig") -> None:
    """Every name of a grid is a field, and every value one that it takes."""
    given = [name for key in model.grid for name in names_of(key)]
    for name in given:
        if name not in type(model).model_fields or name in _FIXED:
            raise ValueError(f"the grid has {name!r}, which is no field to vary")
        if given.count(name) > 1:
            raise ValueError(f"the grid has {name!r} twice, expected it once")
    axes = [
        ((names,) if isinstance(names, str) else names, values)
        for names, values in values_of(model.grid).items()
    ]
    own = model.model_dump(exclude_unset=True, exclude={"grid"})
    for names, values in axes:
        if not values:
            raise ValueError(f"the grid has no values of {', '.join(names)}")
        if len(values) > MOST_VALUES:
            raise ValueError(
                f"the grid has {len(values)} values of {', '.join(names)}, expected at "
                f"most {MOST_VALUES}"
            )
        for row in values:
            row = (row,) if len(names) == 1 else row
            if not isinstance(row, list | tuple) or len(row) != len(names):
                raise ValueError(
                    f"the grid has {row!r} for {', '.join(names)}, expected a list of "
                    f"{len(names)} values"
                )
    changes = [
        [
            dict(zip(names, row if len(names) > 1 else (row,), strict=True))
            for row in rows
        ]
        for names, rows in axes
    ]
    first = {}  # one axis may need a value of another
    for change, *_ in changes:
        first |= change
    for change in itertools.chain(*changes):
        try:
            checked = type(model).model_validate(own | first | change)
        except pydantic.ValidationError as error:
            values = ", ".join(f"{n} = {v!r}" for n, v in (first | change).items())
            fault = sentence(error, lambda _: type(model).model_fields).removesuffix(
                "."
            )
            raise ValueError(f"with {values} of the grid, {fault}") from error
        for name, value in change.items():
            as_field = getattr(checked, name)
            # They label the result: a word must not stand for a number there.
            if type(value) is not type(as_field) and isinstance(value, str | bool):
                raise ValueError(
                    f"the grid has {value!r} for {name}, expected a value such as "
                    f"{as_field!r}"
                )


class RunConfig(Model):
    """One experiment: a problem, and the methods that are compared on it."""

    title: str = Field(default="", description="Of the figure.")
    problem: ProblemConfig = ProblemConfig()
    num_rounds: Count = Field(default=1000, description="K.")
    optimizer: Literal["sgd", "momentum", "adam"] = Field(
        default="sgd", description="What takes the step, momentum 0.9."
    )
    eval_every: Count = Field(default=1, description="Rounds between two evaluations.")
    target: Positive = Field(
        default=1e-4,
        description="Error to reach, relative to the initial one, for the table.",
    )
    wire: Literal[
        "dense",
        "coo",
        "bitmap",
        "rle",
        "golomb",
        "entropy",
        "values",
        "coo_bare",
        "coo64",
    ] = Field(default="rle", description="Bit format of the uploads.")
    all_formats: bool = Field(
        default=False, description="Whether to count, and print, all other formats too."
    )
    channel: ChannelConfig | None = Field(
        default=None, description="What the uploads of all methods meet."
    )
    slack: NonNegative = Field(
        default=0.1,
        description="For gdsec tune: by what share a setting may take more rounds to "
        "the target than the baseline.",
    )
    grid: Grid = Field(
        default={}, description="For gdsec sweep and tune: as of each method."
    )
    letter: str = Field(
        default="", description="Of a figure: they stand on the page in this order."
    )
    text: str = Field(default="", description="What a figure shows, in sentences.")
    by_name: bool = Field(
        default=False, description="Of a figure that is made only if it is named."
    )
    real: dict[str, Any] = Field(
        default={}, description="Fields that gdsec figures --data real overrides."
    )
    value_bits: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Bits that a float counts, a convention; by default the dtype's.",
    )
    methods: dict[str, MethodConfig] = Field(
        default={"GD": MethodConfig(name="gd")}, description="By label."
    )

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
            try:
                _check_grid(method.model_copy(update={"grid": grid}))
            except ValueError as error:
                raise ValueError(f"methods.{label}: {error}") from error
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


def fields_at(location: tuple[Any, ...]) -> Collection[str]:
    """The fields of the table that a location in a `RunConfig` lies in."""
    model: type[pydantic.BaseModel] = RunConfig
    if any(map(is_range, location)):
        model = Range
    elif "channel" in location[:-1]:
        model = ChannelConfig
    elif location[:1] == ("problem",) and len(location) > 1:
        model = ProblemConfig
    elif location[:1] == ("methods",) and len(location) > 2:
        model = MethodConfig
    return model.model_fields
