"""A method of the user's own, named in a config: run, swept, tuned and drawn."""

import re
import sys

import numpy as np
import optax
import pytest
import rich.console
import xarray as xr

import gdsec_jax
from gdsec_experiments import _parts as parts
from gdsec_jax import History
from gdsec_jax.study import cli, config, experiment, figures, report

MODULE = '''
from typing import Annotated, Literal

import gdsec_jax, jax, optax
from gdsec_jax.algorithms import Options, algorithm
from pydantic import Field


@algorithm(Options)
def lazy(
    num_workers: int,
    keep: Annotated[float, Field(gt=0, le=1)],
    beta=0.5,
    flavour: Literal["plain", "salted"] = "plain",
    times=2,
    *,
    seed=0,
    table: jax.Array | None = None,
    **options,
):
    """GD-SEC with a threshold of another name.

    Args:
      num_workers: M.
      keep: share of the threshold 100; the rest is kept. Not traced.
      flavour: nothing comes of it.
    """
    assert flavour in ("plain", "salted") and times >= 1 and seed >= 0
    return gdsec_jax.gdsec(num_workers, 100.0 * keep, beta, **options)


def plain(num_workers, wire):
    """A method without any option but the format."""
    return gdsec_jax.gd(num_workers, wire=wire)


def typed(num_workers, xi: float = 2.0, beta: float = 0.1, wire="coo"):
    """A method whose parameters have the names of the package's, and its own types."""
    return gdsec_jax.gdsec(num_workers, xi, beta, wire=wire)


def wireless(num_workers):
    """A method that counts in a format of its own."""
    return gdsec_jax.gd(num_workers)


def loose(num_workers, **options):
    """A method that does not say which options it takes."""
    return gdsec_jax.gd(num_workers, **options)


def drawn(num_workers, key, level: "Unknown" = 3, **options):
    """A method that draws, with a type that is only there for a type checker."""
    return gdsec_jax.qgd(num_workers, level, key=key, **options)


def nothing(num_workers, wire):
    """No method, though it looks like one."""


def averaged(num_workers, local_learning_rate, wire):
    """A chain: workers that train, and the mean of how far they went."""
    trained = gdsec_jax.local(num_workers, optax.sgd(local_learning_rate), 2)
    return optax.chain(trained, gdsec_jax.gd(num_workers, reduction="mean", wire=wire))


number = 3
'''
CONFIG = """
num_rounds = 300
target = 0.1
value_bits = 32
text = "Two methods."
letter = "z"

[problem]
data = "heterogeneous"
options = {samples_per_worker = 8, num_features = 6}
num_workers = 4
split = "contiguous"

[methods.GD-SEC]
name = "gdsec"
xi = 1.0

[methods.lazy]
name = "own_methods:lazy"
keep = 0.01
grid.keep = [0.01, 0.5]
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "own_methods.py").write_text(MODULE)
    (tmp_path / "own.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_methods", None)


@pytest.mark.slow
def test_it_is_run_swept_tuned_and_drawn(place, capsys, monkeypatch):
    assert cli.main(["run", "own.toml", "--methods.lazy.beta", "0.25"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^lazy +\d", printed, re.MULTILINE)
    history = History.load("results/own/lazy.nc")
    assert history.attributes["method"]["keep"] == 0.01
    assert history.attributes["method"]["beta"] == 0.25
    assert (history.entries.sum(1) < 4 * 6).any()  # it censors
    again = config.validate(history.attributes["config"], "saved")
    assert again.methods["lazy"].name == "own_methods:lazy"

    assert cli.main(["sweep", "own.toml"]) == 0
    swept = xr.load_dataset("results/own/lazy sweep.nc", engine="h5netcdf")
    assert swept["keep"].values.tolist() == [0.01, 0.5]
    few, many = swept["total_bits"].isel(eval_round=0).values
    assert few == many  # all is sent first
    assert len(set(swept["total_bits"].isel(eval_round=-1).values)) == 2

    assert cli.main(["tune", "own.toml", "--output", "tuned.toml"]) == 0
    method = config.load("tuned.toml").methods["lazy"]
    assert method.chosen.startswith("of 2 settings")

    tuned, console = config.load("tuned.toml"), rich.console.Console(quiet=True)
    with experiment.prepared(tuned) as problem:
        names = ("GD-SEC", "lazy")
        saved = {x: History.load(f"results/own/{x}.nc") for x in names}
        runs = experiment.Runs(tuned, problem, saved)
    monkeypatch.setattr(parts._sections, "compare", lambda study: runs)
    study = figures.Study("own", tuned, place, console)
    section = parts.section_of_runs(study, lambda runs: [])
    assert list(section.table["method"]) == list(names)
    rows = section.chosen.set_index("method").to_dict("index")
    assert rows["lazy"]["step from"] == "gradient descent's step"
    assert rows["lazy"]["parameters"] == f"keep = {method.keep}"
    options = {"title": "", "environment": {}, "command": "gdsec"}
    report.page([section], place / "page.html", **options)
    page = (place / "page.html").read_text("utf-8")
    assert "own_methods:lazy" in page and f"keep = {method.keep}" in page
    figure = report.compose(section)
    looks = {(x.get_color(), x.get_linestyle()) for x in figure.axes[0].lines[:2]}
    assert len(looks) == 2


@pytest.mark.parametrize("name", ["plain", "loose", "drawn"])
def test_options_that_it_does_not_name_are_its_own(name):
    values = {"methods": {"X": {"name": f"own_methods:{name}", "seed": 3}}}
    values |= {"channel": {"erasure_probability": 0.5}}
    one = config.validate(values, "test")
    problem = config.make_problem(one.problem)
    made = config.make_optimizer(one.methods["X"], one, problem)
    assert made.init(problem.init_params)


def test_its_help_has_its_parameters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main(["run", "own.toml", "--help"])
    page = capsys.readouterr().out
    for option in ("keep", "beta", "flavour {None,plain,salted}", "times {None}|INT"):
        assert f"--methods.lazy.{option}" in page
    assert "Share of the threshold 100." in page
    assert "By default 'plain'." in page
    assert "--methods.lazy.aggregation" in page
    for name in ("lazy.xi", "lazy.options", "lazy.num-workers", "lazy.table"):
        assert f"--methods.{name}" not in page


REFUSED = """
no_such_module:f | 'no_such_module' cannot be imported (No modul
:f | '' cannot be imported (Empty module name), expected a mod
own_methods:f | own_methods has no f, expected a function.
own_methods:number | which is no method, expected a function of
own_methods:wireless | which takes no wire, expected a function that hands it
own_methods:typed xi='adaptive' | xi is 'adaptive', expected a valid number
own_methods:typed budget=0.1 | has no parameter budget, did you mean budget_bits?
lazy | name is 'lazy', expected one of gd, gdsec,
own_methods:lazy | own_methods:lazy needs the parameter keep.
own_methods:lazy keep=2.0 | X.keep is 2.0, expected less than or equal to 1.
own_methods:lazy keep=1 flavour='sour' | flavour is 'sour', expected 'plain' or 'salt
own_methods:lazy keep=1 levels=2 | has no parameter levels, expected one of keep, beta,
"""


@pytest.mark.parametrize("row", REFUSED.strip().splitlines())
def test_what_is_refused(row, place):
    given, message = row.split(" | ")
    name, *fields = given.split()
    text = "\n".join(["[methods.X]", f"name = '{name}'", *fields])
    (place / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        config.load("bad.toml")
    assert "\n" not in str(caught.value)


def test_what_is_no_method_after_all(place, capsys):
    (place / "bad.toml").write_text("[methods.X]\nname = 'own_methods:nothing'\n")
    assert cli.main(["run", "bad.toml"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "methods.X: own_methods:nothing has made None, expected an optax" in said
    assert said.endswith("as federate makes it, or a chain with one in it.")


def test_one_whose_workers_train_has_the_step_1():
    """What comes out of a chain with `local` are steps, not gradients."""
    fields = {"name": "own_methods:averaged", "local_learning_rate": 0.1}
    on = {"data": "digits", "kind": "lasso", "num_workers": 4, "regularization": 0.1}

    def made(problem=on, **more):
        values = {"num_rounds": 3, "methods": {"X": fields | more}, "problem": problem}
        return config.validate(values, "test")

    one = made()
    with experiment.prepared(one) as problem:
        ready = config.resolved(one.methods["X"], problem)
        assert ready.learning_rate == 1.0
        known = config.recommended(one.methods["X"], problem)
        assert known.heuristic and known.source == "the workers' own steps"
        run = experiment.simulate_method(one, "X", ready, problem)
        pieces = (
            gdsec_jax.local(4, optax.sgd(0.1), 2),
            gdsec_jax.gd(4, reduction="mean"),
        )
        plain = gdsec_jax.simulate(problem, optax.chain(*pieces, optax.sgd(1.0)), 3)
        np.testing.assert_array_equal(run.params, plain.params)
        for other, words in (
            (made(local_learning_rate=None), "needs the parameter local_learning_rate"),
            (made(on | {"proximal": True}), "makes its steps itself, and has no proxi"),
            (made(local_steps=2), "this optimizer trains its workers twice"),
        ):
            with pytest.raises(ValueError, match=words):
                experiment.simulate_method(other, "X", other.methods["X"], problem)
