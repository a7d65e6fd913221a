"""Runs and sweeps by label, and which method each is of."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gdsec_jax.algorithms import METHODS
from gdsec_jax.simulation._history import History, from_xarray

if TYPE_CHECKING:
    import xarray as xr

    Runs = History | xr.Dataset | Mapping[str, History | xr.Dataset]

_OF_A_SWEEP = {
    *("objective_error", "initial_error", "outcome", "rounds", "total_bits"),
    *("total_broadcast_bits", "total_gradient_evaluations"),
}


def by_label(runs: "Runs") -> dict[str, "History | xr.Dataset"]:
    """The runs by label; a single one by its own."""
    if not isinstance(runs, Mapping) or hasattr(runs, "data_vars"):
        return {str(about(runs).get("label", "run")): as_run(runs)}
    if not runs:
        raise ValueError(f"runs is {runs!r}, expected at least one.")
    return {str(label): as_run(run) for label, run in runs.items()}


def as_run(run: Any) -> "History | xr.Dataset":
    """A dataset of `History.to_xarray` as what it was made of; a sweep's as it is."""
    if isinstance(run, History):
        return run
    names = set(getattr(run, "data_vars", ()))
    if {"entries", "bits"} <= names:
        return from_xarray(run)
    if not names >= _OF_A_SWEEP:
        missing = f" without {min(_OF_A_SWEEP - names)}" if names else ""
        raise ValueError(
            f"a run is a {type(run).__name__}{missing}, expected a History or the "
            "dataset of a sweep."
        )
    return run


def about(run: Any) -> Mapping[str, Any]:
    """What a run, or a sweep, says of itself."""
    if isinstance(run, History):
        return run.attributes
    found = json.loads(getattr(run, "attrs", {}).get("attributes", "{}"))
    if not isinstance(found, dict):
        raise ValueError("its attributes are no object of JSON")
    return found


def said_of(run: Any, *path: str) -> Any:
    """What it says under a name, and the names in that; None where there is none."""
    value: Any = about(run)
    for name in path:  # other people's config may be anything
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def methods_of(
    runs: Mapping[str, Any], methods: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The algorithm's name by label: as is said, as the run says, or as the label."""
    words = isinstance(methods, Mapping) and all(
        isinstance(x, str) for x in methods.values()
    )
    if methods is not None and not words:
        raise ValueError(
            f"methods is {methods!r}, expected a dict from labels to names of methods."
        )
    return {
        label: (methods or {}).get(label) or _said(run, label) or _read_off(label)
        for label, run in runs.items()
    }


def _said(run: Any, label: str) -> str | None:
    own = said_of(run, "label")
    name = said_of(run, "method", "name") or said_of(
        run, "config", "methods", own if isinstance(own, str) else label, "name"
    )
    known = isinstance(name, str) and (name in METHODS or ":" in name)
    return name if known else None


def _read_off(label: str) -> str:
    """The method whose name, or title, a label begins with."""
    names = {
        word.strip().lower(): method.name
        for method in METHODS.values()
        for word in (method.name, *method.title.split(","))
    }
    begun = [
        name
        for name in names
        if label.lower().startswith(name)
        and not label[len(name) : len(name) + 1].isalnum()
    ]
    return names[max(begun, key=len)] if begun else f"own:{label}"


def settings_of(swept: "xr.Dataset") -> Iterator[tuple[str, "xr.Dataset"]]:
    """The settings of a sweep, each in words."""
    dims = [str(dim) for dim in swept["outcome"].dims]
    for place in np.ndindex(*(swept.sizes[dim] for dim in dims)):
        at = dict(zip(dims, place, strict=True))
        one = swept.isel(at)
        names = [name for name in one.coords if not one[name].dims] or dims
        yield ", ".join(f"{x} = {word(one[x].values[()])}" for x in names), one


def word(value: Any) -> str:
    """A value of a grid."""
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
