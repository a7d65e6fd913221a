"""gdsec show: saved runs and sweeps, one's own and other people's."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rich.console
import tyro

from gdsec_jax.files import _whole
from gdsec_jax.plot import _runs


def show(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    target: float | None = None,
    figure: Path = Path("shown.png"),
) -> None:
    """Print and draw saved runs and sweeps: what each cost, and its course.

    Args:
      runs: Folders that gdsec run or sweep has left, or single .nc files, also those of
        History.save and of gdsec_jax.sweep.
      target: Error to reach, relative to the initial one; by default that of the first
        run's config, or 1e-4.
      figure: What is drawn: a PNG, SVG or PDF file.
    """
    from gdsec_jax import plot
    from gdsec_jax.study import config as configs
    from gdsec_jax.study import experiment, report, tuning

    if not runs:
        raise ValueError("no run is named, expected folders or .nc files of runs.")
    if target is not None and not 0 < target < 1:
        raise ValueError(f"--target is {target}, expected a number in (0, 1).")
    console = rich.console.Console()
    # Tried before all is printed.
    _whole.target(figure, "--figure", ".png", ".svg", ".pdf")
    histories, swept = _loaded(runs)
    first = next(iter((histories or swept).values()))
    target = target or _number(first, "target", 1e-4)
    problems = dict.fromkeys(map(_problem_of, (*histories.values(), *swept.values())))
    if len(problems) > 1:
        said = f"These are runs of different problems: {'; '.join(problems)}."
        experiment.say(console, f"{said} Their errors and bits do not compare.")
    panels = []
    if histories:
        for label, history in histories.items():
            of = f"{_problem_of(history)}, {history.bits.shape[1]} workers"
            experiment.say(console, f"{label}, {of}: {history.summary()}")
        named = _runs.methods_of(histories)
        baseline = _baseline(named)
        title = f"To {target:g} of the initial error"
        given = (histories, target)
        table = report.target_table(*given, title=title, baseline=baseline)
        console.print(table)
        for line in experiment.failures(histories):
            experiment.say(console, line)
        panels += report.convergence_panels(histories, named, target=target)
    if swept:
        one = next(iter(swept.values()))
        grid = _runs.said_of(one, "config", "problem", "grid")
        grid = grid if isinstance(grid, dict) else {}
        frame, _ = tuning.compared(
            swept,
            target,
            baseline=_baseline(_runs.methods_of(swept)),
            slack=_number(one, "slack", configs.RunConfig().slack),
            within=["_".join(configs.names_of(key)) for key in grid],
        )
        title = f"Sweeps: to {target:g} of the initial error"
        console.print(report.settings_table(frame, title=title))
        panels.append(lambda axes: plot.frontier(swept, target, ax=axes))
    replaced = ", in place of an earlier one" if figure.exists() else ""
    report.save_figure(report.draw(panels), figure)
    experiment.say(console, f"wrote {figure}{replaced}")


def _baseline(named: dict[str, str]) -> str:
    """The label of gradient descent, or else the first."""
    return next((x for x, name in named.items() if name == "gd"), next(iter(named)))


def _number(run: Any, name: str, otherwise: float) -> float:
    """A field of the run's config, if it has one that is a number."""
    value = _runs.said_of(run, "config", name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and value >= 0 else otherwise


def _problem_of(run: Any) -> str:
    """What a run was of, as far as it says so."""
    data = _runs.said_of(run, "config", "problem", "data")
    problem = _runs.about(run).get("problem", "problem")
    return f"{problem} on {data}" if data else str(problem)


def _loaded(given: Iterable[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Histories and sweeps by label; of one label the files say which is which."""
    from gdsec_jax.files import _netcdf

    kinds: tuple[list, list] = ([], [])
    for path in _files(given):
        try:
            run = _runs.as_run(_netcdf.read(path))
            label = str(_runs.said_of(run, "label") or path.stem)
            float(_runs.about(run).get("resolution", 0.0))
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no run or sweep of gdsec_jax: "
                f"{str(error).splitlines()[0].removesuffix('.')}."
            ) from error
        kinds[hasattr(run, "data_vars")].append((label, path, run))
    for found in kinds:
        found.sort(key=lambda each: _place(each[0], each[2]))
    histories, swept = map(_by_label, kinds)
    return histories, swept


def _place(label: str, run: Any) -> int:
    """Where a method stands in its config, 0 if it does not say."""
    methods = _runs.said_of(run, "config", "methods")
    return [*methods, label].index(label) if isinstance(methods, dict) else 0


def _by_label(found: list[tuple[str, Path, Any]]) -> dict[str, Any]:
    labels = [label for label, _, _ in found]
    stems = [path.stem for _, path, _ in found]
    folders = [(label, path.parent) for label, path, _ in found]
    named = {}
    for label, path, run in found:
        if labels.count(label) == 1:
            name = label
        elif stems.count(path.stem) == 1:
            name = path.stem
        elif folders.count((label, path.parent)) == 1:
            name = f"{label} ({path.parent.name or path.parent})"
        else:
            name = f"{path.parent.name}/{path.stem}"
        named[name if name not in named else str(path)] = run
    return named


def _part_of(stem: str) -> set[str]:
    """The name of the file that a part of a sweep is of, if the name is one's."""
    found = re.fullmatch(r"(.* sweep) \d+", stem)
    return {found[1]} if found else set()


def _files(given: Iterable[Path]) -> list[Path]:
    """The files that are meant, each once, those of folders by name."""
    files = []
    for path in given:
        if path.is_dir():
            own = sorted(path.glob("[!.]*.nc"))  # others are not written to their end
            stems = {each.stem for each in own}  # of sweeps over problems the whole
            own = [x for x in own if not (_part_of(x.stem) & stems)]
            if not own:
                inner = sorted({str(each.parent) for each in path.glob("*/[!.]*.nc")})
                there = f": see {', '.join(inner)}" if inner else ""
                raise ValueError(
                    f"{path} has no .nc files, expected those of runs{there}."
                )
            files += own
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(
                f"{path} does not exist, expected a folder or an .nc file of a run."
            )
    return list({path.resolve(): path for path in files}.values())
