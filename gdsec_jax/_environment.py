"""What a result depends on beside its config, and the terminal it is made at."""

import importlib.metadata
import platform
import sys

import jax
import rich.console
import rich.progress

_PACKAGES = ("gdsec-jax", "jax", "jaxlib", "optax", "numpy")


def versions() -> dict[str, str]:
    """Versions and hardware."""
    device = jax.devices()[0]
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.platform} {device.device_kind}",
        "x64": str(jax.config.jax_enable_x64),  # pyright: ignore
    }


def progress_bar(progress: bool | None) -> rich.progress.Progress:
    """A bar on stderr; by default on a terminal."""
    show = sys.stderr.isatty() if progress is None else progress
    return rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=rich.console.Console(stderr=True),
        disable=not show,
    )
