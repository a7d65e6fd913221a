"""What a sweep leaves in files: its result, and until then the batches of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gdsec_jax import _checks
from gdsec_jax.files import _environment, _netcdf, _whole
from gdsec_jax.simulation import _chunks, _grid
from gdsec_jax.simulation._plan import Plan, values_are_traced

if TYPE_CHECKING:
    import xarray as xr


class SweepFile(NamedTuple):
    """Where a sweep's result is kept, and what is said of it there.

    Attributes:
      path: of a NetCDF file.
      attributes: kept in the result: config and the like, of what JSON can hold.

    Examples:
      >>> import gdsec_jax
      >>> gdsec_jax.SweepFile("xi.nc", {"data": "digits"}).path
      'xi.nc'
    """

    path: str | os.PathLike | None
    attributes: Mapping[str, Any] = {}


_MARK = "mark"  # of a setting, among the variables of a batch that is kept


class Store(NamedTuple):
    """Where a sweep is kept."""

    path: Path
    parts: Path  # the folder of the batches that are done while others are not
    fingerprint: str  # of what the sweep computes, and how it is labelled

    @classmethod
    def at(cls, path: Path, axes: Sequence[_grid.Axis], plans: Sequence[Plan]):
        """The store of these marked plans; an OSError if it cannot be written to."""
        _whole.folder(path.parent)  # tried before the work, not after it
        coordinates = [axis.coordinates() for axis in axes]
        labels = [(n, x.tolist()) for each in coordinates for n, (_, x) in each.items()]
        marks = [plan.marks for plan in plans]
        digest = _digest([[axis.names for axis in axes], labels, marks])
        return cls(path, path.with_name(f".{path.stem}.parts"), digest)

    def kept(self) -> dict[str, "xr.Dataset"]:
        """The settings that are done, by their marks."""
        found = {}
        for path in sorted(self.parts.glob("*.nc")):
            part = _read(path)
            if part is not None and _MARK in part:
                marks, part = part[_MARK].values, part.drop_vars(_MARK)
                found |= {str(m): part.isel(setting=[s]) for s, m in enumerate(marks)}
        return found

    def keep(self, part: "xr.Dataset", marks: list[str]) -> None:
        """A batch, until the sweep is done."""
        part = part.assign({_MARK: ("setting", marks)})
        _netcdf.write(part, self.parts / f"{marks[0]}.nc")

    def finish(self, result: "xr.Dataset") -> "xr.Dataset":
        """The result in its file, in place of the batches."""
        result.attrs["fingerprint"] = self.fingerprint
        _netcdf.write(result, self.path)
        shutil.rmtree(self.parts, ignore_errors=True)
        return result

    def finished(self, attributes: Mapping[str, Any], own: Collection[str]):
        """The result, if it is there: with its `own` attributes, and these, alone."""
        done = _read(self.path)
        if done is None or done.attrs.get("fingerprint") != self.fingerprint:
            return None
        before = json.loads(done.attrs["attributes"])
        after = dict(attributes) | {n: before[n] for n in before if n in own}
        if after != before:
            done.attrs["attributes"] = json.dumps(after)
            _netcdf.write(done, self.path)
        return done


def check_path(path: str | os.PathLike | None) -> None:
    """No file is there, or a sweep's result, which may be damaged."""
    if path is None or not (path := _checks.path(path)).exists():
        return
    if path.is_dir():
        raise ValueError(f"path is {str(path)!r}, a folder, expected that of a file.")
    found = _read(path)  # None if it is damaged
    foreign = _netcdf.stranger(path) is not None
    if foreign or (found is not None and "fingerprint" not in found.attrs):
        raise ValueError(
            f"path is {str(path)!r}, a file that no sweep has written, expected that "
            "of a sweep's result, or a new one."
        )


def _read(path: Path) -> "xr.Dataset | None":
    """The file's dataset, if it is one."""
    try:
        return _netcdf.read(path)
    except (OSError, ValueError):
        return None


def marked(plan: Plan) -> Plan:
    """With a mark of what each setting computes, and all that is handed to it.

    Of the setting alone: in which batch it is run depends on the memory that is free.
    """
    one = plan.of_size(1)
    inputs = one.inputs_of(plan.group.traced[:1])
    with values_are_traced(plan):
        about: dict[str, Any] = _chunks.fingerprint(
            plan.problem, one.program, inputs, plan.stop
        )
    about |= {"rounds": plan.num_rounds} | _environment.versions()

    def mark(setting):
        own = one.inputs_of([setting])
        return _digest(about | {"key": _chunks.digest(own.key, own.values)})

    return plan._replace(marks=[mark(setting) for setting in plan.group.traced])


def _digest(about: Any) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
