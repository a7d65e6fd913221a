"""What comes with the package beside its code: configs, and the experiments."""

import importlib.resources
import importlib.util
from pathlib import Path

EXPERIMENTS = "gdsec_experiments"  # the package with a module a figure


def configs() -> Path:
    """The folder of configs, in the package or in its checkout.

    Raises:
      FileNotFoundError: neither has it.
    """
    package = Path(str(importlib.resources.files("gdsec_jax")))
    for path in (package / "configs", package.parent / "configs"):
        if path.is_dir():
            return path
    raise FileNotFoundError(f"no configs beside {package}, expected some: reinstall.")


def has_experiment(name: str) -> bool:
    """Whether there is a module of that name among the experiments."""
    return importlib.util.find_spec(f"{EXPERIMENTS}.{name}") is not None
