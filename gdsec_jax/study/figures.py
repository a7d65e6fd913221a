"""The figures of the field: a config and a small module each, and one page."""

import concurrent.futures
import importlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.axes
import rich.console

from gdsec_jax import _checks
from gdsec_jax.algorithms import METHODS
from gdsec_jax.files import _environment
from gdsec_jax.study import _processes, experiment, report, shipped
from gdsec_jax.study import config as configs

_INTRODUCTION = (
    "Many workers, each with data of its own, fit one model together. In every round "
    "a server tells them the parameters; each computes the gradient of its part of the "
    "loss and sends it; the server adds up what comes in and makes a step. To send "
    "costs more time and energy than to compute, so the methods here send less: few "
    "entries of a gradient, few bits an entry, or in some rounds nothing.",
    "GD is gradient descent, in which every worker sends all entries in every round. "
    "In GD-SEC, of M workers, one sends an entry only where it differs from what the "
    "server remembers of it by more than xi / M times what that parameter has just "
    "moved: the larger xi, the less is sent. What it does not send it adds to its next "
    "gradient, which is the error correction, and the server takes what it remembers "
    "instead; beta says how fast that memory follows the gradients. GD-SOEC is the "
    "same without error correction, QSGD-SEC sends few levels of a value, and SGD and "
    "SGD-SEC take gradients of few samples.",
    "The error is how far the loss is above its minimum, if a figure does not say "
    "otherwise. Rounds to the target, and bits to the target, count until the error "
    "is first at most a given part of the one at the start. Bits are those of the "
    "messages of all workers as they would be written: run lengths of what is left "
    "out, and the values, with 32 bits if nothing else is said. Below each figure "
    "stands what was claimed, and whether these data show it.",
    "How parameters were chosen: where methods are compared, every one is given the "
    "same number of settings, 32, of a lattice: steps 1/L times powers of two, whole "
    "numbers at powers of two, all else at 1, 3, 10, 30 and so on. The search begins "
    "at a declared setting and evaluates those that are nearest to the best so far; "
    "beyond 32 it goes on while the best has a neighbour that was not evaluated, at "
    "most to 96. The best is, by one rule for all methods, the one with the fewest "
    "bits to the target among those that take at most 1.1 times the rounds of gradient "
    "descent at its own best step; where none does, the fewest bits among those that "
    "get there. Where a method draws at random, half of the seeds choose, and the "
    "figure shows the other half alone. All of it was fixed before the first result "
    "and run once: what came out is what is shown, and a figure that was not tuned "
    "like this says so.",
)


class Study(NamedTuple):
    """What a figure's module is handed: its config, and where results go."""

    name: str
    config: configs.RunConfig
    folder: Path  # for what runs and sweeps leave
    console: Any
    progress: bool | None = None
    command: str = "gdsec figures"  # that makes it, without its name


def sources() -> dict[str, Path]:
    """The figures' configs by name, in the order of their letters on the page.

    A figure's module in gdsec_experiments has the same name: its `section(study)` makes
    a `report.Section`.
    """
    lie = shipped.folder() / "figures"
    found = {path.stem: path for path in sorted(lie.glob("*.toml"))}
    letters = {name: configs.load(path).letter for name, path in found.items()}
    return {name: found[name] for name in sorted(found, key=lambda n: letters[n])}


def make(
    names: Sequence[str],
    results: Path,
    *,
    console: rich.console.Console,
    real: bool = False,
    jobs: int = 1,
) -> Path:
    """Make figures, each as PNG, PDF, SVG and CSV, and the page of them, index.html.

    Args:
      names: of the figures; none for all but those that are made by name alone.
      results: the folder for all of it.
      console: for a line a step.
      real: whether to take real data sets where they can be had.
      jobs: figures made at a time, in a process each if it is more than one: no bars.

    Returns:
      The path of the page.
    """
    known = sources()
    for name in names:
        if name not in known:
            raise ValueError(
                f"no figure is called {name!r}{_checks.expected(name, known)} "
                f"{', '.join(known)}."
            )
    jobs = _checks.integer("jobs", jobs, 1)
    studies, notes = [], []
    command = "gdsec figures" + (" --data real" if real else "")
    for name in known:
        config = configs.load(known[name])
        if name not in names if names else config.by_name:
            continue
        if real:
            config, note = _with_real_data(name, config)
            notes += [note] if note else []
        studies.append(Study(name, config, results / name, console, command=command))
    if min(jobs, len(studies)) > 1:
        sections = _in_processes(studies, results, jobs)
    else:
        sections = _one_by_one(studies, results)
    dtypes = {s.config["problem"].get("dtype", "float64") for s in sections}
    environment = _environment.everything() | {
        "precision": ", ".join(sorted(dtypes)),
        "matplotlib": importlib.metadata.version("matplotlib"),
    }
    del environment["x64"]  # the runs', which their configs set
    page = results / "index.html"
    report.page(
        sections,
        page,
        title="Communication-efficient distributed optimisation: the figures",
        environment=environment,
        command=" ".join([command, *names]),
        introduction=_INTRODUCTION,
        papers=_papers(studies),
        notes=notes,
        saved=True,
    )
    experiment.say(console, f"wrote {page}")
    return page


def _papers(studies: Sequence[Study]) -> dict[str, str]:
    """The papers of the methods of some figures: the address by the methods' names."""
    used = {
        method.name for study in studies for method in study.config.methods.values()
    }
    titles: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        if name in used and method.paper.startswith("https://"):
            titles.setdefault(method.paper, []).append(method.title)
    return {", ".join(names): paper for paper, names in titles.items()}


def _section_of(study: Study) -> report.Section:
    experiment.say(study.console, f"figure {study.name}: {study.config.title}")
    module = importlib.import_module(f"gdsec_experiments.{study.name}")
    return module.section(study)


def _one_by_one(studies: Sequence[Study], results: Path) -> list[report.Section]:
    """Pictures are drawn while the next figure's runs are under way."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sections, saved = [], []
        for study in studies:
            sections.append(_section_of(study))
            saved.append(pool.submit(report.save, sections[-1], results))
        for each in saved:
            each.result()
    return sections


def _in_processes(
    studies: Sequence[Study], results: Path, jobs: int
) -> list[report.Section]:
    """Several figures at a time: most of a figure's time is one core's, compiling."""
    alone = [study._replace(console=None, progress=False) for study in studies]
    with _processes.pool(jobs) as pool:
        made = [pool.submit(_saved, study, results) for study in alone]
        return [each.result() for each in made]


def _saved(study: Study, results: Path) -> report.Section:
    """In a process of its own: the section without what draws it, which is drawn."""
    section = _section_of(study._replace(console=rich.console.Console()))
    report.save(section, results)
    return section._replace(panels=(_drawn,) * len(section.panels))


def _drawn(axes: matplotlib.axes.Axes) -> None:
    """Stands for a panel whose picture is saved."""


def _with_real_data(name: str, config: configs.RunConfig):
    """The config with its real data set, or a sentence why it is as it was."""
    if config.problem.kind == "network":
        return config, None  # whose data are real
    if not config.real:
        made = config.problem.data in configs.GENERATORS
        why = "are generated" if made else f"stay {config.problem.data}"
        return config, f"{name}: has no real data set: its data {why}."
    values = configs.merged(config.model_dump(exclude_unset=True), config.real)
    for method in values["methods"].values():  # on other data it was not chosen
        method["chosen"] = "our setting, not chosen on these data"
    merged = configs.validate(values, f"{name}.real")
    try:
        configs.load_data(merged.problem.data, merged.problem.subset)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        return config, f"{name}: {merged.problem.data} cannot be had ({first})"
    return merged, None
