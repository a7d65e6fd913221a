"""What a result depends on beside its config, and the terminal it is made at."""

import functools
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from gdsec_jax import _native

if TYPE_CHECKING:
    import rich.progress

_PACKAGES = ("gdsec-jax", "jax", "jaxlib", "optax", "numpy")


def versions() -> dict[str, str]:
    """Versions, and the devices of jax: what another result may be due to."""
    device = jax.devices()[0]
    return _packages() | {
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.platform} {device.device_kind}",
        "x64": str(jax.config.jax_enable_x64),  # pyright: ignore
        # The compiled kernels, of CPUs.
        "native": _native.said() if device.platform == "cpu" else "off, not a CPU",
    }


@functools.cache
def _packages() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def everything() -> dict[str, str]:
    """Versions and hardware, for the record."""
    import psutil

    return versions() | {
        "processor": _processor(),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
    }


@functools.cache
def _processor() -> str:
    """Its name; Linux tells it in a file alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()


def progress_bar(progress: bool | str | None) -> "rich.progress.Progress":
    """A bar on stderr; by default, and with words for it, on a terminal."""
    import rich.console
    import rich.progress

    show = progress if isinstance(progress, bool) else sys.stderr.isatty()
    return rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=rich.console.Console(stderr=True),
        disable=not show,
    )
