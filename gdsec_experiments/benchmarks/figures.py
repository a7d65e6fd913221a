"""The whole job, gdsec figures, with nothing compiled before and with all of it.

Each once, in a fresh process with a cache of its own: the job takes minutes.
"""

import tempfile
import time

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings

COMMAND = "from gdsec_jax.study.cli import command; raise SystemExit(command())"
LIMITS = {"cold": 300.0, "warm": 90.0}  # seconds


def bench(settings: Settings) -> list[Measure]:
    """Seconds, cold and warm."""
    names = ("beta",) if settings.small else ()
    measures = []
    with tempfile.TemporaryDirectory() as folder:
        for state, limit in LIMITS.items():
            begin = time.perf_counter()
            benchmarks.fresh(
                *("-c", COMMAND, "figures", *names, "--results", f"{folder}/{state}"),
                # The command keeps compiled programs there, if not told otherwise.
                GDSEC_CACHE_DIR=f"{folder}/cache",
                JAX_COMPILATION_CACHE_DIR=None,
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=None,
                JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=None,
            )
            measures.append(
                Measure(
                    f"gdsec figures, {state} cache of compiled programs",
                    time.perf_counter() - begin,
                    unit="s",
                    must=limit,
                )
            )
    return measures
