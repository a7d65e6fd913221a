"""Keywords of `simulate` and `sweep` that have a new spelling, for a release more."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from gdsec_jax import _checks
from gdsec_jax.simulation._checkpoint import Checkpoints
from gdsec_jax.simulation._grid import Static
from gdsec_jax.simulation._records import norms
from gdsec_jax.simulation._run import Stop
from gdsec_jax.simulation._store import SweepFile
from gdsec_jax.uplink import Uplink

_Function = TypeVar("_Function", bound=Callable)
# Keywords that are objects now, of which old ones were the parts.
_OBJECTS = {"uplink": ("Uplink", Uplink), "stop": ("gdsec_jax.Stop", Stop)}


def with_old_spellings(function: _Function) -> _Function:
    """`simulate` or `sweep`, which takes the keywords of before too, with a warning."""

    @functools.wraps(function)
    def call(*arguments, **options):
        for name in _OBJECTS:
            _merge(options, name)
        if "norms" in options:
            if asked := options.pop("norms"):
                _alone(options, "norms", "observe")
            _warn("norms=True", "observe=gdsec_jax.norms")
            options |= {"observe": norms} if asked else {}
        if options.get("checkpoint_every") is not None:
            new = "checkpoint=gdsec_jax.Checkpoints(path, every=...)"
            _warn("checkpoint_every=...", new)
            if isinstance(options.get("checkpoint"), Checkpoints):
                _alone(options, "checkpoint_every", "checkpoint")
            own: Any = (options.get("checkpoint"), options["checkpoint_every"])
            options["checkpoint"] = Checkpoints(*own)
        options.pop("checkpoint_every", None)
        if "static" in options:
            arguments = _as_static(arguments, options)
        if "attributes" in options and function.__name__ == "sweep":
            _warn("attributes=...", "path=gdsec_jax.SweepFile(path, attributes)")
            said = options.pop("attributes") or {}
            if isinstance(options.get("path"), SweepFile):
                _alone(options, "attributes", "path")
            options["path"] = SweepFile(options.get("path"), said)
        return function(*arguments, **options)

    return call  # pyright: ignore


def _warn(old: str, new: str) -> None:
    _checks.deprecated(old, new, stacklevel=4)


def _alone(options: dict[str, Any], old: str, new: str) -> None:
    """Raise a ValueError if there is the new keyword beside an old one."""
    if options.get(new) is not None:
        raise ValueError(f"{old} is given beside {new}, expected {new} alone.")


def _merge(options: dict[str, Any], name: str) -> None:
    """Put old keywords into the object that they are parts of now."""
    word, kind = _OBJECTS[name]
    old = [field.name for field in dataclasses.fields(kind)]
    given = {part: options.pop(part) for part in old if part in options}
    given = {part: value for part, value in given.items() if value is not None}
    if not given:
        return
    _alone(options, next(iter(given)), name)
    words = ", ".join(f"{part}=..." for part in given)
    _checks.deprecated(words, f"{name}={word}({words})", stacklevel=4)
    options[name] = kind(**given)


def _as_static(arguments: tuple, options: dict[str, Any]) -> tuple:
    """The arguments with what `static` names wrapped in the grid."""
    new = "gdsec_jax.Static around the values in the grid"
    _checks.deprecated("static=...", new, stacklevel=4)
    asked = options.pop("static")
    grid = options.get("grid", arguments[2] if len(arguments) > 2 else {})
    names = {key: key if isinstance(key, tuple) else (key,) for key in grid}
    for name in asked:
        if not any(name in own for own in names.values()):
            raise ValueError(
                f"static names {name!r}, expected parameters of the grid: "
                f"{', '.join(sorted(sum(names.values(), ())))}."
            )
    grid = {
        key: Static(values) if set(asked) & set(names[key]) else values
        for key, values in grid.items()
    }
    if "grid" in options:
        options["grid"] = grid
        return arguments
    return (*arguments[:2], grid, *arguments[3:])
