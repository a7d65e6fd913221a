"""Memory that programs hold: as the compiler plans it, and as a process takes it."""

from pathlib import Path
from typing import Any

import psutil

_FORGET = Path("/proc/self/clear_refs")
TOLD = _FORGET.exists()  # only Linux tells the peak


def held(compiled: Any) -> int:
    """Bytes of a compiled program's inputs and outputs, donated ones once."""
    plan = compiled.memory_analysis()
    both = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return both - plan.alias_size_in_bytes


def temporary(compiled: Any) -> int:
    """Bytes that a compiled program holds beside them, at its peak."""
    return compiled.memory_analysis().temp_size_in_bytes


def now() -> int:
    """Bytes that this process holds."""
    return psutil.Process().memory_info().rss


def forget_peak() -> None:
    """What this process held at most is what it holds now."""
    _FORGET.write_text("5", "ascii")


def peak() -> int:
    """The most bytes that this process held, by the kernel's own count."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
