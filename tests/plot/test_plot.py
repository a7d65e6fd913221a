"""Pictures: what is drawn is what the runs and sweeps hold."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
import xarray as xr
from cases import made_history

import gdsec_jax
from gdsec_jax import channel, plot, problems
from gdsec_jax.algorithms import METHODS

BLUE = plot.line_style("gdsec")["color"]
XIS = [0.0, 0.5, 2.0, 1e9]


@pytest.fixture(autouse=True)
def without_a_window(monkeypatch):
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def swept() -> xr.Dataset:
    """GD-SEC over a grid, its largest threshold too large, from float64."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((40, 3))
        problem = problems.ridge(x, x @ np.array([1.0, 2.0, 3.0]), 4)

        def optimizer(xi, beta):
            step = optax.sgd(1 / problem.smoothness)
            return optax.chain(gdsec_jax.gdsec(4, xi, beta), step)

        grid = {"xi": XIS, "beta": [0.01, 0.1]}
        return gdsec_jax.sweep(problem, optimizer, grid, 60)


def some() -> dict[str, gdsec_jax.History]:
    return {
        "GD": made_history([320] * 4, [5, 1, 0.1, 0.01], error_name="objective error"),
        "GD-SEC xi 3": made_history([320, 32, 0, 64], [6, 2, 0.2, 0.0]),
    }


def curves(axes) -> dict[str, tuple[list[float], list[float]]]:
    """What is drawn, by the legend's words."""
    return {
        str(line.get_label()): tuple(line.get_xydata().T.tolist())
        for line in axes.get_lines()
        if len(line.get_xdata())
    }


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def needed(swept: xr.Dataset, share: float, name: str) -> np.ndarray:
    """[xi, beta]: rounds or bits to a share of the initial error; inf if never."""
    result = np.full((len(swept.xi), len(swept.beta)), np.inf)
    for i, j in np.ndindex(*result.shape):
        one = swept.isel(xi=i, beta=j)
        for place, error in enumerate(one.objective_error.values):
            if error <= share * float(one.initial_error):
                totals = {"rounds": one.eval_round, "bits": one.total_bits}[name]
                result[i, j] = totals.values[place]
                break
    return result


def level(axes, words: str) -> list[float]:
    """Where a thin line is whose words stand at it, not in the legend."""
    assert words in [text.get_text() for text in axes.texts]
    (line,) = [x for x in axes.get_lines() if x.get_label() == f"_{words}"]
    return list(line.get_ydata())


# Convergence


def test_every_round_is_drawn_and_a_zero_is_at_the_floor():
    axes = plot.convergence(some(), against="rounds")
    drawn = curves(axes)
    assert drawn["GD"] == ([0, 1, 2, 3, 4], [10, 5, 1, 0.1, 0.01])
    least = 10 * np.finfo(float).eps
    assert drawn["GD-SEC xi 3"] == ([0, 1, 2, 3, 4], [10, 6, 2, 0.2, least])
    assert level(axes, "0 or less") == [least, least]
    assert axes.get_ylabel() == "objective error"
    known = some()
    known["GD-SEC xi 3"].attributes["resolution"] = 0.5
    axes = plot.convergence(known, against="rounds")
    assert curves(axes)["GD-SEC xi 3"][1] == [10, 6, 2, 0.5, 0.5]
    assert level(axes, "less is not known") == [0.5, 0.5]


def test_the_axis_has_the_rounds_whose_errors_have_no_place():
    errors = [5.0, np.nan, np.nan, np.inf]
    axes = plot.convergence(made_history([320] * 4, errors), against="rounds")
    assert axes.get_xlim()[1] >= 4


def test_bits_are_those_of_all_workers():
    axes = plot.convergence(some(), against="bits", target=1e-2)
    assert curves(axes)["GD"] == ([320, 640, 960, 1280], [5, 1, 0.1, 0.01])
    assert curves(axes)["GD-SEC xi 3"][0] == [320, 352, 352, 416]
    assert level(axes, "target") == [0.1, 0.1]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_the_wire_is_named_where_all_runs_have_the_same():
    runs = some()
    for history in runs.values():
        history.attributes["wire"] = [{"name": "rle", "value_bits": 32}]
    words = "uploaded bits, all workers ({})"
    given = plot.convergence(runs).get_xlabel()
    assert given == words.format("run lengths, 32-bit values")
    runs["GD"].attributes["wire"] = [{"name": "coo", "value_bits": None}]
    assert plot.convergence(runs).get_xlabel() == words.format("as each counts them")
    assert plot.convergence(runs, wire="x").get_xlabel() == words.format("x")


def test_seconds_are_those_of_the_channel():
    problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
    radio = channel.at_snr(channel.Radio(), 2, 10.0)
    uplink = gdsec_jax.Uplink(channel=channel.Channel(radio))
    optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(1.0))
    run = gdsec_jax.simulate(problem, optimizer, 5, uplink=uplink, key=0)
    axes = plot.convergence({"GD": run}, against="seconds")
    np.testing.assert_allclose(curves(axes)["GD"][0], np.append(0, run.time_s.cumsum()))
    with pytest.raises(ValueError, match="GD has no seconds, expected a run over a ch"):
        plot.convergence(some(), against="seconds")


def test_a_dataset_of_a_history_is_drawn_like_it():
    runs = some()
    as_datasets = {label: run.to_xarray() for label, run in runs.items()}
    for against in ("rounds", "bits"):
        one, other = (plot.convergence(x, against=against) for x in (runs, as_datasets))
        assert curves(one) == curves(other)


def test_the_settings_of_a_sweep_are_shades_of_its_colour(swept):
    one = swept.isel(beta=0)
    axes = plot.convergence({"GD-SEC": one}, against="rounds")
    drawn = curves(axes)
    lines = [line for line in axes.get_lines() if "xi" in str(line.get_label())]
    assert len(lines) == len(XIS) == len({line.get_color() for line in lines})
    assert lines[-1].get_color().upper() == BLUE
    rounds, errors = drawn["GD-SEC, xi = 0.5, beta = 0.01"]
    assert rounds == list(range(61))
    expected = one.objective_error.sel(xi=0.5).values
    np.testing.assert_allclose(errors[1:], np.maximum(expected, errors[-1]))
    (last,) = (x for x in drawn if "xi = 1e+09" in x)
    outcome = str(one.outcome.sel(xi=1e9).item())
    assert last.endswith("0.01" if outcome == "completed" else f" ({outcome})")


def test_a_legend_has_seven_entries_and_counts_the_others(swept):
    runs = {f"run {x}": made_history([320], [x + 1.0]) for x in range(9)}
    axes = plot.convergence(runs)
    assert legend(axes) == [*(f"run {x}" for x in range(6)), "and 3 more"]
    pale = [x.get_alpha() for x in axes.get_lines() if str(x.get_label())[0] == "_"]
    assert pale == [0.3] * 3
    words = legend(plot.convergence({"GD-SEC": swept}))  # eight settings
    assert "and 2 more" in words
    ends = [
        word
        for word in words
        if word.startswith(("GD-SEC, xi = 0,", "GD-SEC, xi = 1e"))
    ]
    assert len(ends) >= 2
    assert legend(
        plot.convergence({f"run {x}": runs[f"run {x}"] for x in range(7)})
    ) == [f"run {x}" for x in range(7)]


LABELS = {
    "GD-SEC": "gdsec",
    "gdsec": "gdsec",
    "GD-SEC xi 10": "gdsec",
    "SGD-SEC": "gdsec",
    "GD-SOEC same xi": "gdsoec",
    "GD": "gd",
    "top-j both ways": "top_j",
    "EF21-SGDM": "ef21_sgdm",
    "EF21": "ef21",
    "QSGD-SEC": "qsgdsec",
    "LAQ": "laq",
}


def colour_of(label, run, **options):
    axes = plot.convergence({label: run}, **options)
    return next(x for x in axes.get_lines() if x.get_label() == label).get_color()


@pytest.mark.parametrize("label", LABELS)
def test_a_label_that_begins_with_a_method_has_its_colour(label):
    run = made_history([320], [1.0])
    assert colour_of(label, run) == plot.line_style(LABELS[label])["color"]


def test_a_run_says_which_method_it_is_of_and_the_caller_knows_better():
    run = made_history([320], [1.0], method={"name": "gdsec"})
    assert colour_of("mine", run) == BLUE
    assert colour_of("GD", run) == BLUE
    green = plot.line_style("qsgdsec")["color"]
    assert colour_of("mine", run, methods={"mine": "qsgdsec"}) == green
    swept = {"config": {"methods": {"mine": {"name": "gdsec"}}}, "label": "mine"}
    assert colour_of("again", made_history([320], [1.0], **swept)) == BLUE


def test_methods_of_ones_own_differ_from_each_other_and_from_all_others():
    own = {f"own {x}": f"mine:number_{x}" for x in range(3)}
    styles = plot.line_styles({name: name for name in METHODS} | own)
    looks = {(x["color"], x["linestyle"], x.get("marker")) for x in styles.values()}
    assert len(looks) == len(METHODS) + 3
    assert len({styles[label]["color"] for label in own}) == 3


# What a target costs


def test_the_frontier_is_of_what_was_needed(swept):
    axes = plot.frontier({"GD-SEC": swept}, 1e-3)
    dots, line = axes.get_lines()
    rounds, bits = (needed(swept, 1e-3, name).ravel() for name in ("rounds", "bits"))
    there = np.isfinite(rounds)
    assert 0 < there.sum() < there.size
    expected = sorted(zip(rounds[there], bits[there], strict=True))
    assert sorted(map(tuple, dots.get_xydata())) == expected
    assert dots.get_color() == line.get_color() == BLUE
    never = np.count_nonzero(~there)
    assert legend(axes) == [f"GD-SEC ({never} of {there.size} never)"]
    best = [
        point
        for point in expected
        if not any(
            x <= point[0] and y <= point[1] and (x, y) != point for x, y in expected
        )
    ]
    assert list(map(tuple, line.get_xydata())) == sorted(set(best))


def test_costs_are_sorted_and_who_never_gets_there_stands_last(swept):
    runs = some() | {"GD-SEC": swept, "slow": made_history([320], [9.0])}
    axes = plot.costs(runs, 1e-2)
    bits = needed(swept, 1e-2, "bits").min()
    expected = {"GD": 960, "GD-SEC xi 3": 416, "GD-SEC": bits}
    order = sorted(expected, key=lambda label: expected[label])
    assert [x.get_text() for x in axes.get_yticklabels()] == [*order, "slow (never)"]
    assert [x.get_xdata()[0] for x in axes.get_lines()][:3] == sorted(expected.values())
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the least on top
    axes = plot.costs(runs, 1e-2, what="rounds")
    assert axes.get_lines()[0].get_xdata()[0] <= 4


@pytest.mark.parametrize("what", ["bits", "rounds"])
def test_a_map_is_of_what_was_needed(swept, what):
    axes = plot.heatmap(swept, 1e-3, what=what)
    expected = needed(swept, 1e-3, what)
    (mesh,) = axes.collections
    shown = np.ma.filled(mesh.get_array(), np.inf)
    np.testing.assert_array_equal(shown, expected.T)
    star = axes.get_lines()[0].get_xydata()[0] - 0.5
    assert expected[int(star[0]), int(star[1])] == expected.min()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("xi", "beta")
    assert [x.get_text() for x in axes.get_yticklabels()] == ["0.01", "0.1"]
    turned = plot.heatmap(swept, 1e-3, what=what, along="beta")
    assert (turned.get_xlabel(), turned.get_ylabel()) == ("beta", "xi")


def test_a_map_takes_the_cheapest_of_further_axes(swept):
    dear = swept.assign(total_bits=swept.total_bits * 2)
    whole = xr.concat([dear, swept], "k").assign_coords(k=[1, 2])
    whole.attrs = swept.attrs
    axes = plot.heatmap(whole, 1e-3, along="xi", up="beta")
    shown = np.ma.filled(axes.collections[0].get_array(), np.inf)
    np.testing.assert_array_equal(shown, needed(swept, 1e-3, "bits").T)


def test_a_map_of_a_run_is_of_its_entries():
    problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
    optimizer = optax.chain(gdsec_jax.gdsec(2, xi=1.0), optax.sgd(1.0))
    run = gdsec_jax.simulate(problem, optimizer, 100)
    axes = plot.heatmap(run)
    shown = np.asarray(axes.collections[0].get_array())
    assert shown.shape == (2, 60)
    edges = axes.collections[0].get_coordinates()[0, :, 0]
    sent = (shown / 100 * 4 * np.diff(edges)).sum(axis=1)
    np.testing.assert_allclose(sent, run.entries.sum(axis=0))


# Where it is drawn, and what is refused


def test_given_axes_are_drawn_on_and_others_are_new(swept):
    figure, (*four, other) = plt.subplots(1, 5)
    kinds = (
        lambda ax: plot.convergence(some(), ax=ax),
        lambda ax: plot.frontier({"GD-SEC": swept}, 1e-2, ax=ax),
        lambda ax: plot.costs(some(), 1e-2, ax=ax),
        lambda ax: plot.heatmap(swept, 1e-2, ax=ax),
    )
    for one, made in zip(four, kinds, strict=True):
        assert made(one) is one
        new = made(None)
        assert new is not one and new.figure is not figure
    assert not other.get_lines()
    figure.draw_without_rendering()


def test_a_map_names_what_changes_together():
    grid = {("xi", "beta"): [(0.0, 0.1), (0.1, 0.2)], "lr": [1.0, 2.0]}
    problem = problems.ridge(np.eye(4), np.arange(4.0), 2)

    def optimizer(xi, beta, lr):
        return optax.chain(gdsec_jax.gdsec(2, xi, beta), optax.sgd(lr))

    axes = plot.heatmap(gdsec_jax.sweep(problem, optimizer, grid, 60), 1e-2)
    assert axes.get_xlabel() == "xi, beta"
    assert [x.get_text() for x in axes.get_xticklabels()] == ["0, 0.1", "0.1, 0.2"]


REFUSED = {
    "no runs": (lambda s: plot.convergence({}), r"runs is \{\}, expected at least one"),
    "no run": (lambda s: plot.convergence({"a": 3}), "a run is a int, expected a Hist"),
    "no sweep": (
        lambda s: plot.frontier(s.drop_vars("outcome"), 1e-2),
        "a run is a Dataset without outcome, expected a History or the dataset of a sw",
    ),
    "against": (
        lambda s: plot.convergence(s, against="time"),
        "against is 'time', expected one of rounds, bits, seconds",
    ),
    "a word": (
        lambda s: plot.frontier(s, "a"),
        "target is 'a', expected a finite numb",
    ),
    "a target of 0": (
        lambda s: plot.heatmap(s, 0.0),
        "target is 0.0, expected a finite",
    ),
    "a curve's": (
        lambda s: plot.convergence(s, target=-1),
        "target is -1, expected a f",
    ),
    "methods": (
        lambda s: plot.costs(s, 1e-2, methods={"a": 3}),
        "methods is {'a': 3}, expected a dict from labels to names",
    ),
    "one axis twice": (
        lambda s: plot.heatmap(s, 1e-2, along="xi", up="xi"),
        "along and up are both 'xi', expected two axes",
    ),
    "what": (lambda s: plot.costs(s, 1e-2, what="x"), "what is 'x', expected one of b"),
    "method": (
        lambda s: plot.convergence(s, methods={"run": "sdm"}),
        "method is 'sdm', expected one of gd, gdsec",
    ),
    "axes": (
        lambda s: plot.convergence(s, ax=3),
        "ax is 3, expected matplotlib's axes",
    ),
    "target": (lambda s: plot.heatmap(s), "target is None, expected an error relative"),
    "one axis": (
        lambda s: plot.heatmap(s.isel(beta=0), 1e-2),
        "run has the axes xi, expected two for a map",
    ),
    "no axis": (
        lambda s: plot.heatmap(s, 1e-2, along="zeta"),
        r"along is 'zeta', did you mean beta\? Expected one of xi, beta",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, swept):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call(swept)
