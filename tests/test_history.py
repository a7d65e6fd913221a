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
from inside import _netcdf

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
        "participants": np.array(
            [[True, True], [False, True], [True, True], [True, False]]
        ),
        "dropped": np.array([0, 1, 0, 1]),
        "lost": np.zeros(4, int),
        "params": jnp.array([1.0, -0.0, 3.5]),
        "outcome": "completed",
        "observed": {"gradient_norm": np.array([2.0, 1.0, 0.5, 0.25])},
        "attributes": {
            "problem": "ridge",
            "error_name": "objective error",
            "config": {
                "methods": {"GD-SEC": {"xi": 0.1, "beta": None}},
                "list": [1, 2],
            },
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


@pytest.mark.parametrize(
    ("error", "rounds", "bits"),
    [
        (8.0, 2, 192 + 2**40),
        (2.0, 2, 192 + 2**40),
        (1.9, 4, 256 + 2**40),
        (0.5, 4, 256 + 2**40),
        (0.49, None, None),
    ],
)
def test_cost_of_an_error(error, rounds, bits):
    cost = make().cost_to(error)
    if rounds is None:
        assert cost is None
    else:
        evaluations = {2: 30, 4: 60}[rounds]
        assert cost == (rounds, bits, 96 * rounds, evaluations, None, None)


def test_a_cost_is_exact_beyond_32_bits_and_has_names():
    history = make(
        bits=np.full((4, 2), 2**59 + 1), broadcast_bits=np.full(4, 2**40 + 1)
    )
    cost = history.cost_to(2.0)
    assert cost is not None
    assert cost._asdict() == {
        "rounds": 2,
        "bits": 2**61 + 4,
        "broadcast_bits": 2**41 + 2,
        "gradient_evaluations": 30,
        "seconds": None,
        "joules": None,
    }
    assert all(type(count) is int for count in cost[:4])


def test_an_error_that_rounding_may_feign_has_no_cost():
    history = make(attributes={"resolution": 1.0})
    assert history.cost_to(2.0) is not None
    assert history.cost_to(1.0) is not None
    assert history.cost_to(0.9) is None  # though 0.5 was seen


def test_a_cost_needs_an_evaluation():
    history = make(eval_rounds=np.array([], int), objective_error=np.array([]))
    assert history.cost_to(100.0) is None


def test_an_error_that_rises_again_was_reached():
    history = make(objective_error=np.array([0.5, 4.0]))
    cost = history.cost_to(1.0)
    assert cost is not None and cost.rounds == 2


@pytest.mark.parametrize(
    ("outcome", "start"),
    [
        ("completed", "completed 4 rounds, "),
        ("target", "reached the target after 4 rounds, "),
        ("diverged", "diverged: stopped after 4 rounds, "),
    ],
)
def test_summary(outcome, start):
    cost = "objective error 8 -> 0.5, 1,099,511,628,032 bits uploaded"
    clean = make(outcome=outcome, dropped=np.zeros(4, int))
    assert clean.summary() == f"{start}{cost}."
    dropped = make(outcome=outcome, dropped=np.array([0, 3, 0, 1])).summary()
    assert dropped == (
        f"{start}{cost}; 4 uploads in 2 rounds were dropped for gradients or messages "
        "that were not finite or excessive."
    )


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
        "layer": (
            {"w": jnp.ones((2, 3), jnp.bfloat16), "θ": jnp.array(1.5)},
            jnp.zeros(4),
        ),
        "params": [jnp.arange(3.0)],
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
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(
            np.asarray(a, np.float32), np.asarray(b, np.float32), strict=True
        ),
        loaded,
        params,
    )


def test_float64_params_come_back(tmp_path, x64):
    params = jnp.array([1 / 3, 1e-300])
    make(params=params).save(tmp_path / "a.nc")
    np.testing.assert_array_equal(
        History.load(tmp_path / "a.nc").params, params, strict=True
    )


def test_without_a_tree_params_come_back_by_their_paths(tmp_path):
    make(params={"a": (jnp.ones(2), jnp.zeros(()))}).save(tmp_path / "a.nc")
    loaded = History.load(tmp_path / "a.nc").params
    assert {name: leaf.shape for name, leaf in loaded.items()} == {
        "['a'][0]": (2,),
        "['a'][1]": (),
    }


def test_a_tree_that_does_not_fit_is_refused(tmp_path):
    make(params={"a": jnp.ones(2), "b": jnp.ones(3)}).save(tmp_path / "a.nc")
    message = (
        r"params_like has the leaves \['\[0\]'\], the file \[\"\['a'\]\", \"\['b'\]\"\]"
    )
    with pytest.raises(ValueError, match=message):
        History.load(tmp_path / "a.nc", params_like=(1.0,))


def test_the_labelled_dataset():
    dataset = make(params={"w": jnp.ones((2, 3))}).to_xarray()
    assert dict(dataset.sizes) | {"round": 4, "worker": 2, "eval_round": 2} == dict(
        dataset.sizes
    )
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


def text(path):
    path.write_text("bits: 3\n")


def empty(path):
    path.touch()


def cut(path):
    make().save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def other_netcdf(path):
    _netcdf.write(xr.Dataset({"bits": ("x", [1, 2])}), path)


def unsealed(path):
    make().to_xarray().to_netcdf(path, engine="h5netcdf")


def changed(**attributes):
    def write(path):
        _netcdf.write(make().to_xarray().assign_attrs(attributes), path)

    return write


def without(name):
    def write(path):
        _netcdf.write(make().to_xarray().drop_vars(name), path)

    return write


def odd_params(path):
    dataset = make().to_xarray()
    dataset["params0"].attrs["dtype"] = "float12"
    _netcdf.write(dataset, path)


WRONG = {
    "text": text,
    "empty": empty,
    "cut": cut,
    "another NetCDF": other_netcdf,
    "no checksum": unsealed,
    "broken attributes": changed(attributes="{'a"),
    "initial error in words": changed(initial_error="large"),
    "no bits": without("bits"),
    "unknown dtype": odd_params,
}


@pytest.mark.parametrize("write", WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_history(write, tmp_path):
    path = tmp_path / "other.nc"
    write(path)
    message = re.escape(f"{path} is not a saved History: ")
    with pytest.raises(ValueError, match=message):
        History.load(path)


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


def test_a_link_is_summed_up():
    ends = " 2 uploads were lost; 1.75 s, 0.3 J."
    assert on_a_link().summary().endswith(ends)


def test_what_an_error_took():
    cost = on_a_link().cost_to(2.0)
    assert cost is not None
    assert (cost.seconds, cost.joules) == (1.5, pytest.approx(0.3))
    coded = make(format_bits={"coo": np.arange(4)}).cost_to(0.5, wire="coo")
    assert coded is not None and coded.bits == 6


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
