"""The configs that come with the package: where they lie, and what a name means."""

import difflib
import importlib.resources
from pathlib import Path


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
    known = {} if given.is_file() else paths()
    if str(given) in known:
        return known[str(given)]
    if given.is_file() or (given.suffix and given.stem not in known):
        return given  # what it is not `config.load` says
    own = [str(path) for path in Path().glob("*.toml")]
    near = difflib.get_close_matches(str(given), [*known, *own], 1)
    near = [given.stem] if given.stem in known else near
    meant = f"did you mean {near[0]}?" if near else "gdsec configs lists them."
    raise FileNotFoundError(
        f"{given} is no file, nor a config that comes with the package: {meant}"
    )
