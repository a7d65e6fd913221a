"""The same run of GD-SEC with other flags, devices, Pythons and JAX: what differs.

GDSEC_PYTHONS names further interpreters, name=path, separated by semicolons, that have
this project's dependencies; without it there are no rows of others.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from gdsec_experiments import neighbours

ROUNDS = 300
ROOT = Path(__file__).parents[2]
HEADER = (
    "setting",
    "parameters differ from round",
    "sizes of messages differ from round",
    "messages of another size",
    "all bits",
    "last error",
)


class Setting(NamedTuple):
    """How a process is run."""

    name: str
    flags: str = ""
    devices: int = 1
    python: str = sys.executable


def _with(count: int) -> str:
    return f"--xla_force_host_platform_device_count={count}"


def _flag(flag: str) -> Setting:
    return Setting(f"`--xla_{flag}`", f"--xla_{flag}")


SETTINGS = (
    Setting("again"),
    Setting("4 devices, of which one is used", _with(4)),
    _flag("cpu_multi_thread_eigen=false"),
    _flag("cpu_max_isa=SSE4_2"),
    _flag("cpu_prefer_vector_width=128"),
    _flag("backend_optimization_level=0"),
    _flag("cpu_enable_fast_math=true"),
    Setting("workers on 2 devices", _with(2), 2),
    Setting("workers on 4 devices", _with(4), 4),
)


def caption() -> str:
    """The run."""
    return (
        f"{ROUNDS} rounds of `gdsec(4, xi=400, beta=0.01)` in float32 on ridge "
        "regression with 200 parameters, on one CPU, against the run without flags; "
        "rounds are counted from 1. "
        + neighbours.versions("gdsec-jax", "jax", "jaxlib")
        + " and what rows name."
    )


def run(setting: Setting, rounds: int = ROUNDS) -> dict[str, Any]:
    """What `_run.py` says in a process of its own."""
    settings = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "GDSEC_NATIVE": "0"}
    settings["XLA_FLAGS"] = setting.flags
    script = Path(__file__).with_name("_run.py")
    command = [setting.python, "-W", "ignore", script, rounds, setting.devices]
    return neighbours.told(list(map(str, command)), settings)


def row(setting: Setting, plain: dict[str, Any], rounds: int = ROUNDS) -> tuple:
    """How a setting's run differs from the plain one."""
    other = run(setting, rounds)
    firsts = [first(other[what], plain[what]) for what in ("params", "bits")]
    sizes = [
        a != b
        for ours, theirs in zip(other["bits"], plain["bits"], strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return (
        setting.name,
        *firsts,
        f"{sum(sizes)} of {len(sizes)}",
        f"{other['total'] / plain['total'] - 1:+.2%}",
        f"{other['error'] / plain['error'] - 1:+.0%}",
    )


def first(one: list, other: list) -> str:
    """The first round in which two lists differ, in words."""
    pairs = enumerate(zip(one, other, strict=True), start=1)
    return next((str(k) for k, (a, b) in pairs if a != b), "never")


def others() -> list[Setting]:
    """The interpreters that are named.

    Raises:
      ValueError: one has no path.
    """
    named = os.environ.get("GDSEC_PYTHONS", "").split(";")
    pairs = [item.partition("=") for item in named if item]
    for name, _, path in pairs:
        if not path:
            raise ValueError(f"GDSEC_PYTHONS has {name!r}, expected name=path.")
    return [Setting(name, python=path) for name, _, path in pairs]


def rows() -> list[tuple[str, ...]]:
    """A row a setting."""
    settings = [*SETTINGS, *others()]
    plain = run(Setting("plain"))
    return [row(setting, plain) for setting in settings]
