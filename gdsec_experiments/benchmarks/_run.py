"""The benches: where they are, and running them."""

import datetime
import importlib
import os
import pkgutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdsec_experiments.benchmarks._results import Report, Result, Settings, Skipped
from gdsec_jax import _checks
from gdsec_jax.files import _environment
from gdsec_jax.study import experiment

LAST = ("figures",)  # of all: what takes minutes by itself


def available() -> list[str]:
    """The benches by name, in the order in which they run."""
    modules = pkgutil.iter_modules(sys.modules[__package__].__path__)
    names = sorted(each.name for each in modules if not each.name.startswith("_"))
    return sorted(names, key=lambda name: name in LAST)


def module(name: str) -> Any:
    """The bench of that name, or what some of them share."""
    return importlib.import_module(f"{__package__}.{name}")


def about(name: str) -> str:
    """What a bench measures, in a line."""
    return module(name).__doc__.splitlines()[0]


def fresh(*arguments: str, **environment: str | None) -> str:
    """What a fresh Python process prints that is started with these arguments.

    Args:
      arguments: of the interpreter.
      environment: variables to set there, or with None to leave out.

    Raises:
      RuntimeError: it failed; the text is the end of what it said.
    """
    variables = {**os.environ, **environment}
    said = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
    )
    if said.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {said.stderr[-2000:]}")
    return said.stdout


def chosen(names: Sequence[str], settings: Settings) -> list[str]:
    """The benches that `run` would run, in their order.

    Args:
      names: of benches; "all" for all.
      settings: for each of them.

    Raises:
      ValueError: there is no such bench, or repeats is below 1.
    """
    known = available()
    for name in names:
        if name not in known and name != "all":
            raise ValueError(
                f"no bench is called {name!r}{_checks.expected(name, known)} all or "
                f"{', '.join(known)}."
            )
    if settings.repeats < 1:
        raise ValueError(f"repeats is {settings.repeats}, expected at least 1.")
    return [name for name in known if "all" in names or name in names]


def run(names: Sequence[str], settings: Settings) -> Result:
    """Run benches one after the other; one that fails keeps none from running.

    Args, Raises: as in `chosen`.
    """
    benches = chosen(names, settings)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    here, reports = _environment_here(), {}
    for name in benches:
        experiment.say(settings.console, f"bench {name}: {about(name)}")
        reports[name] = _report(name, settings)
        experiment.say(settings.console, f"  {reports[name].outcome}")
    return Result(date, here, settings.repeats, settings.small, reports)


def _report(name: str, settings: Settings) -> Report:
    begin = time.perf_counter()
    try:
        report = Report(tuple(module(name).bench(settings)))
    except Skipped as reason:
        report = Report(skipped=str(reason))
    except Exception as error:  # whatever it is, the other benches run
        experiment.say(settings.console, traceback.format_exc())
        report = Report(failed=f"{type(error).__name__}: {error}")
    return report._replace(seconds=time.perf_counter() - begin)


def _environment_here() -> dict[str, str]:
    everything = _environment.everything()
    del everything["x64"]  # each bench says its own precision
    return everything | {"commit": _commit(), "load": _load()}


def _load() -> str:
    """How many processes want a core; our own threads wait for each other then."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def _commit() -> str:
    """Of the checkout, "-dirty" if it has changes; "" if there is none."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
