"""Sweeps: each setting is its own run, and what is compiled, kept and refused."""

import functools
import json
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from cases import METHODS, methods, slow_but
from inside import _chunks as module
from inside import _run

import gdsec_jax
from gdsec_jax import Static, Stop, SweepFile, Uplink, logs, problems, sweep, wire

WORKERS, ROUNDS = 4, 30
LOOP = "jit(chunk)"

# A traced parameter of a method's own; of those that draw, the key as well.
OWN = {
    "gdsec": {"xi": [0.5, 8.0]},
    "gdsoec": {"xi": [0.1, 1.0]},
    "qsgdsec": {"xi": [0.5, 8.0]},
    "cgd": {"xi": [0.5, 4.0]},
    "lag": {"zeta": [0.05, 0.2]},
    "laq": {"zeta": [0.05, 0.2]},
    "ef21_sgdm": {"eta": [0.3, 0.9]},
    "diana": {"beta": [0.1, 0.3]},
    "marina": {"probability": [0.2, 0.7]},
    "clag": {"zeta": [0.9, 8.0]},
}
TOTALS = ("bits", "entries", "participants", "lost")


@functools.cache
def samples(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 6)) * np.linspace(0.4, 2.0, 6)
    return x, x @ np.arange(-2.0, 4.0) + rng.standard_normal(40)


def toy(num_workers=WORKERS, seed=0) -> problems.Problem:
    return _toy(num_workers, seed, jax.dtypes.canonicalize_dtype(np.float64))


@functools.cache
def _toy(num_workers, seed, dtype):
    return problems.ridge(*samples(seed), num_workers, dtype=dtype)


@functools.cache
def matrix_toy(dtype) -> problems.Problem:
    """Parameters of a matrix, for methods that do nothing to a vector."""
    x, y = samples()
    classes = np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))
    return problems.softmax(x, classes, WORKERS, dtype=dtype)


@functools.cache  # equal makers are compiled once
def gdsec_of(problem, num_workers=WORKERS, factor=1.0):
    """A maker of optimizers for xi, and perhaps beta."""

    def make(xi, beta=0.1):
        step = optax.sgd(factor / problem.smoothness)
        return optax.chain(gdsec_jax.gdsec(num_workers, xi, beta), step)

    return make


def run(problem, optimizer, num_rounds=ROUNDS, **options) -> gdsec_jax.History:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        return gdsec_jax.simulate(problem, optimizer, num_rounds, **options)


def assert_is_the_run(swept: xr.Dataset, history, rtol=1e-9, resolution=1e-14):
    """One setting of a sweep is what `simulate` does with it."""
    last = history.num_rounds
    assert int(swept["rounds"]) == last
    assert str(swept["outcome"].values) == history.outcome
    assert float(swept["initial_error"]) == pytest.approx(history.initial_error, rtol)
    rounds = swept["eval_round"].values
    before = rounds <= last
    np.testing.assert_array_equal(rounds[before], history.eval_rounds)
    errors = swept["objective_error"].values
    assert np.isnan(errors[~before]).all()
    np.testing.assert_allclose(
        errors[before], history.objective_error, rtol, resolution
    )
    columns = {
        "bits": history.bits.sum(1),
        "entries": history.entries.sum(1),
        "broadcast_bits": history.broadcast_bits,
        "gradient_evaluations": history.gradient_evaluations,
        "participants": history.participants.sum(1),
        "lost": history.lost,
        "dropped": history.dropped,
    } | {f"bits_{name}": bits for name, bits in history.format_bits.items()}
    assert {name for name in swept if str(name).startswith("total_")} == {
        f"total_{name}" for name in columns
    }
    for name, column in columns.items():
        total = np.cumsum(column)[np.minimum(rounds, last) - 1]
        np.testing.assert_array_equal(swept[f"total_{name}"], total, name)
        assert swept[f"total_{name}"].dtype == np.int64


def some(grid):
    """Settings of a grid in which each axis' first and last value come."""
    return [{name: values[i] for name, values in grid.items()} for i in (0, -1)]


@pytest.fixture
def chunks(monkeypatch):
    """The rounds of each chunk that is run."""
    original, rounds = module.chunk, []

    def counting(*arguments):
        out = original(*arguments)
        rounds.append(int(out[0]))
        return out

    counting.lower = original.lower
    monkeypatch.setattr(module, "chunk", counting)
    return rounds


def attributes(swept: xr.Dataset) -> dict:
    return json.loads(swept.attrs["attributes"])


def assert_same(one: xr.Dataset, other: xr.Dataset):
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def maker(beta=0.1, momentum=None, **own):
    """Of optimizers for xi: another one each time, which is compiled anew."""

    def make(xi):
        step = optax.sgd(0.3 / toy().smoothness, momentum=momentum)
        return optax.chain(gdsec_jax.gdsec(WORKERS, xi, beta, **own), step)

    return make


# Each setting is its own run


def make_method(method, problem, step, seed=None, **own):
    own |= {} if seed is None else {"key": seed}
    if "learning_rate" in method.arguments:
        own["learning_rate"] = step / problem.smoothness
    algorithm = method._replace(arguments=method.arguments | own).make(
        WORKERS, wire=wire.Format("coo", also=("rle",))
    )
    return optax.chain(algorithm, optax.sgd(step / problem.smoothness))


def compare_method(method, rtol, resolution):
    problem = toy()
    if "rank" in method.arguments:
        problem = matrix_toy(problem.init_params.dtype)
    # Steps that all methods bear: what diverges is another test's.
    grid = {"step": [0.05, 0.2]} | OWN.get(method.name, {})
    grid |= {"seed": [0, 5]} if method.draws else {}

    def make(**setting):
        return make_method(method, problem, **setting)

    swept = sweep(problem, make, grid, ROUNDS)
    assert dict(swept["objective_error"].sizes) == {
        **{name: 2 for name in grid},
        "eval_round": ROUNDS,
    }
    for setting in some(grid):
        history = run(problem, make(**setting))
        assert_is_the_run(swept.sel(setting), history, rtol, resolution)
    errors = swept["objective_error"].isel(eval_round=-1).values
    assert len(np.unique(errors)) == errors.size


@methods(dear=True)
def test_each_setting_is_its_run(method, x64):
    compare_method(method, 1e-9, 1e-13)


@pytest.mark.slow
@methods(lambda m: m.name != "marina", dear=True)
def test_each_setting_is_its_run_in_float32(method):
    compare_method(method, 1e-3, 1e-5)


def test_every_method_is_swept():
    assert set(OWN) <= {method.name for method in METHODS}


@pytest.mark.slow
def test_schedules_of_traced_parameters(x64):
    problem = toy()

    def make(step, xi):
        algorithm = gdsec_jax.gdsec(WORKERS, lambda k: xi * 0.9**k, 0.1)
        return optax.chain(algorithm, optax.sgd(lambda k: step / (1 + 0.1 * k)))

    steps = [0.4 / problem.smoothness, 1 / problem.smoothness]
    grid = {"step": steps, "xi": [1.0, 20.0]}
    swept = sweep(problem, make, grid, ROUNDS)
    for setting in some(grid):
        assert_is_the_run(swept.sel(setting), run(problem, make(**setting)))


@pytest.mark.slow
def test_values_that_are_arrays_and_trees(x64, compiled):
    def loss(params, point):
        left = jnp.sum((params["a"] - point) ** 2)
        return left + 0.5 * jnp.vdot(params["b"] - 1, params["b"] - 1)

    points = np.random.default_rng(1).standard_normal((WORKERS, 3))
    start = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    problem = problems.from_loss(loss, points, start)

    def make(xi):
        return optax.chain(gdsec_jax.gdsec(WORKERS, xi, 0.1), optax.sgd(0.05))

    trees = [
        {"a": np.array([0.1, 5.0, 9.0]), "b": 0.5},
        {"a": np.array([4.0, 0.0, 1.0]), "b": 3.0},
    ]
    compiled()
    swept = sweep(problem, make, {"xi": trees}, ROUNDS)
    assert compiled().count(LOOP) == 1
    np.testing.assert_array_equal(swept["xi"], [0, 1])  # no labels: positions
    for i, tree in enumerate(trees):
        assert_is_the_run(swept.isel(xi=i), run(problem, make(tree)))
    assert not np.array_equal(*swept["total_bits"].values)

    # Shapes that do not stack run after another.
    mixed = [2.0, np.full(6, 2.0), np.arange(6.0)]
    problem = toy()
    swept = sweep(problem, gdsec_of(problem), {"xi": mixed}, ROUNDS)
    assert attributes(swept)["batches"] == [[1], [2]]
    assert_is_the_run(swept.isel(xi=2), run(problem, gdsec_of(problem)(mixed[2])))
    np.testing.assert_array_equal(swept["total_bits"][0], swept["total_bits"][1])


@pytest.mark.slow
def test_seeds_are_the_keys_of_minibatches(x64):
    problem = problems.minibatch(toy(), 3)
    make = gdsec_of(problem, factor=0.3)
    grid = {"xi": [0.5, 4.0], "seed": [3, 11]}
    swept = sweep(problem, make, grid, ROUNDS)
    for setting in some(grid):
        history = run(problem, make(setting["xi"]), key=setting["seed"])
        assert_is_the_run(swept.sel(setting), history)
    assert len(np.unique(swept["objective_error"].isel(eval_round=-1))) == 4


@pytest.mark.slow
def test_a_key_is_common_to_all_settings(x64):
    problem = problems.minibatch(toy(), 3)
    make = gdsec_of(problem, factor=0.3)
    swept = sweep(problem, make, {"xi": [4.0, 0.5, 4.0]}, ROUNDS, key=7)
    assert_is_the_run(swept.isel(xi=1), run(problem, make(0.5), key=7))
    errors = swept["objective_error"].values
    # Products round by their column's place among the settings.
    np.testing.assert_allclose(errors[0], errors[2], rtol=1e-12)
    typed = jax.random.key(7)
    assert_same(sweep(problem, make, {"xi": [4.0, 0.5, 4.0]}, ROUNDS, key=typed), swept)


def test_participation_is_handed_what_it_names(x64):
    problem = toy()
    make = gdsec_of(problem, factor=0.3)

    def participation(key, round, share):
        return jax.random.uniform(key, (WORKERS,)) < share

    grid = {"share": [0.2, 0.8], "xi": [0.5, 4.0], "seed": [1, 2]}
    swept = sweep(problem, make, grid, ROUNDS, uplink=Uplink(participation))
    drawn = functools.partial(participation, share=0.8)
    history = run(problem, make(4.0), key=2, uplink=Uplink(drawn))
    assert_is_the_run(swept.sel(share=0.8, xi=4.0, seed=2), history)
    assert 0 < history.participants.mean() < 1


def test_a_broadcast_and_dropped_workers_are_counted(x64):
    points = np.array([[1.0], [2.0], [4.0]])
    odd = np.array([False, True, False])

    def loss(params, own):  # finite, but with no gradient at zero for the odd worker
        away = jnp.where(own["odd"], params, 1.0)
        return 0.5 * jnp.sum((params - own["at"]) ** 2) + jnp.sqrt(jnp.vdot(away, away))

    problem = problems.from_loss(loss, {"at": points, "odd": odd}, np.zeros(1))

    def make(step):
        piece = gdsec_jax.broadcast(optax.identity(), wire="rle")
        return optax.chain(gdsec_jax.gd(3), optax.sgd(step), piece)

    swept = sweep(problem, make, {"step": [0.05, 0.1]}, 5)
    assert_is_the_run(swept.sel(step=0.1), run(problem, make(0.1), 5))
    np.testing.assert_array_equal(swept["total_dropped"], 1)


def test_norms_are_those_of_the_run(x64):
    problem = toy()
    make = gdsec_of(problem)
    own = {"observe": gdsec_jax.norms}
    swept = sweep(problem, make, SMALL, ROUNDS, eval_every=7, **own)
    history = run(problem, make(4.0), **own)
    rounds = swept["eval_round"].values
    assert rounds.tolist() == [7, 14, 21, 28, 30]
    for name in ("gradient_norm", "h_norm", "e_norm"):
        np.testing.assert_allclose(
            swept[name].sel(xi=4.0), history.observed[name][rounds - 1], 1e-9
        )


# Settings that end


@pytest.mark.parametrize("eval_every", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_settings_end_for_themselves(eval_every, x64):
    problem = toy()

    def make(factor):
        step = optax.sgd(factor / problem.smoothness)
        return optax.chain(gdsec_jax.gdsec(WORKERS, 0.5, 0.1), step)

    factors = [10.0, 0.01, 1.0, 0.5, 30.0]
    options = {"eval_every": eval_every, "stop": Stop(0.02 * initial_error(problem))}
    swept = sweep(problem, make, {"factor": factors}, 60, **options)
    for i in (0, 2):
        history = run(problem, make(factors[i]), 60, **options)
        assert_is_the_run(swept.isel(factor=i), history)
    outcomes = ["diverged", "completed", "target", "target", "diverged"]
    assert swept["outcome"].values.tolist() == outcomes
    assert swept["rounds"].values[1] == 60
    assert (swept["rounds"].values[[0, 2, 3, 4]] < 60).all()


def initial_error(problem) -> float:
    return float(problem.error(problem.init_params))


def test_a_sweep_ends_with_its_last_setting(chunks):
    problem = toy()
    make = gdsec_of(problem)
    target = 0.1 * initial_error(problem)
    swept = sweep(problem, make, {"xi": [0.5, 4.0]}, 5_000, stop=Stop(target))
    assert set(swept["outcome"].values.ravel()) == {"target"}
    assert sum(chunks) == swept["rounds"].values.max() < 1_000
    assert swept["objective_error"].sizes["eval_round"] == 5_000
    errors = swept["objective_error"].values
    assert np.isfinite(errors[:, 0]).all()
    assert np.isnan(errors[:, -1]).all()
    for name in TOTALS:
        total = swept[f"total_{name}"]
        last = total.sel(eval_round=swept["rounds"])
        np.testing.assert_array_equal(total.isel(eval_round=-1), last)


# Groups, and what is compiled


def named(name, xi, num_workers, problem):
    algorithm = getattr(gdsec_jax, name)(num_workers, xi)
    return optax.chain(algorithm, optax.sgd(0.5 / problem.smoothness))


def test_static_parameters_make_groups(x64, compiled):
    grid = {"xi": [0.5, 4.0], ("name", "num_workers"): [("gdsec", 2), ("cgd", 4)]}
    compiled()
    swept = sweep(toy, named, grid, ROUNDS)
    assert compiled().count(LOOP) == 2
    assert attributes(swept)["batches"] == [[2]] * 2
    assert swept["objective_error"].dims == ("xi", "name_num_workers", "eval_round")
    assert swept["name"].values.tolist() == ["gdsec", "cgd"]
    history = run(toy(4), named("cgd", 0.5, 4, toy(4)))
    assert_is_the_run(swept.isel(xi=0, name_num_workers=1), history)
    _toy.cache_clear()
    compiled()
    # Another problem with equal content is no other problem.
    assert_same(sweep(toy, named, grid, ROUNDS), swept)
    assert LOOP not in compiled()


def test_what_is_static_and_equal_numbers_of_other_types():
    problem = toy()

    def make(k, step):
        return optax.chain(gdsec_jax.top_j(WORKERS, k), optax.sgd(step))

    grid = {"step": [0.02, 0.05], "k": Static([1.0, 1])}  # all entries, and one
    swept = sweep(problem, make, grid, 8)
    assert attributes(swept)["batches"] == [[2], [2]]
    first = swept["total_entries"].isel(eval_round=0)
    np.testing.assert_array_equal(first, [[24, 4], [24, 4]])


@pytest.mark.parametrize(
    "kind",
    [list, *(pytest.param(x, marks=pytest.mark.slow) for x in (np.array, jnp.array))],
)
def test_static_values_need_not_be_hashable(kind, compiled):
    problem = toy()

    def make(weights):
        algorithm = gdsec_jax.gd(WORKERS, weights=np.asarray(weights))
        return optax.chain(algorithm, optax.sgd(0.02))

    values = [kind([1, 1, 1, 1]), kind([1, 2, 1, 2]), kind([1, 1, 1, 1])]
    swept = sweep(problem, make, {"weights": values}, 5)
    assert attributes(swept)["batches"] == [[2], [1]]
    errors = swept["objective_error"].values
    np.testing.assert_array_equal(errors[0], errors[2])
    assert (errors[0] != errors[1]).all()
    compiled()
    sweep(problem, make, {"weights": [kind([1, 2, 1, 2])]}, 5)
    assert LOOP not in compiled()


def test_batches_may_count_further_formats():
    problem = toy()

    def make(form):
        return optax.chain(gdsec_jax.gdsec(WORKERS, 4.0, 0.1, wire=form), optax.sgd(0))

    forms = [wire.Format("coo"), wire.Format("coo", also=("values",))]
    swept = sweep(problem, make, {"form": forms}, 3)
    further = swept["total_bits_values"].values
    assert np.isnan(further[0]).all()
    np.testing.assert_array_equal(further[1], 32 * swept["total_entries"][1])


def test_a_second_sweep_compiles_nothing(compiled):
    problem, make = toy(), maker(beta=0.2)
    compiled()
    first = sweep(problem, make, {"xi": [0.5, 4.0, 9.0]}, ROUNDS)
    assert compiled().count(LOOP) == 1  # not twice for what it needs of memory
    second = sweep(problem, make, {"xi": [0.5, 4.0, 9.0]}, ROUNDS)
    assert compiled() == []
    assert_same(second, first)
    third = sweep(problem, make, {"xi": [1.0, 2.0, 3.0]}, ROUNDS, stop=Stop(0.01))
    assert compiled() == []
    sweep(problem, make, {"xi": [0.5, 4.0, 9.0]}, 3 * ROUNDS)
    assert compiled() == []
    assert not (third["total_bits"] == first["total_bits"].values).all()
    other = toy(seed=1)
    compiled()
    loose = Stop(divergence_factor=1e3)
    sweep(other, make, {"xi": [0.5, 4.0, 9.0]}, ROUNDS, stop=loose)
    assert compiled() == []

    # Nor does another grid of as many settings.
    make = gdsec_of(toy())
    sweep(problem, make, {"xi": [0.5, 4.0, 9.0], "beta": [0.1, 0.2]}, ROUNDS)
    compiled()
    sweep(problem, make, {"xi": [1.0, 2.0], "beta": [0.1, 0.3, 0.9]}, ROUNDS)
    assert compiled() == []


# Batches that fit into memory


GRID = {"xi": [0.5, 2.0, 4.0, 6.0, 9.0], "seed": [0]}
MANY = 200  # rounds: most of the memory is a setting's own


@pytest.fixture(scope="module")
def whole():
    problem = problems.minibatch(toy(), 3)
    make = gdsec_of(problem, factor=0.3)
    return problem, make, sweep(problem, make, GRID, MANY)


def halves(whole) -> int:
    """A limit for batches of three and two."""
    return int(0.75 * attributes(whole[2])["bytes"][0])


def assert_is_whole(swept, expected):
    """In other batches products round otherwise."""
    errors = swept["objective_error"], expected["objective_error"]
    np.testing.assert_allclose(*errors, 1e-4)
    for name in ("total_bits", "total_entries", "rounds", "outcome"):
        np.testing.assert_array_equal(swept[name], expected[name])


def test_batches_fit_into_memory(whole, compiled):
    problem, make, expected = whole
    assert attributes(expected)["batches"] == [[5]]
    limit = halves(whole)
    compiled()
    swept = sweep(problem, make, GRID, MANY, memory_limit=limit)
    assert attributes(swept)["batches"] == [[3, 2]]
    assert attributes(swept)["bytes"][0] <= limit
    # That all five do not fit is known; the last two run in the loop of the three.
    assert compiled().count(LOOP) == 1
    assert_is_whole(swept, expected)
    sweep(problem, make, GRID, MANY, memory_limit=limit)
    assert LOOP not in compiled()


def test_one_setting_must_fit(whole):
    problem, make, _ = whole
    with pytest.raises(
        ValueError, match=r"memory_limit is 1,000 bytes, expected at least [\d,]+, what"
    ):
        sweep(problem, make, GRID, MANY, memory_limit=1_000)
    for limit in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"memory_limit is {limit}, expected an"):
            sweep(problem, make, GRID, MANY, memory_limit=limit)


# Results that are kept


class Killed(Exception):
    pass


def dies_at(xi):
    def log(rows, setting):
        if setting["xi"] == xi:
            raise Killed

    return log


def test_a_killed_sweep_goes_on(whole, chunks, tmp_path, monkeypatch):
    problem, make, expected = whole
    path = tmp_path / "deep" / "result.nc"
    options = {"memory_limit": halves(whole), "path": path}
    with pytest.raises(Killed):
        sweep(problem, make, GRID, MANY, log=dies_at(9.0), **options)
    assert not path.exists()
    assert len(list(path.parent.glob(".result.parts/*.nc"))) == 1
    again = []

    def log(rows, setting):
        again.append(setting["xi"])

    swept = sweep(problem, make, GRID, MANY, log=log, **options)
    assert attributes(swept)["batches"] == [[2]]
    assert sorted(set(again)) == [6.0, 9.0]
    assert_is_whole(swept, expected)
    assert [p.name for p in path.parent.iterdir()] == ["result.nc"]

    from inside import _sweep as module

    chunks.clear()
    monkeypatch.setattr(module, "fit", None)  # what is done is not compiled
    read = sweep(problem, make, GRID, MANY, **options)
    assert not chunks
    xr.testing.assert_identical(read, swept)
    with pytest.raises(ValueError, match="memory_limit is -5, expected"):
        sweep(problem, make, GRID, MANY, memory_limit=-5, path=path)
    assert read["outcome"].dtype.kind == swept["outcome"].dtype.kind == "U"


@pytest.mark.parametrize("size", slow_but([1], [1, 2, 5]))
def test_it_goes_on_with_what_is_free_then(size, whole, tmp_path, monkeypatch):
    problem, make, expected = whole
    from inside import _plan as plans

    needs = [plans.fit(plan_of(whole).of_size(n), 2**40).needed for n in (3, size)]
    free = iter([2 * needs[0], 2 * needs[1]])
    monkeypatch.setattr(plans, "_free_memory", lambda: next(free))
    path, again = tmp_path / "result.nc", []

    def log(rows, setting):
        again.append(setting["xi"])

    with pytest.raises(Killed):
        sweep(problem, make, GRID, MANY, log=dies_at(9.0), path=path)
    swept = sweep(problem, make, GRID, MANY, log=log, path=path)
    assert sorted(set(again)) == [6.0, 9.0]
    assert attributes(swept)["batches"] == [[1, 1] if size == 1 else [2]]
    np.testing.assert_array_equal(swept["xi"], GRID["xi"])
    assert_is_whole(swept, expected)


def plan_of(whole):
    from inside import _grid as grids
    from inside import _plan as plans

    problem, make, _ = whole
    common = plans.Common(MANY, _run.Options(1), Stop(), None, Uplink())
    (group,) = grids.groups_of(grids.listed(GRID))
    return plans.plan_of(group, problem, make, common)


def test_equal_settings_are_each_run(tmp_path):
    options = BASE | {"grid": {"xi": [4.0, 0.5, 4.0]}, "path": tmp_path / "a.nc"}
    swept = sweep(**options)
    assert attributes(swept)["batches"] == [[3]]
    assert_same(sweep(**options), swept)


def test_what_is_read_has_the_attributes_of_the_call(chunks, tmp_path):
    path = tmp_path / "a.nc"
    sweep(**BASE, path=SweepFile(path, {"note": "old", "more": 1}))
    read = sweep(**BASE, path=SweepFile(path, {"note": "new"}))
    assert len(chunks) == 1
    for said in (attributes(read), attributes(xr.load_dataset(path))):
        assert said["note"] == "new"
        assert "more" not in said
        assert said["batches"] == [[2]]


def first_of(key, round):
    return jnp.arange(WORKERS) < 3


def last_of(key, round):
    return jnp.arange(WORKERS) > 0


SMALL = {"xi": [0.5, 4.0]}
BASE = {"problem": toy(), "make_optimizer": maker(), "grid": SMALL, "num_rounds": 12}


def drawn(size=2, key=0):
    return {"problem": problems.minibatch(toy(), size), "key": key}


def made(**own):
    return {"make_optimizer": maker(**own)}


def training(steps):
    def make(xi):
        trained = gdsec_jax.local(WORKERS, optax.sgd(0.01), steps)
        sent = gdsec_jax.gdsec(WORKERS, xi, reduction="mean")
        return optax.chain(trained, sent, optax.sgd(1.0))

    return make


CHANGES = {  # of `BASE` twice
    "beta": ({}, made(beta=0.5)),
    "wire": (made(wire="coo"), made(wire="coo64")),
    "values": ({}, {"grid": {"xi": [0.5, 4.5]}}),
    "label": ({}, {"grid": {"xi": [0.5, 4.0 + 1e-12]}}),
    "num_rounds": ({}, {"num_rounds": 13}),
    "data": ({}, {"problem": toy(seed=1)}),
    "weights": tuple(made(weights=np.array([1.0, 1, 1, x])) for x in (1, 2)),
    "momentum": (made(momentum=0.5), made(momentum=0.6)),
    "eval_every": ({}, {"eval_every": 3}),
    "target_error": ({}, {"stop": Stop(1.0)}),
    "divergence_factor": ({}, {"stop": Stop(divergence_factor=10.0)}),
    "key": (drawn(key=0), drawn(key=1)),
    "batch size": (drawn(2), drawn(3)),
    "participation": tuple(
        {"uplink": Uplink(some), "key": 0} for some in (first_of, last_of)
    ),
    "local steps": tuple({"make_optimizer": training(x)} for x in (2, 3)),
    "axes": ({}, {"grid": {("xi", "beta"): [(0.5, 0.1), (4.0, 0.1)]}}),
}


class Found(Exception):
    """A fingerprint."""


FOUND: dict[str, str] = {}  # of what is changed: of BASE, and of some of their own


@pytest.mark.parametrize("name", CHANGES)
def test_another_computation_has_another_fingerprint(name, monkeypatch, tmp_path):
    def found(store, *about):
        raise Found(store.fingerprint)

    def fingerprint(options):
        with pytest.raises(Found) as stopped:
            sweep(**(BASE | {"path": tmp_path / "a.nc"} | options))
        return str(stopped.value)

    from inside import _sweep as swept

    monkeypatch.setattr(swept.Store, "finished", found)
    one, other = CHANGES[name]
    if name == "axes":
        two = gdsec_of(toy(), factor=0.3)
        one, other = one | {"make_optimizer": two}, other | {"make_optimizer": two}
    where = name if one else "base"
    if where not in FOUND:
        FOUND[where] = fingerprint(one)
        assert where != "base" or FOUND[where] == fingerprint(one)
    before = FOUND[where]
    assert before != fingerprint(other)


def test_another_computation_starts_afresh(chunks, tmp_path):
    base = BASE | {"path": tmp_path / "a.nc"}
    other = base | CHANGES["beta"][1]
    first = sweep(**base)
    xr.testing.assert_identical(sweep(**base), first)
    assert len(chunks) == 1
    second = sweep(**other)
    assert len(chunks) == 2
    assert second.attrs["fingerprint"] != first.attrs["fingerprint"]
    fresh = sweep(**(other | {"path": None}))
    assert_same(second, fresh)


def test_a_damaged_file_is_computed_again(chunks, tmp_path):
    path = tmp_path / "a.nc"
    first = sweep(**BASE, path=path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    again = sweep(**BASE, path=path)
    assert len(chunks) == 2
    assert_same(again, first)
    assert_same(sweep(**BASE, path=path), first)
    assert len(chunks) == 2


@pytest.mark.slow
def test_a_dead_process_is_succeeded_by_another(tmp_path):
    lines = """
    import os, sys
    import numpy as np, optax
    import gdsec_jax
    from gdsec_jax import problems

    x = np.random.default_rng(0).standard_normal((40, 3))
    problem = problems.ridge(x, x.sum(1), 4)

    def make(name, xi):
        algorithm = getattr(gdsec_jax, name)(4, xi)
        return optax.chain(algorithm, optax.sgd(0.5 / problem.smoothness))

    def log(rows, setting):
        print(setting["name"])
        if setting["name"] == "cgd" and sys.argv[2] == "dies":
            sys.stdout.flush()
            os._exit(9)

    grid = {"name": ["gdsec", "cgd"], "xi": [1.0, 2.0]}
    gdsec_jax.sweep(problem, make, grid, 5, path=sys.argv[1], log=log)
    """
    script = tmp_path / "run.py"
    script.write_text("\n".join(line[4:] for line in lines.splitlines()))
    path = tmp_path / "a.nc"

    def call(how):
        command = [sys.executable, str(script), str(path), how]
        own = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.run(command, capture_output=True, text=True, env=own)

    first = call("dies")
    assert first.returncode == 9, first.stderr
    assert first.stdout.split() == ["gdsec", "gdsec", "cgd"]
    assert not path.exists()
    second = call("lives")
    assert second.returncode == 0, second.stderr
    assert second.stdout.split() == ["cgd", "cgd"]
    assert call("lives").stdout == ""


# Axes, labels, attributes, logs


def test_names_that_change_together():
    problem = toy()
    grid = {("xi", "beta"): [(0.5, 0.1), (4.0, 0.2), (9.0, 0.1)]}
    swept = sweep(problem, gdsec_of(problem), grid, 5)
    assert dict(swept["objective_error"].sizes) == {"xi_beta": 3, "eval_round": 5}
    np.testing.assert_array_equal(swept["xi"], [0.5, 4.0, 9.0])
    np.testing.assert_array_equal(swept["beta"], [0.1, 0.2, 0.1])
    assert swept["beta"].dims == ("xi_beta",)
    product = sweep(
        problem, gdsec_of(problem), {"xi": [1.0, 4.0, 9.0], "beta": [0.2]}, 5
    )
    np.testing.assert_array_equal(swept["total_bits"][1], product["total_bits"][1, 0])


def test_what_is_no_label_is_kept_beside_the_positions():
    problem = toy()

    def make(k):
        return optax.chain(gdsec_jax.top_j(WORKERS, k or 6), optax.sgd(0.05))

    swept = sweep(problem, make, {"k": [None, 2]}, 2)
    assert swept["k"].values.tolist() == [0, 1]
    assert attributes(swept)["values"] == {"k": ["(None,)", "(2,)"]}
    assert attributes(sweep(**BASE))["values"] == {}


def test_labels_are_numbers_of_any_library():
    problem = toy()
    for values in (jnp.array([0.5, 4.0]), np.array([0.5, 4.0]), (0.5, np.float32(4.0))):
        swept = sweep(problem, gdsec_of(problem), {"xi": values}, 5)
        np.testing.assert_array_equal(swept["xi"], [0.5, 4.0])
        assert attributes(swept)["batches"] == [[2]]


def test_what_a_sweep_says_of_itself():
    own = {"config": {"a": np.float64(1)}, "problem": "mine", "seconds": "none"}
    said = attributes(sweep(**BASE, path=SweepFile(None, own)))
    assert said["config"] == {"a": 1.0}
    assert said["problem"] == "ridge"
    assert said["error_name"] == "objective error"
    assert said["resolution"] == toy().resolution
    assert said["num_rounds"] == 12
    assert said["seconds"] > 0
    assert said["versions"]["jax"] == jax.__version__
    assert set(said["versions"]) >= {"device", "processor", "cores", "memory"}


def test_the_log_is_told_what_was_run(x64):
    problem = toy()
    told = {}

    def log(rows, setting):
        name = setting["name"], setting["factor"]
        assert set(setting) == {"name", "factor"}
        told.setdefault(name, []).append(rows)

    def make(name, factor):
        algorithm = getattr(gdsec_jax, name)(WORKERS)
        return optax.chain(algorithm, optax.sgd(factor / problem.smoothness))

    grid = {"name": ["gd", "sign_ef"], "factor": [0.1, 10.0, 0.9]}
    target = 0.05 * initial_error(problem)
    swept = sweep(problem, make, grid, 50, log=log, stop=Stop(target))
    assert set(told) == {(n, f) for n in grid["name"] for f in grid["factor"]}
    assert "diverged" in swept["outcome"]
    assert "target" in swept["outcome"]
    for (name, factor), chunks in told.items():
        one = swept.sel(name=name, factor=factor)
        last = int(one["rounds"])
        columns = {
            key: np.concatenate([rows[key] for rows in chunks]) for key in chunks[0]
        }
        np.testing.assert_array_equal(columns.pop("round"), np.arange(1, last + 1))
        errors = columns.pop("objective_error")
        np.testing.assert_array_equal(errors, one["objective_error"][:last])
        for key, column in columns.items():
            assert one[f"total_{key}"][-1] == column.sum()


def test_the_log_has_the_same_columns_for_every_algorithm(tmp_path):
    def make(name):
        return optax.chain(getattr(gdsec_jax, name)(WORKERS), optax.sgd(0.01))

    grid = {"name": ["gd", "sign_ef"]}
    with logs.csv(tmp_path / "a.csv") as log:
        sweep(toy(), make, grid, 12, log=log, observe=gdsec_jax.norms)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 12
    assert {"name", "gradient_norm", "h_norm", "e_norm"} <= set(lines[0].split(","))


def test_a_bar_is_shown_when_asked_for(capsys):
    sweep(**BASE)
    assert capsys.readouterr().err == ""
    sweep(**BASE, progress=True)
    shown = capsys.readouterr()
    assert "batch 1 of 1: 2 settings" in shown.err
    assert "24/24" in shown.err
    assert shown.out == ""


# What is refused, before a loop is compiled


def names_and(name, xi, beta=0.1):
    return optax.chain(getattr(gdsec_jax, name)(WORKERS, xi), optax.sgd(0.1))


REFUSED = [
    ({"grid": {"xy": [1.0]}}, "grid has the parameter 'xy', but neither make_opt"),
    ({"grid": {}}, "grid is {}, expected a dict"),
    ({"grid": {"xi": []}}, "grid['xi'] is empty, expected at least one"),
    ({"grid": {"xi": [1.0, -3.0]}}, "xi is -3, expected a number at least 0"),
    (  # of a later group
        {"make_optimizer": names_and}
        | {"grid": {"name": ["gdsec", "cgd"], "xi": [1.0, -2.0]}},
        "xi is -2, expected a number at least 0",
    ),
    ({"grid": {"xi": ["a"]}}, "xi is 'a', expected real numbers"),
    ({"grid": SMALL | {"seed": [1]}, "key": 0}, "key is given beside the grid's seed"),
    ({"grid": SMALL | {"seed": [-1]}}, "seed is -1, expected an integer"),
    ({"grid": SMALL | {"seed": [1, 0.5]}}, "seed is 0.5, expected an integer from 0 t"),
    (drawn(key=None), "key is None, expected"),
    ({"num_rounds": 0}, "num_rounds is 0, expected an integer"),
    ({"eval_every": 0}, "eval_every is 0, expected an integer"),
    ({"stop": Stop(-1.0)}, "target_error is -1.0, expected at least"),
    ({"path": SweepFile(None, {"a": object()})}, "expected what JSON can hold"),
    ({"make_optimizer": gdsec_of(toy(), 3)}, "cannot take gradients of 4 workers"),
    (
        {"uplink": Uplink(lambda key, round: jnp.ones(3, bool)), "key": 0},
        "participation's mask is bool[3], expected bool[4]",
    ),
    *(
        (
            {"make_optimizer": lambda rounds, total_bits: None, "grid": {name: [1.0]}},
            f"grid names '{name}', expected no name of what a sweep returns",
        )
        for name in ("total_bits", "rounds")
    ),
    (
        {"make_optimizer": lambda xi: None},
        "make_optimizer returns None, expected an op",
    ),
    (
        {"make_optimizer": lambda xi: maker(beta=0.1 if xi > 1 else 0.2)(xi)},
        "needs the value of a traced parameter, one of xi: wrap its values in ",
    ),
    (
        {"log": logs.csv("never.csv")},
        "expected a function, such as `with logs.csv(path) as log:` makes",
    ),
    ({"path": "."}, "path is '.', a folder, expected that of a file"),
    ({"path": __file__}, "a file that no sweep has written, expected that of a sweep"),
    (
        {"observe": lambda now: {"xi": now.number}},
        "observe returns 'xi', which the grid names too",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_is_refused(change, message, compiled):
    compiled()
    with pytest.raises(ValueError) as caught:
        sweep(**(BASE | change))
    assert message in str(caught.value)
    assert LOOP not in compiled()


def test_what_has_a_new_spelling_goes_on_for_a_release():
    def make(k):
        return optax.chain(gdsec_jax.top_j(WORKERS, k), optax.sgd(0.05))

    words = r"use gdsec_jax.Static around .*", r"use path=gdsec_jax.SweepFile\(path, at"
    with (
        pytest.warns(DeprecationWarning, match=words[0]),
        pytest.warns(DeprecationWarning, match=words[1]),
    ):
        old = sweep(toy(), make, {"k": [1.0]}, 4, static=["k"], attributes={"a": 1})
    assert attributes(old)["a"] == 1
    assert old["total_entries"].isel(eval_round=0).values.tolist() == [24]
    with (
        pytest.warns(DeprecationWarning, match="static="),
        pytest.raises(ValueError, match="static names 'beta', expected parameters of"),
    ):
        sweep(toy(), make, {"k": [1.0]}, 4, static=["beta"])
