"""What one asks before the first run: what there is, and whether all is there."""

import importlib.metadata
import importlib.resources
import os
import platform
import shlex
import string
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import rich.console
import rich.table
import rich.text
import scipy
import tyro

from gdsec_jax import data as datasets
from gdsec_jax.algorithms import METHODS
from gdsec_jax.data._scaling import largest_of
from gdsec_jax.files import _environment, _whole
from gdsec_jax.study import shipped
from gdsec_jax.study._tools import Reading

_NAME = "gdsec-jax"
# Of xi, times L: what the documentation recommends, and a grid about it.
XI_RULE = (30, 100)
XI_GRID = (5, 500)
_UNEQUAL = 10  # times: features whose sizes differ by more are worth scaling


def methods() -> None:
    """List the methods: name, what each is, its paper, and where its formula is from.

    A public code was read, or run; "memory" is that of the paper, not yet compared with
    it; "descriptions" are its abstract and what others say of it; "usual" formulas are
    those that all papers have.
    """
    table = rich.table.Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)  # on 80 columns, too
    table.add_column("what it is; its paper, and where the formula is from")
    for method in METHODS.values():
        paper = method.paper.replace("https://doi.org/", "doi:")
        paper = paper.replace("https://arxiv.org/abs/", "arXiv:")
        about = f"{method.title}: {method.line}\n{paper} ({method.formula})"
        table.add_row(method.name, rich.text.Text(about))
    rich.console.Console().print(table)


def configs() -> None:
    """List the configs that come with the package: gdsec run, sweep and tune take them.

    And of each where its data are now, and whether it has grids to sweep or a search to
    tune by.
    """
    from gdsec_jax.study import config

    found = {entry.name: entry.found for entry in datasets.available()}
    names = ("name", "what it is", "data", "found in", "has")
    table = rich.table.Table(*names, box=None, padding=(0, 1, 0, 0))
    for name, path in shipped.paths().items():
        one = config.load(path)
        problem = one.problem
        at = found.get(problem.data, {}).get(problem.subset, "made as it runs")
        if problem.kind == "network":
            at += "; needs flax"
        grids = (one.grid, problem.grid, *(m.grid for m in one.methods.values()))
        has = "search" if one.search else "grids" if any(grids) else ""
        table.add_row(name, one.title, problem.data, at, has)
    rich.console.Console().print(table)


def init(
    path: tyro.conf.Positional[Path],
    reading: Annotated[Reading, tyro.conf.arg(name="")],
    *,
    data: str = "digits",
    force: bool = False,
) -> None:
    """Write a config to begin with, every field explained; it runs as it is.

    Args:
      path: Of the new file, which ends in .toml.
      reading: See there.
      data: A file of data, npz, CSV, LIBSVM or IDX, of which the config says how it was
        read; or a named data set, as gdsec data list has it.
      force: Replace the file if it is there.
    """
    import tomlkit

    from gdsec_jax.study import config, experiment

    if not path.parent.is_dir():  # likely a slip
        raise FileNotFoundError(f"{path.parent} is no folder, expected one for {path}.")
    if path.exists() and not force:
        raise FileExistsError(
            f"{path} is there already, expected a new file, or --force to replace it."
        )
    _whole.target(path, "path", ".toml")
    loaded = config.load_data(data, **vars(reading))
    samples, _ = loaded.features.shape
    named = data in [entry.name for entry in datasets.available()]
    kind, from_file = (
        config.kind_for(loaded.targets),
        not named and Path(data).is_file(),
    )
    if not from_file and data == "digits":
        kind = "ridge"  # whose optimum is found at once
    advice = _advice(loaded) if from_file else Advice()
    made = datasets.scaled(loaded, advice.scale, intercept=advice.intercept)
    smoothness = config.smoothness_of(kind, made.features)
    if from_file:
        data = Path(os.path.relpath(data, path.parent)).as_posix()
    read = [
        f"read.{option} = {tomlkit.item(value).as_string()}  # as it was read"
        for option, value in loaded.read_as.items()
    ]
    source = importlib.resources.files("gdsec_jax.study") / "template.toml"
    given: dict[str, str | bool] = {"title": path.stem, "kind": kind, "data": data}
    given |= {"scale": advice.scale, "intercept": advice.intercept}
    why = textwrap.wrap(advice.why, 85, initial_indent="# ", subsequent_indent="# ")
    text = string.Template(source.read_text("utf-8")).substitute(
        {name: tomlkit.item(value).as_string() for name, value in given.items()},
        file=path,
        read="\n".join(read) or "# read.target = 0  # of a file: how it is read",
        why="".join(f"{line}\n" for line in why),
        workers=min(5, samples),
        smoothness=f"{smoothness:.3g}",
        low=f"{XI_RULE[0] * smoothness:.3g}",
        high=f"{XI_RULE[1] * smoothness:.3g}",
        first=f"{XI_GRID[0] * smoothness:.3g}",
        last=f"{XI_GRID[1] * smoothness:.3g}",
    )
    with _whole.whole(path) as temporary:
        temporary.write_text(text, "utf-8")
    console = rich.console.Console()
    experiment.say(console, config.said_of(loaded))
    if "header" in loaded.read_as and reading.target is None:  # a CSV file
        experiment.say(
            console, "The target is the last column; --target names another."
        )
    if advice.why:
        experiment.say(console, advice.why)
    experiment.say(
        console, f"wrote {path}; gdsec run {shlex.quote(str(path))} runs it."
    )


class Advice(NamedTuple):
    """What a config to begin with does about the scales of features, and why."""

    scale: Literal["none", "standard", "max"] = "none"
    intercept: bool = False
    why: str = ""


def _advice(loaded: datasets.Dataset) -> Advice:
    """Scales, and an intercept, for a table whose columns are of different sizes.

    Only said of other files: the columns of images, say, have one unit.
    """
    sparse = scipy.sparse.issparse(loaded.features)
    sizes = largest_of(loaded.features)
    if not sparse:  # years are all large, and differ little
        spread = np.ptp(loaded.features, axis=0)
        sizes = np.concatenate([sizes, spread])[np.tile(spread > 0, 2)]
    sizes = sizes[sizes > 0]
    if not sizes.size or sizes.max() <= _UNEQUAL * sizes.min():
        return Advice()
    found = (
        f"The features' sizes range from {sizes.min():.3g} to {sizes.max():.3g}: all "
        "methods are slow unless each feature is scaled."
    )
    if "header" in loaded.read_as:  # a CSV file
        does = 'The config does it, scale = "standard", and adds an intercept.'
        return Advice("standard", True, f"{found} {does}")
    word = "max" if sparse else "standard"
    does = (
        f'scale = "{word}" in [problem] does it, intercept = true adds a column of 1.'
    )
    return Advice(why=f"{found} {does}")


def doctor() -> None:
    """Say what there is to run with: versions, devices, extras, data and caches."""
    console = rich.console.Console()
    for title, rows in _sections():
        table = rich.table.Table(
            title=title, title_justify="left", show_header=False, box=None
        )
        table.add_column(min_width=18)
        table.add_column(overflow="fold")
        for name, said in rows:
            table.add_row(name, rich.text.Text(said))
        console.print(table)


def _sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    own = Path(str(importlib.resources.files("gdsec_jax")))
    rows = [(_NAME, f"{importlib.metadata.version(_NAME)}, in {own}")]
    rows.append(("python", platform.python_version()))
    rows.append(("jaxlib", importlib.metadata.version("jaxlib")))
    rows += [(one.package, one.said) for one in _required(_NAME, "")]
    yield "Versions", rows
    about = _environment.everything()
    names = ("device", "processor", "cores", "memory")
    rows = [(name, about[name]) for name in names]
    yield "Hardware", [*rows, ("compiled kernels", about["native"])]
    extras = importlib.metadata.metadata(_NAME).get_all("Provides-Extra") or []
    yield "Extras", [_extra(name) for name in extras]
    folder = os.environ.get("GDSEC_DATA_DIR")
    rows = [("GDSEC_DATA_DIR", folder or "not set: a folder of data sets, if it is")]
    try:
        places = [
            (f"{entry.name} {split}", where)
            for entry in datasets.available()
            for split, where in entry.found.items()
        ]
        rows += [(name, where) for name, where in places if where != "remote"]
        away = [name for name, where in places if where == "remote"]
        if away:
            rows.append(("to be downloaded", ", ".join(away)))
    except OSError as error:
        rows.append(("data sets", str(error)))
    yield "Data: gdsec data fetch NAME downloads a set", rows
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    cache = _whole.cache_folder()
    rows = [("downloads", f"{cache} (GDSEC_CACHE_DIR)")]
    rows.append(("compiled programs", str(compiled or cache / "xla")))
    yield "Caches", rows


class Found(NamedTuple):
    """What is there of a package that is required."""

    package: str
    said: str  # its version, or what is wrong
    fits: bool


def _required(package: str, extra: str) -> Iterator[Found]:
    """What a package requires, or an extra of it beside that, and what is there."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires(package) or []:
        one = Requirement(line)
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        given = one.marker is None or one.marker.evaluate({"extra": extra})
        if not given or (extra and always):
            continue
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            missing = f"missing, expected {one.specifier or 'any version'}"
            yield Found(one.name, missing, False)
            continue
        fits = one.specifier.contains(version, prereleases=True)
        said = version if fits else f"{version}, expected {one.specifier}"
        yield Found(one.name, said, fits)
        for inner in one.extras:
            yield from _required(one.name, inner)


def _extra(name: str) -> tuple[str, str]:
    """What is there of an extra, or what is not, and the command that installs it."""
    found = list(_required(_NAME, name))
    wrong = [f"{one.package} {one.said}" for one in found if not one.fits]
    if wrong:
        return name, f"{'; '.join(wrong)}: pip install '{_NAME}[{name}]'"
    return name, ", ".join(f"{one.package} {one.said}" for one in found)
