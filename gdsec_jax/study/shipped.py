"""The configs that come with the package: where they lie, and what a name means."""

import importlib.resources
from pathlib import Path

from gdsec_jax import _checks


def folder() -> Path:
    """Where they lie: in the package, or in its checkout."""
    package = Path(str(importlib.resources.files("gdsec_jax")))
    kept = (package / "configs", package.parent / "configs")
    found = next((path for path in kept if path.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"no configs beside {package}, expected some: reinstall."
        )
    return found


def paths() -> dict[str, Path]:
    """All of them by name, those of figures last."""
    kept = folder()
    found = [*sorted(kept.glob("*.toml")), *sorted(kept.glob("figures/*.toml"))]
    return {path.stem: path for path in found}


def find(given: Path) -> Path:
    """The file that is meant: one that is there, or a shipped one by its name.

    Neither is an error that answers with the nearest name, if there is a near one.
    """
    if given.is_file():
        return given
    if given.is_dir():
        raise IsADirectoryError(
            f"{given} is a folder, expected a config; gdsec show draws the runs in one."
        )
    known = paths()
    if str(given) in known:
        return known[str(given)]
    names = dict.fromkeys(known) | {path.stem: path for path in Path().glob("*.toml")}
    near = _checks.nearest(given.stem, names)
    if given.suffix == ".toml" and not near:
        return given  # what is wrong with it `config.load` says
    meant = "gdsec configs lists them."
    if near:
        meant = f"did you mean {names[near] or near}?"
    raise FileNotFoundError(
        f"{given} is no file, nor a config that comes with the package: {meant}"
    )
