"""What a history says, and that a file brings all of it back."""

import dataclasses
import functools
import json
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from inside import _netcdf, _store

import gdsec_jax
from gdsec_jax import History, problems, simulate


def make(**changes) -> History:
    """Four rounds of two workers, evaluated after rounds 2 and 4."""
    fields: dict[str, Any] = {
        "initial_error": 8.0,
        "eval_rounds": np.array([2, 4]),
        "objective_error": np.array([2.0, 0.5]),
        "entries": np.array([[3, 3], [0, 1], [2, 0], [0, 0]]),
        "bits": np.array([[96, 96], [0, 2**40], [64, 0], [0, 0]]),
        "broadcast_bits": np.full(4, 96),
        "gradient_evaluations": np.array([20, 10, 20, 10]),
        "participants": np.array([[1, 1], [0, 1], [1, 1], [1, 0]], bool),
        "dropped": np.array([0, 1, 0, 1]),
        "lost": np.zeros(4, int),
        "params": jnp.array([1.0, -0.0, 3.5]),
        "outcome": "completed",
        "observed": {"gradient_norm": np.array([2.0, 1.0, 0.5, 0.25])},
        "attributes": {
            "problem": "ridge",
            "error_name": "objective error",
            "config": {"methods": {"GD-SEC": {"xi": 0.1, "beta": None}}, "list": [1]},
            "versions": {"jax": "0.0"},
            "seed": 12345678901234567,
        },
    }
    return History(**fields | changes)


def on_a_link() -> History:
    return make(
        lost=np.array([0, 2, 0, 0]),
        time_s=np.array([0.5, 1.0, 0.25, 0.0]),
        energy_j=np.array([0.1, 0.2, 0.0, 0.0]),
        worker_time_s=np.array([[0.5, 0.25], [0.0, 1.0], [0.25, 0.0], [0.0, 0.0]]),
    )


def assert_same(one: History, other: History):
    for field in dataclasses.fields(History):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "params":
            continue
        if field.name == "attributes":
            assert json.dumps(a) == json.dumps(b)
            continue
        assert isinstance(b, type(a))
        same = functools.partial(np.testing.assert_array_equal, err_msg=field.name)
        jax.tree.map(functools.partial(same, strict=True), a, b)


# Totals


def test_totals_at_each_evaluation():
    history = make()
    assert history.num_rounds == 4
    assert history.total_bits.tolist() == [192 + 2**40, 256 + 2**40]
    assert history.total_bits.dtype == np.int64


def test_cost_of_an_error():
    first = (2, 192 + 2**40, 192, 30, None, None)
    both = (4, 256 + 2**40, 384, 60, None, None)
    costs = {8.0: first, 2.0: first, 1.9: both, 0.5: both, 0.49: None}
    assert {error: make().cost_to(error) for error in costs} == costs
    # What rounding may feign has none, nor what was never evaluated.
    rounded = make(attributes={"resolution": 1.0})
    assert [rounded.cost_to(x) is None for x in (2.0, 1.0, 0.9)] == [False, False, True]
    unknown = make(eval_rounds=np.array([], int), objective_error=np.array([]))
    assert unknown.cost_to(100.0) is None
    # An error that rises again was reached.
    cost = make(objective_error=np.array([0.5, 4.0])).cost_to(1.0)
    assert cost is not None and cost.rounds == 2
    cost = on_a_link().cost_to(2.0)
    assert cost is not None
    assert (cost.seconds, cost.joules) == (1.5, pytest.approx(0.3))
    coded = make(format_bits={"coo": np.arange(4)}).cost_to(0.5, wire="coo")
    assert coded is not None and coded.bits == 6


def test_a_cost_is_exact_beyond_32_bits_and_has_names():
    most = {"bits": np.full((4, 2), 2**59 + 1), "broadcast_bits": np.full(4, 2**40 + 1)}
    cost = make(**most).cost_to(2.0)
    assert cost is not None
    words = "rounds bits broadcast_bits gradient_evaluations seconds joules"
    values = 2, 2**61 + 4, 2**41 + 2, 30, None, None
    assert cost._asdict() == dict(zip(words.split(), values, strict=True))
    assert all(type(count) is int for count in cost[:4])


def test_summary():
    cost = "objective error 8 -> 0.5, 1,099,511,628,032 bits uploaded"
    for outcome, end in {
        "completed": "completed 4 rounds",
        "target": "reached the target after 4 rounds",
        "diverged": "diverged: stopped after 4 rounds",
        "worsened": "ended above where it began, after 4 rounds",
    }.items():
        clean = make(outcome=outcome, dropped=np.zeros(4, int))
        assert clean.summary() == f"{end}, {cost}."
        assert make(outcome=outcome, dropped=np.array([0, 3, 0, 1])).summary() == (
            f"{end}, {cost}; 4 uploads in 2 rounds were dropped for gradients or "
            "messages that were not finite or excessive."
        )
    ends = " 2 uploads were lost; 1.75 s, 0.3 J."
    assert on_a_link().summary().endswith(ends)


def test_an_error_below_what_is_known_is_a_bound():
    known = make(attributes={"resolution": 1.0})
    words = {8.0: "8", 1.0: "1", 0.5: "≤ 1.5", -3.0: "≤ 1"}
    assert {error: known.in_words(error) for error in words} == words
    assert known.in_words(np.nan, ".2e") == "nan"
    assert "error 8 -> ≤ 1.5, " in known.summary()
    assert make().in_words(-1e-17, ".1e") == "-1.0e-17"  # then nothing is said of it


# There and back


def test_a_run_comes_back_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    problem = problems.ridge(rng.standard_normal((12, 3)), rng.standard_normal(12), 3)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=5.0, wire="rle"), optax.sgd(0.3))
    config = {"problem": {"kind": "ridge"}, "methods": {"GD-SEC": {"xi": 5.0}}}
    history = simulate(
        problem, optimizer, 9, eval_every=4, attributes={"config": config, "seed": 3}
    )
    history.save(tmp_path / "runs" / "one.nc")
    loaded = History.load(str(tmp_path / "runs" / "one.nc"))
    assert_same(history, loaded)
    np.testing.assert_array_equal(history.params, loaded.params, strict=True)
    assert loaded.attributes["config"] == config
    assert loaded.attributes["seed"] == 3
    assert loaded.attributes["versions"]["jax"] == jax.__version__
    assert loaded.summary() == history.summary()
    np.testing.assert_array_equal(loaded.total_bits, history.total_bits)


KEPT = {
    "every field": lambda: make(outcome="target"),
    "a link": lambda: on_a_link(),
    "arrays that were observed": lambda: make(
        observed={"theta": np.ones((4, 3)), "count": np.arange(4)},
        metrics={"loss": np.array([0.1, 0.2])},
        format_bits={"coo": np.arange(4)},
    ),
    "long attributes": lambda: make(attributes={"note": "ξ" * 100_000}),
    **{
        f"an error of {error}": lambda error=error: make(
            objective_error=np.array([error, 1.0]), initial_error=1e-300
        )
        for error in (np.nan, np.inf, 1e300, -1e-17)
    },
}


@pytest.mark.parametrize("made", KEPT.values(), ids=KEPT)
def test_every_field_comes_back(made, tmp_path):
    made().save(tmp_path / "a.nc")
    assert_same(made(), History.load(tmp_path / "a.nc"))


PARAMS = {
    "float32": lambda: jnp.array([1.0, np.nan, -np.inf]),
    "float16": lambda: jnp.array([[1.0, 6e-8]], jnp.float16),
    "bfloat16": lambda: jnp.array([1.0, 3.0, -2.5e38], jnp.bfloat16),
    "scalar": lambda: jnp.array(2.5),
    "no entries": lambda: jnp.zeros((0, 3)),
    "nested": lambda: {
        "layer": ({"w": jnp.ones((2, 3), jnp.bfloat16), "θ": jnp.array(1.5)},),
        "params": [jnp.arange(3.0), jnp.zeros(4)],
    },
    "names with slashes": lambda: {"linear/~/w": jnp.ones(2), "linear/~": jnp.zeros(1)},
    "a named tuple": lambda: optax.EmaState(jnp.array(1.0), jnp.ones(2)),
}


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_any_params_come_back(params, tmp_path):
    params = params()
    make(params=params).save(tmp_path / "a.nc")
    like = jax.tree.map(jnp.zeros_like, params)
    loaded = History.load(tmp_path / "a.nc", params_like=like).params
    chex.assert_trees_all_equal_dtypes(loaded, params)
    for one, other in zip(*map(jax.tree.leaves, (loaded, params)), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_array_equal(one, other, strict=True)


def test_float64_params_come_back(tmp_path, x64):
    params = jnp.array([1 / 3, 1e-300])
    make(params=params).save(tmp_path / "a.nc")
    loaded = History.load(tmp_path / "a.nc").params
    np.testing.assert_array_equal(loaded, params, strict=True)


def test_without_a_tree_params_come_back_by_their_paths(tmp_path):
    make(params={"a": (jnp.ones(2), jnp.zeros(()))}).save(tmp_path / "a.nc")
    loaded = History.load(tmp_path / "a.nc").params
    shapes = {name: leaf.shape for name, leaf in loaded.items()}
    assert shapes == {"['a'][0]": (2,), "['a'][1]": ()}
    message = (
        """params_like has the leaves ["[0]"], the file ["['a'][0]", "['a'][1]"]"""
    )
    with pytest.raises(ValueError, match=re.escape(message.replace('"[0]"', "'[0]'"))):
        History.load(tmp_path / "a.nc", params_like=(1.0,))


def test_the_labelled_dataset():
    dataset = make(params={"w": jnp.ones((2, 3))}).to_xarray()
    assert dataset.sizes.items() >= {"round": 4, "worker": 2, "eval_round": 2}.items()
    assert dataset["bits"].dims == ("round", "worker")
    assert dataset["round"].values.tolist() == [1, 2, 3, 4]
    assert dataset["eval_round"].values.tolist() == [2, 4]
    assert dataset["objective_error"].sel(eval_round=4).item() == 0.5
    assert dataset.attrs["initial_error"] == 8.0
    assert dataset["params0"].shape == (2, 3)


# Files that are something else, and saves that fail


def test_a_missing_file(tmp_path):
    path = tmp_path / "none.nc"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path} does not exist")):
        History.load(path)
    with pytest.raises(FileNotFoundError, match="expected a saved History"):
        History.load(tmp_path)


def cut(path):
    make().save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def written(change):
    """A file with a sound checksum, of a changed history."""
    return lambda path: _netcdf.write(change(make().to_xarray()), path)


def odd_params(dataset):
    dataset["params0"].attrs["dtype"] = "float12"
    return dataset


WRONG = {
    "text": lambda path: path.write_text("bits: 3\n"),
    "empty": lambda path: path.touch(),
    "cut": cut,
    "another NetCDF": written(lambda _: xr.Dataset({"bits": ("x", [1, 2])})),
    "no checksum": lambda path: make().to_xarray().to_netcdf(path, engine="h5netcdf"),
    "broken attributes": written(lambda x: x.assign_attrs(attributes="{'a")),
    "initial error in words": written(lambda x: x.assign_attrs(initial_error="large")),
    "no bits": written(lambda x: x.drop_vars("bits")),
    "unknown dtype": written(odd_params),
}


@pytest.mark.parametrize("write", WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_history(write, tmp_path):
    path = tmp_path / "other.nc"
    write(path)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a saved History: ")):
        History.load(path)


def bare(dataset):
    return lambda path: dataset.to_netcdf(path, engine="h5netcdf")


def longer(path):
    """A file of HDF5's that something was appended to; HDF5 reads it all the same."""
    bare(xr.Dataset({"bits": ("x", [1, 2])}))(path)
    path.write_bytes(path.read_bytes() + bytes(8))


FOREIGN = {
    "it is no NetCDF file of gdsec_jax": lambda path: path.write_text("1,2\n"),
    "another program has written it again": bare(make().to_xarray()),
    "gdsec_jax has not written it": bare(xr.Dataset({"bits": ("x", [1, 2])})),
    "gdsec_jax has not writ": longer,
}


@pytest.mark.parametrize("words", FOREIGN)
def test_a_file_of_somebody_elses_is_named_and_not_replaced(words, tmp_path):
    path = tmp_path / "precious"
    FOREIGN[words](path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words):
        History.load(path)
    with pytest.raises(FileExistsError, match=rf"precious is there .*{words}"):
        make().save(path)
    with pytest.raises(ValueError, match="a file that no sweep has written"):
        _store.check_path(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("end", [0, 60, 3000, -60, -20, None])
def test_a_damaged_file_of_ours_is_replaced(end, tmp_path):
    path = tmp_path / "a.nc"
    make().save(path)
    path.write_bytes(path.read_bytes()[:end])
    if end:
        with pytest.raises(ValueError, match="it is damaged, its end is not"):
            History.load(path)
    make(initial_error=7.0).save(path)
    assert History.load(path).initial_error == 7.0


@pytest.mark.parametrize("stood", [True, False], ids=["replacing", "new"])
def test_a_save_that_fails_leaves_things_as_they_were(stood, tmp_path, monkeypatch):
    path = tmp_path / "a.nc"
    before = make(initial_error=7.0)
    if stood:
        before.save(path)

    def fail(self, target, **options):
        xr.Dataset.__dict__["_written"](self, target, **options)
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.Dataset, "_written", xr.Dataset.to_netcdf, raising=False)
    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="no space left"):
        make().save(path)
    assert list(tmp_path.iterdir()) == ([path] if stood else [])
    if stood:
        assert History.load(path).initial_error == 7.0


def test_attributes_that_are_no_json_leave_nothing_behind(tmp_path):
    history = dataclasses.replace(make(), attributes={"what": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        history.save(tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


def test_single_costs_go_on_for_a_release():
    history = on_a_link()
    for name, value in {"rounds": 2, "bits": 192 + 2**40, "seconds": 1.5}.items():
        old = getattr(history, f"{name}_to")
        with pytest.warns(DeprecationWarning, match=rf"use cost_to\(error\).{name}"):
            assert old(2.0) == value
        with pytest.warns(DeprecationWarning, match=f"{name}_to"):
            assert old(0.1) is None
    with pytest.warns(DeprecationWarning, match="norms is deprecated .* use observed"):
        assert history.norms is history.observed
