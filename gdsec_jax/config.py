"""The config of a run: one schema for TOML files and for the command line."""

import inspect
import itertools
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
import tomlkit
from pydantic import Field

from gdsec_jax import _files, data, problems, wire, worker
from gdsec_jax._broadcast import broadcast
from gdsec_jax.algorithms import METHODS
from gdsec_jax.theory import theory


def _number(k: int | float) -> int | float:
    if k < 1 if isinstance(k, int) else not 0 < k <= 1:
        raise ValueError(f"{k}, expected an integer of at least 1 or a float in (0, 1]")
    return k


Number = Annotated[
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
    pydantic.AfterValidator(_number),
]
Algorithm = Literal[tuple(METHODS)]  # pyright: ignore
Kind = Literal["ridge", "logistic", "softmax", "lasso", "nonlinear_least_squares"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
_GENERATORS = {"heterogeneous": data.heterogeneous, "sparse_binary": data.sparse_binary}
# What a sweep runs side by side; other fields compile a loop for each value.
TRACED = (
    *("learning_rate", "xi", "beta", "zeta", "eta", "probability", "seed"),
    "participation",
)
# Fields that are no arguments of the algorithm, but of what stands around it.
_AROUND = (
    *("name", "learning_rate", "step_factor", "coordinate_xi", "local_steps"),
    *("broadcast_k", "participation", "grid", "chosen"),
)


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Range(_Model):
    """Values of a grid at equal distances, or at equal ratios."""

    start: Annotated[float, Field(allow_inf_nan=False)]
    stop: Annotated[float, Field(allow_inf_nan=False)]
    num: Count
    scale: Literal["log", "linear"] = "log"

    @pydantic.model_validator(mode="after")
    def _has_a_logarithm(self):
        if self.scale == "log" and not (self.start > 0 and self.stop > 0):
            raise ValueError(
                f"start is {self.start} and stop {self.stop}, expected numbers above 0 "
                "for the scale log"
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


def _names(key: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in key.split(","))


def axes_of(grid: Grid) -> dict[str | tuple[str, ...], list[Any]]:
    """A grid's values by name, as `sweep` takes them."""
    axes = {}
    for key, values in grid.items():
        names = _names(key)
        values = values.values() if isinstance(values, Range) else list(values)
        axes[names[0] if len(names) == 1 else names] = values
    return axes


def joined(common: Grid, own: Grid) -> Grid:
    """A method's own grid, and before it what the common one has of other fields."""
    taken = {name for key in own for name in _names(key)}
    return {k: v for k, v in common.items() if not taken & set(_names(k))} | own


class ProblemConfig(_Model):
    """What is minimised, and how the samples are split over the workers."""

    kind: Kind = Field(default="ridge", description="The loss.")
    data: str = Field(
        default="digits",
        description="A named data set, a path to an npz, CSV or LIBSVM file, or a "
        f"generator: {', '.join(_GENERATORS)}.",
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
        default="float64", description="Of all arrays."
    )
    grid: Grid = Field(
        default={}, description="For gdsec sweep: values of these fields to try."
    )

    @pydantic.model_validator(mode="after")
    def _fits_the_generator(self):
        generator = _GENERATORS.get(self.data)
        accepted = inspect.signature(generator).parameters if generator else {}
        for name in self.options:
            fields = ("num_workers", "problem", "regularization")  # not options
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


class MethodConfig(_Model):
    """An algorithm and its parameters; the key of its table is its label."""

    name: Algorithm = Field(  # pyright: ignore
        description="The algorithm: gdsec methods lists them."
    )
    learning_rate: Positive | None = Field(
        default=None, description="alpha; by default what theory recommends, or 1/L."
    )
    xi: NonNegative | None = Field(
        default=None, description="Threshold, in the units of L."
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
        default=None, description="Share of the workers that a round draws."
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
        if self.coordinate_xi and self.xi is None:
            raise ValueError("coordinate_xi needs the parameter xi")
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
    given = [name for key in model.grid for name in _names(key)]
    for name in given:
        if name not in type(model).model_fields or name in ("grid", "chosen"):
            raise ValueError(f"the grid has {name!r}, which is no field to vary")
        if given.count(name) > 1:
            raise ValueError(f"the grid has {name!r} twice, expected it once")
    axes = [
        ((names,) if isinstance(names, str) else names, values)
        for names, values in axes_of(model.grid).items()
    ]
    own = model.model_dump(exclude_unset=True, exclude={"grid"})
    for names, values in axes:
        if not values:
            raise ValueError(f"the grid has no values of {', '.join(names)}")
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
            type(model).model_validate(own | first | change)
        except pydantic.ValidationError as error:
            values = ", ".join(f"{n} = {v!r}" for n, v in (first | change).items())
            sentence = _sentence(error).removesuffix(".")
            raise ValueError(f"with {values} of the grid, {sentence}") from error


class RunConfig(_Model):
    """One experiment: a problem, and the methods that are compared on it."""

    title: str = Field(default="", description="Of the figure.")
    problem: ProblemConfig = ProblemConfig()
    num_rounds: Count = Field(default=1000, description="K.")
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
        """The label that percentages refer to: dense GD, or else the first method."""
        dense = [label for label, method in self.methods.items() if method.name == "gd"]
        return next(iter(dense or self.methods))


def load(path: str | os.PathLike) -> RunConfig:
    """Read and validate a TOML file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no TOML, or a field is unknown, missing or out of range; the
        message names the file and the field.

    Examples:
      >>> import pathlib, tempfile
      >>> from gdsec_jax import config
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "run.toml"
      ...     _ = path.write_text("num_rounds = 10\\n")
      ...     config.load(path).num_rounds
      10
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file, expected a TOML config.")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
        raise ValueError(f"{source}: {_sentence(error)}") from error


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
        for name in MethodConfig.model_fields:
            value = getattr(method, name)
            if value != getattr(before.methods[label], name) or name == "chosen":
                table[name] = value
    with _files.whole(path) as temporary:
        temporary.write_text(tomlkit.dumps(document), "utf-8")


def _sentence(error: pydantic.ValidationError) -> str:
    """The first fault of a config in one sentence: the field, its value, what to do."""
    fault = error.errors()[0]
    parts = [str(part) for part in fault["loc"] if not _of_a_union(part)]
    where = ".".join(parts)
    message = fault["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    if fault["type"] == "extra_forbidden":
        return f"{where} is an unknown field, expected one of {_fields(fault['loc'])}."
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "value_error":
        between = " is" if message[0].isdigit() or message[0] == "-" else ":"
        return f"{where}{between} {message}." if where else f"{message}."
    if fault["type"].startswith("model") and _is_range(fault["loc"][-1]):
        message = "a list of values, or a table of start, stop, num and scale"
    elif fault["type"].startswith(("model", "dict")):
        message = "a table of fields"
    return f"{where} is {fault['input']!r}, expected {message}."


def _of_a_union(part: str | int) -> bool:
    """Whether a part of a location is no field, but one of the types it may have."""
    return part in ("int", "float") or str(part).startswith("tuple[") or _is_range(part)


def _is_range(part: str | int) -> bool:
    return str(part).endswith("Range]")  # no label has a bracket


def _fields(location: tuple[Any, ...]) -> str:
    """The fields beside an unknown one."""
    model: type[pydantic.BaseModel] = RunConfig
    if any(map(_is_range, location)):
        model = Range
    elif location[:1] == ("problem",) and len(location) > 1:
        model = ProblemConfig
    elif location[:1] == ("methods",) and len(location) > 2:
        model = MethodConfig
    return ", ".join(model.model_fields)


def make_problem(config: ProblemConfig) -> problems.Problem:
    """Load the data and put the problem together.

    Raises:
      ValueError, OSError: the data cannot be had, or do not fit the loss.
    """
    loaded = _samples(config)
    parts = data.split(
        loaded.targets,
        config.num_workers,
        config.split,
        seed=config.seed,
        sizes=config.sizes,
        concentration=config.concentration,
    )
    own: Mapping[str, Any] = {}
    if config.kind == "lasso":
        own = {"proximal": config.proximal}
    elif config.proximal:
        raise ValueError(f"problem.proximal is for lasso, got kind {config.kind!r}.")
    problem = getattr(problems, config.kind)(
        loaded.features,
        loaded.targets,
        config.num_workers,
        regularization=config.regularization,
        split=parts,
        dtype=config.dtype,
        **own,
    )
    if config.batch_size is None:
        return problem
    return problems.minibatch(problem, config.batch_size)


def _samples(config: ProblemConfig) -> data.Dataset:
    generator = _GENERATORS.get(config.data)
    if generator is None:
        return load_data(config.data, config.subset)
    own: dict[str, Any] = {"seed": config.seed} | config.options
    if "num_workers" in inspect.signature(generator).parameters:
        own["num_workers"] = config.num_workers
        own |= {"problem": config.kind, "regularization": config.regularization}
    return generator(**own)


def load_data(name: str, subset: str = "train") -> data.Dataset:
    """A named data set, or a user's file.

    Raises:
      ValueError, OSError: there is neither, or it cannot be read.
    """
    names = [entry.name for entry in data.available()]
    if name in names:
        return data.load(name, split=subset)
    if Path(name).exists():
        return data.read(name)
    raise ValueError(
        f"data is {name!r}, expected a file that exists, or one of "
        f"{', '.join([*names, *_GENERATORS])}."
    )


def varied(method: MethodConfig, **fields: Any) -> MethodConfig:
    """A method with other values of some fields, checked.

    Raises:
      ValueError: a value is out of range, or the algorithm has no such parameter.
    """
    given = method.model_dump(exclude={"grid", "chosen"}, exclude_defaults=True)
    try:
        return MethodConfig.model_validate(given | fields)
    except pydantic.ValidationError as error:
        raise ValueError(_sentence(error)) from error


def resolved(method: MethodConfig, problem: problems.Problem) -> MethodConfig:
    """A method with its learning rate, and what else theory says, as numbers.

    Raises:
      ValueError: the learning rate is neither given nor known.
    """
    found: dict[str, Any] = {}
    learning_rate = method.learning_rate
    if learning_rate is None:
        recommended = theory(method.name, problem, **method.parameters())
        fields = type(method).model_fields
        found = {
            name: value
            for name, value in recommended.parameters.items()
            if name in fields and getattr(method, name) is None
        }
        learning_rate = recommended.learning_rate
    found["learning_rate"] = learning_rate * method.step_factor
    return method.model_copy(update=found | {"step_factor": 1.0})


def make_optimizer(
    method: MethodConfig, config: RunConfig, problem: problems.Problem
) -> optax.GradientTransformation:
    """The optax chain of a method: algorithm, step, proximal step, broadcast.

    Args:
      method: of the config; `resolved`, its traced fields may be.
      config: of the run.
      problem: that the config makes.

    Raises:
      ValueError: the algorithm cannot be made, or its step is not known.
    """
    if method.learning_rate is None or method.step_factor != 1.0:
        method = resolved(method, problem)
    learning_rate: Any = method.learning_rate
    arguments = method.parameters()
    factory = METHODS[method.name].factory
    accepted = inspect.signature(factory).parameters
    if "learning_rate" in accepted:
        arguments["learning_rate"] = learning_rate
    if "probabilities" in accepted and problem.worker_smoothness is not None:
        arguments |= theory(method.name, problem).parameters
    if method.coordinate_xi:
        arguments["xi"] = jax.tree.map(
            lambda each: arguments["xi"] / each, problem.coordinate_smoothness
        )
    also = wire.FORMATS + wire.CONVENTIONS if config.all_formats else ()
    algorithm = factory(
        problem.num_workers,
        **arguments,
        wire=wire.Format(config.wire, config.value_bits, also),
    )
    steps = [algorithm, optax.sgd(learning_rate)]
    if config.problem.proximal:
        steps.append(problems.proximal_l1(learning_rate * problem.regularization))
    if method.broadcast_k is not None:
        compressor = worker.error_feedback(worker.top_k(method.broadcast_k))
        form = wire.Format(config.wire, config.value_bits)
        steps.append(broadcast(compressor, wire=form))
    return optax.chain(*steps)


def takes_part(key: jax.Array, participation, num_workers: int) -> jax.Array:
    """bool [M], so large a share of the workers, at least one, drawn uniformly."""
    number = jnp.maximum(jnp.round(participation * num_workers), 1)
    return jax.random.permutation(key, num_workers) < number
