"""The gdsec command: what it leaves, prints, refuses and returns."""

import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cases import made_history
from inside import _checkpoint, _netcdf, model_of

from gdsec_jax import History, data
from gdsec_jax.algorithms import METHODS
from gdsec_jax.study import _running, cli, config, experiment, figures, shipped

TINY = """
num_rounds = 400
target = 0.3
value_bits = 32

[problem]
num_workers = 3

[methods.GD]
name = "gd"

[methods."GD-SEC xi 10"]
name = "gdsec"
xi = 10.0
"""
LEFT = ["tiny", "tiny.png", "tiny.svg", "tiny/GD-SEC xi 10.nc", "tiny/GD.nc"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own, a wide terminal, no data but those embedded, no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("GDSEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("GDSEC_DATA_DIR", raising=False)
    for case in (str.lower, str.upper):
        for scheme in ("http", "https", "all"):  # the discard port: nothing listens
            monkeypatch.setenv(case(f"{scheme}_proxy"), "http://127.0.0.1:9")
        monkeypatch.delenv(case("no_proxy"), raising=False)
    Path("tiny.toml").write_text(TINY)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Call the command in this process: its status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main(arguments)
        except SystemExit as error:
            assert isinstance(error.code, int)  # noqa: PT017
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def left(folder="results") -> list[str]:
    """All that is in a folder, and below it."""
    root = Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def row_of(label: str, out: str) -> str:
    """The line of a method in the table that is printed."""
    return next(line for line in out.splitlines() if line.startswith(f"{label} "))


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the installed command as its users do."""
    command = [Path(sys.executable).with_name("gdsec"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# As a process


def test_without_arguments_it_is_help():
    done = script()
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("usage: gdsec", "• run ", "• figures ", "• data ", "GDSEC_DATA_DIR"):
        assert words in done.stdout


def test_a_run_leaves_its_files_and_prints_a_table():
    options = ("--num-rounds", "20", "--methods.GD.learning-rate=0.1")
    done = script("run", "tiny.toml", *options)
    assert done.returncode == 0, done.stderr
    assert left() == LEFT
    dense = History.load("results/tiny/GD.nc")
    assert dense.bits.shape == (20, 3)
    assert dense.attributes["config"]["methods"]["GD"]["learning_rate"] == 0.1
    assert "GD: completed 20 rounds, objective error " in done.stdout
    assert row_of("GD-SEC xi 10", done.stdout).split()[-1] == "completed"
    last = done.stdout.splitlines()[-1]
    assert last == "The histories are in results/tiny: gdsec show results/tiny"


def test_wrong_input_is_one_sentence_and_leaves_nothing():
    Path("bad.toml").write_text(TINY.replace("xi = 10.0", "xi = -1.0"))
    done = script("run", "bad.toml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("gdsec: bad.toml: methods.GD-SEC xi 10.xi is -1.0, ")
    assert not Path("results").exists()


# Running a config


def test_a_run_saves_what_it_was(call):
    logged = ("--log", "log.csv", "--norms")
    status, out, err = call("run", "--results", "mine", "tiny.toml", *logged)
    assert (status, err) == (0, "")
    assert left("mine") == LEFT
    head, *rows = Path("log.csv").read_text().splitlines()
    assert {"gradient_norm", "h_norm", "e_norm"} <= set(head.split(","))
    assert len(rows) == 2 * 400
    assert call("run", "tiny.toml", "--num-rounds", "2", *logged, "--append")[0] == 0
    assert len(Path("log.csv").read_text().splitlines()) == 1 + 2 * 402
    dense, sparse = (History.load(f"mine/{name}") for name in LEFT[:2:-1])
    assert dense.num_rounds == sparse.num_rounds == 400
    assert dense.bits.sum() == 400 * 3 * 64 * 32
    assert 0 < sparse.bits.sum() < dense.bits.sum()
    assert dense.params.shape == (64,)
    attributes = dict(sparse.attributes)
    assert (attributes["label"], attributes["seed"]) == ("GD-SEC xi 10", 0)
    assert attributes["method"]["xi"] == 10.0
    assert attributes["config"]["target"] == 0.3
    assert attributes["versions"]["x64"] == "True"
    assert attributes["started"].endswith("+00:00")
    for text in ("wrote mine/tiny.png", "wrote mine/tiny.svg", "vs GD", "100.00 %"):
        assert text in out
    cost = sparse.cost_to(0.3 * sparse.initial_error)
    row = row_of("GD-SEC xi 10", out)
    assert f"{sparse.objective_error[-1]:.2e}" in row
    assert cost is not None and f"{cost.bits / 1e6:.3f}" in row


@pytest.mark.slow
def test_a_run_says_its_constants_and_what_it_replaces(call):
    """Each in one line; L and the steps are NumPy's."""
    digits = data.load("digits")
    x = digits.features
    smoothness = np.linalg.eigvalsh(x.T @ x / len(x))[-1] + 1 / len(x)
    constants = f"L = {smoothness:.3g}, mu at least lambda = {1 / len(x):.3g}, "
    quick = ("run", "tiny.toml", "--num-rounds", "3")
    status, out, err = call(*quick)
    assert (status, err) == (0, "")
    assert f"{constants}step {1 / smoothness:.3g}.\n" in out
    assert "replaced" not in out
    halved = ("--methods.GD.step-factor", "0.5")
    status, out, err = call(*quick, *halved)
    each = f"{0.5 / smoothness:.3g} (GD); {1 / smoothness:.3g} (GD-SEC xi 10)"
    assert f"{constants}step {each}.\n" in out
    names = "GD.nc, GD-SEC xi 10.nc"
    assert f"results/tiny: an earlier run's {names} will be replaced.\n" in out
    lasso = ("--problem.kind", "lasso")  # whose penalty is no part of either
    out = call(*quick, *lasso)[1]
    assert f"L = {smoothness - 1 / len(x):.3g}, step " in out
    Path("grids.toml").write_text(GRIDS + "\n[problem.grid]\nnum_workers = [2, 3]\n")
    out = call("sweep", "grids.toml", "--results", "others")[1]
    of_two = f"num_workers = 2: {constants}1/L = {1 / smoothness:.3g}.\n"
    assert out.count("digits: 1,797 samples, 64 features, target with 10 cl") == 1
    assert of_two in out and "num_workers = 3: L = " in out


def test_a_run_over_a_channel_without_a_radio(call):
    Path("lossy.toml").write_text(
        "num_rounds = 20\n[channel]\nerasure_probability = 0.25\nmax_delay = 1\n"
    )
    status, out, err = call("run", "lossy.toml", "--results", "mine")
    assert (status, err) == (0, "")
    assert out.startswith("The config has no table [methods.NAME]: GD alone, grad")
    history = History.load("mine/lossy/GD.nc")
    assert history.lost is not None and 0 < history.lost.sum() < 60
    again = config.validate(history.attributes["config"], "saved")
    assert again.channel == config.load("lossy.toml").channel


@pytest.fixture
def ran(monkeypatch):
    """The configs that are handed on to be run."""
    given = []
    monkeypatch.setattr(experiment, "run", lambda x, *_, **__: given.append(x))
    return given


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_fields_are_overridden_by_options(call, ran):
    options = "--num-rounds 7 --methods.GD.learning-rate 0.01 --eval-every 3"
    options += " --problem.num-workers 2 --problem.dtype float32 --wire coo"
    status, out, err = call(
        *("run", "tiny.toml", *options.split(), "--methods.GD-SEC xi 10.beta", "0.5")
    )
    assert (status, out, err) == (0, "", "")
    (got,) = ran
    assert (got.num_rounds, got.eval_every, got.wire) == (7, 3, "coo")
    assert (got.problem.num_workers, got.problem.dtype) == (2, "float32")
    assert got.methods["GD"].learning_rate == 0.01
    sparse = dict(got.methods["GD-SEC xi 10"])
    assert (sparse["xi"], sparse["beta"]) == (10.0, 0.5)
    assert got.value_bits == 32  # of the file


@pytest.mark.parametrize("label", ["GD-SEC", "GD-SEC 2.5 +_", "GD-SEC xi 10"])
def test_options_of_any_label_that_help_lists(label, call, ran):
    Path("own.toml").write_text(f"[methods.'{label}']\nname = 'gdsec'\nxi = 10.0\n")
    assert f"--methods.{label}.xi" in call("run", "own.toml", "--help")[1]
    assert call("run", "own.toml", f"--methods.{label}.xi", "0.5")[0] == 0
    assert ran[0].methods[label].xi == 0.5


def test_a_run_that_diverges_is_a_result_and_its_title_is_literal(call):
    Path("wild.toml").write_text(
        "title = 'a [/b] c'\n[methods.GD]\nname = 'gd'\nlearning_rate = 100.0\n"
    )
    status, out, err = call("run", "wild.toml")
    assert (status, err) == (0, "")
    assert "a [/b] c: to" in out
    assert "GD: diverged: stopped after" in out
    assert History.load("results/wild/GD.nc").outcome == "diverged"
    assert {"never", "diverged"} <= set(row_of("GD", out).split())


def test_data_that_are_all_zero(call):
    Path("zero.toml").write_text(
        "num_rounds = 2\nproblem.data = 'zero.npz'\nproblem.regularization = 0\n"
    )
    np.savez("zero.npz", features=np.eye(6), targets=np.zeros(6))
    status, out, _ = call("run", "zero.toml")
    assert (status, "completed" in out) == (0, True)
    np.savez("zero.npz", features=np.zeros((6, 2)), targets=np.arange(6.0))
    status, _, err = call("run", "zero.toml")
    assert (status, err[:7]) == (2, "gdsec: ")


MEANT = {
    "meant": "num_round = 3",
    "problem": "problem.num_worker = 3",
    "method": "methods.a.name = 'GD-SEC'",
    "parameter": "methods.a = {name = 'gdsec', xii = 1.0}",
    "word": "wire = 'rel'",
    "option": "problem = {data = 'heterogeneous', options.num_sample = 3}",
}
REFUSED = """
run nosuch.toml | nosuch.toml is not a file, expected a TOML config.
run . | . is a folder, expected a config; gdsec show draws the runs in one.
run own.csv | own.csv is no config; of data gdsec init makes one: gdsec init mine.toml -
sweep own.npz | own.npz is no config; of data gdsec init makes one: gdsec init mine.toml
bench-compare no.json tiny.toml | no.json: No such file or directory.
init new.toml --data semi.csv | 'semi.csv' has semicolons between its cells, expected co
run ridge_minst | ridge_minst is no file, nor a config that comes with the package: did
sweep lasoo | lasoo is no file, nor a config that comes with the package: did you mean l
tune ridge_mnist.toml | ridge_mnist.toml is no file, nor a config that comes with the pa
run tiny | tiny is no file, nor a config that comes with the package: did you mean tiny.
run tiny2.toml | tiny2.toml is no file, nor a config that comes with the package: did yo
sweep tiny.toml | tiny has no grid, expected one of a method, [methods.NAME.grid], or of
tune tiny.toml | tiny has no grid, expected one of a method, [methods.NAME.grid], or of
run tiny.toml --log own.csv | own.csv is there already, expected a new file, or --append
run tiny.toml --append | --append is given without --log, expected the log to go on.
run tiny.toml --log a.csv --append --checkpoint-every 5 | --append is given with --check
run tiny.toml --log run.txt | the log is 'run.txt', expected a name that ends in .csv or
sweep tiny.toml --log run.txt | the log is 'run.txt', expected a name that ends in .csv
init mine | path is 'mine', expected a name that ends in .toml.
init nosuch/mine.toml | nosuch is no folder, expected one for nosuch/mine.toml.
init new.toml --target 0 | target is 0 for the data digits, expected it only for a file.
init tiny.toml | tiny.toml is there already, expected a new file, or --force to replace
init new.toml --data nosuch | data is 'nosuch', expected a file that exists, or one of d
show | no run is named, expected folders or .nc files of runs.
show nosuch | nosuch does not exist, expected a folder or an .nc file of a run.
show own.csv | own.csv holds no run or sweep of gdsec_jax: it is no NetCDF file of gdsec
show own.npz | own.npz holds no run or sweep of gdsec_jax: it is no NetCDF file of gdsec
tune grids.toml --output own.csv | --output is 'own.csv', expected a name that ends in .
tune grids.toml --output strange.toml | --output is 'strange.toml', a file that is no co
tune grids.toml --output broken.toml | --output is 'broken.toml', a file that is no conf
bench encode --json own.csv | --json is 'own.csv', expected a name that ends in .json
show . | . has no .nc files, expected those of runs.
show tiny.toml --figure a.xyz | --figure is 'a.xyz', expected a name that ends in .png,
show tiny.toml --target -1 | --target is -1.0, expected a number in (0, 1).
show tiny.toml --target 5 | --target is 5.0, expected a number in (0, 1).
run tiny.toml --target 1 | options: target is 1.0, expected less than 1
run broken.toml | broken.toml is not valid TOML:
run elsewhere.toml | problem: data is 'nosuch', expected a file
run sparse.toml | problem: scale is 'standard' for the sparse features of 'two.svm', exp
figures nosuch | no figure is called 'nosuch', expected ridge, het
figures rigde | no figure is called 'rigde', did you mean ridge? Expected ridge, het
data show digts | data is 'digts', did you mean digits? Expected a file that exists, or
data show semis.csv | data is 'semis.csv', did you mean semi.csv? Expected a file that e
data show named.csv --target prize | 'named.csv' has no column 'prize', did you mean pri
data fetch musrooms | data set name is 'musrooms', did you mean mushrooms? Expected one
run tiny.toml --wire gollomb | --wire is 'gollomb', did you mean golomb? Expected
data show nosuch | data is 'nosuch', expected a file that exists, or
data show digits --split test | split of 'digits' is 'test'
data show digits --target a | target is 'a' for the data digits, expected it only for
data show own.csv --zero-based True | zero_based is True for 'own.csv', expected it only
run index.toml | index.toml: problem.read.index is 1.5, expected a valid integer
run header.toml | problem: header is True for 'own.npz', expected it only for a CSV
run strange.toml | strange.toml: problem.read.haeder is an unknown field, did you mean h
run meant.toml | meant.toml: num_round is an unknown field, did you mean num_rounds? Exp
run problem.toml | problem.toml: problem: num_worker is an unknown field, did you mean
run method.toml | method.toml: methods.a: name is 'GD-SEC', did you mean gdsec? Expected
run parameter.toml | parameter.toml: methods.a: gdsec has no parameter xii, did you mean
run word.toml | word.toml: wire is 'rel', did you mean rle? Expected '
run option.toml | option.toml: problem: the data heterogeneous have no option num_sample
run | PATH is missing: A TOML file, or a name that gdsec configs lists; gdsec run --help
bench-compare a | PATH is missing: The same, of a later run; gdsec bench-compare --help
data fetch | NAME is missing: Of the data set, as gdsec data list has it; gdsec data fe
rnu | unknown command rnu, did you mean run? gdsec --help lists them.
version | unknown command version, did you mean --version? gdsec --help lists them.
data | no command is given, expected one of list, fetch, show.
data shw | unknown command shw, did you mean show? gdsec data --help lists them.
doctor x | unknown argument x; gdsec doctor --help says more.
run tiny.toml extra | unknown argument extra; gdsec run tiny.toml --help says more.
run tiny.toml --norms maybe | unknown argument maybe; gdsec run tiny.toml --help says m
--nosuch | unknown option --nosuch; gdsec --help lists them.
run tiny.toml --num-round 3 | unknown option --num-round, did you mean --num-rounds? gd
run tiny.toml --methods.GDD.trim 3 | unknown option --methods.GDD.trim, did you mean --m
run tiny.toml --methods.GD.xi 3 | unknown option --methods.GD.xi, did you mean --methods
sweep tiny.toml --memory=3 | unknown option --memory, did you mean --memory-limit? gdsec
figures --data nonsense | --data is 'nonsense', expected embedded or real.
figures --jobs=x | --jobs is 'x', expected an integer.
data show a --header maybe | --header is 'maybe', exp
show x --target | --target is given without a value, expected a number.
show x --target abc | --target is 'abc', expected a number.
run tiny.toml --results | --results is given without a value, expected a path.
run tiny.toml --num-rounds abc | --num-rounds is 'abc', expected an integer.
run tiny.toml --num-rounds -5 | options: num_rounds is -5, expected greater than or equ
run tiny.toml --problem.regularization -1 | options: problem.regularization is -1.0, exp
run tiny.toml --problem.split odd | --problem.split is 'odd', expected shuffled, contig
data fetch nosuch | data set name is 'nosuch', expected one of digits
"""


@pytest.mark.parametrize("row", REFUSED.strip().splitlines())
def test_what_is_refused(row, call):
    Path("broken.toml").write_text("num_rounds = = 3")
    alone = "\nmethods.GD.name = 'gd'"
    Path("elsewhere.toml").write_text("problem.data = 'nosuch'" + alone)
    Path("own.csv").write_text("1,2\n")
    Path("semi.csv").write_text("a;b\n1;2\n")
    Path("grids.toml").write_text(GRIDS)
    Path("index.toml").write_text("problem.read.index = 1.5")
    Path("strange.toml").write_text("problem.read.haeder = true")
    Path("two.svm").write_text("1 1:1\n-1 2:2\n")
    Path("sparse.toml").write_text(
        "problem = {data='two.svm', scale='standard'}" + alone
    )
    Path("named.csv").write_text("price,rooms\n1,2\n3,5\n")
    for name, text in MEANT.items():
        Path(f"{name}.toml").write_text(text)
    np.savez("own.npz", X=np.eye(2), y=np.ones(2))
    header = "problem = {data='own.npz', read.header=true}"
    Path("header.toml").write_text(header + alone)
    arguments, message = row.split(" | ")
    status, out, err = call(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"gdsec: {message}")
    assert err.count("\n") == 1
    assert left() == []


def test_a_file_where_the_results_should_go(call):
    Path("results").write_text("mine")
    status, _, err = call("run", "tiny.toml", "--num-rounds", "2")
    assert (status, err[:7], err.count("\n")) == (2, "gdsec: ", 1)
    assert Path("results").read_text() == "mine"


def test_help_of_a_config_lists_its_fields(call):
    status, out, _ = call("run", "tiny.toml", "--help")
    assert status == 0
    shown = ("--num-rounds", "--problem.num-workers", "(default: 400)")
    assert all(words in out for words in (*shown, "--methods.GD.learning-rate"))
    assert "--methods.GD.xi" not in out
    assert left() == []


# Figures


def test_figures_are_made_by_name_or_all(call, monkeypatch):
    made = []

    def make(names, results, *, console, real, jobs):
        made.append((names, results, real, jobs))
        return results / "index.html"

    monkeypatch.setattr(figures, "make", make)
    status, out, _ = call("figures", "ridge", "--results", "r")
    assert (status, out) == (0, "r/index.html\n")
    assert call("figures", "--data", "real", "--jobs", "3")[0] == 0
    assert made == [
        (("ridge",), Path("r"), False, os.cpu_count()),
        ((), Path("results"), True, 3),
    ]


# Sweeps and tuning


GRIDS = """
num_rounds = 200
target = 0.05
value_bits = 32

[problem]
num_workers = 3

[grid]
step_factor = [0.5, 1.0]

[methods.GD]
name = "gd"

[methods.GD-SEC]  # a comment
name = "gdsec"
xi = 10.0
grid.xi = [1.0, 30.0, 1e9]
"""


def test_a_sweep_leaves_a_file_a_method(call):
    Path("grids.toml").write_text(GRIDS)
    status, out, err = call("sweep", "grids.toml", "--log", "log.csv")
    assert (status, err) == (0, "")
    files = ["grids", "grids sweep.csv", "grids sweep.png", "grids sweep.svg"]
    assert left() == [*files, "grids/GD sweep.nc", "grids/GD-SEC sweep.nc"]
    swept = xr.load_dataset("results/grids/GD-SEC sweep.nc", engine="h5netcdf")
    assert swept.objective_error.dims == ("step_factor", "xi", "eval_round")
    assert "2 step_factor x 3 xi" in out
    lines = Path("log.csv").read_text().splitlines()
    assert len(lines) == 1 + int(swept.rounds.sum()) + 2 * 200
    status, _, err = call("sweep", "grids.toml", "--log", "log.csv")
    assert (status, "log.csv is there already" in err) == (2, True)
    assert call("sweep", "grids.toml", "--log", "log.csv", "--append")[0] == 0
    assert Path("log.csv").read_text().splitlines() == lines  # nothing was run again
    status, _, err = call("sweep", "grids.toml", "--append")
    assert (status, "--append is given without --log" in err) == (2, True)


def test_a_sweep_tells_every_setting_and_marks_the_best(call):
    Path("grids.toml").write_text(GRIDS)
    _, out, _ = call("sweep", "grids.toml")
    frame = pd.read_csv("results/grids sweep.csv")
    assert len(frame) == 2 + 2 * 3
    for row in frame.itertuples():
        axes = {"step_factor": row.step_factor}
        axes |= {} if row.method == "GD" else {"xi": row.xi}
        file = f"results/grids/{row.method} sweep.nc"
        one = xr.load_dataset(file, engine="h5netcdf").sel(axes)
        errors = one.objective_error.values
        reached = np.flatnonzero(errors <= 0.05 * float(one.initial_error))
        expected = (
            (reached[0] + 1, int(one.total_bits[reached[0]]))
            if len(reached)
            else 2 * (np.inf,)
        )
        assert (row.rounds, row.bits) == expected
        assert row.outcome == one.outcome
    best = frame[frame.best]
    assert best.method.tolist() == ["GD", "GD-SEC"]
    for label, own in frame.groupby("method"):
        assert best[best.method == label].bits.item() == own.bits.min()
    marked = [
        line.split()[:4] for line in out.splitlines() if line.split()[:1] == ["*"]
    ]
    assert marked == [["*", "GD", "1", "56"], ["*", "GD-SEC", "1", "30"]]
    assert sum(line.split()[:1] == ["GD-SEC"] for line in out.splitlines()) == 5


@pytest.mark.slow
def test_of_many_settings_the_table_shows_the_first_and_counts_the_others(call):
    Path("grids.toml").write_text(
        GRIDS.replace("30.0,", ",".join(map(str, range(2, 30))) + ",")
    )
    _, out, _ = call("sweep", "grids.toml", "--results", "mine")
    assert len(pd.read_csv("mine/grids sweep.csv")) == 2 + 2 * 30
    assert "55 further settings are in the CSV file" in " ".join(out.split())
    assert sum(" GD-SEC " in line for line in out.splitlines()) == 5


@pytest.mark.slow
def test_a_sweep_over_problems_has_a_best_setting_in_each(call):
    Path("grids.toml").write_text(
        GRIDS.replace("num_workers = 3", "num_workers = 3\ngrid.num_workers = [2, 4]")
    )
    assert call("sweep", "grids.toml")[0] == 0
    frame = pd.read_csv("results/grids sweep.csv")
    best = frame[frame.best]
    assert best.num_workers.tolist() == [2, 4, 2, 4]
    for _, own in frame.groupby(["method", "num_workers"]):
        assert own[own.best].bits.item() == own.bits.min()
    # Of the same files, whose parts do not count twice.
    status, out, _ = call("show", "results/grids", "--target", "0.05")
    assert status == 0
    assert sum(line.split()[:1] == ["*"] for line in out.splitlines()) == 4
    assert sum(" GD-SEC " in f" {line} " for line in out.splitlines()) == 2 * 2 * 3


@pytest.mark.slow
def test_a_sweep_over_the_problem_too(call):
    grid = "num_workers = 3\ngrid.num_workers = [2, 4]\n"
    grid += 'grid.split = ["shuffled", "sorted"]'
    Path("grids.toml").write_text(GRIDS.replace("num_workers = 3", grid))
    assert call("sweep", "grids.toml")[0] == 0
    swept = xr.load_dataset("results/grids/GD-SEC sweep.nc", engine="h5netcdf")
    dims = ("num_workers", "split", "step_factor", "xi", "eval_round")
    assert swept.objective_error.dims == dims
    assert swept.split.values.tolist() == ["shuffled", "sorted"]
    values = {"num_rounds": 200, "value_bits": 32}
    values["problem"] = {"num_workers": 4, "split": "sorted"}
    values["methods"] = {"x": {"name": "gdsec", "xi": 30.0, "step_factor": 0.5}}
    one = config.validate(values, "test")
    with experiment.prepared(one) as problem:
        history = experiment.simulate_method(one, "x", one.methods["x"], problem)
    mine = swept.sel(num_workers=4, split="sorted", step_factor=0.5, xi=30.0)
    np.testing.assert_allclose(mine.objective_error, history.objective_error, 1e-9)
    np.testing.assert_array_equal(mine.total_bits, history.total_bits)


@pytest.mark.slow
def test_tuning_writes_a_config_that_runs(call):
    Path("grids.toml").write_text(GRIDS)
    status, out, err = call("tune", "grids.toml", "--output", "tuned.toml")
    assert (status, err) == (0, "")
    assert "GD-SEC: step_factor = 1.0, xi = 30.0: of 6 settings, the fewest bits" in out
    text = Path("tuned.toml").read_text()
    assert "# a comment" in text
    tuned = config.load("tuned.toml").methods["GD-SEC"]
    assert (tuned.step_factor, tuned.xi) == (1.0, 30.0)
    assert tuned.chosen.startswith("of 6 settings, the fewest bits to the target")
    Path("deep").mkdir()
    Path("deep/grids.toml").write_text(GRIDS)
    status, out, _ = call("tune", "deep/grids.toml")
    assert status == 0
    assert out.endswith("gdsec run deep/grids_tuned.toml\n")
    assert config.load("deep/grids_tuned.toml").methods["GD-SEC"] == tuned


def test_what_is_tuned_of_a_shipped_config_is_written_here(call, monkeypatch):
    def tune(given, *_, **__):
        return given

    monkeypatch.setattr(experiment, "tune", tune)
    status, out, err = call("tune", "lasso")
    assert (status, err) == (0, "")
    assert "wrote lasso_tuned.toml, the config with what was chosen" in out
    assert config.load("lasso_tuned.toml") == config.load(shipped.find(Path("lasso")))


def test_a_limit_of_memory_that_is_too_small_is_refused(call):
    Path("grids.toml").write_text(GRIDS)
    status, _, err = call("sweep", "grids.toml", "--memory-limit", "1000")
    assert status == 2
    assert err.startswith("gdsec: methods.GD: memory_limit is 1,000 bytes, expected")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log.csv", "board"])
def test_a_run_that_was_killed_goes_on(name, call, monkeypatch):
    saves = []

    def save(self, saved):
        saves.append(self.folder.name)
        if len(saves) == 6:  # in the second method's run
            raise KeyboardInterrupt
        kept(self, saved)

    run = ("run", "tiny.toml", "--checkpoint-every", "30", "--num-rounds", "100")
    run += ("--log", name)
    assert call(*run, "--results", "undisturbed")[0] == 0
    Path(name).rename(f"undisturbed {name}")
    kept = _checkpoint.Store.save
    monkeypatch.setattr(_checkpoint.Store, "save", save)
    assert call(*run)[0] == 130
    assert Path(name).exists()
    folder = Path("results/tiny/checkpoints")
    kept_to = [max(p.name for p in (folder / x).glob("rounds/*")) for x in saves[::5]]
    assert [name[:10] for name in kept_to] == ["0000000100", "0000000030"]
    status, out, _ = call(*run)
    assert status == 0
    assert "GD: goes on from round 100." in out
    assert "GD-SEC xi 10: goes on from round 30." in out
    assert "will be replaced" not in out
    assert saves[6:] == 3 * ["GD-SEC xi 10"]
    assert left() == LEFT
    for path in LEFT[3:]:
        one, other = (History.load(f"{x}/{path}") for x in ("results", "undisturbed"))
        xr.testing.assert_equal(one.to_xarray(), other.to_xarray())
    if name != "board":
        assert Path(name).read_text() == Path(f"undisturbed {name}").read_text()


@pytest.mark.slow
def test_checkpoints_of_another_config_are_refused(call, monkeypatch):
    run = ("run", "tiny.toml", "--num-rounds", "40", "--checkpoint-every=20")
    with monkeypatch.context() as patched:
        patched.setattr(experiment.report, "draw", interrupted)
        assert call(*run)[0] == 130
    status, out, err = call(*run, "--problem.num-workers", "2")
    assert status == 2
    assert "goes on" not in out
    assert err.startswith("gdsec: checkpoint is 'results/tiny/checkpoints/GD', exp")
    assert err.endswith("the one there differs in data, method or options.\n")
    status, _, err = call(*run[:-1], "--checkpoint-every=0")
    assert status == 2
    assert err.startswith("gdsec: checkpoint_every is 0, expected an integer from 1 ")
    assert call("run", "tiny.toml", "--num-rounds", "2")[0] == 0  # leaves them alone
    [damaged] = Path("results/tiny/checkpoints/GD/rounds").glob("0000000040-*")
    damaged.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match=r"40 in .*GD is damaged, .* from round 20"):
        assert call(*run)[0] == 0
    assert left() == LEFT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_only_the_log_of_the_run_is_written_anew(name, call, monkeypatch):
    run = ("run", "tiny.toml", "--num-rounds", "40", "--checkpoint-every=20")
    logged = (*run, "--log", name)
    with monkeypatch.context() as patched:
        patched.setattr(experiment.report, "draw", interrupted)
        assert call(*logged)[0] == 130
    before = Path(name).read_text()
    # Refused in the second method, when the first one's rounds were told again.
    Path("tiny.toml").write_text(TINY.replace("xi = 10.0", "xi = 11.0"))
    status, _, err = call(*logged)
    Path("tiny.toml").write_text(TINY)
    assert (status, "the one there differs in method or options" in err) == (2, True)
    assert Path(name).read_text() == before
    foreign = Path(f"foreign {name}")
    foreign.write_text("round\n1\n")
    status, _, err = call(*run, "--log", str(foreign))
    assert (status, "foreign" in err) == (2, True)
    assert foreign.read_text() == "round\n1\n"
    Path(name).rename("moved")
    foreign.rename(name)
    assert call(*logged)[0] == 2
    assert Path(name).read_text() == "round\n1\n"
    Path("moved").replace(name)
    assert call(*logged)[0] == 0
    assert Path(name).read_text() == before
    assert not list(Path().glob(".*"))


def test_a_run_of_several_processes_is_not_saved(call, monkeypatch):
    def meet(*_):
        raise AssertionError("they have met")

    monkeypatch.setattr(_running, "meet", meet)
    run = ("run", "tiny.toml", "--distributed", "--checkpoint-every", "5")
    status, _, err = call(*run)
    assert status == 2
    assert err.startswith("gdsec: --checkpoint-every is 5, expected none with --dist")
    page = " ".join(call("run", "--help")[1].split())
    assert "Not with --checkpoint-every" in page


# Before the first run


def test_the_shipped_configs_are_listed_and_run_by_name(call, ran):
    status, out, err = call("configs")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    kept = Path(cli.__file__).parents[2] / "configs"
    assert set(rows) == {
        x.stem for x in kept.rglob("*.toml") if x.parent.name != "league"
    }
    assert "Ridge regression, MNIST test images" in rows["ridge_mnist"]
    assert rows["ridge_mnist"].split()[-2:] == ["mnist", "remote"]
    assert "needs flax" in rows["cnn"]
    last = {name: rows[name].split()[-1] for name in ("lasso", "frontier")}
    assert last == {"lasso": "search", "frontier": "grids"}
    given = [
        ("ridge_mnist", "--num-rounds", "7"),
        ("--num-rounds", "7", "ridge_mnist"),
        ("--results", "ridge", "--num-rounds", "7", "ridge_mnist"),
        ("--norms", "ridge_mnist", "--num-rounds", "7"),
    ]
    for arguments in given:
        assert call("run", *arguments)[0] == 0
        assert ran[-1].problem.data == "mnist" and ran[-1].num_rounds == 7
    assert call("run", "--norms", "lasso")[0] == 0
    assert ran[-1].title == "Lasso"
    Path("lasso").write_text(TINY)  # a file of one's own comes first
    assert call("run", "lasso")[0] == 0
    assert ran[-1].target == 0.3


def test_the_methods_are_listed_with_papers_that_no_line_breaks(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = call("methods")
    assert (status, err) == (0, "")
    words = set(out.split())
    assert {*METHODS, "arXiv:1805.09965", "doi:10.1109/JSTSP.2022.3162989"} <= words
    short = [re.split("org/abs/|org/| ", m.paper)[-1] for m in METHODS.values()]
    assert all(any(word.endswith(paper) for word in words) for paper in short)


def test_a_config_to_begin_with_runs_at_once(call):
    status, out, err = call("init", "mine.toml")
    assert (status, err) == (0, "")
    assert out.endswith("wrote mine.toml; gdsec run mine.toml runs it.\n")
    text = Path("mine.toml").read_text()
    words = text.replace("\n# ", " ")
    assert "fixed xi, of about 30 to 100 times L, here 314 to 1.05e+03" in words
    lines = text.splitlines()  # every field is explained, beside it or above it
    for before, line in itertools.pairwise(lines):
        assert " = " not in line or "#" in line or before[:1] == "#", line
    made = config.load("mine.toml")
    assert list(made.methods) == ["GD", "GD-SEC", "top-j"]
    status, out, err = call("run", "mine.toml", "--num-rounds", "300")
    assert (status, err) == (0, "")
    assert [row_of(x, out).split()[-1] for x in made.methods] == 3 * ["completed"]
    assert float(row_of("GD-SEC", out).split()[2]) < float(row_of("GD", out).split()[2])
    Path("mine.toml").write_text(text.replace("num_rounds = 1000", "num_rounds = 9"))
    assert call("init", "mine.toml")[0] == 2
    assert "num_rounds = 9" in Path("mine.toml").read_text()
    assert call("init", "mine.toml", "--force")[0] == 0
    assert Path("mine.toml").read_text() == text


@pytest.mark.slow
def test_a_config_to_begin_with_sweeps_and_tunes_at_once(call):
    assert call("init", "mine.toml")[0] == call("sweep", "mine.toml")[0] == 0
    frame = pd.read_csv("results/mine sweep.csv")
    own = frame[frame.method == "GD-SEC"]
    assert len(own) == 7
    assert not own.best.iloc[[0, -1]].any()  # the best is at no edge
    assert call("tune", "mine.toml")[0] == 0
    xi = config.load("mine_tuned.toml").methods["GD-SEC"].xi
    assert xi == pytest.approx(own[own.best].xi.item())


OWN_DATA = {
    "price.csv": ("ridge", {"header": True, "target": "price", "index": False}),
    "two.svm": ("logistic", {"zero_based": False, "num_features": 3}),
    "classes.npz": ("softmax", {"features": "X", "target": "y"}),
    "same 'name\".csv": ("ridge", {"header": False, "target": 1, "index": False}),
}


@pytest.mark.parametrize("name", OWN_DATA)
def test_a_config_of_ones_own_data_says_how_they_were_read(name, call):
    kind, read = OWN_DATA[name]
    rng = np.random.default_rng(0)
    Path("data").mkdir()
    Path("deep").mkdir()
    rows = "".join(f"{a:.3f},{b:.3f}\n" for a, b in rng.normal(size=(20, 2)))
    Path("data/price.csv").write_text(f"size,price\n{rows}")
    Path("data/same 'name\".csv").write_text(rows.splitlines()[0])
    Path("data/two.svm").write_text("1 1:1\n-1 2:2\n1 3:1\n")
    classes = {"X": rng.normal(size=(9, 2)), "y": np.arange(9) % 3}
    np.savez("data/classes.npz", **classes)
    status, _, err = call("init", "deep/own.toml", "--data", f"data/{name}")
    assert (status, err) == (0, "")
    made = config.load("deep/own.toml")
    assert made.problem.kind == kind
    assert Path(made.problem.data) == Path("deep/../data") / name
    assert "../data/" in Path("deep/own.toml").read_text()
    assert {x: v for x, v in vars(made.problem.read).items() if v is not None} == read
    with experiment.prepared(made) as problem:
        assert problem.num_workers == made.problem.num_workers
    if kind == "logistic":
        assert call("run", "deep/own.toml", "--num-rounds", "5")[0] == 0


AS_ONE_SAYS = {  # what is read as the target, and the beginnings of hints
    "own.csv": ("c", ["The target is the last column; --target n"]),
    "own.csv --target b": ("b", []),
    "far.csv": ("c", ["The target is", "The features' sizes range from 3 to 900: all"]),
    "far.csv --index a": ("c", ["The target is"]),
    "far.csv --target 1 --header True": ("b", []),
    "years.csv": ("c", ["The target is", "The features' sizes range from 4 to 2e+"]),
    "far.svm": (None, ["The features' sizes range from 1 to 500: all methods "]),
    "far.npz": (None, ["The features' sizes range from 1 to 500: all methods "]),
}


@pytest.mark.parametrize("given", AS_ONE_SAYS)
def test_a_config_of_ones_own_data_as_one_says(given, call):
    target, hints = AS_ONE_SAYS[given]
    Path("own.csv").write_text("a,b,c\n1,30,2\n2,5,4\n4,0,5\n3,3,1\n")
    Path("far.csv").write_text("a,b,c\n1,900,2\n2,5,4\n4,0,5\n3,3,1\n")
    Path("years.csv").write_text("a,b,c\n2000,1,2\n2001,1,4\n2004,1,5\n2003,1,1\n")
    Path("far.svm").write_text("1 1:1\n-1 2:500\n")
    np.savez("far.npz", features=[[1, 500], [0, 3]], targets=[1, 2])
    status, out, err = call("init", "mine.toml", "--data", *given.split())
    assert (status, err) == (0, "")
    problem = config.load("mine.toml").problem
    if target is not None:
        assert problem.read.target == target
    _, *said, _ = out.splitlines()
    assert len(said) == len(hints)
    assert all(line.startswith(hint) for line, hint in zip(said, hints, strict=True))
    # A table of unequal columns is scaled, and the config says why; others are not.
    table = given.split(".")[1][:3] == "csv"
    unequal = bool(hints) and hints[-1].startswith("The features")
    does = ("standard", True) if table and unequal else ("none", False)
    assert (problem.scale, problem.intercept) == does
    comments = re.sub(r"\n# ", " ", Path("mine.toml").read_text())
    assert ("The features' sizes range" in comments) == unequal
    word = "max" if given == "far.svm" else "standard"
    assert not unequal or f'scale = "{word}"' in said[-1]


def houses(rows=150):
    """A table as people have it: an index first, the target third, wild scales."""
    rng = np.random.default_rng(5)
    names = ["id", "area", "price", "tax", "income", "floors"]
    columns = [
        *(np.arange(rows) + 1000, rng.uniform(30, 300, rows), np.zeros(rows)),
        *(10 ** rng.uniform(-3, -2, rows), rng.lognormal(11, 0.5, rows)),
        np.full(rows, 2.0),
    ]
    columns[2] = 1e3 * columns[1] + 2 * columns[4] + 1e4 * rng.normal(size=rows)
    frame = pd.DataFrame(dict(zip(names, columns, strict=True)))
    frame.to_csv("houses.csv", index=False, float_format="%.6g")
    return frame


@pytest.mark.slow
def test_a_table_of_wild_scales_reaches_the_target_in_three_commands(call):
    """And its L, printed, and the grid are those of the scaled features."""
    frame = houses()
    read = ("--data", "houses.csv", "--target", "price", "--index", "id")
    assert call("init", "mine.toml", *read)[0] == 0
    x = frame[["area", "tax", "income"]].to_numpy()
    x = (x - x.mean(0)) / x.std(0)
    x = np.column_stack([x, np.zeros(len(x)), np.ones(len(x))])  # floors are all 2
    smoothness = np.linalg.eigvalsh(x.T @ x / len(x))[-1] + 1 / len(x)
    grid = config.load("mine.toml").methods["GD-SEC"].grid["xi"]
    given = (grid.start, grid.stop)
    np.testing.assert_allclose(given, [5 * smoothness, 500 * smoothness], rtol=5e-3)
    assert f"is {smoothness:.3g} here" in Path("mine.toml").read_text()
    status, out, err = call("run", "mine.toml", "--num-rounds", "100")
    assert (status, err) == (0, "")
    assert "4 features of mean 0 and deviation 1, an intercept, target" in out
    assert f"L = {smoothness:.3g}" in out
    for label in ("GD", "GD-SEC", "top-j"):
        assert row_of(label, out).split()[1] != "never"
    plain = ("--problem.scale", "none", "--problem.no-intercept")
    _, out, _ = call("run", "mine.toml", "--num-rounds", "100", *plain)
    assert row_of("GD", out).split()[1] == "never"


def test_the_doctor_says_what_there_is_and_what_is_not(call, monkeypatch):
    versions = importlib.metadata.version

    def without_flax(name):
        if name == "flax":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "optax" else versions(name)

    status, out, err = call("doctor")
    assert (status, err) == (0, "")
    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in out.splitlines()]
    said = {row[0]: row[1] for row in rows if len(row) == 2}
    assert said["jaxlib"] == versions("jaxlib")
    assert said["numpy"] == np.__version__
    assert said["digits train"] == "embedded"
    assert str(Path("cache").resolve()) in said["downloads"]
    assert f"{jax.device_count()} x {jax.devices()[0].platform}" in said["device"]
    monkeypatch.setattr(importlib.metadata, "version", without_flax)
    monkeypatch.setenv("GDSEC_DATA_DIR", "nowhere")
    status, out, err = call("doctor")
    assert (status, err) == (0, "")
    assert "0.0.1, expected <0.3,>=0.2.8" in out
    assert "flax missing, expected <0.14,>=0.12: pip install 'gdsec-jax[flax]'" in out
    assert "GDSEC_DATA_DIR" in out and "nowhere" in out


def test_the_version_and_the_module(call):
    said = f"gdsec {importlib.metadata.version('gdsec-jax')}\n"
    assert call("--version") == (0, said, "")
    command = [sys.executable, "-m", "gdsec_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, said)


# Saved runs


def test_saved_runs_are_shown(call):
    about = {"config": {"target": 0.3, "problem": {"data": "digits"}}}
    about |= {"problem": "ridge", "label": "GD"}
    for folder in ("a", "b"):
        made_history([320] * 4, [5, 4, 2, 1], **about).save(f"{folder}/GD.nc")
    label = about | {"label": "GD-SEC xi 10"}
    made_history([320, 32, 0, 32], [5, 4, 2.9, 1], **label).save("a/GD-SEC xi 10.nc")
    status, out, err = call("show", "a", "--figure", "deep/a.svg")
    assert (status, err) == (0, "")
    assert "GD, ridge on digits, 1 workers: completed 4 rounds, error 10 -> 1, 1" in out
    assert row_of("GD", out).split()[1:5] == ["3", "0.001", "100.00", "%"]
    assert row_of("GD-SEC xi 10", out).split()[3:7] == ["3", "0.000", "36.67", "%"]
    assert Path("deep/a.svg").stat().st_size > 1000
    status, out, _ = call("show", "a", "b/GD.nc", "--target", "0.2")
    assert status == 0 and Path("shown.png").exists()
    assert "To 0.2 of the initial error" in out
    assert out.endswith("wrote shown.png\n")
    assert row_of("GD (a)", out).split()[2] == row_of("GD (b)", out).split()[2] == "3"
    assert "different problems" not in out
    other = about | {"problem": "lasso"}
    made_history([320] * 4, [5, 4, 2, 1], **other).save("c/GD.nc")
    _, out, _ = call("show", "a", "c")
    assert "different problems: ridge on digits; lasso on digits. Their" in out
    assert out.endswith("wrote shown.png, in place of an earlier one\n")
    _, _, err = call("show", ".")
    assert "no .nc files, expected those of runs: see a, b, c." in err
    # Of other people, who know no configs; and named twice it is one.
    made_history([320] * 4, [5, 4, 2, 1]).save("theirs.nc")
    status, out, _ = call("show", "theirs.nc", "./theirs.nc")
    assert (status, out.count("theirs, problem, 1 workers: completed")) == (0, 1)
    other = {"config": "their.yaml", "label": 7, "method": "mine", "wire": "any"}
    made_history([320] * 4, [5, 4, 2, 1], **other).save("other.nc")
    status, out, _ = call("show", "other.nc")
    assert status == 0 and "7, problem, 1 workers: completed 4 rounds" in out
    for field, value in {"attributes": "[1]", "outcome": None}.items():
        dataset = made_history([320] * 4, [5, 4, 2, 1]).to_xarray()
        dataset.attrs[field] = value
        dataset.attrs = {x: v for x, v in dataset.attrs.items() if v is not None}
        _netcdf.write(dataset, Path("broken.nc"))
        status, out, err = call("show", "broken.nc")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("gdsec: broken.nc holds no run or sweep of gdsec_jax: ")
    damaged = bytearray(Path("theirs.nc").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    Path("theirs.nc").write_bytes(damaged)
    status, out, err = call("show", "theirs.nc")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert (
        "theirs.nc holds no run or sweep of gdsec_jax: it is damaged, its end is" in err
    )


@pytest.mark.parametrize("slack", ["", "slack = 0.0\n"])
def test_saved_sweeps_are_shown_as_the_sweep_itself_shows_them(call, slack):
    Path("grids.toml").write_text(slack + GRIDS)
    _, swept, _ = call("sweep", "grids.toml")
    Path("results/grids/.GD sweep.nc").write_text("what a kill has left")
    status, shown, err = call("show", "results/grids")
    assert (status, err) == (0, "")
    rows = [
        [
            line.split()
            for line in out.splitlines()
            if " completed" in line or " worse" in line
        ]
        for out in (swept, shown)
    ]
    assert rows[0][2:] == rows[1] and len(rows[1]) == 8


# What is said on the way, and of what went wrong


@pytest.mark.slow
def test_a_bar_names_the_method_and_how_many_there_are(call, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, _, shown = call("run", "tiny.toml", "--num-rounds", "20")
    assert "GD, 1 of 2" in shown and "GD-SEC xi 10, 2 of 2" in shown
    assert re.search(r"\d:\d\d:\d\d", shown)  # the time left
    Path("grids.toml").write_text(GRIDS)
    assert "GD-SEC, 2 of 2, batch 1 of 1" in call("tune", "grids.toml")[2]


def test_what_got_worse_is_said_at_the_end(call):
    Path("wild.toml").write_text(
        "num_rounds = 30\n[methods.GD]\nname = 'gd'\n"
        "[methods.wild]\nname = 'gd'\nlearning_rate = 100.0\n"
    )
    _, out, _ = call("run", "wild.toml")
    last = out.splitlines()[-1]
    assert last.startswith(
        "wild diverged: its error grew until it was stopped; a smaller"
    )
    assert "GD diverged" not in out
    worse = made_history([32], [20.0], "worsened")
    (said,) = experiment.failures({"GD": made_history([32], [5.0]), "worse": worse})
    assert said.startswith("worse ended above where it began: its last error is larger")


def test_every_command_says_what_each_of_its_options_is(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    commands, seen = [()], 0
    for command in commands:
        status, out, _ = call(*command, "--help")
        assert status == 0
        options: list[list[str]] = []
        for line in out.splitlines():
            # With or without a box around it, as the terminal has one.
            framed, body = line[:2] in ("│ ", "  "), line[2:].rstrip(" │")
            if framed and body.startswith("  • "):
                commands.append((*command, body.split()[1]))
            elif framed and re.match(r"-|[A-Z]", body):
                options.append(re.split(r"\s{2,}", body, maxsplit=1))
            elif framed and options:
                options[-1].append(body.strip())
        for name, *said in options:
            text = re.sub(r"\((default: .*?|required)\)", "", " ".join(said))
            assert re.search(r"[a-z]{3}", text), f"{command}: {name}"
            seen += 1
    assert len(commands) >= 15 and seen >= 50, (commands, seen)


def test_every_field_of_a_config_says_what_it_is():
    models = [config.RunConfig, config.ProblemConfig, config.ChannelConfig]
    models += [type(config.MethodConfig.model_validate({"name": "gd"}))]
    for model in (*models, *(model_of(name) for name in METHODS)):
        for name, field in model.model_fields.items():
            nested = name in ("read", "problem")
            assert nested or len(field.description or "") > 1, f"{model}: {name}"


# Data


def test_data_list(call):
    status, out, _ = call("data", "list")
    assert status == 0
    rows = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert "digits multiclass train 1,797 x 64 embedded" in rows
    assert "mnist multiclass test 10,000 x 784 remote" in rows
    assert "rcv1 binary train 20,242 x 47,236 remote" in rows


def test_data_show(call):
    share = f"{np.mean(data.load('digits').features != 0):.2%}"
    Path("own.svm").write_text("+1 1:0.5 3:2\n-1 2:1.5\n+1 1:-1\n")
    Path("empty.svm").write_text("+1 1:0\n-1\n")
    shown = {
        "digits": ("1,797 x 64", "dense", share, "0 to 1", "0 to 9, 10 different val"),
        "own.svm": ("3 x 3", "sparse", "44.44%", "-1 to 2", "-1 to 1, 2 different"),
        "empty.svm": ("0.00%",),
    }
    for name, words in shown.items():
        status, out, _ = call("data", "show", name)
        assert status == 0 and all(text in out for text in words), name


def test_how_data_are_read_is_shown_and_can_be_said(call):
    Path("own.csv").write_text(",a,b\nx,1,3\ny,2,5\nz,4,5\n")
    Path("own.svm").write_text("1 1:1\n-1 2:2\n")
    np.savez("own.npz", x_train=np.eye(3), y_train=np.arange(3))
    shown = {
        "own.csv": ("3 x 1", "header True", "target 'b'", "index 0", "3 to 5, 2 d"),
        "own.csv --target a": ("target 'a'", "1 to 4, 3 different"),
        "own.csv --target 1 --index 0": ("target 'a'", "1 to 4, 3 different"),
        "own.svm": ("2 x 2", "zero_based False", "num_features 2"),
        "own.svm --zero-based True": ("2 x 3", "zero_based True", "num_features 3"),
        "own.svm --num-features 7": ("2 x 7", "num_features 7"),
        "own.npz --features x_train --target y_train": ("3 x 3", "target 'y_train'"),
    }
    for arguments, words in shown.items():
        status, out, _ = call("data", "show", *arguments.split())
        out = " ".join(out.replace("│", " ").split())
        assert status == 0 and all(text in out for text in words), (arguments, out)
    status, _, err = call("data", "show", "own.csv", "--index", "False")
    assert status == 2 and "line 2, column 1 of 'own.csv' is 'x', expected" in err


def test_a_run_says_what_it_has_read(call):
    Path("deep").mkdir()
    Path("deep/own.csv").write_text("a,b\n1,3\n2,5\n4,5\n0,3\n")
    Path("deep/own.toml").write_text(
        "num_rounds = 2\n[problem]\ndata = 'own.csv'\nnum_workers = 2\n"
        "[methods.GD]\nname = 'gd'\n"
    )
    line = "own.csv: 4 samples, 1 features, target {} classes, {} to {}"
    status, out, _ = call("run", "deep/own.toml")
    assert (status, out.splitlines()[0]) == (0, line.format("'b' with 2", 3, 5))
    status, out, _ = call("run", "deep/own.toml", "--problem.read.target", "a")
    assert (status, out.splitlines()[0]) == (0, line.format("'a' with 4", 0, 4))
    # A path of the command is seen from where it is given.
    status, _, err = call("run", "deep/own.toml", "--problem.data", "own.csv")
    assert status == 2 and "data is 'own.csv', expected a file that exists" in err


def test_data_fetch_without_a_network(call):
    assert call("data", "fetch", "digits") == (0, "", "")  # it is embedded
    status, out, err = call("data", "fetch", "mnist")
    assert (status, out) == (2, "")
    assert err.startswith("gdsec: cannot download 'train-images-idx3-ubyte' of the da")
    assert "set the environment variable GDSEC_DATA_DIR to that folder" in err[:300]
    assert "ProxyError); " in err and "HTTPSConnectionPool" not in err
    assert err.count("\n") == 1
    assert left("cache") == []


FOLDER, LEAST = "COMPILATION_CACHE_DIR", "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, [FOLDER, LEAST]), ({LEAST: "2"}, [FOLDER]), ({FOLDER: "x"}, [])],
)
def test_what_the_user_said_of_the_cache_is_kept(monkeypatch, given, kept):
    for name in (FOLDER, LEAST):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    updated = []
    monkeypatch.setattr(jax.config, "update", lambda name, _: updated.append(name))
    monkeypatch.setattr(cli, "main", lambda: 0)
    assert cli.command() == 0
    assert updated == [f"jax_{name}".lower() for name in kept]


def shut_down_as_orbax_does(*_, **__):
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("cannot schedule new futures after shutdown")


@pytest.mark.parametrize("interrupt", [interrupted, shut_down_as_orbax_does])
def test_an_interrupt_is_no_traceback(interrupt, call, monkeypatch):
    monkeypatch.setattr(experiment, "run", interrupt)
    assert call("run", "tiny.toml") == (130, "", "gdsec: interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_an_interrupt_while_it_is_imported_is_no_traceback():
    Path("jax.py").write_text("import os; os.kill(os.getpid(), 2)")
    code = "import sys; sys.path.insert(0, '.'); from gdsec_jax.__main__ import command"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; command()"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "gdsec: interrupted.\n")


@pytest.mark.parametrize(
    ("lacks", "problem", "given"),
    [
        ("gdsec_experiments._models", 'kind = "network"\nmodel = "mlp"\n', ()),
        # What is there already is found by its whole name, whatever its package says.
        ("tensorboardX.proto.event_pb2", "", ("--log", "board")),
    ],
)
def test_a_missing_extra_is_a_sentence(call, monkeypatch, lacks, problem, given):
    monkeypatch.setitem(sys.modules, lacks, None)
    text = TINY.replace("value_bits = 32\n", "") if problem else TINY
    Path("net.toml").write_text(text.replace("num_workers", problem + "num_workers"))
    status, _, said = call("run", "net.toml", *given)
    assert (status, said.count("\n")) == (2, 1)
    assert "is missing" in said and "pip install 'gdsec-jax[" in said
