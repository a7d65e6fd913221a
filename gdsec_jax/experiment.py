"""Run a config: every method on its problem, then files, a figure and a table."""

import datetime
import importlib.resources
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import rich.console

from gdsec_jax import _files, problems, report, wire
from gdsec_jax import config as configs
from gdsec_jax.history import History
from gdsec_jax.simulate import simulate
from gdsec_jax.theory import theory


def figure_configs() -> dict[str, Path]:
    """The configs of the main job by name, of the package or of its checkout."""
    package = Path(str(importlib.resources.files("gdsec_jax")))
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            found = sorted((folder / "figures").glob("*.toml"))
            return {path.stem: path for path in found}
    raise FileNotFoundError(f"no configs beside {package}, expected some: reinstall.")


def run(
    config: configs.RunConfig,
    name: str,
    results: Path,
    console: rich.console.Console,
) -> dict[str, History]:
    """Run all methods of a config and leave what they did in results/name.

    Each history is saved when its run ends, then come the figure (PNG and SVG) and the
    table, which is printed as well. Enables x64 for a float64 config.

    Args:
      config: what to run.
      name: of the folder and of the figure's files.
      results: the folder that it goes into.
      console: for the table and a line a run.

    Returns:
      The histories by the methods' labels.

    Raises:
      ValueError, OSError: the data cannot be had, or do not fit the config.
    """
    with jax.enable_x64(config.problem.dtype == "float64"):
        try:
            problem = configs.make_problem(config.problem)
        except ValueError as error:
            raise ValueError(f"the problem of {name}: {error}") from error
        folder = _files.folder(results / name)  # tried before the work, not after it
        histories, tuned = {}, {}
        for label, method in config.methods.items():
            history = _simulate(config, label, method, problem)
            history.save(folder / f"{label}.nc")
            _say(console, f"{label}: {history.summary()}")
            histories[label] = history
            if config.step_factors:
                tuned[label] = _tune(config, label, method, problem, history)
                factor, best = tuned[label]
                best.save(folder / f"{label} tuned.nc")
                _say(console, f"{label}, step x {factor:g}: {best.summary()}")
        heuristic = {
            label
            for label, method in config.methods.items()
            if method.learning_rate is None
            and theory(method.name, problem, **method.parameters()).heuristic
        }
    _report(config, name, results, console, histories, tuned, heuristic)
    return histories


def _simulate(
    config: configs.RunConfig,
    label: str,
    method: configs.MethodConfig,
    problem: problems.Problem,
    factor: float = 1.0,
    **limits,
) -> History:
    try:
        optimizer = configs.make_optimizer(method, config, problem, factor)
    except ValueError as error:
        raise ValueError(f"methods.{label}: {error}") from error
    attributes = {
        "label": label,
        "method": method.model_dump(mode="json"),
        "step_factor": factor,
        "config": config.model_dump(mode="json"),
        "seed": config.problem.seed,
        "started": datetime.datetime.now(datetime.UTC).isoformat(),
    }
    with warnings.catch_warnings():  # the summary says it better
        warnings.simplefilter("ignore", RuntimeWarning)
        return simulate(
            problem,
            optimizer,
            config.num_rounds,
            key=config.problem.seed,
            eval_every=config.eval_every,
            attributes=attributes,
            **limits,
        )


def _tune(
    config: configs.RunConfig,
    label: str,
    method: configs.MethodConfig,
    problem: problems.Problem,
    history: History,
) -> tuple[float, History]:
    """The factor of the step that needs the fewest bits to the target, and its run.

    If no step reaches the target, the one with the least error in the end.
    """
    target = max(config.target * history.initial_error, problem.resolution)
    runs = {1.0: history}
    for factor in config.step_factors:
        runs[factor] = _simulate(
            config, label, method, problem, factor, target_error=target
        )

    def cost(factor: float):
        bits = runs[factor].bits_to(target)
        last = runs[factor].objective_error[-1]
        last = last if np.isfinite(last) else np.inf
        return (0, bits) if bits is not None else (1, last)

    best = min(runs, key=cost)
    return best, runs[best]


def _say(console: rich.console.Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _report(
    config: configs.RunConfig,
    name: str,
    results: Path,
    console: rich.console.Console,
    histories: Mapping[str, History],
    tuned: Mapping[str, tuple[float, History]],
    heuristic: set[str],
) -> None:
    title = config.title or name
    figure = report.convergence(
        histories,
        {label: method.name for label, method in config.methods.items()},
        title=title,
        wire=config.wire_name(),
        target=config.target,
    )
    for suffix in ("png", "svg"):
        path = results / f"{name}.{suffix}"
        report.save_figure(figure, path)
        _say(console, f"wrote {path}")
    title = f"{title}: to {config.target:g} of the initial error"
    options = {
        "title": f"{title} ({config.wire_name()})",
        "baseline": config.baseline(),
    }
    if tuned:
        table = report.tuned_table(
            histories, tuned, config.target, **options, heuristic=heuristic
        )
    else:
        table = report.target_table(histories, config.target, **options)
    console.print(table)
    if config.all_formats:
        title = f"{title}, Mbit by format"
        for names in (wire.FORMATS, wire.CONVENTIONS):  # both, for a terminal's width
            console.print(
                report.format_table(histories, config.target, title=title, names=names)
            )
