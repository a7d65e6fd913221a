"""Grids of a config: each setting is the run of it, and the rule that picks one."""

import itertools
import re
import tomllib
from typing import Any

import numpy as np
import pytest
import rich.console
import xarray as xr
from cases import slow_but
from inside import Axis, _grid, _sweep

from gdsec_experiments import _parts as parts
from gdsec_jax.study import _searching, experiment, tuning
from gdsec_jax.study import config as configs

TOTALS = ("bits", "broadcast_bits", "gradient_evaluations")


PROBLEM = {
    "data": "heterogeneous",
    "options": {"samples_per_worker": 8, "num_features": 6},
    "num_workers": 4,
    "split": "contiguous",
}


def make(method: dict[str, Any], **fields) -> configs.RunConfig:
    """A small ridge problem, and one method on it."""
    problem = PROBLEM | {"seed": 3} | fields.pop("problem", {})
    values = {"num_rounds": 12, "problem": problem, "methods": {"X": method}}
    return configs.validate(values | fields, "test")


def runs_of(config, label, problem):
    """Each setting of a grid, simulated alone, in the grid's order."""
    method = config.methods[label]
    for setting in _grid.settings_of(tuning.axes_of(config, label)):
        one = configs.varied(method, **setting)
        yield experiment.simulate_method(config, label, one, problem)


def flat(swept: xr.Dataset, name: str) -> np.ndarray:
    """[S, J] or [S], the grid's dimensions as one."""
    values = swept[name].values
    tail = values.shape[-1:] if "eval_round" in swept[name].dims else ()
    return values.reshape(-1, *tail)


def assert_the_runs(config, label="X"):
    with experiment.prepared(config) as problem:
        swept = tuning.sweep_method(config, label, problem)
        histories = list(runs_of(config, label, problem))
    assert flat(swept, "objective_error").shape[0] == len(histories)
    for number, history in enumerate(histories):
        at = history.eval_rounds - 1
        errors = flat(swept, "objective_error")[number][: at.size]
        rounding = 4 * history.attributes["resolution"]
        np.testing.assert_allclose(
            errors, history.objective_error, rtol=1e-9, atol=rounding
        )
        per_round = {
            "bits": history.bits.sum(1),
            "entries": history.entries.sum(1),
            "participants": history.participants.sum(1),
            "dropped": history.dropped,
            "broadcast_bits": history.broadcast_bits,
            "gradient_evaluations": history.gradient_evaluations,
        }
        for name, counts in per_round.items():
            totals = flat(swept, f"total_{name}")[number][: at.size]
            np.testing.assert_array_equal(totals, np.cumsum(counts)[at], err_msg=name)
        assert flat(swept, "rounds")[number] == history.num_rounds
        assert flat(swept, "outcome")[number] == history.outcome
        assert flat(swept, "initial_error")[number] == history.initial_error
    return swept, histories


# Each setting of a sweep is the run of it

METHODS = """
name = 'gdsec'; grid.xi = [0.5, 20.0]; grid.beta = [0.05]; grid.step_factor = [0.5, 1]
name = 'gdsec'; grid."xi, beta" = [[1, 1.0], [30.0, 0.1]]
name = 'top_j'; grid.k = [1, 3, 0.5]
name = 'diana'; compressor = 'random_k'; grid.k = [2, 6]; grid.step_factor = [1.0, 3.0]
name = 'marina'; compressor = 'random_k'; k = 2; grid.step_factor = [1.0, 3.0]
name = 'clag'; k = 2; grid.zeta = [0.0, 2.0]
name = 'lag'; grid.learning_rate = [0.01, 0.02]; grid.zeta = [0.1, 0.9]
name = 'iag'; grid.step_factor = [1.0, 2.0]; grid.seed = [1, 2]
name = 'gdsec'; xi = 0.5; local_steps = 3; grid.step_factor = [0.1, 0.2]
name = 'gd'; step_factor = 0.1; grid.local_steps = [1, 4]
name = 'gd'; grid.broadcast_k = [2, 0.5]
name = 'gdsec'; xi = 0.5; grid.participation = [0.3, 1]
name = 'gdsec'; xi = 0.5; absent = 'accumulate'; grid.budget_bits = [50.0, 200.0]
name = 'gdsec'; coordinate_xi = true; grid.xi = [1.0, 1e3]
name = 'gdsec'; xi = 20.0; grid.coordinate_xi = [false, true]
name = 'gd'; grid.name = ['gd', 'natural']
name = 'gdsec'; xi = 2.0
name = 'gd'; grid.learning_rate = [0.01, 1e30, 0.02]
"""
FAST = ["name = 'gdsec'; xi = 0.5; local_steps = 3; grid.step_factor = [0.1, 0.2]"]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("row", slow_but(FAST, METHODS.strip().splitlines()))
def test_each_setting_is_its_run(row):
    assert_the_runs(make(tomllib.loads(row.replace("; ", "\n"))))


MINIBATCHES = """
name = 'gdsec'; grid.xi = [0.5, 20.0]
name = 'gd'; grid.seed = [4, 5]
name = 'qgd'; levels = 4; participation = 0.5; grid.seed = [0, 1]
"""


@pytest.mark.slow
@pytest.mark.parametrize("row", MINIBATCHES.strip().splitlines())
def test_minibatches(row):
    method = tomllib.loads(row.replace("; ", "\n"))
    config = make(method, problem={"kind": "logistic", "batch_size": 2}, eval_every=5)
    swept, _ = assert_the_runs(config)
    assert swept["eval_round"].values.tolist() == [5, 10, 12]


@pytest.mark.slow
def test_proximal_steps():
    problem = {"kind": "lasso", "proximal": True, "regularization": 0.3}
    problem |= {"data": "digits", "options": {}, "split": "sorted"}
    method = {"name": "gdsec", "xi": 1.0, "grid": {"step_factor": [0.2, 1.0]}}
    assert_the_runs(make(method, problem=problem))


def test_the_grid_of_all_methods_gives_way_to_a_methods_own():
    pairs = [[1.0, 0.5], [2.0, 0.25]]
    methods = {
        "all": {"name": "gd"},
        "own": {"name": "gd", "grid": {"step_factor": [5.0]}},
        "zipped": {"name": "gdsec", "grid": {"xi, step_factor": pairs}},
    }
    grid = {"step_factor": [1.0, 2.0], "learning_rate": [0.1]}
    config = configs.validate({"grid": grid, "methods": methods}, "test")
    axes = {label: tuning.axes_of(config, label) for label in config.methods}
    rate = Axis(("learning_rate",), ((0.1,),))
    assert axes["all"] == (Axis(("step_factor",), ((1.0,), (2.0,))), rate)
    assert axes["own"] == (rate, Axis(("step_factor",), ((5.0,),)))
    assert axes["zipped"] == (rate, Axis(("xi", "step_factor"), ((1, 0.5), (2, 0.25))))
    # A pair of the common grid gives way as a whole.
    method = {"name": "gdsec", "xi": 1, "grid": {"beta": [0.5, 0.6]}}
    config = make(method, grid={"xi,beta": [[1.0, 0.1]]})
    assert tuning.axes_of(config, "X") == (Axis(("beta",), ((0.5,), (0.6,))),)


def test_coordinates_and_logs_are_of_the_values_of_the_grid():
    scale = {"start": 1.0, "stop": 100.0, "num": 3}
    grid = {"xi": scale, "beta, step_factor": [[0.1, 1], [0.5, 0.5]]}
    config = make({"name": "gdsec", "grid": grid}, num_rounds=2)
    seen = []
    with experiment.prepared(config) as problem:
        swept = tuning.sweep_method(
            config, "X", problem, log=lambda rows, setting: seen.append(setting)
        )
    assert dict(swept.sizes) == {"xi": 3, "beta_step_factor": 2, "eval_round": 2}
    assert swept["xi"].values.tolist() == [1.0, 10.0, 100.0]
    assert swept["step_factor"].dims == ("beta_step_factor",)
    assert swept["step_factor"].values.tolist() == [1.0, 0.5]
    assert seen[0] == {"method": "X", "setting": "xi=1.0 beta=0.1 step_factor=1"}
    assert len({one["setting"] for one in seen}) == 6


def test_a_setting_that_is_none_names_the_method():
    # Each value is one, the pair is not: only the product shows it.
    method = {"name": "gd", "grid": {"name": ["gd", "gdsec"], "xi": [1.0]}}
    with pytest.raises(ValueError, match=r"^test: methods\.X: with .*gd has no"):
        make(method)
    config = make({"name": "ef21", "k": 2})
    one = config.methods["X"].model_copy(update={"grid": {"k": (0,)}})
    wrong = config.model_copy(update={"methods": {"X": one}})
    with experiment.prepared(config) as problem:
        with pytest.raises(ValueError, match=r"^methods\.X: k is 0, expected an int"):
            tuning.sweep_method(wrong, "X", problem)
        with pytest.raises(ValueError, match=r"^methods\.X: memory_limit is 1 bytes"):
            tuning.sweep_method(make({"name": "gd"}), "X", problem, memory_limit=1)


# The rule, on courses made by hand


def courses(errors, bits, outcomes=None) -> tuple[xr.Dataset, tuple[Axis, ...]]:
    """A sweep over xi, evaluated every 10 rounds; a course ends with its NaNs."""
    errors, bits = np.asarray(errors, float), np.asarray(bits)
    count, length = errors.shape
    rounds = 10 * np.arange(1, length + 1)
    outcomes = outcomes or ["completed"] * count
    ended = [10 * (np.flatnonzero(~np.isnan(e)).max(initial=0) + 1) for e in errors]
    dims = ("xi", "eval_round")
    dataset = xr.Dataset(
        {
            "objective_error": (dims, errors),
            "total_bits": (dims, bits),
            "total_broadcast_bits": (dims, 2 * bits),
            "total_gradient_evaluations": (dims, 3 * bits),
            "outcome": ("xi", np.array(outcomes)),
            "rounds": ("xi", np.array(ended)),
        },
        coords={"xi": np.arange(count), "eval_round": rounds},
    )
    return dataset, (Axis(("xi",), tuple((s,) for s in range(count))),)


INF = np.inf
# Errors and bits of each setting's evaluations after 10, 20 and 30 rounds, ! where it
# diverged; the most rounds; the setting that is chosen, its rounds, and why.
RULE = """
5 1 .5, 5 5 1, 1 .5 .2 | 10 20 30, 1 2 3, 25 26 27 | 20 | 0 | 20 |
    of 3 settings, the fewest bits to the target within 20 rounds
5 1 .5, 1 1 1 | 10 20 30, 25 50 75 | 20 | 0 | 20 |
    of 2 settings, the fewest bits to the target within 20 rounds
5 1 .5, 5 5 1 | 10 20 30, 1 2 3 | inf | 1 | 30 |
    of 2 settings, the fewest bits to the target
5 5 1, 5 1 1, 5 5 5 | 1 2 9, 4 8 12, 0 0 0 | 12.5 | 1 | 20 |
    of 3 settings, the fewest bits to the target; none within 12 rounds
9 2 4, 9 9 3, 2 9 5 | 1 2 3, 1 2 3, 1 2 3 | 20 | 1 | inf |
    of 3 settings, the least last error; none reaches the target
5 5 5, 5 1 1, 1 1 1 | 1 2 3, 5 7 9, 7 8 9 | 30 | 1 | 20 |
    of 3 settings, the fewest bits to the target within 30 rounds
5 5 5, 5 5 3, 5 4 3 | 1 2 3, 1 2 3, 1 2 3 | 30 | 1 | inf |
    of 3 settings, the least last error; none reaches the target
5 1 .5 | 10 20 30 | inf | 0 | 20 |
    the one setting, the fewest bits to the target
1 9 9, 9 9 1 | 5 6 7, 6 7 8 | inf | 1 | 30 |
    of 2 settings, the fewest bits to the target
1 1 1, 1 1 1 | 1099511627777 1 1, 1099511627776 1 1 | inf | 1 | 10 |
    of 2 settings, the fewest bits to the target
2 2.5 nan!, 9 9 7, 9 9 inf | 1 2 3, 1 2 3, 1 2 3 | 20 | 1 | inf |
    of 3 settings, the least last error; none reaches the target
9 9 9, 1 99 nan! | 1 1 1, 1 1 1 | inf | 0 | inf |
    of 2 settings, the least last error; none reaches the target
nan nan nan!, 9 99 nan!, 9 inf nan! | 1 2 3, 1 2 3, 1 2 3 | 20 | 0 | inf |
    of 3 settings, all diverge
"""


def numbers(text: str) -> list[list[float]]:
    return [[float(x) for x in row.split()] for row in text.split(",")]


@pytest.mark.parametrize("row", re.split(r"\n(?! )", RULE.strip()))
def test_the_rule(row):
    errors, bits, most, place, rounds, why = (part.strip() for part in row.split("|"))
    outcomes = ["diverged" if "!" in x else "completed" for x in errors.split(",")]
    swept = courses(numbers(errors.replace("!", "")), numbers(bits), outcomes)
    choice = tuning.choose(*swept, 1.0, float(most))
    assert choice[:3] == ({"xi": int(place)}, why, float(rounds))


def test_a_lucky_last_round_is_no_target_reached():
    swept = courses(
        [[9.0] * 10 + [9.0, 0.5] * 5, [9.0] * 15 + [0.9] * 5], [[1] * 20, [2] * 20]
    )
    assert tuning.choose(*swept, 1.0, INF).setting == {"xi": 1}


SEEDS = Axis(("seed",), ((0,), (1,), (2,)))


def over_seeds(*errors_and_bits):
    """A sweep over xi and three seeds, of one course for each."""
    swept = [
        courses(e, b)[0].rename(xi="seed").assign_coords(seed=[0, 1, 2])
        for e, b in errors_and_bits
    ]
    axis = Axis(("xi",), tuple((s,) for s in range(len(swept))))
    one = xr.concat(swept, "xi", join="exact").assign_coords(xi=range(len(swept)))
    return one, (axis, SEEDS)


def test_seeds_are_not_chosen_and_medians_over_them_count():
    never, late, soon = [9, 9, 9], [9, 9, 1], [1, 1, 1]
    cheap = [1, 2, 3]
    swept = over_seeds(
        ([soon, never, never], [cheap] * 3),  # lucky once
        ([late, late, never], [[5, 6, 7]] * 3),
        ([late, late, late], [[5, 6, 9], [5, 6, 8], [0, 0, 0]]),
    )
    choice = tuning.choose(*swept, 1.0, INF)
    assert choice == ({"xi": 1}, "of 3 settings, the fewest bits to the target", 30, 3)
    choice = tuning.choose(swept[0].isel(xi=[0]), (Axis(("xi",), ((0,),)), SEEDS), 1, 9)
    why = "the one setting, the least last error; none reaches the target"
    assert choice == ({"xi": 0}, why, INF, 1)
    one = swept[0].isel(xi=2)
    assert tuning.choose(one, (SEEDS,), 1.0, INF).setting == {}


def test_errors_are_medians_over_seeds_too():
    swept = over_seeds(
        ([[9, 9, 2], [9, 9, 8], [9, 9, 8]], [[1, 2, 3]] * 3),
        ([[9, 9, 7], [9, 9, 7], [9, 9, 9]], [[1, 2, 3]] * 3),
        ([[9, 9, 3], [9, np.nan, np.nan], [9, np.nan, np.nan]], [[1, 2, 3]] * 3),
    )
    assert tuning.choose(*swept, 1.0, INF).setting == {"xi": 1}


# The values of an axis, the place of the best, and whether that is an edge.
EDGES = [
    ((1.0, 2.0, 3.0), 2, True),
    ((3.0, 2.0, 1.0), 2, True),
    ((3.0, 2.0, 1.0), 0, True),
    ((1.0, 2.0, 3.0), 1, False),
    ((1.0, 3.0, 2.0), 2, False),
    ((1.0, 3.0), 0, False),
    (("a", "b", "c"), 2, False),
    ((1, 3, 6), 2, True),
    ((1, 3, 6), 0, False),
    ((2, 3, 6), 0, True),
    ((0.0, 0.5, 1.0), 0, False),
    ((True, False, True), 0, False),
]


@pytest.mark.parametrize(("values", "best", "edge"), EDGES)
def test_a_choice_at_the_edge_of_the_grid_says_so(values, best, edge):
    errors = [[9, 9, 1] if place == best else [9, 9, 9] for place in range(len(values))]
    swept, _ = courses(errors, [[1, 2, 3] for _ in values])
    axes = (Axis(("xi",), tuple((value,) for value in values)),)
    why = f"of {len(values)} settings, the fewest bits to the target"
    why += "; xi at the edge of the grid" if edge else ""
    choice = tuning.choose(swept, axes, 1.0, INF)
    assert choice == ({"xi": values[best]}, why, 30, len(values))


def test_the_rule_over_several_axes():
    one, (axis,) = courses([[5, 1, 1], [5, 5, 5]], [[4, 5, 6]] * 2)
    two, _ = courses([[5, 5, 5], [1, 1, 1]], [[2, 3, 4], [3, 4, 5]])
    swept = xr.concat([one, two], "beta", join="exact").assign_coords(beta=[0.1, 0.2])
    axes = (Axis(("beta",), ((0.1,), (0.2,))), axis)
    choice = tuning.choose(swept, axes, 1.0, INF)
    assert choice.setting == {"beta": 0.2, "xi": 1}
    assert choice.why.startswith("of 4 settings")
    other = swept.transpose("eval_round", "beta", "xi")
    assert tuning.choose(other, axes, 1.0, INF) == choice


# What a target costs


def test_costs_on_courses_made_by_hand():
    swept, _ = courses(
        [[9, 1, 0.5], [1, 9, 9], [9, 9, 9], [9, np.nan, np.nan]], [[1, 2, 3]] * 4
    )
    costs = tuning.cost_to(swept, 1.0)
    spent = {"rounds": 10, "bits": 1, "broadcast_bits": 2, "gradient_evaluations": 3}
    for name, each in spent.items():
        assert costs[name].values.tolist() == [2 * each, each, INF, INF]
    assert costs["bits"].dims == ("xi",)
    assert "eval_round" not in costs.coords


@pytest.mark.slow
def test_costs_are_those_of_the_histories():
    grid = {"step_factor": [0.02, 1.0]}
    method = {"name": "gdsec", "xi": 0.5, "broadcast_k": 3, "grid": grid}
    config = make(method, num_rounds=40, eval_every=3)
    with experiment.prepared(config) as problem:
        swept = tuning.sweep_method(config, "X", problem)
        histories = list(runs_of(config, "X", problem))
    first = histories[0].initial_error
    seen = 0
    for error in first * np.array([2.0, 0.5, 0.1, 1e-2, 1e-3, 1e-9]):
        costs = tuning.cost_to(swept, error)
        for number, history in enumerate(histories):
            cost = history.cost_to(error)
            seen += cost is not None
            for name in ("rounds", *TOTALS):
                expected = INF if cost is None else getattr(cost, name)
                assert np.ravel(costs[name].values)[number] == expected
    assert 3 < seen < 12


# Tuning, from end to end

TOY = {
    "num_rounds": 120,
    "target": 1e-2,
    "slack": 0.2,
    "wire": "rle",
    "grid": {"step_factor": [0.5, 1.0]},
    "problem": PROBLEM | {"regularization": 0.1},
    "methods": {
        "SEC": {"name": "gdsec", "grid": {"xi": [0.0, 2, 8, 500], "beta": [0.05, 0.5]}},
        "top-j": {"name": "top_j", "grid": {"k": [1, 2], "step_factor": [0.7, 1.4]}},
        "GD": {"name": "gd"},
        "given": {"name": "gdsoec", "xi": 0.1, "step_factor": 0.9},
    },
}


def by_brute_force(config, problem):
    """The rule in loops over single runs: by label, the setting and its cost."""
    target = config.target * float(problem.error(problem.init_params))
    most, found = INF, {}
    labels = [config.baseline(), *(x for x in config.methods if x != config.baseline())]
    for label in labels:
        grids = dict(config.grid) | dict(config.methods[label].grid)
        tried = []
        for row in itertools.product(*grids.values()):
            setting = dict(zip(grids, row, strict=True))
            one = configs.varied(config.methods[label], **setting)
            history = experiment.simulate_method(config, label, one, problem)
            stays = history.outcome == "completed"
            stays = stays and history.objective_error[-1] <= target
            tried.append((setting, history.cost_to(target) if stays else None))
        reached = [pair for pair in tried if pair[1] is not None]
        assert reached
        in_time = [pair for pair in reached if pair[1].rounds <= most] or reached
        found[label] = min(in_time, key=lambda pair: pair[1].bits)
        if label == config.baseline():
            most = (1 + config.slack) * found[label][1].rounds
    return found


@pytest.fixture
def quiet():
    return rich.console.Console(quiet=True)


@pytest.mark.slow
def test_tuning_finds_what_brute_force_finds(tmp_path, quiet):
    config = configs.validate(TOY, "test")
    tuned = experiment.tune(config, "toy", tmp_path, quiet)
    with experiment.prepared(config) as problem:
        expected = by_brute_force(config, problem)
    assert list(tuned.methods) == list(config.methods)
    for label, (setting, _) in expected.items():
        method = tuned.methods[label]
        assert {n: getattr(method, n) for n in setting} == setting, label
        assert method == configs.varied(config.methods[label], **setting).model_copy(
            update={"chosen": method.chosen, "grid": config.methods[label].grid}
        )
    assert tuned.methods["SEC"].xi not in (0.0, 500.0)  # worth a search
    assert tuned.methods["GD"].chosen == "of 2 settings, the fewest bits to the target"
    assert tuned.methods["SEC"].chosen.startswith("of 16 settings, the fewest bits")
    # The config that was found is one, and its runs cost what was found.
    assert configs.validate(tuned.model_dump(mode="json"), "tuned") == tuned
    runs = experiment.compare(tuned, tmp_path / "runs", quiet)
    for label, (_, cost) in expected.items():
        assert runs.histories[label].cost_to(runs.target_error) == cost
    # What was chosen is a setting of the sweep, and again the one.
    again = experiment.tune(tuned, "toy", tmp_path, quiet)
    assert again.methods == tuned.methods


def small(**methods) -> configs.RunConfig:
    toy: dict[str, Any] = {k: v for k, v in TOY.items() if k != "grid"}
    return configs.validate(toy | {"methods": methods}, "test")


def test_tuning_says_what_it_chose(tmp_path):
    gd = {"name": "gd", "grid": {"step_factor": [0.5, 1.0]}}
    config = small(SEC={"name": "gdsec", "xi": 2.0}, GD=gd)
    console = rich.console.Console(record=True, width=200)
    tuned = experiment.tune(config, "toy", tmp_path, console)
    lines = console.export_text().splitlines()
    assert lines[1].startswith("L = ")
    assert lines[2].startswith("GD: step_factor = ")
    assert lines[3].startswith("SEC: nothing to choose: the one setting, the fewest")
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {"SEC tune.nc", "GD tune.nc"}
    assert tuned.methods["SEC"].chosen.startswith("the one setting, the fewest bits")
    with experiment.prepared(tuned) as problem:
        table = parts.how_chosen(tuned, problem)
        step = tuned.methods["GD"].step_factor / problem.smoothness
    rows = table.set_index("method").to_dict("index")
    assert rows["SEC"]["parameters"] == "xi = 2.0"
    gd = tuned.methods["GD"]
    assert rows["GD"]["parameters"] == f"step_factor = {gd.step_factor}"
    assert rows["GD"]["step"] == f"{step:.3g}"
    assert rows["GD"]["chosen"] == gd.chosen


@pytest.mark.slow
def test_a_baseline_that_never_arrives_limits_nobody(tmp_path, quiet):
    gd = {"name": "gd", "grid": {"step_factor": [1e-9, 1e-6]}}
    sec = {"name": "gdsec", "grid": {"xi": [1e9, 0.5]}}
    tuned = experiment.tune(small(GD=gd, SEC=sec), "toy", tmp_path, quiet).methods
    assert (tuned["GD"].step_factor, tuned["SEC"].xi) == (1e-6, 0.5)
    never = "of 2 settings, the least last error; none reaches the target"
    assert tuned["GD"].chosen == never
    assert tuned["SEC"].chosen == "of 2 settings, the fewest bits to the target"


@pytest.mark.slow
def test_the_rounds_of_the_baseline_are_those_of_its_choice(tmp_path, quiet):
    # Without gradient descent the first method is the baseline: fewer entries, fewer
    # bits, more rounds. The others may take as many.
    few = {"name": "top_j", "grid": {"k": [1, 6]}}
    config = small(few=few, all={"name": "gdsec", "xi": 0.0})
    tuned = experiment.tune(config, "toy", tmp_path, quiet)
    assert tuned.methods["few"].k == 1
    with experiment.prepared(tuned) as problem:
        method = tuned.methods["few"]
        history = experiment.simulate_method(tuned, "few", method, problem)
    cost = history.cost_to(tuned.target * history.initial_error)
    assert cost is not None
    most = (1 + tuned.slack) * cost.rounds
    assert tuned.methods["all"].chosen.endswith(f"within {most:,.0f} rounds")


# A search in the place of grids

SEARCH = {
    "num_rounds": 120,
    "target": 1e-2,
    "slack": 0.2,
    "wire": "rle",
    "search": {"settings": 9, "batch": 4, "seeds": 4},
    "problem": PROBLEM | {"regularization": 0.1},
    "methods": {
        "SEC": {"name": "gdsec", "search": {"xi": 1.0, "beta": 0.1}},
        "same": {"name": "gdsoec", "xi": 5.0, "search": {"xi": "SEC", "beta": "SEC"}},
        "top-j": {"name": "top_j", "search": {"k": 3, "step_factor": 0.5}},
        "GD": {"name": "gd"},
        "QGD": {"name": "qgd", "search": {"levels": 4}},
    },
}
SEARCH["methods"]["same"]["search"]["step_factor"] = "SEC"


def cost_by_hand(config, label, problem, setting, seeds):
    """Medians of rounds and bits, each seed's run simulated alone; inf for never."""
    target = config.target * float(problem.error(problem.init_params))
    found = []
    for seed in seeds or [None]:
        method = configs.varied(config.methods[label], **setting)
        method = method.model_copy(update={"seed": seed})
        history = experiment.simulate_method(config, label, method, problem)
        stays = history.outcome == "completed"
        stays = stays and np.median(history.objective_error[-12:]) <= target
        cost = history.cost_to(target) if stays else None
        found.append((cost.rounds, cost.bits) if cost else (INF, INF))
    return tuple(np.median(found, axis=0))


@pytest.mark.slow
def test_what_a_search_finds_has_no_better_neighbour(tmp_path, quiet):
    config = configs.validate(SEARCH, "test")
    tuned = experiment.tune(config, "toy", tmp_path, quiet)
    said = {label: method.chosen for label, method in tuned.methods.items()}
    assert list(tuned.methods) == list(config.methods)
    with experiment.prepared(config) as problem:
        rounds, _ = cost_by_hand(
            config, "GD", problem, {"step_factor": tuned.methods["GD"].step_factor}, []
        )
        for label in ("GD", "SEC", "top-j", "QGD"):
            most = INF if label == "GD" else 1.2 * rounds
            ladders = _searching.lattice_of(config, label, problem)
            method, seeds = tuned.methods[label], [0, 1] if label == "QGD" else []
            best = {name: getattr(method, name) for name in ladders}
            own = cost_by_hand(config, label, problem, best, seeds)
            assert np.isfinite(own).all() and own[0] <= most
            for name, ladder in ladders.items():
                place = ladder.values.index(best[name])
                for other in ladder.values[max(place - 1, 0) : place + 2]:
                    setting = best | {name: other}
                    cost = cost_by_hand(config, label, problem, setting, seeds)
                    assert cost[0] > most or cost[1] >= own[1], (label, setting)
            assert re.match(r"of 9 (and \d+ more )?settings \(", said[label])
            assert "step_factor" in said[label]
            if label != "GD":
                assert f"within {most:,.0f} rounds" in said[label]
    assert said["QGD"].count("by the medians of seeds 0 to 1") == 1
    assert "seeds" not in said["SEC"] + said["top-j"] + said["GD"]
    same, ours = tuned.methods["same"], tuned.methods["SEC"]
    names = ("xi", "beta", "step_factor")
    assert [getattr(same, n) for n in names] == [getattr(ours, n) for n in names]
    assert same.chosen == "xi, beta, step_factor of SEC"
    # Where it begins is kept: from there it finds the same again.
    again = experiment.tune(tuned, "again", tmp_path, quiet)
    assert again == tuned == configs.validate(tuned.model_dump(mode="json"), "tuned")


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(tmp_path, quiet, monkeypatch):
    fields = dict(SEARCH) | {"methods": {"GD": {"name": "gd"}, "SEC": {}}}
    fields["methods"]["SEC"] = SEARCH["methods"]["SEC"]
    config = configs.validate(fields, "test")
    expected = experiment.tune(config, "undisturbed", tmp_path, quiet)
    ran, run_batch = [], _sweep.run_batch

    def counted(plan, settings, *rest):
        if len(ran) == 4:  # the second of GD-SEC
            raise KeyboardInterrupt
        ran.append([*settings])
        return run_batch(plan, settings, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(_sweep, "run_batch", counted)
        with pytest.raises(KeyboardInterrupt):
            experiment.tune(config, "killed", tmp_path, quiet)
    later = []

    def also(plan, settings, *rest):
        later.append([*settings])
        return run_batch(plan, settings, *rest)

    monkeypatch.setattr(_sweep, "run_batch", also)
    assert experiment.tune(config, "killed", tmp_path, quiet) == expected
    assert not [batch for batch in later if batch in ran]
    number = len(list((tmp_path / "undisturbed").glob("*.nc")))
    assert len(ran) + len(later) == number


def test_ladders_end_where_values_do():
    methods = {
        "sec": {"name": "gdsec", "search": {"xi": 20.0, "beta": 0.1}},
        "few": {"name": "top_j", "search": {"k": 5}},
        "share": {"name": "top_j", "search": {"k": 0.1}},
        "avg": {"name": "gd", "search": {"local_steps": 4}},
        "own step": {"name": "gd", "search": {"learning_rate": 0.5}},
    }
    fields = {"search": {"most": {"local_steps": 10, "xi": 100.0}}, "methods": methods}
    config = configs.validate(fields | {"problem": PROBLEM}, "test")
    with experiment.prepared(config) as problem:  # of six features
        found = {x: _searching.lattice_of(config, x, problem) for x in config.methods}
    assert [*found["sec"]] == ["step_factor", "xi", "beta"]
    assert found["sec"]["step_factor"].values[31:34] == (0.5, 1.0, 2.0)
    assert found["sec"]["xi"].values[-3:] == (10.0, 30.0, 100.0)
    assert found["sec"]["beta"].values[-3:] == (0.1, 0.3, 1.0)
    assert found["few"]["k"].values == (1, 2, 4)
    assert found["share"]["k"].values[-2:] == (0.3, 1.0)
    assert found["avg"]["local_steps"].values == (1, 2, 4, 8)
    assert [*found["own step"]] == ["learning_rate"]
    assert found["own step"]["learning_rate"].values[31:34] == (0.25, 0.5, 1.0)


def test_who_draws_has_seeds_that_choose_and_others_that_report():
    methods = {
        "GD": {"name": "gd"},
        "QGD": {"name": "qgd"},
        "half": {"name": "gd", "participation": 0.5},
        "in turn": {"name": "gd", "participation": 0.5},
        "link": {"name": "gd", "channel": {"erasure_probability": 0.1}},
    }
    methods["in turn"]["participation_rule"] = "round_robin"
    fields = {"search": {"seeds": 6}, "methods": methods}
    config = configs.validate(fields, "test")
    drawn = {label for label in methods if config.seeds_of(label) != ([], [])}
    assert drawn == {"QGD", "half", "link"}
    choosing, reporting = config.seeds_of("QGD")
    assert (choosing, reporting) == ([0, 1, 2], [3, 4, 5])
    for also in ({"problem": {"batch_size": 2}}, {"channel": {"compute_s": 1.0}}):
        every = configs.validate(fields | also, "test")
        assert all(every.seeds_of(label) == (choosing, reporting) for label in methods)
    assert configs.validate({"methods": methods}, "test").seeds_of("QGD") == ([], [])


WRONG = """
search.xi = 1.0 |  | methods.X: search is given, expected the table [search] with it
grid.xi = [1.0] | search = {} | methods.X: it has a grid and a search, expected one
search.xi = -1.0 | search = {} | methods.X: with step_factor = 1.0, xi = -1.0 of the gr
search.zeta = 1.0 | search = {} | methods.X: with step_factor = 1.0, zeta = 1.0 of the
search.xi = "GD" | search = {} | methods.X: search is {'step_factor': 1.0,
search = {step_factor = "Y"} | search = {} | methods.X: search is {'step_factor': 'Y'}
search = {step_factor = "X"} | search = {} | methods.X: search is {'step_factor': 'X'}
xi = 1.0 | search.seeds = 3 | search.seeds is 3, expected a multiple of 2
xi = 1.0 | search.settings = 0 | search.settings is 0, expected greater than or equal
xi = 1.0 | search.start.step_factor = 0.0 | methods.GD: with step_factor = 0.0 of the
xi = 1.0 | search.number = 3 | search: number is an unknown field, expected one of sett
"""


@pytest.mark.parametrize("row", WRONG.strip().splitlines())
def test_a_search_that_is_wrong_is_a_sentence(row):
    method, run, message = (part.strip() for part in row.split(" | "))
    values = tomllib.loads(run)
    own = {"name": "gdsec"} | tomllib.loads(method)
    with pytest.raises(ValueError, match=re.escape(message)):
        configs.validate(values | {"methods": {"GD": {"name": "gd"}, "X": own}}, "test")


def test_a_start_beyond_all_values_is_a_sentence():
    fields = {"search": {"most": {"xi": 1.0}}, "problem": PROBLEM}
    method = {"name": "gdsec", "search": {"xi": 10.0}}
    config = configs.validate(fields | {"methods": {"X": method}}, "test")
    message = "methods.X: search.xi: start is 10.0, expected a value that can be taken."
    with (
        experiment.prepared(config) as problem,
        pytest.raises(ValueError, match=re.escape(message)),
    ):
        _searching.lattice_of(config, "X", problem)
