"""An experiment: a problem and methods on it, from files and back, and what it runs."""

import functools
import inspect
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pydantic
import tomlkit
from pydantic import Field

from gdsec_jax import _checks, _trees, problems, wire, worker
from gdsec_jax._theory import Theory, theory
from gdsec_jax.algorithms import METHODS
from gdsec_jax.federation._broadcast import (
    BroadcastsState,
    BroadcastState,
    WholeState,
    broadcast,
)
from gdsec_jax.federation._local import local
from gdsec_jax.federation._train import LocalSteps
from gdsec_jax.files import _whole
from gdsec_jax.simulation._grid import takes
from gdsec_jax.study.config import _fields
from gdsec_jax.study.config._fields import Count, NonNegative, sentence
from gdsec_jax.study.config._method import (
    FIXED,
    FROM_THEORY,
    MethodConfig,
    check_needs,
    function_of,
    model_of,
)
from gdsec_jax.study.config._problem import ProblemConfig, beside
from gdsec_jax.study.config._search import STEPS, SearchConfig, Starts
from gdsec_jax.study.config._uplink import ChannelConfig
from gdsec_jax.wire._formats import CONVENTIONS, FORMATS, WORDS

_MOST_MADE = 32  # values of an axis
_MOST_BYTES = 2**20  # read whole, so that a file of samples is not
_STEPS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}
# What a proximal step behind the method would not be of: it makes its own step.
_OWN_STEPS = ("scaffold", "scaffnew", "tamuna", "locodl", "adiana")
_OWN_STEPS += ("diloco", "streaming_diloco", "sparse_loco")
# Of what compresses on the way down.
_DOWN = (BroadcastState, BroadcastsState, WholeState)
_NO_PROXIMAL = "it makes its steps itself, and has no proximal form here"


class RunConfig(_fields.Model):
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
    target: Annotated[float, Field(gt=0, lt=1)] = 1e-4
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
    grid: _fields.Grid = Field(default={})
    """For gdsec sweep and tune: of every method."""
    search: SearchConfig | None = None
    """For gdsec tune: a search in the place of grids."""
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
    def _has_methods_that_fit_its_grid(self):
        if not self.methods:
            raise ValueError("methods is empty, expected at least one")
        options = {label.replace("_", "-").lower() for label in self.methods}
        if len(options) < len(self.methods):
            raise ValueError(
                f"the labels {', '.join(self.methods)} must differ by more than case "
                "and _ or -"
            )
        for label in self.methods:  # which is an option's, too
            _fields.check_names_a_file("the label", label)
        varied = [name for key in self.problem.grid for name in _fields.names_of(key)]
        proximal = self.problem.proximal or "proximal" in varied
        validate = _with_proximal_form if proximal else MethodConfig.model_validate
        for label, method in self.methods.items() if self.grid or proximal else ():
            grid = _fields.joined(self.grid, method.grid)
            with _fields.of_method(label):
                if proximal:
                    _check_proximal(method, self.starts_of(label))
                _fields.check_grid(method, grid, validate, FIXED)
        for label, method in self.methods.items():
            with _fields.of_method(label):
                _check_search(self, label, method)
        return self

    def starts_of(self, label: str) -> Starts:
        """Where a method's search begins: its own fields, and the common ones."""
        own = self.methods[label].search
        if self.search is None:
            return {}
        # A method has one step: of an own learning rate there is no factor.
        steps = set(STEPS) if set(STEPS) & set(own) else set()
        common = {x: start for x, start in self.search.start.items() if x not in steps}
        return common | own

    def seeds_of(self, label: str) -> tuple[list[int], list[int]]:
        """The seeds that choose a method's setting, and those that report what it does.

        None for a method that draws nothing, whose runs are all the same.
        """
        given = (self.problem.batch_size, self.problem.sampling_rate)
        draws = any(x is not None for x in given) or self.methods[label].draws()
        if self.search is None or not (draws or self.channel):
            return [], []
        return self.search.halves()

    def wire_name(self) -> str:
        """The bit format in words, for figures and tables."""
        bits = self.value_bits or {"float32": 32, "float64": 64}[self.problem.dtype]
        return f"{WORDS[self.wire]}, {bits}-bit values"

    def baseline(self) -> str:
        """The label that percentages refer to: plain GD, or else the first method."""
        around = ("local_steps", "broadcast_k", "participation", "budget_bits")
        around += ("aggregation", "max_norm_ratio", "channel")
        for label, method in self.methods.items():
            alone = all(getattr(method, name, None) is None for name in around)
            if method.name == "gd" and alone:
                return label
        return next(iter(self.methods))


def _check_proximal(method: MethodConfig, starts: Starts) -> None:
    """That a proximal step behind the method is one of the method's own step."""
    several = (method.local_steps or 1) > 1 or "local_steps" in starts
    if several or method.name in _OWN_STEPS:
        said = "with local_steps above 1 " if several else ""
        raise ValueError(f"{said}{_NO_PROXIMAL}")


def _with_proximal_form(values: dict[str, Any]) -> MethodConfig:
    method = MethodConfig.model_validate(values)
    _check_proximal(method, {})
    return method


class _Unread(NamedTuple):
    """A problem whose data are not read."""

    num_workers: int
    worker_smoothness: None = None
    coordinate_smoothness: None = None
    private: None = None


def _check_search(config: RunConfig, label: str, method: MethodConfig) -> None:
    """That a method's search begins at values of its fields, or is another's."""
    if method.search and config.search is None:
        raise ValueError("search is given, expected the table [search] with it")
    starts = config.starts_of(label)
    if starts and (method.grid or config.grid):
        raise ValueError("it has a grid and a search, expected one of them")
    others = {start for start in starts.values() if isinstance(start, str)}
    if others and not all(isinstance(start, str) for start in starts.values()):
        raise ValueError(
            f"search is {starts!r}, expected numbers alone, or labels alone"
        )
    for other in others:
        found = config.methods.get(other)
        if found is None or any(isinstance(x, str) for x in found.search.values()):
            known = ", ".join(x for x in config.methods if x != label)
            raise ValueError(
                f"search is {starts!r}, expected labels of methods that are searched "
                f"themselves, of {known}"
            )
    if starts and not others:
        one: _fields.Grid = {name: (start,) for name, start in starts.items()}
        _fields.check_grid(method, one, MethodConfig.model_validate, FIXED)


def check_makes(config: RunConfig) -> None:
    """What a method of the package refuses of its arguments, before any data are read.

    Of a grid each axis by itself, its first values alone; `sweep` looks at all later.
    Not where a search, or the problem, has a say in them: noise, and a xi of each
    coordinate.
    """
    unread = _Unread(config.problem.num_workers)

    def make(values: Mapping[str, Any]) -> MethodConfig:
        method = MethodConfig.model_validate(values)
        waits = getattr(method, "noise_multiplier", None) is not None
        waits = waits or getattr(method, "coordinate_xi", None)
        if method.name in METHODS and not waits:
            unknown = [x for x in FROM_THEORY if getattr(method, x, 0) is None]
            made_up = method.model_copy(update=dict.fromkeys(unknown, 0.5))

            def build():
                _algorithm(made_up, config, unread)

            jax.eval_shape(build)  # operations one by one would be compiled
        return method

    for label, method in config.methods.items():
        grid = _fields.values_of(_fields.joined(config.grid, method.grid))
        few: dict[str, Any] = {
            name if isinstance(name, str) else ",".join(name): tuple(rows[:_MOST_MADE])
            for name, rows in grid.items()
        }
        with _fields.of_method(label):
            if few:
                _fields.check_grid(method, few, make, FIXED)
            elif not method.search:
                make(method.model_dump(exclude_unset=True))


def load(path: str | os.PathLike) -> RunConfig:
    """Read and validate a TOML file; a ValueError names it and the field."""
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
    for part in (values, values.get("real")):
        if isinstance(part, dict) and "problem" in part:
            part["problem"] = beside(path.parent, "problem", part["problem"])
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

    `path` may be that of the source; it is written whole or not at all. Paths of data
    are then seen from its folder.
    """
    source, path = Path(source), Path(path)
    document: Any = tomlkit.parse(source.read_text("utf-8"))
    folder = Path(os.path.relpath(source.parent, path.parent))
    for part in (document, document.get("real", {})):
        fields = part.get("problem", {})
        moved = beside(folder, "data", fields.get("data"))
        if moved != fields.get("data"):
            fields["data"] = moved
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


def varied(method: MethodConfig, **fields: Any) -> MethodConfig:
    """A method with other values of some fields, checked."""
    left = {"grid", "search", "chosen"}
    given = method.model_dump(exclude=left, exclude_defaults=True)
    try:
        return MethodConfig.model_validate(given | fields)
    except pydantic.ValidationError as error:
        raise ValueError(sentence(error)) from error


def recommended(method: MethodConfig, problem: problems.Problem) -> Theory:
    """What theory says of a method on a problem.

    Of a user's own the step 1/L, or 1 where its workers train: what it adds up then are
    no gradients, but steps.
    """
    if method.name in METHODS:
        return theory(method.name, problem, **method.parameters())
    stepping = method.model_copy(update={"learning_rate": 1.0})
    if _trains(_algorithm(stepping, RunConfig(), problem), problem):
        return Theory(1.0, {}, True, "the workers' own steps")
    return theory("gd", problem)._replace(
        heuristic=True, source="gradient descent's step"
    )


def resolved(method: MethodConfig, problem: problems.Problem) -> MethodConfig:
    """A method with its learning rate, and what else theory says, as numbers."""
    found: dict[str, Any] = {"learning_rate": method.learning_rate}
    needed = inspect.signature(function_of(method.name)).parameters
    unknown = [
        x
        for x in FROM_THEORY
        if x in needed
        and needed[x].default is inspect.Parameter.empty
        and getattr(method, x) is None
    ]
    if method.learning_rate is None or unknown:
        known = recommended(method, problem)
        more = known.parameters | {"learning_rate": known.learning_rate}
        found |= {
            x: value for x, value in more.items() if getattr(method, x, 0) is None
        }
    found["learning_rate"] *= method.step_factor
    return method.model_copy(update=found | {"step_factor": 1.0})


def make_optimizer(
    method: MethodConfig, config: RunConfig, problem: problems.Problem
) -> optax.GradientTransformation:
    """The optax chain of a method: local steps, algorithm, step, proximal, broadcast.

    Where the method is `resolved`, the fields in `TRACED` may be traced.
    """
    if method.learning_rate is None or method.step_factor != 1.0:
        method = resolved(method, problem)
    learning_rate: Any = method.learning_rate
    step = _STEPS[config.optimizer](learning_rate)
    algorithm = _algorithm(method, config, problem)
    steps = [algorithm, step]
    if method.local_steps is not None:
        number = problem.num_workers
        trained = local(number, optax.sgd(learning_rate), method.local_steps)
        # The sum of a worker's gradients: all behind it keeps its units.
        steps = [trained, optax.scale(1 / (number * learning_rate)), *steps]
    if config.problem.proximal:
        if method.name not in METHODS and _trains(algorithm, problem):
            raise ValueError(_NO_PROXIMAL)
        steps.append(problems.proximal_l1(learning_rate * problem.regularization))
    if method.broadcast_k is not None:
        if _state_of(algorithm, problem, _DOWN):
            raise ValueError(
                f"broadcast_k is {method.broadcast_k}, expected none: the method "
                "compresses what goes down itself."
            )
        compressor = worker.error_feedback(worker.top_k(method.broadcast_k))
        form = wire.Format(config.wire, config.value_bits)
        steps.append(broadcast(compressor, wire=form))
    return optax.chain(*steps)


def _algorithm(
    method: MethodConfig, config: RunConfig, problem: problems.Problem | _Unread
) -> optax.GradientTransformation:
    """What the method's function makes of its arguments, and of the run's."""
    function = function_of(method.name)
    channel = method.channel or config.channel
    late = channel.max_delay if channel and takes(function, "server") else 0
    arguments = method.parameters(**({"max_delay": late} if late else {}))
    also = wire.FORMATS + CONVENTIONS if config.all_formats else ()
    if takes(function, "wire"):
        arguments["wire"] = wire.Format(config.wire, config.value_bits, also)
    named = inspect.signature(function).parameters
    if "learning_rate" in named:
        arguments["learning_rate"] = method.learning_rate
    if "probabilities" in named and problem.worker_smoothness is not None:
        arguments |= theory("iag", problem).parameters
    if getattr(method, "coordinate_xi", None):
        arguments["xi"] = jax.tree.map(
            lambda each: arguments["xi"] / each, problem.coordinate_smoothness
        )
    arguments |= _noise(method, config, problem)
    check_needs(method.name, function, (*arguments, "num_workers"))
    algorithm = function(problem.num_workers, **arguments)
    if not isinstance(algorithm, optax.GradientTransformation):
        raise ValueError(
            f"{method.name} has made {_checks.shown(algorithm)}, expected an optax "
            "Aggregator, as federate makes it, or a chain with one in it."
        )
    return algorithm


def _trains(algorithm: optax.GradientTransformation, problem: problems.Problem) -> bool:
    """Whether it trains the workers, as its state says: it takes their losses."""
    return bool(_state_of(algorithm, problem, LocalSteps))


def _state_of(algorithm: optax.GradientTransformation, problem, kind: Any) -> list[Any]:
    """What there is of a kind in an algorithm's state."""
    shapes = jax.tree.map(  # of float32, which there is wherever this is asked
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32), problem.init_params
    )
    return _trees.of_type(jax.eval_shape(algorithm.init, shapes), kind)


def _noise(
    method: MethodConfig, config: RunConfig, problem: problems.Problem | _Unread
) -> dict[str, Any]:
    """The arguments that make a method private, if it is to be."""
    multiplier = getattr(method, "noise_multiplier", None)
    if multiplier is None:
        return {}
    if problem.private is None:
        raise ValueError(
            f"noise_multiplier is {multiplier!r} and the problem has no clip, expected "
            "one: noise hides what is bounded."
        )
    sensitivity = problem.private.sensitivity
    noise = worker.gaussian_noise(multiplier, sensitivity)
    seed = config.problem.seed if method.seed is None else method.seed
    floor = getattr(method, "floor", None)
    return {"noise": noise, "key": seed} | ({} if floor is None else {"floor": floor})
