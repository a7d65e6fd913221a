"""Keywords of `simulate` and `sweep` that have a new spelling, for a release more."""

import dataclasses
import functools
import inspect
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
        for name, (word, kind) in _OBJECTS.items():
            parts = [field.name for field in dataclasses.fields(kind)]
            given = {n: options.pop(n) for n in parts if n in options}
            given = {n: value for n, value in given.items() if value is not None}
            if given:
                words = ", ".join(f"{part}=..." for part in given)
                make = functools.partial(kind, **given)
                _put(options, name, make, words, f"{name}={word}({words})")
        asked = options.pop("norms", None)
        if asked:
            new = "observe=gdsec_jax.norms"
            _put(options, "observe", lambda: norms, "norms=True", new)
        elif asked is not None:
            _checks.deprecated("norms=False", "observe=None")
        every = options.pop("checkpoint_every", None)
        if every is not None:
            path: Any = options.get("checkpoint")
            make = functools.partial(Checkpoints, path, every)
            new = "checkpoint=gdsec_jax.Checkpoints(path, every=...)"
            _put(options, "checkpoint", make, "checkpoint_every=...", new, Checkpoints)
        if "attributes" in options and function.__name__ == "sweep":
            said = options.pop("attributes") or {}
            make = functools.partial(SweepFile, options.get("path"), said)
            new = "path=gdsec_jax.SweepFile(path, attributes)"
            _put(options, "path", make, "attributes=...", new, SweepFile)
        if "static" in options:
            new = "gdsec_jax.Static around the values in the grid"
            _checks.deprecated("static=...", new)
            asked = options.pop("static")
            options = inspect.signature(function).bind(*arguments, **options).arguments
            options["grid"] = _with_static(options.get("grid", {}), asked)
            arguments = ()
        return function(*arguments, **options)

    return call  # pyright: ignore


def _put(
    options: dict[str, Any],
    name: str,
    make: Callable[[], Any],
    old: str,
    new: str,
    kind: type = object,
) -> None:
    """The keyword of a name for an old one, with a warning; refused beside its kind."""
    if options.get(name) is not None and isinstance(options[name], kind):
        word, _, _ = old.partition("=")
        raise ValueError(f"{word} is given beside {name}, expected {name} alone.")
    _checks.deprecated(old, new, stacklevel=4)
    options[name] = make()


def _with_static(grid: Any, asked: Any) -> dict[Any, Any]:
    """The grid with the values of these parameters wrapped in `Static`."""
    names = {key: key if isinstance(key, tuple) else (key,) for key in grid}
    for name in asked:
        if not any(name in own for own in names.values()):
            raise ValueError(
                f"static names {name!r}, expected parameters of the grid: "
                f"{', '.join(sorted(sum(names.values(), ())))}."
            )
    return {
        key: Static(values) if set(asked) & set(names[key]) else values
        for key, values in grid.items()
    }
