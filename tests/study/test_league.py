"""The league: its rule, its ranks and intervals, and its page."""

import dataclasses
import html
import shlex

import numpy as np
import pandas as pd
import pytest
import rich.console
import xarray as xr

import gdsec_jax
from gdsec_jax.study import _standings, experiment, league, tuning
from gdsec_jax.study import config as configs
from gdsec_jax.study.config import _league

QUIET = rich.console.Console(quiet=True)
MINE = """
methods.Mine.name = "mine:halved"
methods.Chain.name = "mine:averaged"

[problems.ridge]
num_rounds = 60
target = 0.02

[problems.lasso]
num_rounds = 20
"""
FUNCTION = """
import optax
from gdsec_jax import algorithms, federate, gd, local, worker

@algorithms.algorithm(algorithms.Options)
def halved(num_workers, **options):
    'A method of one\\'s own.'
    return federate(worker.random_k(0.5), num_workers, key=0, **options)

def averaged(num_workers, wire):
    'A chain of one\\'s own.'
    trained = local(num_workers, optax.sgd(0.01), 5)
    return optax.chain(trained, gd(num_workers, reduction="mean", wire=wire))
"""


def test_every_method_is_in_the_league():
    shipped = _league.load_league()
    assert _league.missing(shipped) == []
    assert len(shipped.problems) == 8
    assert sum(one.quick for one in shipped.problems.values()) == 3
    kinds = {one.problem.kind for one in shipped.problems.values()}
    assert len(kinds) == 6
    assert len(configs.axes_of(shipped.default)[0].rows) == 8


def test_ratios_and_ranks_by_hand():
    bits = np.array(
        [
            [[1.0, 3.0, 2.0], [np.inf] * 3],
            [[8.0, 8.0, 4.0], [5.0, 5.0, 5.0]],
            [[2.0, 2.0, 9.0], [np.inf, 1.0, 50.0]],
        ]
    )
    ratios, ranks = _standings.ratios_and_ranks(bits)
    np.testing.assert_array_equal(ratios, [[1, np.inf], [4, 1], [1, 10]])
    np.testing.assert_array_equal(ranks, [[1.5, 3], [3, 1], [1.5, 2]])
    nobody, last = _standings.ratios_and_ranks(np.full((2, 1, 3), np.inf))
    assert np.isinf(nobody).all() and (last == 1.5).all()


def scores(bits, labels, names):
    return [
        _standings.Score(name, label, np.array(bits[i][j], float), "", True)
        for i, label in enumerate(labels)
        for j, name in enumerate(names)
    ]


def test_intervals_are_those_of_the_seeds():
    whole = _league.load_league()
    names, labels = ("ridge", "sparse"), ("GD", "GD-SEC", "LAG")
    few = league.chosen(whole, False, names, labels)
    rng = np.random.default_rng(0)
    noisy = rng.uniform(1, 2, 40)
    bits = [[noisy * 1, [7] * 40], [[10] * 40, [7] * 40], [[20] * 40, [np.inf] * 40]]
    table = _standings.table_of(few, scores(bits, labels, names))
    assert table.labels == ["GD", "GD-SEC", "LAG"]
    np.testing.assert_allclose(table.ranks, [1.25, 1.75, 3])
    np.testing.assert_array_equal(table.rank_intervals[2], [3, 3])
    low, high = table.intervals[1, 0]
    assert low < 10 / np.median(noisy) < high
    # The standard error of a median of 40 uniform numbers is 1/(2 sqrt(40)) of them.
    assert 0.5 < (high - low) / (4 * 10 / 1.5**2 / (2 * np.sqrt(40))) < 2
    np.testing.assert_array_equal(table.intervals[0, 0], [1, 1])
    assert np.isinf(table.ratios[2, 1])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small one, with a method of one's own and one that cannot run somewhere."""
    folder = tmp_path_factory.mktemp("one league")  # with a blank in its name
    (folder / "mine.toml").write_text(MINE)
    (folder / "mine.py").write_text(FUNCTION)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        page = league.make(
            folder / "mine.toml",
            folder / "out",
            quick=True,
            problems=("ridge", "lasso"),
            methods=("GD", "GD-SEC", "Scaffnew", "Mine", "Chain"),
            console=QUIET,
        )
    return page


def test_the_page_tells_who_needs_how_much_and_who_cannot_run(made):
    text = made.read_text("utf-8")
    assert "relative to the first: ridge 0.02, lasso 0.0001." in text
    assert "it makes its steps itself, and has no proximal form here" in text
    assert "Mine" in text and "of 8 settings, the fewest bits to the target" in text
    mine = pd.read_csv(made.parent / "league.csv").query("method == 'Mine'")
    assert "Chain" in text and text.count("and has no proximal form here") == 2
    assert len(mine) == 4 and np.isfinite(mine.bits[mine.problem == "ridge"]).all()
    assert {x.name for x in made.parent.iterdir()} >= {"league.png", "league.csv"}
    assert not (made.parent / "league").exists()
    own = shlex.quote(str(made.parents[1] / "mine.toml"))
    again = f"gdsec league {own} --quick --problems ridge lasso --methods GD GD-SEC "
    assert again + "Scaffnew Mine Chain<" in html.unescape(text)


def test_what_no_problem_is_to_blame_for_is_refused_before_the_work(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text("methods.Mine.name = 'one_bit_adam'\nmethods.Mine.warmup = 0\n")
    with pytest.raises(
        ValueError, match="methods.Mine: with .*, warmup is 0, expected"
    ):
        league.make(own, tmp_path, quick=True, methods=("Mine",), console=QUIET)


def test_who_has_no_proximal_form_has_a_cross(tmp_path):
    league_of = _league.load_league()
    few = league.chosen(league_of, True, ("lasso",), ("GD", "Scaffnew"))
    own = few.methods["GD"].model_copy(update={"local_steps": 2})
    few = few.model_copy(update={"methods": few.methods | {"GD": own}})
    for score in league.scores_on(few, tmp_path, "lasso"):
        assert not score.ran and np.isinf(score.bits).all()
        assert score.words.removeprefix("with local_steps above 1 ") == (
            "it makes its steps itself, and has no proximal form here."
        )


def test_a_league_that_was_ended_goes_on(tmp_path, monkeypatch):
    """With the scores that it kept; of other numbers it keeps none."""
    few = league.chosen(_league.load_league(), True, ("ridge",), ("GD", "LAG"))
    made = []

    def score_of(_, label, name, problems):
        made.append(label)
        if made == ["GD", "LAG"]:
            raise KeyboardInterrupt
        return _standings.Score(name, label, np.array([7.0, np.inf]), "why", True)

    monkeypatch.setattr(league, "score_of", score_of)
    with pytest.raises(KeyboardInterrupt):
        league.scores_on(few, tmp_path, "ridge")
    first, second = league.scores_on(few, tmp_path, "ridge")
    assert made == ["GD", "LAG", "LAG"]
    assert first._replace(bits=0) == ("ridge", "GD", 0, "why", True)
    assert first.bits.tolist() == second.bits.tolist() == [7.0, np.inf]
    league.scores_on(few, tmp_path, "ridge")
    assert made == ["GD", "LAG", "LAG"]
    other = few.problems["ridge"].model_copy(update={"target": 0.5})
    league.scores_on(
        few.model_copy(update={"problems": {"ridge": other}}), tmp_path, "ridge"
    )
    assert made == ["GD", "LAG", "LAG", "GD", "LAG"]
    (tmp_path / "ridge.json").write_text("{")
    league.scores_on(few, tmp_path, "ridge")
    assert made[-2:] == ["GD", "LAG"] and len(made) == 7


def test_its_bits_are_those_of_single_runs(made):
    """Of the setting that was chosen, with a seed that reports."""
    data = pd.read_csv(made.parent / "league.csv")
    assert set(data.seed) == {1, 2}
    shipped = _league.load_league()
    given = shipped.problems["ridge"].model_copy(
        update={"num_rounds": 60, "target": 0.02}
    )
    shipped = shipped.model_copy(update={"problems": {"ridge": given}})
    for label in ("GD", "GD-SEC"):
        costs = []
        for seed in (0, 1):
            one = shipped.one(label, "ridge", seed)
            with experiment.prepared(one) as problem:
                one = league._in_numbers(one, label, problem)
                axes = tuning.axes_of(one, label)
                own = []
                for setting in tuning._grid.settings_of(axes):
                    method = tuning.ready(label, one.methods[label], problem, **setting)
                    run = experiment.simulate_method(one, label, method, problem)
                    cost = run.cost_to(0.02 * run.initial_error)
                    late = np.median(run.objective_error[-3:]) / run.initial_error
                    stays = cost is not None and late <= 0.02
                    own.append(cost.bits if stays else np.inf)
                costs.append(own)
        best = int(np.argmin(costs[0]))
        found = data.query("problem == 'ridge' and method == @label and seed == 1")
        assert found.bits.item() == costs[1][best] < np.inf


def test_multiples_are_of_what_theory_says():
    shipped = _league.load_league()
    one = shipped.one("TAMUNA", "local", 0)
    with experiment.prepared(one) as problem:
        known = gdsec_jax.theory("tamuna", problem).parameters
        grid = league._in_numbers(one, "TAMUNA", problem).methods["TAMUNA"].grid
        rate = known["local_learning_rate"]
        assert sorted(set(grid["local_learning_rate"])) == [rate, 16 * rate]
        assert max(grid["probability"]) == known["probability"]
        one = shipped.one("QSGD-SEC", "local", 0)
        grid = league._in_numbers(one, "QSGD-SEC", problem).methods["QSGD-SEC"].grid
        assert min(grid["xi"]) == pytest.approx(float(problem.smoothness) / 4)
        bare = dataclasses.replace(problem, strong_convexity=None)
        score = league.score_of(shipped, "TAMUNA", "local", [bare] * 4)
        assert not score.ran and "set the probability" in score.words
        assert np.isinf(score.bits).all() and score.bits.size == 3


@pytest.mark.parametrize("known", [{}, {"attributes": '{"resolution": 1e-3}'}])
def test_errors_are_parts_of_the_first_one_optimum_known_or_not(known):
    errors = {"initial_error": 4.0, "objective_error": ("round", [2.0, 1.0])}
    relative = league._relative(xr.Dataset(errors, attrs=known))
    np.testing.assert_array_equal(relative["objective_error"], [0.5, 0.25])
    assert tuning.resolution_of(relative) == (2.5e-4 if known else -np.inf)


def test_what_is_wrong_is_said(tmp_path):
    file = tmp_path / "mine.toml"
    for text, message in (
        (
            "[methods.GD]\ngrid = {step_factor = [1, 2]}",
            "GD: the grid has 2 settings, e",
        ),
        ("[problems.ridge]\ntarget = 2.0", "mine.toml: problems.ridge.target is 2.0"),
        ("choosing = 0", "choosing is 0"),
        (
            "problems.'../a'.problem = {}",
            "mine.toml: the problem's name '../a' may hold letters, digits, blanks and",
        ),
        ("methods.'a/b'.name = 'gd'", "mine.toml: the label 'a/b' may hold letters"),
        ("x = ", "is not valid TOML"),
        ("[methods.New]\nname = 'gdx'", "name is 'gdx'"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            _league.load_league(file)
    with pytest.raises(FileNotFoundError, match="expected a TOML config"):
        _league.load_league(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="no problem 'rigde', did you mean ridge"):
        league.chosen(_league.load_league(), False, ("rigde",), ())
    with pytest.raises(ValueError, match="no method 'GDSEC'"):
        league.chosen(_league.load_league(), False, (), ("GDSEC",))
