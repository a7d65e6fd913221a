"""Ten thousand workers on one device, on four of a process, and over processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from gdsec_experiments import neighbours
from gdsec_experiments.neighbours import bits

SCRIPT = Path(__file__).with_name("_many.py")
HEADER = (
    "processes",
    "devices of each",
    "parameters differ from round",
    "messages of another size",
    "all bits",
    "workers whose data the first process made",
)
PATIENCE = 300.0  # seconds


def caption() -> str:
    """The run."""
    return (
        "200 rounds of `gdsec(10_000, xi=20)` in float32 on least squares with 50 "
        "parameters and 4 samples a worker, on one machine, against one process with "
        "one device; rounds are counted from 1. "
        + neighbours.versions("gdsec-jax", "jax", "jaxlib")
        + "."
    )


def run(number: int, devices: int) -> dict[str, Any]:
    """What the first process says.

    Raises:
      RuntimeError: a process failed, with the end of what it said.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "PYTHONPATH": str(bits.ROOT),
        "JAX_PLATFORMS": "cpu",
        "GDSEC_NATIVE": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    started = []
    try:
        for own in range(number):
            where = [] if number == 1 else [f"127.0.0.1:{port}", number, own]
            started.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", SCRIPT, *map(str, where)],
                    env=os.environ | settings,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        said = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"{number} processes: {errors[-1000:]}")
    return json.loads(said[0][0].splitlines()[-1])  # gloo speaks before


def row(number: int, devices: int, plain: dict[str, Any]) -> tuple[str, ...]:
    """How a setting's run differs from the plain one."""
    found = run(number, devices)
    sizes = [
        a != b
        for ours, theirs in zip(found["bits"], plain["bits"], strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return (
        str(number),
        str(devices),
        bits.first(found["params"], plain["params"]),
        f"{sum(sizes):,} of {len(sizes):,}",
        f"{found['total']:,}",
        f"{found['made']:,}",
    )


def rows() -> list[tuple[str, ...]]:
    """A row a setting."""
    plain = run(1, 1)
    return [row(*each, plain) for each in ((1, 1), (1, 4), (2, 2), (4, 1))]
