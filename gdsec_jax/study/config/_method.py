"""The fields of a method: what all have, and what its function takes."""

import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import optax
import pydantic
from pydantic import Field

from gdsec_jax import _checks, robust, server, worker
from gdsec_jax.algorithms import METHODS
from gdsec_jax.federation._adaptive import adaptive_xi
from gdsec_jax.simulation._grid import takes
from gdsec_jax.study.config import _fields
from gdsec_jax.study.config._fields import PARAMETERS, Count, Number, Parameter
from gdsec_jax.study.config._search import Starts
from gdsec_jax.study.config._uplink import UplinkConfig

# What a grid cannot vary.
FIXED = ("grid", "search", "chosen", "channel", "absent", "participation_rule")
# What a sweep runs side by side; other fields compile a loop for each value.
TRACED = ("learning_rate", "seed", "participation", "budget_bits")
TRACED += tuple(name for name, known in PARAMETERS.items() if known.traced)
# Parameters of functions that a config says elsewhere, or leaves as they are: the
# probabilities come from theory, the format is that of the run.
_NO_FIELDS = (
    *("num_workers", "probabilities", "key", "wire", "reduction", "weights"),
    *("on_nonfinite", "on_standstill", "state_dtype", "axis", "within", "noise"),
)
# What theory says, if a config does not.
FROM_THEORY = ("learning_rate", "local_learning_rate", "probability")
FROM_THEORY += ("strong_convexity",)
# What the words for a worker's optimizer mean.
_INNER = {"adamw": optax.adamw, "sgd": optax.sgd, "muon": optax.contrib.muon}
# Further fields that say what a parameter is.
_MORE = {
    "inner": (),
    "compressor": ("k", "levels", "scope"),
    "server": (
        *("aggregation", "trim", "max_delay", "acknowledged", "capacity"),
        "max_norm_ratio",
    ),
}
_EMPTY = inspect.Parameter.empty
_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_signature = functools.cache(inspect.signature)  # asked for each value of a grid


@functools.cache
def function_of(name: str) -> Callable[..., Any]:
    """The function of a method of the package, or MODULE:FUNCTION of one's own."""
    if name in METHODS:
        return METHODS[name].factory
    module, colon, attribute = str(name).partition(":")
    if not colon:
        raise ValueError(
            f"name is {name!r}{_checks.expected(name, METHODS)} one of "
            f"{', '.join(METHODS)}, or MODULE:FUNCTION of your own"
        )
    try:
        found = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        raise ValueError(
            f"name is {name!r}, but {module!r} cannot be imported ({error}), expected "
            "a module of an installed package, or of the folder you are in"
        ) from error
    if not hasattr(found, attribute):
        raise ValueError(
            f"name is {name!r}, but {module} has no {attribute}, expected a function"
        )
    function = getattr(found, attribute)
    if not callable(function) or "num_workers" not in _signature(function).parameters:
        raise ValueError(
            f"name is {name!r}, which is no method, expected a function of num_workers "
            "that makes an optax Aggregator"
        )
    if not takes(function, "wire"):
        raise ValueError(
            f"name is {name!r}, which takes no wire, expected a function that hands it "
            "to federate: a config's bits are counted in the config's format"
        )
    return function


@functools.cache
def model_of(name: str) -> "type[MethodConfig]":
    """The config of a method: the common fields, and those of its function.

    A type is the signature's if that is `Annotated`; else that of `PARAMETERS`, where
    the name is known; else the signature's, or that of the default.
    """
    function = function_of(name)
    taken = _signature(function).parameters
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # of types that are imported for a type checker alone
        hints = {}
    found: dict[str, Parameter] = {}
    for field, parameter in taken.items():
        common = field in MethodConfig.model_fields or hasattr(MethodConfig, field)
        if parameter.kind in _MANY or field in _NO_FIELDS or common:
            continue
        hint = hints.get(field, parameter.annotation)
        # Of the caller's own function its own annotation counts.
        known = PARAMETERS.get(field)
        if name not in METHODS and field not in _MORE and hint not in (_EMPTY, Any):
            known = None
        if known is None or typing.get_origin(hint) is typing.Annotated:
            known = _foreign(function, parameter, hint)
        if known is None:
            continue
        said, default = known.description, parameter.default
        if isinstance(default, bool | int | float | str):
            said += f" By default {default!r}."
        found[field] = known._replace(description=said)
        found |= {x: PARAMETERS[x] for x in _MORE.get(field, ()) if x not in taken}
    if "noise" in taken:  # which is made once the problem is known
        found["noise_multiplier"] = PARAMETERS["noise_multiplier"]
    number = "xi" in found and found["xi"].kind is _fields.NonNegative
    if name in METHODS and number and "beta" in taken:
        # A threshold of single entries, which a controller can choose as well.
        words = f'{found["xi"].description} Or "adaptive", chosen as it runs.'
        found["xi"] = Parameter(_fields.Xi, words)
        found |= {field: PARAMETERS[field] for field in ("budget", "coordinate_xi")}
    fields: dict[str, Any] = {
        field: (known.kind | None, Field(default=None, description=known.description))
        for field, known in found.items()
    }
    return pydantic.create_model(name, __base__=MethodConfig, **fields)


def _foreign(
    function: Callable[..., Any], parameter: inspect.Parameter, hint: Any
) -> Parameter | None:
    """A parameter by its signature alone, None if no config can hold such a value."""
    if hint is _EMPTY or isinstance(hint, str):  # or the name of what is not there
        kind = type(parameter.default)
        hint = kind if kind in (bool, int, float, str) else bool | int | float | str
    if hint in (int, float):  # no flag is a number, nor a word
        hint = typing.Annotated[hint, Field(strict=True)]
    try:
        pydantic.TypeAdapter(hint)
    except pydantic.PydanticSchemaGenerationError:
        return None
    page = inspect.getdoc(function) or ""
    args = rf"^ *(?:\w+, )*{parameter.name}(?:, \w+)*: ([^;.]+(?:\.\d[^;.]*)*)"
    said = re.search(args, page, re.MULTILINE)
    words = " ".join(said[1].split()) if said else ""
    return Parameter(hint, f"{words[:1].upper()}{words[1:]}." if words else "")


class MethodConfig(UplinkConfig):
    """An algorithm and its parameters; the key of its table is its label.

    These fields all methods have. Validation makes a config of the method's own class,
    `model_of` its name, which has the parameters of its function too.
    """

    stranger: ClassVar[str] = "{model} has no parameter {name}"
    name: str
    """The algorithm: gdsec methods lists them; or MODULE:FUNCTION."""
    learning_rate: _fields.Positive | None = None
    """alpha; by default what theory recommends, or 1/L."""
    seed: _fields.Seed | None = None
    """Of what the run draws: algorithm, minibatches, workers."""
    step_factor: _fields.Positive = 1.0
    """Of the learning rate, that of theory in particular."""
    local_steps: Count | None = None
    """Gradient steps of a worker in a round, as FedAvg; it sends their sum."""
    broadcast_k: Number | None = None
    """The server sends so many entries, by top-k with EF."""
    grid: _fields.Grid = Field(default={})
    """For gdsec sweep and tune: values of fields to try."""
    search: Starts = Field(default={})
    """For gdsec tune: where the search of fields begins, or whose choice they are."""
    chosen: str = ""
    """How the parameters were chosen."""

    def __reduce__(self):  # to another process: the class is made there again
        return MethodConfig.model_validate, (self.model_dump(exclude_unset=True),)

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _is_of_its_function(cls, values, handler):
        if cls is not MethodConfig or not isinstance(values, Mapping):
            return handler(values)
        if "name" not in values:
            raise ValueError("name is missing")
        if not isinstance(values["name"], str):
            raise ValueError(f"name is {values['name']!r}, expected a word")
        model = model_of(values["name"])
        # What an older version has saved names the fields of all methods.
        unset = [x for x in values if values[x] is None or values[x] is False]
        foreign = set(unset) - model.model_fields.keys()
        return model.model_validate({x: values[x] for x in values if x not in foreign})

    @pydantic.model_validator(mode="after")
    def _fits_its_function(self):
        _fields.check_grid(self, self.grid, MethodConfig.model_validate, FIXED)
        if self.grid or self.search:  # with its values, which may be needed, checked
            return self
        known = METHODS.get(self.name)
        if self.local_steps is not None and known is not None and known.trains:
            raise ValueError(
                f"local_steps is {self.local_steps}, expected none: the workers of "
                f"{self.name} train by a rule of their own"
            )
        given = self._own()
        if self.local_steps is not None and "noise_multiplier" in given:
            raise ValueError(
                f"local_steps is {self.local_steps} and noise_multiplier is "
                f"{given['noise_multiplier']}, expected one of them: each step looks "
                "at the samples, and the noise is counted for one look a round"
            )
        noised = "noise_multiplier" in type(self).model_fields
        if noised and given.get("floor") and "noise_multiplier" not in given:
            raise ValueError("floor needs the parameter noise_multiplier")
        if "trim" in given and given.get("aggregation") != "trimmed_mean":
            raise ValueError("trim is for the aggregation trimmed_mean alone")
        if "budget" in given and given.get("xi") != _fields.ADAPTIVE:
            raise ValueError("budget is for xi = 'adaptive' alone")
        if given.get("coordinate_xi") and "xi" not in given:
            raise ValueError("coordinate_xi needs the parameter xi")
        if given.get("coordinate_xi") and given["xi"] == _fields.ADAPTIVE:
            raise ValueError("coordinate_xi needs a number for xi, got 'adaptive'")
        if self.participation_rule is not None and self.participation is None:
            raise ValueError("participation_rule needs the share participation")
        if self.absent and self.participation is None and self.budget_bits is None:
            raise ValueError("absent needs a participation or a budget_bits")
        # With the compressor, which checks its own; what else is needed the run has.
        given = (*self.parameters(), "num_workers", "wire", *FROM_THEORY)
        check_needs(self.name, function_of(self.name), given)
        for field in _MORE["compressor"]:
            taken = _signature(function_of(self.name)).parameters
            if field in given and field not in taken:  # else the compressor had it
                raise ValueError(
                    f"{field} is of a compressor, and none is given, expected one"
                )
        return self

    def draws(self) -> bool:
        """Whether a run of it depends on a seed, on samples that are all there."""
        taken = _signature(function_of(self.name)).parameters
        drawn = self.participation is not None
        drawn &= self.participation_rule != "round_robin"
        drawn |= bool(getattr(self, "noise_multiplier", None))
        return drawn or self.channel is not None or "key" in taken or "seed" in taken

    def _own(self) -> dict[str, Any]:
        """The fields of this method alone, those that are given."""
        common = MethodConfig.model_fields
        return {x: value for x, value in self if x not in common and value is not None}

    def parameters(self, **more: Any) -> dict[str, Any]:
        """The arguments of the function that are given, all but the step.

        `more` are values of fields that are not given.
        """
        given = more | self._own()
        needing = ["coordinate_xi", "noise_multiplier"]  # the problem
        needing += ["floor"] * ("noise_multiplier" in type(self).model_fields)
        for name in needing:
            given.pop(name, None)
        taken = _signature(function_of(self.name)).parameters
        if self.seed is not None:  # what else is drawn has it too
            given |= {name: self.seed for name in ("key", "seed") if name in taken}
        budget = given.pop("budget", None)
        if isinstance(given.get("xi"), str):
            given["xi"] = adaptive_xi(budget=budget)
        if "inner" in given:
            given["inner"] = _INNER[given["inner"]]
        if "compressor" in given:
            given = _with_compressor(given)
        return _with_server(given)


def check_needs(
    name: str, function: Callable[..., Any], given: Collection[str]
) -> None:
    """All parameters without a default are given."""
    for parameter in _signature(function).parameters.values():
        required = parameter.default is _EMPTY and parameter.kind not in _MANY
        if required and parameter.name not in given:
            raise ValueError(f"{name} needs the parameter {parameter.name}")


def _with_compressor(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the compressor for its name and its own arguments."""
    name = given["compressor"]
    factory = getattr(worker, name)
    check_needs(name, factory, given)
    own = {x: given.pop(x) for x in _MORE["compressor"] if x in given}
    for other in own:
        if other not in _signature(factory).parameters:
            raise ValueError(f"{name} has no parameter {other}")
    return given | {"compressor": factory(**own)}


def _with_server(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the `server` object for the fields that describe it."""
    fields = {x: given.pop(x) for x in ("server", *_MORE["server"]) if x in given}
    ratio = fields.pop("max_norm_ratio", None)
    trim = fields.pop("trim", 0.1)
    late = functools.partial(server.late, acknowledged=fields.pop("acknowledged", True))
    if len(fields) > 1:
        raise ValueError(
            f"{' and '.join(fields)} are given, expected one of them: each says how "
            "the server adds up"
        )
    if not fields and ratio is None:
        return given
    rules = {"median": robust.median, "trimmed_mean": robust.trimmed_mean(trim)}
    kinds: dict[str, Callable[..., server.Server]] = {
        "max_delay": late,
        "capacity": server.sparse,
        "aggregation": lambda name, **more: server.robust(rules[name], **more),
        "server": lambda name, **more: getattr(server, name)(**more),
    }
    ((name, value),) = fields.items() or {"server": "total"}.items()
    return given | {"server": kinds[name](value, max_norm_ratio=ratio)}


def with_values(method: MethodConfig, **fields: Any) -> MethodConfig:
    """The method with other values of some fields, unchecked: they may be traced."""
    model = model_of(fields.get("name", method.name))
    values = dict(method) | fields
    return model.model_construct(
        **{name: x for name, x in values.items() if name in model.model_fields}
    )
