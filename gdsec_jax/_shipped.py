"""The folders that come with the package, configs and experiments, and their code."""

import importlib.resources
import importlib.util
import sys
from pathlib import Path
from typing import Any


def folder(name: str) -> Path:
    """A folder of the package, or of its checkout.

    Raises:
      FileNotFoundError: neither has it.
    """
    package = Path(str(importlib.resources.files("gdsec_jax")))
    for path in (package / name, package.parent / name):
        if path.is_dir():
            return path
    raise FileNotFoundError(f"no {name} beside {package}, expected some: reinstall.")


def module(path: Path) -> Any:
    """The module at a path, loaded once: what it defines has one identity."""
    name = f"gdsec_{path.parent.name}_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[name]
        raise
    return made
