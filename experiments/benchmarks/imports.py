"""Import of gdsec_jax against import of jax and optax, which it cannot do without.

Each in a fresh process, in turns; timed inside it, without the start of Python.
"""

import subprocess
import sys

from gdsec_jax import benchmarks
from gdsec_jax.benchmarks import Measure, Settings, Times

TIMED = (
    "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"
)
STATEMENTS = {"ours": "import gdsec_jax", "theirs": "import jax, optax"}


def bench(settings: Settings) -> list[Measure]:
    """The ratio, and the seconds of ours."""
    seconds = {name: [] for name in STATEMENTS}
    for turn in range(settings.repeats + 1):  # the first reads the files into memory
        for name, statement in STATEMENTS.items():
            command = [sys.executable, "-c", TIMED.format(statement)]
            said = subprocess.run(command, check=True, capture_output=True, text=True)
            if turn:
                seconds[name].append(float(said.stdout))
    ours, theirs = (Times(tuple(seconds[name])) for name in STATEMENTS)
    return [
        Measure(
            "import gdsec_jax / import jax, optax",
            **benchmarks.ratio(ours, theirs),
            must=1.5,
        ),
        Measure("import gdsec_jax", **benchmarks.summary(ours.seconds), unit="s"),
    ]
