"""Runs, sweeps and tables of a config; the claims of the README and the main job."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import rich.console
import xarray as xr
from inside import _chunks, _grid

import gdsec_jax
from gdsec_experiments import _parts as parts
from gdsec_jax import History, data
from gdsec_jax.study import config, experiment

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def quiet():
    return rich.console.Console(quiet=True)


def make(methods, **fields) -> config.RunConfig:
    """Methods on a small ridge problem."""
    problem = {"data": "heterogeneous", "num_workers": 4, "split": "contiguous"}
    problem |= {"options": {"samples_per_worker": 8, "num_features": 6}, "seed": 5}
    problem |= fields.pop("problem", {})
    values = {"num_rounds": 30, "methods": methods, "problem": problem}
    return config.validate(values | fields, "test")


THREE = {
    "GD": {"name": "gd"},
    "half": {"name": "gdsec", "xi": 0.5, "participation": 0.5},
    "random": {"name": "qgd", "levels": 4, "seed": 2, "step_factor": 0.5},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three methods, their folder, and what was logged."""
    folder, seen = tmp_path_factory.mktemp("runs") / "here", []
    console = rich.console.Console(quiet=True)

    def log(rows, setting):
        seen.append((setting, rows))

    options = {"log": log, "observe": gdsec_jax.norms}
    loaded = make(THREE, target=1e-2, eval_every=4)
    return experiment.compare(loaded, folder, console, **options), folder, seen


# Runs of a config


def test_the_runs_of_a_config(runs):
    found, folder, seen = runs
    assert list(found.histories) == list(found.methods) == list(THREE)
    assert found.methods["random"] == "qgd"
    assert {path.name for path in folder.iterdir()} == {f"{x}.nc" for x in THREE}
    for label, history in found.histories.items():
        loaded = History.load(folder / f"{label}.nc")
        np.testing.assert_array_equal(loaded.bits, history.bits)
        assert loaded.attributes["label"] == label
        assert loaded.attributes["config"] == found.config.model_dump(mode="json")
        assert "gradient_norm" in loaded.observed
        rows = [rows for setting, rows in seen if setting == {"method": label}]
        bits = np.concatenate([each["bits"] for each in rows])
        np.testing.assert_array_equal(bits, history.bits.sum(1))
    labels = [setting["method"] for setting, _ in seen]
    assert labels == sorted(labels)


# Each with what may differ within a kind: traced numbers, a seed, what is drawn.
KINDS = (
    {"name": "qgd", "levels": 4, "seed": 1},
    {"name": "qsgdsec", "xi": 1.0, "levels": 8, "seed": 1},
    {"name": "ef21_sgdm", "k": 2, "eta": 0.5}, {"name": "rand_k", "k": 2, "seed": 1},
    {"name": "diana", "compressor": "random_k", "k": 2, "seed": 1},
    {"name": "gdsec", "xi": 1.0, "coordinate_xi": True, "participation": 0.5},
)  # fmt: skip


@pytest.mark.parametrize("given", KINDS, ids=lambda given: "_".join(map(str, given)))
def test_runs_of_a_kind_share_a_loop(given, tmp_path, quiet):
    own = {"name", "k", "levels", "compressor", "coordinate_xi", "participation"}
    others = {x: value * 2 if x == "seed" else value / 2 for x, value in given.items()
              if x not in own}  # fmt: skip
    loaded = make({"one": given, "other": given | others | {"step_factor": 0.5}})
    before = _chunks.chunk._cache_size()
    found = experiment.compare(loaded, tmp_path, quiet)
    kinds = 2 if "participation" in given else 1  # its rule is no number
    assert _chunks.chunk._cache_size() - before == kinds
    method = config.resolved(loaded.methods["other"], found.problem)
    uplink = config.make_uplink(method, None, found.problem.num_workers)
    with jax.enable_x64(True):  # with numbers that are constants
        alone = gdsec_jax.simulate(
            found.problem,
            config.make_optimizer(method, loaded, found.problem),
            loaded.num_rounds,
            key=loaded.problem.seed if method.seed is None else method.seed,
            uplink=_grid.UplinkOf(uplink)(**dict(method)),
        )
    one, other = found.histories.values()
    np.testing.assert_array_equal(other.bits, alone.bits)
    np.testing.assert_allclose(other.params, alone.params, rtol=1e-12)
    assert (one.objective_error != other.objective_error).any()


def test_a_run_has_its_seed_and_step_and_what_takes_part(runs):
    found = runs[0]
    seeds = {x: h.attributes["seed"] for x, h in found.histories.items()}
    assert seeds == {"GD": 5, "half": 5, "random": 2}  # the method's, or the problem's
    given = found.histories["half"].attributes["method"]
    assert given["learning_rate"] == pytest.approx(1 / found.problem.smoothness)
    assert found.histories["half"].participants.sum(1).tolist() == [2] * 30
    theory = gdsec_jax.theory("qgd", found.problem, levels=4)
    given = found.histories["random"].attributes["method"]
    assert given["learning_rate"] == pytest.approx(0.5 * theory.learning_rate)
    assert given["step_factor"] == 1.0
    assert found.target_error == 1e-2 * found.histories["GD"].initial_error


def test_local_steps_are_local_training_in_the_units_of_gradients(tmp_path, quiet):
    """One is none, thresholds and all; several of GD are averaged."""
    methods = {
        "SEC": {"name": "gdsec", "xi": 0.5},
        "one": {"name": "gdsec", "xi": 0.5, "local_steps": 1},
        "average": {"name": "gd", "step_factor": 0.2, "local_steps": 3},
    }
    runs = experiment.compare(make(methods), tmp_path, quiet)
    plain, one, average = runs.histories.values()
    np.testing.assert_allclose(one.params, plain.params, rtol=1e-12)
    np.testing.assert_array_equal(one.bits, plain.bits)
    assert (plain.bits[1:] < plain.bits[0]).any()
    step = average.attributes["method"]["learning_rate"]
    sent = gdsec_jax.gd(4, reduction="mean")
    with jax.enable_x64(True):
        trained = gdsec_jax.local(4, optax.sgd(step), 3)
        chain = optax.chain(trained, sent, optax.sgd(1.0))
        direct = gdsec_jax.simulate(runs.problem, chain, 30)
    np.testing.assert_allclose(average.params, direct.params, rtol=1e-12)
    np.testing.assert_array_equal(
        average.gradient_evaluations, 3 * plain.gradient_evaluations
    )


def test_a_run_needs_what_is_only_in_the_grid(tmp_path, quiet):
    loaded = make({"SEC": {"name": "gdsec", "grid": {"beta, xi": [[0.1, 1.0]]}}})
    message = r"^methods\.SEC: gdsec needs the parameter xi\.$"
    with pytest.raises(ValueError, match=message):
        experiment.compare(loaded, tmp_path, quiet)
    assert not list(tmp_path.iterdir())


def test_a_problem_that_cannot_be_made(tmp_path, quiet):
    grid = {"step_factor": [0.5, 1.0]}
    loaded = make(THREE, problem={"sizes": [1, 2]}, grid=grid)
    message = "^problem: sizes has 2 entries that sum to 3, expected 4 that"
    for act in (experiment.sweep, experiment.tune):
        with pytest.raises(ValueError, match=message):
            act(loaded, "x", tmp_path, quiet)


# Sweeps of a config


def test_there_is_nothing_to_sweep_or_tune_without_a_grid(tmp_path, quiet):
    for act in (experiment.sweep, experiment.tune):
        with pytest.raises(
            ValueError, match="^x has no grid, expected one of a method,"
        ):
            act(make(THREE), "x", tmp_path, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_leaves_a_file_a_method(tmp_path):
    console = rich.console.Console(record=True, width=200)
    methods = {
        "GD": {"name": "gd", "grid": {"step_factor": [0.5, 1.0, 1e12]}},
        "one": {"name": "gd"},
    }
    seen = []

    def log(rows, setting):
        seen.append(setting["method"])

    loaded = make(methods, num_rounds=8)
    swept = experiment.sweep(loaded, "all", tmp_path, console, log=log)
    assert list(swept) == ["GD", "one"]
    assert set(seen) == {"GD", "one"}
    assert dict(swept["GD"].sizes) == {"step_factor": 3, "eval_round": 8}
    assert dict(swept["one"].sizes) == {"eval_round": 8}
    for label, dataset in swept.items():
        path = tmp_path / "all" / f"{label} sweep.nc"
        xr.testing.assert_identical(xr.load_dataset(path), dataset)
    said = console.export_text()
    assert said.count("32 samples, 6 features") == 1  # the data, before the methods
    assert "\nGD: 3 step_factor: 2 completed, 1 diverged -> " in said
    assert "\none: 1 setting: 1 completed -> " in said


def test_a_count_is_no_fraction(tmp_path, quiet):
    loaded = make({"top": {"name": "top_j", "grid": {"k": [1, 1.0]}}}, num_rounds=2)
    swept = experiment.sweep(loaded, "all", tmp_path, quiet)["top"]
    assert swept["total_entries"].isel(eval_round=0).values.tolist() == [4, 24]


def test_a_sweep_over_the_problem_says_what_it_was(tmp_path, quiet):
    methods = {"SEC": {"name": "gdsec", "grid": {"xi": [0.5, 4.0]}}}
    grid = {"grid": {"split": ["contiguous", "shuffled"]}}
    loaded, seen = make(methods, problem=grid, num_rounds=4), []

    def log(rows, setting):
        seen.append(setting)

    swept = experiment.sweep(loaded, "all", tmp_path, quiet, log=log)["SEC"]
    assert dict(swept.sizes) == {"split": 2, "xi": 2, "eval_round": 4}
    splits = grid["grid"]["split"]
    words = {f"split={split} xi={xi}" for split in splits for xi in (0.5, 4.0)}
    assert {one["setting"] for one in seen} == words
    said = json.loads(swept.attrs["attributes"])
    assert (said["label"], said["seed"]) == ("SEC", 5)
    assert said["config"] == loaded.model_dump(mode="json")
    assert said["batches"] == [[2], [2]]
    assert said["versions"]["x64"] == "True"


def test_tuning_chooses_no_problem(tmp_path, quiet):
    loaded = make(THREE, problem={"grid": {"split": ["contiguous"]}})
    with pytest.raises(ValueError, match=r"^problem.grid is .*, expected none"):
        experiment.tune(loaded, "x", tmp_path, quiet)


# Tables


def test_how_parameters_were_chosen(runs):
    methods = THREE | {
        "given": {"name": "gd", "learning_rate": 0.25, "chosen": "by hand"},
        "DIANA": {"name": "diana", "compressor": "random_k", "k": 2},
    }
    problem = runs[0].problem
    table = parts.how_chosen(make(methods), problem).set_index("method")
    rows = table.to_dict("index")
    assert rows["GD"] == {
        "parameters": "-",
        "step": f"{1 / problem.smoothness:.3g}",
        "step from": gdsec_jax.METHODS["gd"].paper,
        "chosen": "our setting",
    }
    assert rows["random"]["parameters"] == "levels = 4, seed = 2, step_factor = 0.5"
    given = {"step": "0.25", "step from": "given", "chosen": "by hand"}
    assert given.items() <= rows["given"].items()
    compressor = gdsec_jax.worker.random_k(2)
    theory = gdsec_jax.theory("diana", problem, compressor=compressor)
    assert rows["DIANA"]["step"] == f"{theory.learning_rate:.3g}"
    assert rows["DIANA"]["step from"] == theory.source


def test_courses_in_long_form(runs):
    found = runs[0]
    table = parts.curves(found.histories)
    assert list(table["method"].unique()) == list(THREE)
    assert table["round"].tolist() == [4, 8, 12, 16, 20, 24, 28, 30] * 3
    for label, history in found.histories.items():
        own = table[table["method"] == label]
        np.testing.assert_array_equal(own["error"], history.objective_error)
        np.testing.assert_array_equal(own["bits"], history.total_bits)
        for name in ("broadcast_bits", "gradient_evaluations"):
            totals = np.cumsum(getattr(history, name))[own["round"] - 1]
            np.testing.assert_array_equal(own[name], totals)


# The claims


@pytest.mark.slow
def test_gdsec_on_mnist_keeps_the_error_for_a_few_percent_of_the_bits(tmp_path, quiet):
    if not os.environ.get("GDSEC_DATA_DIR"):
        pytest.skip("GDSEC_DATA_DIR is not set: the MNIST test images are needed")
    found = {entry.name: entry.found for entry in data.available()}
    if found["mnist"]["test"] != "GDSEC_DATA_DIR":
        pytest.skip("the MNIST test images are not in GDSEC_DATA_DIR")
    loaded = config.load(CONFIGS / "ridge_mnist.toml")
    loaded = loaded.model_copy(update={"num_rounds": 800})  # of the README's 3,000
    histories = experiment.run(loaded, "mnist", tmp_path, quiet).histories
    gd, gdsec = histories["GD"], histories["GD-SEC"]
    assert gd.num_rounds == gdsec.num_rounds == 800
    assert gdsec.objective_error[-1] == pytest.approx(gd.objective_error[-1], rel=0.01)
    assert gd.bits.sum() == 800 * 5 * 784 * 32
    assert gdsec.bits.sum() < 0.03 * gd.bits.sum()
    assert histories["GD-SOEC"].objective_error[-1] > 100 * gd.objective_error[-1]
