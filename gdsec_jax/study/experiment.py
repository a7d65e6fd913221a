"""A config's methods on its problem: `run`, `sweep` and `tune` of the command.

All three take a config, the name of what they leave, the folder of results that it goes
into, a console for a line a method, and options of `simulate` or `sweep`. They raise
ValueError or OSError where the data cannot be had or do not fit, or a setting is none.
"""

import contextlib
import datetime
import functools
import itertools
import json
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.figure
import numpy as np
import rich.console
import xarray as xr

from gdsec_jax import plot, problems, wire
from gdsec_jax.files import _netcdf, _whole
from gdsec_jax.simulation import _grid, _sweep
from gdsec_jax.simulation._checkpoint import Checkpoints
from gdsec_jax.simulation._history import Cost, History
from gdsec_jax.simulation._simulate import simulate
from gdsec_jax.study import _searching, report, tuning
from gdsec_jax.study import config as configs
from gdsec_jax.wire._formats import CONVENTIONS

CHECKPOINTS = "checkpoints"  # a folder among the histories, with one a method


class Runs(NamedTuple):
    """What the methods of a config did."""

    config: configs.RunConfig
    problem: problems.Problem
    histories: dict[str, History]  # by label
    over_seeds: Mapping[str, list[History]] = {}  # of a figure's methods that draw

    @property
    def methods(self) -> dict[str, str]:
        """The algorithm's name by label."""
        return {label: m.name for label, m in self.config.methods.items()}

    @property
    def target_error(self) -> float:
        """The error to reach."""
        first = next(iter(self.histories.values()))
        return self.config.target * first.initial_error

    def cost_of(self, label: str) -> Cost | None:
        """What the method of a label needed to the target, if it got there."""
        return self.histories[label].cost_to(self.target_error)


@contextlib.contextmanager
def prepared(
    config: configs.RunConfig, console: rich.console.Console | None = None
) -> Iterator[problems.Problem]:
    """The problem of a config, with x64 as it asks for; its data are said in a line."""
    with jax.enable_x64(config.problem.dtype == "float64"):
        configs.check_makes(config)
        try:
            loaded = configs.load_samples(config.problem)
            if console is not None:
                say(console, configs.said_of(loaded, config.problem))
            problem = configs.make_problem(config.problem, loaded)
        except ValueError as error:
            raise ValueError(f"problem: {error}") from error
        yield problem


def compare(
    config: configs.RunConfig,
    folder: Path,
    console: rich.console.Console,
    *,
    checkpoint_every: int | None = None,
    **options: Any,
) -> Runs:
    """Run all methods of a config; each history is saved as it ends, as LABEL.nc.

    Runs are saved every `checkpoint_every` rounds in the folder `CHECKPOINTS` beside
    the histories, and go on from there when they are called again. The options are
    those of `simulate`; log is also handed `setting`, {"method": label}.
    """
    histories = {}
    with prepared(config, console) as problem:
        folder = _whole.folder(folder)  # tried before the work, not after it
        steps = {}
        for label, method in config.methods.items():
            steps[label] = tuning.ready(label, method, problem).learning_rate
            _netcdf.replaceable(folder / f"{label}.nc")
        _say_constants(console, config.problem, problem, steps=steps)
        if not (folder / CHECKPOINTS).exists():  # else it is this run that goes on
            _say_replaced(console, [folder / f"{label}.nc" for label in config.methods])
        for number, (label, method) in enumerate(config.methods.items(), 1):
            if checkpoint_every is not None:
                path = folder / CHECKPOINTS / label
                said = functools.partial(_say_resumed, console, label)
                options["checkpoint"] = Checkpoints(
                    path, checkpoint_every, on_resume=said
                )
            own = dict(options)
            if own.get("progress") is None:
                own["progress"] = f"{label}, {number} of {len(config.methods)}"
            history = simulate_method(config, label, method, problem, **own)
            histories[label] = history
            history.save(folder / f"{label}.nc")
            say(console, f"{label}: {history.summary()}")
    return Runs(config, problem, histories)


def _say_constants(
    console: rich.console.Console,
    config: configs.ProblemConfig,
    problem: problems.Problem,
    setting: Mapping[str, Any] = {},
    *,
    steps: Mapping[str, float | None] = {},
) -> None:
    """L, mu and 1/L in a line, as far as they are known, or the steps by label.

    A setting of the problem, if it has one, stands first.
    """
    said = []
    if problem.smoothness:  # known, and of data that are not all 0
        said.append(f"L = {problem.smoothness:.3g}")
        if problem.strong_convexity:
            said.append(f"mu at least lambda = {problem.strong_convexity:.3g}")
        said += [] if steps else [f"1/L = {1 / problem.smoothness:.3g}"]
    labels: dict[str, list[str]] = {}
    for label, step in steps.items():
        labels.setdefault(f"{step:.3g}", []).append(label)
    each = [f"{step} ({', '.join(names)})" for step, names in labels.items()]
    if labels:
        said.append(f"step {'; '.join(each) if len(each) > 1 else next(iter(labels))}")
    of = ", ".join(f"{name} = {value}" for name, value in setting.items())
    if said:  # of a network nothing is known
        say(console, f"{of}{': ' if of else ''}{', '.join(said)}.")


def _say_replaced(console: rich.console.Console, paths: Sequence[Path]) -> None:
    """What an earlier run of this name has left, and this one replaces."""
    there = [path.name for path in paths if path.exists()]
    if there:
        folder = paths[0].parent
        say(console, f"{folder}: an earlier run's {', '.join(there)} will be replaced.")


def _say_resumed(console: rich.console.Console, label: str, rounds: int) -> None:
    say(console, f"{label}: goes on from round {rounds}.")


def simulate_method(
    config: configs.RunConfig,
    label: str,
    method: configs.MethodConfig,
    problem: problems.Problem,
    *,
    log: Callable[..., None] | None = None,
    **options: Any,
) -> History:
    """One run of a method of a config; what is wrong names its label."""
    method = tuning.ready(label, method, problem)
    with configs.of_method(label):
        optimizer = tuning.made(method, config, problem)
    uplink = configs.make_uplink(method, config.channel, problem.num_workers)
    about = tuning.about_method(config, label, method)
    started = datetime.datetime.now(datetime.UTC).isoformat()
    attributes = about | {"method": method.model_dump(mode="json"), "started": started}
    with warnings.catch_warnings():  # the summary says it better
        said = "(completed|reached|diverged|ended)"
        warnings.filterwarnings("ignore", said, RuntimeWarning)
        return simulate(
            problem,
            optimizer,
            config.num_rounds,
            key=about["seed"],
            eval_every=config.eval_every,
            uplink=_grid.UplinkOf(uplink)(**dict(method)),
            attributes=attributes,
            log=log and functools.partial(log, setting={"method": label}),
            **options,
        )


def run(
    config: configs.RunConfig,
    name: str,
    results: Path,
    console: rich.console.Console,
    **options: Any,
) -> Runs:
    """Histories in results/name, a figure as PNG and SVG, and the table.

    The options are those of `compare`. Checkpoints are removed when all of it is there.
    """
    runs = compare(config, results / name, console, **options)
    title, words = config.title or name, config.wire_name()
    panels = report.convergence_panels(
        runs.histories, runs.methods, wire=words, target=config.target
    )
    save_figures(report.draw(panels, title), results / name, console)
    title = f"{title}: to {config.target:g} of the initial error"
    given = (runs.histories, config.target)
    baseline = config.baseline()
    table = report.target_table(*given, title=f"{title} ({words})", baseline=baseline)
    console.print(table)
    for names in (wire.FORMATS, CONVENTIONS) if config.all_formats else ():
        # Two tables, for a terminal's width.
        by_format = f"{title}, Mbit by format"
        console.print(report.format_table(*given, title=by_format, names=names))
    folder = results / name
    say(
        console, f"The histories are in {folder}: gdsec show {shlex.quote(str(folder))}"
    )
    for line in failures(runs.histories):
        say(console, line)
    if options.get("checkpoint_every") is not None:  # else they are another run's
        shutil.rmtree(results / name / CHECKPOINTS, ignore_errors=True)
    return runs


_FAILURES = {
    "diverged": "diverged: its error grew until it was stopped",
    "worsened": "ended above where it began: its last error is larger than its first",
}


def failures(histories: Mapping[str, History]) -> list[str]:
    """A sentence for each method that has made things worse."""
    return [
        f"{label} {_FAILURES[history.outcome]}; a smaller learning_rate, step_factor "
        "or threshold may help."
        for label, history in histories.items()
        if history.outcome in _FAILURES
    ]


def save_figures(
    figure: matplotlib.figure.Figure, path: Path, console: rich.console.Console
) -> None:
    """The figure as PNG and SVG, and a line for each."""
    for suffix in ("png", "svg"):
        own = path.with_name(f"{path.name}.{suffix}")
        report.save_figure(figure, own)
        say(console, f"wrote {own}")


def sweep(
    config: configs.RunConfig,
    name: str,
    results: Path,
    console: rich.console.Console,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Every method over its grid, and the problem's; a file each in results/name.

    Beside it "NAME sweep.csv", all settings and what each cost to the target, and a
    figure of them, as PNG and SVG; the table that is printed marks the best ones.
    """
    _has_a_grid(config, name)
    axes = configs.axes_of(config.problem.grid)
    folder = _whole.folder(results / name)
    for label in config.methods:  # before the work, not after it
        _netcdf.replaceable(folder / f"{label} sweep.nc")
    swept: dict[str, list[xr.Dataset]] = {label: [] for label in config.methods}
    within = list(_grid.settings_of(axes))
    many = itertools.count(1)
    for number, setting in enumerate(within):
        given = config.problem.model_dump(exclude={"grid"}) | setting
        one = configs.ProblemConfig.model_validate(given)
        begun = None if number else console  # the data are said once
        with prepared(config.model_copy(update={"problem": one}), begun) as problem:
            _say_constants(console, one, problem, setting)
            for label, parts in swept.items():
                path = folder / f"{label} sweep{f' {number}' if axes else ''}.nc"
                words = f"{label}, {next(many)} of {len(within) * len(swept)}"
                own: dict[str, Any] = {"progress": words} | options
                own |= {"path": path, "within": setting}
                parts.append(tuning.sweep_method(config, label, problem, **own))
    results_of = {}
    for label, parts in swept.items():
        results_of[label] = parts[0]
        path = folder / f"{label} sweep.nc"
        if axes:
            whole = xr.concat(parts, "setting", combine_attrs="drop")
            results_of[label] = _sweep.unflatten(whole, axes)
            abouts = [json.loads(part.attrs["attributes"]) for part in parts]
            joined = abouts[0] | {
                "resolution": max(about["resolution"] for about in abouts),
                "batches": [batch for about in abouts for batch in about["batches"]],
                "bytes": [needed for about in abouts for needed in about["bytes"]],
                "seconds": sum(about["seconds"] for about in abouts),
            }
            results_of[label].attrs["attributes"] = json.dumps(joined)
            _netcdf.write(results_of[label], path)
        say(console, f"{label}: {_says(results_of[label])} -> {path}")
    frame, best = tuning.compared(
        results_of,
        config.target,
        baseline=config.baseline(),
        slack=config.slack,
        within=[axis.dimension for axis in axes],
    )
    path = results / f"{name} sweep.csv"
    with _whole.whole(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    say(console, f"wrote {path}")
    title, target, words = config.title or name, config.target, config.wire_name()
    panels = (
        lambda axes: plot.frontier(results_of, target, ax=axes),
        lambda axes: plot.convergence(best, target=target, wire=words, ax=axes),
    )
    save_figures(report.draw(panels, title), path.with_suffix(""), console)
    title = f"{title}: to {target:g} of the initial error ({words})"
    console.print(report.settings_table(frame, title=title))
    return results_of


def _has_a_grid(config: configs.RunConfig, name: str) -> None:
    methods = config.methods.values()
    if not (config.grid or config.problem.grid or any(m.grid for m in methods)):
        raise ValueError(
            f"{name} has no grid, expected one of a method, [methods.NAME.grid], or of "
            "all methods, [grid], such as xi = [1.0, 10.0, 100.0]: gdsec run runs a "
            "config as it is."
        )


def _says(swept: xr.Dataset) -> str:
    outcomes, counts = np.unique(swept["outcome"].values, return_counts=True)
    settings = ", ".join(f"{n} {o}" for o, n in zip(outcomes, counts, strict=True))
    sizes = [f"{n} {d}" for d, n in swept.sizes.items() if d != "eval_round"]
    batches = json.loads(swept.attrs["attributes"]).get("batches", ())
    number = sum(map(len, batches))
    several = f", in {number} batches" if number > 1 else ""
    return f"{' x '.join(sizes) or '1 setting'}: {settings}{several}"


def tune(
    config: configs.RunConfig,
    name: str,
    results: Path,
    console: rich.console.Console,
    **options: Any,
) -> configs.RunConfig:
    """Each method's parameters by one rule, from its grid or by a search.

    First the baseline, by the fewest bits to the target; then the others by the same
    rule among the settings that take at most `slack` more rounds than it. A method
    whose search names another one takes what was chosen for that.
    """
    if config.problem.grid:
        raise ValueError(
            f"problem.grid is {config.problem.grid!r}, expected none: gdsec tune "
            "chooses parameters of methods alone."
        )
    if config.search is None:
        _has_a_grid(config, name)
    chosen, baseline = {}, config.baseline()
    starts = {label: config.starts_of(label) for label in config.methods}
    follows = {x for x, own in starts.items() if any(map(_is_label, own.values()))}
    order = sorted(config.methods, key=lambda x: (x != baseline, x in follows))
    with prepared(config, console) as problem:
        _say_constants(console, config.problem, problem)
        folder = _whole.folder(results / name)
        first = float(problem.error(problem.init_params))
        target = max(config.target * first, problem.resolution)

        def within(label: str, number: int, most_rounds: float) -> tuning.Choice:
            words = f"{label}, {number} of {len(config.methods)}"
            own: dict[str, Any] = {"progress": words} | options
            if starts[label]:
                given = (config, label, problem, target, most_rounds)
                return _searching.search_method(*given, folder=folder, **own)
            own = {"path": folder / f"{label} tune.nc"} | own
            swept = tuning.sweep_method(config, label, problem, **own)
            axes = tuning.axes_of(config, label)
            return tuning.choose(swept, axes, target, most_rounds)

        asked = (
            (label, functools.partial(within, label, number))
            for number, label in enumerate(order, 1)
            if label not in follows
        )
        for label, choice in tuning.choices(asked, baseline, config.slack):
            given = config.methods[label]
            # Of one setting the config may say better why it is the one.
            why = choice.why if choice.number > 1 else given.chosen or choice.why
            chosen[label] = _with_choice(given, choice.setting, why)
            values = ", ".join(f"{n} = {v!r}" for n, v in choice.setting.items())
            say(console, f"{label}: {values or 'nothing to choose'}: {choice.why}")
            # No other method has use for its programs, and some hundreds of them
            # are more than a process can map.
            jax.clear_caches()
        for label in follows:
            taken = {x: getattr(chosen[str(of)], x) for x, of in starts[label].items()}
            others = " and ".join(dict.fromkeys(map(str, starts[label].values())))
            why = f"{', '.join(taken)} of {others}"
            chosen[label] = _with_choice(config.methods[label], taken, why)
    methods = {label: chosen[label] for label in config.methods}
    return config.model_copy(update={"methods": methods})


def _is_label(start: Any) -> bool:
    return isinstance(start, str)


def _with_choice(
    given: configs.MethodConfig, setting: Mapping[str, Any], why: str
) -> configs.MethodConfig:
    kept = {"chosen": why, "grid": given.grid, "search": given.search}
    return configs.varied(given, **setting).model_copy(update=kept)


def say(console: rich.console.Console, line: str) -> None:
    """A line as it is, without markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
