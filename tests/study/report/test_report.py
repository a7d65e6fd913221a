"""Figures and tables of runs."""

import itertools

import matplotlib.figure
import matplotlib.text
import numpy as np
import pytest
import rich.console
from cases import made_history
from inside import name_ends

from gdsec_jax import History
from gdsec_jax.study import report

METHODS = {"GD": "gd", "GD-SEC": "gdsec", "GD-SEC xi=3": "gdsec", "GD-SOEC": "gdsoec"}


def some() -> dict[str, History]:
    return {
        "GD": made_history([320] * 4, [5, 1, 0.1, 0.01], error_name="objective error"),
        "GD-SEC": made_history([320, 32, 0, 64], [6, 2, 0.2, 0.05]),
        "GD-SEC xi=3": made_history([320, 64, 64], [6, 0.5, -1e-17]),
        "GD-SOEC": made_history([320, 32], [1e4, 1e12], "diverged"),
    }


def draw(histories=None, **options) -> matplotlib.figure.Figure:
    title = options.pop("title", "A title")
    options = {"wire": "rle, 32-bit values"} | options
    panels = report.convergence_panels(histories or some(), METHODS, **options)
    return report.draw(panels, title)


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): tuple(line.get_xydata().T.tolist())
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def level(axes, words: str) -> list[float] | None:
    """Where a thin line is whose words stand at it, not in the legend."""
    (line,) = [x for x in axes.get_lines() if x.get_label() == f"_{words}"] or (None,)
    assert (line is not None) == (words in [text.get_text() for text in axes.texts])
    return None if line is None else list(line.get_ydata())


def test_a_figure_has_the_error_by_rounds_and_by_bits():
    figure = draw()
    by_rounds, by_bits = figure.axes
    assert figure.get_suptitle() == "A title"
    assert by_rounds.get_xlabel() == "rounds"
    assert by_bits.get_xlabel() == "uploaded bits, all workers (rle, 32-bit values)"
    assert by_rounds.get_ylabel() == "objective error"
    assert (by_rounds.get_xscale(), by_rounds.get_yscale()) == ("linear", "log")
    assert (by_bits.get_xscale(), by_bits.get_yscale()) == ("log", "log")
    labels = ["GD", "GD-SEC", "GD-SEC xi=3", "GD-SOEC (diverged)"]
    assert list(lines(by_rounds)) == list(lines(by_bits)) == labels
    assert lines(by_rounds)["GD"] == ([0, 1, 2, 3, 4], [10, 5, 1, 0.1, 0.01])
    assert lines(by_bits)["GD-SEC"] == ([320, 352, 352, 416], [6, 2, 0.2, 0.05])
    # Rounding below zero: no gap, but what rounding leaves of the start.
    least = np.finfo(float).eps * 10
    assert lines(by_rounds)["GD-SEC xi=3"][1][-1] == least
    assert level(by_bits, "0 or less") == [least, least]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_evaluations_are_drawn_at_their_rounds():
    history = made_history([320] * 4, [5, 1, 0.1, 0.01])
    few = {"eval_rounds": np.array([3, 4]), "objective_error": np.array([0.1, 0.01])}
    sparse = History(**vars(history) | few)
    by_rounds, by_bits = draw({"GD": sparse}).axes
    assert lines(by_rounds)["GD"] == ([0, 3, 4], [10, 0.1, 0.01])
    assert lines(by_bits)["GD"] == ([960, 1280], [0.1, 0.01])


def test_below_what_is_known_all_errors_are_drawn_at_the_floor():
    """A negative error vanishes on a logarithmic axis, and looks like a gap."""
    histories = some()
    histories["GD-SEC xi=3"].attributes["resolution"] = 0.3
    for axes in draw(histories).axes:
        drawn = lines(axes)
        assert drawn["GD-SEC xi=3"][1][-2:] == [0.5, 0.3]
        assert drawn["GD-SEC"][1][-1] == 0.05  # a run of another problem
        assert level(axes, "less is not known") == [0.3, 0.3]
    histories["GD-SEC xi=3"].attributes["resolution"] = 1e-20
    histories["GD-SEC xi=3"].objective_error[-1] = 1e-17  # nothing lies below
    assert level(draw(histories).axes[0], "less is not known") is None


def test_an_error_that_goes_up_and_down_has_its_least_so_far_drawn():
    """And is pale itself; one that ends above its start is drawn as it went."""
    up_and_down = [4, 1, 5, 0.5, 0.6, 3, 0.1]
    for outcome, drawn in (
        ("completed", [10, 4, 1, 1, 0.5, 0.5, 0.5, 0.1]),
        ("worsened", [10, *up_and_down]),
    ):
        run = made_history([320] * 7, up_and_down, outcome)
        axes = draw({"GD": run}).axes[0]
        (strong,) = lines(axes).values()
        assert strong[1] == drawn
        pale = [x for x in axes.get_lines() if x.get_alpha() == 0.3]
        assert len(pale) == (outcome == "completed")
        for line in pale:
            assert line.get_ydata().tolist() == [10, *up_and_down]
            assert line.get_color() == report.line_style("gd")["color"]


def test_names_stand_at_the_ends_of_curves():
    """None on another, near to its curve, and in no legend."""
    figure = matplotlib.figure.Figure(dpi=72)
    axes = figure.add_subplot()
    for number in range(6):
        axes.plot([0, 1], [0, 1e-3 * number], label=f"curve {number}")
    axes.plot([0, 0.5], [0, 1], label="far")
    axes.plot([], [], label="nowhere")
    name_ends(axes)
    assert axes.get_legend_handles_labels()[1] == ["nowhere"]
    figure.draw_without_rendering()
    texts = {text.get_text(): text for text in axes.texts}
    assert set(texts) == {*(f"curve {number}" for number in range(6)), "far"}
    of_text = matplotlib.text.Text.get_window_extent  # without the line to its curve
    boxes = [of_text(text) for text in texts.values()]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    end = axes.transData.transform([0.5, 1])
    middle = np.mean(texts["far"].get_window_extent().get_points(), axis=0)
    assert np.hypot(*(middle - end)) < 40  # points
    assert texts["far"].arrow_patch is None


def test_methods_differ_in_colour_and_settings_in_dashes():
    for axes in draw().axes:
        drawn = {str(line.get_label()): line for line in axes.get_lines()}
        colors = {label: x.get_color() for label, x in drawn.items()}
        assert len({colors[x] for x in ("GD", "GD-SEC", "GD-SOEC (diverged)")}) == 3
        assert colors["GD-SEC"] == colors["GD-SEC xi=3"]
        dashes = [drawn[x].get_linestyle() for x in ("GD-SEC", "GD-SEC xi=3")]
        assert dashes[0] == "-" != dashes[1]


def test_a_target_is_marked_relative_to_the_start():
    for axes in draw(target=1e-2).axes:
        levels = [line.get_ydata() for line in axes.get_lines()]
        assert any(np.array_equal(level, [0.1, 0.1]) for level in levels)
    assert len(draw(target=1e-2).axes[0].lines) == len(draw().axes[0].lines) + 1


def test_a_run_that_diverged_does_not_squeeze_the_others():
    by_rounds, by_bits = draw().axes
    assert by_rounds.get_ylim()[1] <= 100 * 10.0
    assert by_bits.get_ylim() == by_rounds.get_ylim()
    assert by_rounds.get_ylim()[0] < 0.01


@pytest.mark.parametrize("error", [np.inf, np.nan, 0.0])
def test_errors_without_a_place_on_the_axis_are_drawn_over(error, tmp_path):
    histories = {"GD": made_history([0, 0], [error, error], "diverged")}
    figure = draw(histories, title=r"$\bad$")  # which is no mathematics
    report.save_figure(figure, tmp_path / "a.svg")
    assert "GD (diverged)" in lines(figure.axes[0])


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        report.save_figure(draw(), tmp_path / "a.nonsense")
    assert list(tmp_path.iterdir()) == []


def cells(table) -> list[tuple[str, ...]]:
    """The rows of a table."""
    columns = [list(column.cells) for column in table.columns]
    return list(zip(*columns, strict=True))


def test_table_of_costs():
    table = report.target_table(some(), 1e-2, title="To 1e-2", baseline="GD")
    assert str(table.title) == "To 1e-2"
    heads = ["method", "rounds", "Mbit up", "vs GD", "Mbit down", "Mgrad", "last error"]
    assert [column.header for column in table.columns] == [*heads, "outcome"]
    small = ("0.001", "0.000", "-1.00e-17", "completed")
    assert cells(table) == [
        ("GD", "3", "0.001", "100.00 %", "0.001", "0.000", "1.00e-02", "completed"),
        ("GD-SEC", "4", "0.000", "43.33 %", "0.001", "0.000", "5.00e-02", "completed"),
        ("GD-SEC xi=3", "3", "0.000", "46.67 %", *small),
        ("GD-SOEC", "never", "-", "-", "-", "-", "1.00e+12", "diverged"),
    ]
    histories = some()
    histories["GD-SEC xi=3"].attributes["resolution"] = 2e-9
    table = report.target_table(histories, 1, title="", baseline="GD")
    last = [row[-2] for row in cells(table)]
    assert last == ["1.00e-02", "5.00e-02", "≤ 2.00e-09", "1.00e+12"]


def test_the_table_fits_a_terminal():
    histories = {"GD": made_history([10**9], [1e-9])} | {
        f"a label of six {i}": made_history([10**6 * i], [1e-9]) for i in range(10, 13)
    }
    table = report.target_table(histories, 1e-2, title="To 1e-2", baseline="GD")
    lines = rich.console.Console(width=80).render_lines(table)
    assert len(lines) <= len(histories) + 3  # title and head may break, rows do not


def test_the_baseline_names_the_columns_and_is_a_hundred_percent():
    def row(baseline, **histories):
        table = report.target_table(histories, 7.1e-4, title="", baseline=baseline)
        assert table.columns[3].header == f"vs {baseline}"
        return cells(table)[0]

    mine = made_history([32_000_000] * 1500, 10 / np.arange(1, 1501))
    found = row("mine", mine=mine)
    assert found[1:6] == ("1,409", "45088.000", "100.00 %", "0.451", "0.141")
    # One that has not got there, or has sent nothing, is none.
    never, nothing = made_history([32], [9.0]), made_history([0], [0.0], initial=0.0)
    assert row("never", mine=mine, never=never)[1:4] == ("1,409", "45088.000", "-")
    assert row("nothing", nothing=nothing)[2:4] == ("0.000", "-")
