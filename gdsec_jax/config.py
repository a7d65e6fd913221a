"""The config of a run: one schema for TOML files and for the command line."""

import inspect
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import optax
import pydantic
from pydantic import Field

from gdsec_jax import algorithms, data, problems, wire

Algorithm = Literal["gd", "gdsec", "gdsoec"]
Kind = Literal["ridge", "logistic", "softmax", "lasso", "nonlinear_least_squares"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ProblemConfig(_Model):
    """What is minimised, and how the samples are split over the workers."""

    kind: Kind = Field(default="ridge", description="The loss.")
    data: str = Field(
        default="digits",
        description="A named data set, or a path to an npz, CSV or LIBSVM file.",
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
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default=0, description="Of the split and of the minibatches."
    )
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


class MethodConfig(_Model):
    """An algorithm and its parameters; the key of its table is its label."""

    name: Algorithm = Field(description="The algorithm.")
    learning_rate: Positive | None = Field(
        default=None, description="alpha; by default 1/L."
    )
    xi: NonNegative | None = Field(
        default=None, description="Threshold, in the units of L."
    )
    beta: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Of the memory of the gradient, in [0, 1]."
    )

    @pydantic.model_validator(mode="after")
    def _fits_the_algorithm(self):
        accepted = inspect.signature(getattr(algorithms, self.name)).parameters
        given = self.parameters()
        for name in given:
            if name not in accepted:
                raise ValueError(f"{self.name} has no parameter {name}")
        for name, parameter in accepted.items():
            required = parameter.default is inspect.Parameter.empty
            if required and name != "num_workers" and name not in given:
                raise ValueError(f"{self.name} needs the parameter {name}")
        return self

    def parameters(self) -> dict[str, Any]:
        """The algorithm's own parameters among the fields, those that are given."""
        given = self.model_dump(exclude={"name", "learning_rate"})
        return {name: value for name, value in given.items() if value is not None}


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
    wire: Literal["dense", "coo", "bitmap", "rle"] = Field(
        default="rle", description="Bit format of the uploads."
    )
    value_bits: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Bits of a value; by default those of the dtype."
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


def _sentence(error: pydantic.ValidationError) -> str:
    """The first fault of a config in one sentence: the field, its value, what to do."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "methods"
    message = fault["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    if fault["type"] == "extra_forbidden":
        return f"{where} is an unknown field, expected one of {_fields(fault['loc'])}."
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "value_error":
        return f"{where}: {message}."
    if fault["type"].startswith(("model", "dict")):
        message = "a table of fields"
    return f"{where} is {fault['input']!r}, expected {message}."


def _fields(location: tuple[Any, ...]) -> str:
    """The fields beside an unknown one."""
    model: type[pydantic.BaseModel] = RunConfig
    if location[:1] == ("problem",) and len(location) > 1:
        model = ProblemConfig
    elif location[:1] == ("methods",) and len(location) > 2:
        model = MethodConfig
    return ", ".join(model.model_fields)


def make_problem(config: ProblemConfig) -> problems.Problem:
    """Load the data and put the problem together.

    Raises:
      ValueError, OSError: the data cannot be had, or do not fit the loss.
    """
    loaded = load_data(config.data, config.subset)
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
        f"data is {name!r}, expected a file that exists, or one of {', '.join(names)}."
    )


def make_optimizer(
    method: MethodConfig, config: RunConfig, problem: problems.Problem
) -> optax.GradientTransformation:
    """The optax chain of a method: algorithm, step, and the proximal step if any."""
    algorithm = getattr(algorithms, method.name)(
        config.problem.num_workers,
        **method.parameters(),
        wire=wire.Format(config.wire, config.value_bits),
    )
    learning_rate = method.learning_rate
    if learning_rate is None:
        if problem.smoothness == 0:
            raise ValueError("the smoothness constant is 0: set learning_rate.")
        learning_rate = 1 / problem.smoothness
    steps = [algorithm, optax.sgd(learning_rate)]
    if config.problem.proximal:
        steps.append(problems.proximal_l1(learning_rate * problem.regularization))
    return optax.chain(*steps)
