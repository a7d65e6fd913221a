"""What one process writes, read by another with other flags, devices, Python or JAX.

`bits.others` says how further interpreters are named.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from gdsec_experiments import neighbours
from gdsec_experiments.neighbours import bits

SCRIPT = Path(__file__).with_name("_hand.py")
HEADER = (
    "read by",
    "a checkpoint",
    "an update of `jax.export`",
    "one of `serialize_executable`",
    "programs found in the persistent cache",
)
READERS = tuple(
    setting
    for setting in bits.SETTINGS
    if setting.devices == 1 and "eigen" not in setting.flags
)


def caption() -> str:
    """The setting."""
    return (
        "Written without flags: a run of 100 rounds as above, which goes on to 200, "
        "and an update as a file in three forms. Whether the bits that come of them "
        "are those of a run, and of ten rounds, that the writer did as a whole. "
        + neighbours.versions("gdsec-jax", "jax", "jaxlib", "orbax-checkpoint")
        + " and what rows name."
    )


def told(setting: bits.Setting, folder: str, *what: str) -> Any:
    """What `_hand.py` says."""
    settings = {
        "PYTHONPATH": str(bits.ROOT),
        "JAX_PLATFORMS": "cpu",
        "GDSEC_NATIVE": "0",
        "XLA_FLAGS": setting.flags,
        # What came out of a cache cannot be serialised so that it runs.
        "JAX_ENABLE_COMPILATION_CACHE": "1" if "cached" in what else "0",
    }
    command = [setting.python, "-W", "ignore", str(SCRIPT), folder, *what]
    return neighbours.told(command, settings)


def cell(setting: bits.Setting, folder: str, what: str, expected: int) -> str:
    """What came of a file, in words."""
    try:
        found = told(setting, folder, what)
    except RuntimeError as error:
        kind, _, said = str(error).strip().splitlines()[-1].partition(": ")
        return f"refused, {kind.rpartition('.')[2]}: {_short(said)}"
    return "the same bits" if found == expected else "other bits"


def _short(said: str) -> str:
    """The end of a sentence about a folder, the start of another."""
    return said.rpartition("that of this run: ")[2][:60].rstrip(".")


def row(
    setting: bits.Setting, folder: str, whole: dict[str, int]
) -> tuple[str, str, str, str, str]:
    """A reader's."""
    found = told(setting, folder, "cached")
    return (
        setting.name,
        cell(setting, folder, "checkpoint", whole["checkpoint"]),
        cell(setting, folder, "exported", whole["round"]),
        cell(setting, folder, "compiled", whole["round"]),
        f"{found['hits']} of {found['hits'] + found['misses']}",
    )


def written(folder: str) -> dict[str, int]:
    """Have all of it written, programs into the cache too; what bits are expected."""
    plain = bits.Setting("plain", python=sys.executable)
    whole = told(plain, folder)
    told(plain, folder, "cached")
    return whole


def rows() -> list[tuple[str, ...]]:
    """A row a reader, each of files of its own: a checkpoint that is read goes on."""
    made = []
    for setting in [*READERS, *bits.others()]:
        with tempfile.TemporaryDirectory() as folder:
            made.append(row(setting, folder, written(folder)))
    return made
