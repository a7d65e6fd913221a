"""Import of gdsec_jax against import of jax and optax, which it cannot do without.

Each in a fresh process, in turns; timed inside it, without the start of Python.
"""

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Times

TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
STATEMENTS = {"ours": "import gdsec_jax", "theirs": "import jax, optax"}


def bench(settings: Settings) -> list[Measure]:
    """The ratio, and the seconds of ours."""
    seconds = {name: [] for name in STATEMENTS}
    for turn in range(settings.repeats + 1):  # the first reads the files into memory
        for name, statement in STATEMENTS.items():
            said = benchmarks.fresh("-c", TIMED.format(statement))
            if turn:
                seconds[name].append(float(said))
    ours, theirs = (Times(tuple(seconds[name])) for name in STATEMENTS)
    return [
        Measure(
            "import gdsec_jax / import jax, optax",
            **benchmarks.ratio(ours, theirs),
            must=1.4,
        ),
        Measure("import gdsec_jax", **benchmarks.summary(ours.seconds), unit="s"),
    ]
