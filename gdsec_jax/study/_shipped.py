"""What comes with the package beside its code: configs."""

import importlib.resources
from pathlib import Path


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
