"""The harness of benchmarks, and every bench at small size; no test asserts a speed."""

import io
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from cases import slow_but

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Report, Result, Settings, Times
from gdsec_jax.study import cli

HERE = {
    **{"processor": "P", "cores": "2", "memory": "24 GiB", "load": "0.1"},
    **{"device": "1 x cpu cpu", "jax": "0.10.2", "jaxlib": "0.10.2"},
    **{"numpy": "2.4", "python": "3.11"},
}
FAST = ("encode", "compress", "figures")
NAMES = (
    *("compress", "encode", "imports", "leaves", "local", "memory", "mesh", "network"),
    *("privacy", "rivals", "round", "scale", "select", "state_dtype", "sweep"),
    "figures",
)


def said(show, *arguments):
    """What a function prints on the console that it is handed."""
    console = rich.console.Console(file=io.StringIO(), width=100)
    show(*arguments, console)
    return console.file.getvalue()


def result(*measures, small=False, **environment) -> Result:
    reports = {"one": Report(measures, 2.0)}
    return Result("2026-01-01", HERE | environment, 5, small, reports)


# Timing


def test_calls_take_turns_after_they_warmed_up():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = benchmarks.interleaved(calls, 3)
    assert "".join(order) == "abababab"
    assert {name: len(each.seconds) for name, each in times.items()} == {"a": 3, "b": 3}
    assert min(times["a"].seconds) >= 0


def test_median_spread_and_ratio_turn_by_turn():
    assert benchmarks.summary([1, 2, 3, 4, 5]) == {"value": 3.0, "spread": 2 / 3}
    assert benchmarks.summary([0.0, 0.0]) == {"value": 0.0, "spread": 0.0}
    slow_turn = benchmarks.ratio(Times((2.0, 20.0, 2.0)), Times((1.0, 10.0, 1.0)))
    assert slow_turn == {"value": 2.0, "spread": 0.0}
    assert (Times((3.0, 1.0, 2.0)).median, Times((3.0, 1.0)).best) == (2.0, 1.0)
    sizes = [10, 100, 1000]
    times = [Times((1e-6 * n**1.5, 2e-6 * n**1.5)) for n in sizes]
    fitted = benchmarks.exponent(sizes, times)
    assert (fitted["value"], fitted["spread"]) == pytest.approx((1.5, 0.0), abs=1e-9)


def test_the_triad_gives_its_buffers_away_and_is_compared_with():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    first = jnp.zeros(3)
    call = benchmarks.threaded(step, first)
    call()
    assert first.is_deleted()
    np.testing.assert_array_equal(call(), [2.0, 2.0, 2.0])
    np.testing.assert_allclose(benchmarks.triad(4)(), 1e-3)
    reached = benchmarks.speed(Times((2.0, 1.0)), 10**9)
    assert reached == {"value": 12.0, "spread": 3 / 9}  # of 6 and 12 GB/s
    value, triad = benchmarks.roofline(lambda: None, 1e6, Settings(3, small=True))
    assert min(value["value"], triad["value"], triad["spread"]) > 0


# Verdicts, tables, comparison


def test_verdicts():
    for value, must, goal, larger, expected in [
        *((1.0, 2.0, 1.0, False, "goal"), (1.5, 2.0, 1.0, False, "must")),
        *((3.0, 2.0, 1.0, False, "missed"), (3.0, 2.0, 3.0, True, "goal")),
        *((1.6, 2.0, 3.0, True, "missed"), (2.0, 2.0, 3.0, True, "must")),
        *((math.nan, 2.0, 1.0, False, "skipped"), (1.0, None, None, False, "")),
        (1.0, 2.0, None, False, "must"),
    ]:
        measure = Measure("x", value, must=must, goal=goal, larger_is_better=larger)
        assert benchmarks.verdict(measure) == expected


def test_the_table_fits_a_terminal_and_says_all():
    made = result(
        Measure("what was asked " * 4, 12345.6, "MB/s", 0.031, 1.15, 1.05, True, "why"),
        Measure("beside it", 0.0123, note="a note"),
        Measure("absent", math.nan, must=1.0, note="no torch"),
    )
    made.reports["two"] = Report(skipped="no compiler")
    made.reports["three"] = Report(failed="ValueError: broken")
    text = said(benchmarks.show, made)
    rows = [line for line in text.splitlines() if line.startswith(tuple("│┃┏┡└├"))]
    assert max(map(len, rows)) <= 100
    for words in (
        *("12,346 MB/s", "3%", "≥ 1.15", "≥ 1.05", "goal", "0.0123", "skipped"),
        *("beside it: a note", "absent: no torch", "two: skipped: no compiler"),
        *("three: failed: ValueError: broken", "2 cores", "jax 0.10.2", "5 repeats"),
    ):
        assert words in text
    assert "no measurements" not in text


def test_small_sizes_are_not_judged():
    measures = (
        Measure("too slow", 9.0, must=1.0, goal=0.5),
        Measure("fast", 0.1, must=1.0, goal=0.5),
        Measure("absent", math.nan, must=1.0, note="no torch"),
    )
    text = said(benchmarks.show, result(*measures, small=True))
    for words in ("too slow", "absent: no torch", "no measurements"):
        assert words in text
    for word in ("goal", "must", "missed", "verdict"):
        assert word not in text
    for before, after in ((True, True), (True, False), (False, True)):
        old = result(Measure("x", 1.0), small=before)
        new = result(Measure("x", 9.0), small=after)
        text = said(benchmarks.compare, old, new)
        assert "9.00" in text
        assert "worse" not in text


def test_two_results_are_compared_by_their_ratios():
    old = result(
        Measure("time", 2.0, spread=0.1), Measure("speed", 1.0, larger_is_better=True)
    )
    new = result(
        Measure("time", 1.0, spread=0.1),
        Measure("speed", 0.5, larger_is_better=True),
        Measure("new one", 1.0),
    )
    text = said(benchmarks.compare, old, new)
    rows = [line.split("│") for line in text.splitlines()]
    cells = {row[2].strip(): [c.strip() for c in row[3:7]] for row in rows if row[2:]}
    assert cells["time"] == ["2", "1", "0.50", "better"]
    assert cells["speed"] == ["1", "0.5", "0.50", "worse"]
    assert cells["new one"] == ["-", "1", "", ""]
    nothing = "no measure in common, .* the old one is of one, the new one of {}."
    for reports, named in (
        ({"two": Report((Measure("time", 1),))}, "two"),
        ({}, "none"),
    ):
        with pytest.raises(ValueError, match=nothing.format(named)):
            benchmarks.compare(old, old._replace(reports=reports), None)


def test_a_change_exceeds_both_spreads_or_five_per_cent():
    for before, after, spread, expected in [
        *((1.0, 1.15, 0.1, ""), (1.0, 1.3, 0.1, "worse"), (0.0, 1.15, 0.1, "")),
        *((1.0, 1.049, 0.0, ""), (1.0, 0.951, 0.0, ""), (1.0, 1.051, 0.0, "worse")),
        (1.0, 1.021, 0.01, "worse"),
    ]:
        old, new = (Measure("x", value, spread=spread) for value in (before, after))
        assert benchmarks.change(old, new) == expected


def test_other_machines_and_versions_are_named():
    other = result(jax="0.11.0", small=True, load="2.0")
    differing = benchmarks.differences(result(), other)
    assert differing == [
        "jax differs: '0.10.2', then '0.11.0'.",
        "small differs: 'False', then 'True'.",
    ]
    assert benchmarks.differences(result(), result()) == []


# Files


def test_a_result_comes_back_from_its_file_whatever_its_name(tmp_path):
    made = result(
        Measure("x", np.float64(1.5), "s", 0.1, 2.0, 1.0, True, "note"),
        Measure("y", math.inf, spread=0.5),
    )
    made.reports["two"] = Report(skipped="why", seconds=1.0)
    benchmarks.save(made, tmp_path / "a.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    benchmarks.append(made, tmp_path / "b.json")
    lines = [
        len((tmp_path / n).read_text().splitlines()) for n in ("a.jsonl", "b.json")
    ]
    assert lines[0] > lines[1] == 1
    for name in ("a.jsonl", "b.json"):
        assert benchmarks.load(tmp_path / name) == made


def test_a_history_grows_by_whole_lines_and_gives_the_last(tmp_path):
    path = tmp_path / "bench" / "history.jsonl"
    benchmarks.append(result(Measure("x", 1.0)), path)
    with path.open("a") as history:
        history.write('{"cut sho')  # by a machine that lost its power
    assert benchmarks.load(path) == result(Measure("x", 1.0))
    benchmarks.append(result(Measure("x", 2.0)), path)
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])["reports"]["one"]["measures"][0]["value"] == 1.0
    assert benchmarks.load(path) == result(Measure("x", 2.0))
    path.write_text(lines[0][:50])
    with pytest.raises(ValueError, match="neither the file nor a line of it is JSON"):
        benchmarks.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": [1]}, r"environment is \[1\], expected an object."),
        ({"environment": {"cores": 2}}, "environment.cores is 2, expected a .* string"),
        ({"repeats": "5"}, "repeats is '5', expected a valid integer."),
        ({"reports": {"one": {"measures": 3}}}, "reports.one.measures is 3, expected"),
        ({"reports": {"one": {"measures": [{"name": "x"}]}}}, ".*0.value is missing"),
        ({"odd": 1}, "odd is an unknown field."),
    ],
)
def test_the_field_that_is_wrong_is_named(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(benchmarks.as_json(result()) | change))
    with pytest.raises(ValueError, match=rf"a\.json: {message}"):
        benchmarks.load(path)
    for text in ("", "no json", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.json"):
            benchmarks.load(path)


# Running


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Benches of a folder of its own, beside what is none."""
    folder = tmp_path / "benches"
    folder.mkdir()
    head = "from gdsec_experiments.benchmarks import Measure, Skipped\n\n"
    head += "def bench(settings):\n"
    bodies = {
        "good": "return [Measure('time', float(settings.repeats), must=9.0)]",
        "absent": "raise Skipped('no such device')",
        "broken": "raise KeyError('oh')",
        "figures": "return []",
        "_shared": "return []",
    }
    for name, body in bodies.items():
        (folder / f"{name}.py").write_text(f'"""About {name}."""\n{head}    {body}\n')
    monkeypatch.setattr(benchmarks, "__path__", [str(folder)])
    for name in bodies:
        monkeypatch.delitem(sys.modules, f"{benchmarks.__name__}.{name}", raising=False)
    yield
    for name in bodies:
        sys.modules.pop(f"{benchmarks.__name__}.{name}", None)


def test_benches_are_found_and_the_whole_job_is_last():
    elsewhere = ("flower", "link", "tpu")  # in tests of their own
    assert tuple(n for n in benchmarks.available() if n not in elsewhere) == NAMES


@pytest.mark.usefixtures("fakes")
def test_a_bench_that_is_skipped_or_fails_keeps_none_from_running():
    made = []
    text = said(
        lambda shown: made.append(benchmarks.run(["all"], Settings(3, console=shown)))
    )
    reports = made[0].reports
    assert list(reports) == ["absent", "broken", "good", "figures"]
    assert reports["absent"].skipped == "no such device"
    assert reports["broken"].failed == "KeyError: 'oh'"
    assert reports["good"].measures == (Measure("time", 3.0, must=9.0),)
    assert "bench good: About good." in text
    assert "Traceback" in text
    assert {"processor", "cores", "jax", "commit"} <= set(made[0].environment)


@pytest.mark.usefixtures("fakes")
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "good", "absent", "--json", "a/1.json"]) == 0
    printed = capsys.readouterr().out
    assert "absent: skipped: no such device" in printed
    assert "≤ 9" in printed
    assert benchmarks.load(tmp_path / "a" / "1.json").repeats == 5
    assert cli.main(["bench", "good", "--repeats", "2", "--small"]) == 0
    history = tmp_path / "results" / "bench" / "history.jsonl"
    assert len(history.read_text().splitlines()) == 2
    capsys.readouterr()
    assert cli.main(["bench-compare", "a/1.json", str(history)]) == 0
    printed = capsys.readouterr().out
    assert "small differs: 'False', then 'True'." in printed
    assert "0.40" in printed
    assert cli.main(["bench"]) == 0
    assert "About good." in capsys.readouterr().out
    assert cli.main(["bench", "broken"]) == 2
    assert "broken failed" in capsys.readouterr().err
    assert cli.main(["bench-compare", "no.json", "a/1.json"]) == 2


@pytest.mark.usefixtures("fakes")
def test_what_is_wrong_is_said_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("")
    monkeypatch.setattr(benchmarks, "run", lambda *_: pytest.fail("it measures"))
    for arguments, message in {
        ("good", "bad"): "no bench is called 'bad', expected all or ",
        ("good", "--repeats", "0"): "repeats is 0, expected at least 1",
        ("good", "--json", "."): "--json is '.', expected a name that ends in .json",
        ("good", "--json", "f/a.json"): "f is no folder that can be written to",
    }.items():
        assert cli.main(["bench", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("broken", ["save", "show"])
def test_what_was_measured_outlives_what_fails_after_it(
    tmp_path, monkeypatch, capsys, broken
):
    def fails(*_):
        raise OSError("no space left")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmarks, broken, fails)
    assert cli.main(["bench", "good", "--json", "a.json"]) == 2
    said = capsys.readouterr()
    assert "no space left" in said.err
    assert ("≤ 9" in said.out) == (broken == "save")
    assert (tmp_path / "a.json").exists() == (broken == "show")
    assert benchmarks.load(tmp_path / "results" / "bench" / "history.jsonl").reports


def test_a_fresh_process_says_what_went_wrong():
    code = "import os; print('HOME' in os.environ, os.environ['NEW'])"
    assert benchmarks.fresh("-c", code, HOME=None, NEW="x") == "False x\n"
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        benchmarks.fresh("-c", "1 / 0")


# The benches


@pytest.mark.parametrize("name", slow_but(FAST, NAMES))
def test_a_bench_runs_at_small_size(name, monkeypatch):
    if name == "figures":  # which are made elsewhere
        monkeypatch.setattr(benchmarks, "fresh", lambda *_, **__: "")
    silent = rich.console.Console(quiet=True)
    made = benchmarks.run([name], Settings(2, small=True, console=silent))
    report = made.reports[name]
    assert not report.failed
    assert report.measures
    for measure in report.measures:
        absent = "PyTorch is not installed" in measure.note
        assert math.isfinite(measure.value) or absent, measure
        assert measure.spread >= 0 or absent
        if measure.unit in ("GB/s", "MB/s"):
            assert measure.larger_is_better, measure
            assert measure.spread > 0, measure
    names = [measure.name for measure in report.measures]
    assert len(set(names)) == len(names)  # comparisons go by them


def test_a_network_is_as_large_in_any_number_of_leaves():
    leaves = benchmarks.module("leaves")
    for number in leaves.LEAVES:
        network = leaves.network(number, leaves.SIZE)
        assert len(network) == number
        assert sum(x.size for x in network) == pytest.approx(leaves.SIZE, rel=0.01)


def test_what_a_step_must_move_is_counted_from_its_arrays():
    update = benchmarks.module("_update")
    workers, size = 3, 1000
    moved = update.bytes_moved(workers, size)
    numbers = (5 * workers + 4) * size
    assert 0 <= moved - 4 * numbers < 400  # the round's number, counts, norms


def test_about_the_share_is_sent():
    update = benchmarks.module("_update")
    call = update.call_of(2, 50_000)
    shares = [update.sent(call()) for _ in range(6)]
    assert np.mean(shares) == pytest.approx(update.SHARE, rel=0.1)


RIVALS = ("numpy_plain", "numpy_indexed", "torch_indexed")


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_compresses_as_ours(name):
    as_theirs = np.array
    if name.startswith("torch"):
        as_theirs = pytest.importorskip("torch").tensor
    workers, size, xi, beta = 3, 200, 4.0, 0.1
    rng = np.random.default_rng(0)
    zeros = np.zeros((workers, size), np.float32)
    rival = getattr(benchmarks.module("rivals"), name)(as_theirs(zeros), xi, beta)
    ours = gdsec_jax.gdsec(workers, xi, beta)
    params = np.zeros(size, np.float32)
    state = ours.init(jnp.asarray(params))
    sent = 0
    for _ in range(8):
        gradients = rng.standard_normal((workers, size), np.float32)
        update, state = ours.update(jnp.asarray(gradients), state, jnp.asarray(params))
        theirs, counts = rival(as_theirs(gradients), as_theirs(params))
        np.testing.assert_allclose(np.asarray(theirs), update, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(counts, gdsec_jax.last_round(state).entries)
        sent += counts.sum()
        params += np.float32(0.3) * rng.standard_normal(size, np.float32)
    assert 0.2 < sent / (8 * workers * size) < 0.9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", ["ridge", "logistic"])
def test_rivals_rounds_reach_our_params(make):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((31, 7)) * (rng.random((31, 7)) < 0.5)
    targets = rng.integers(2, size=31)
    problem = getattr(gdsec_jax.problems, make)(features, targets, 4)
    problems = benchmarks.module("_problems")
    optimizer = problems.optimizers_for(problem)["GD-SEC"]
    ours = problems.rounds_of(problem, optimizer)(20)
    assert 0 < ours.entries.sum() < 20 * 4 * 7
    for form in ("dense", "csr"):
        theirs = benchmarks.module("rivals").numpy_rounds(problem, form)(20)
        np.testing.assert_allclose(theirs, ours.params, rtol=1e-9, atol=1e-12)
        assert np.abs(theirs).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_the_authors_code_of_ef21_reaches_our_params():
    rivals, rng = benchmarks.module("rivals"), np.random.default_rng(0)
    features = (rng.random((40, 6)) < 0.4).astype(float)
    features[:, 4] = features[:, 1]  # whose entries tie
    problem = gdsec_jax.problems.logistic(features, rng.choice([-1, 1], 40), 4)
    problem = rivals.nonconvex(problem)
    params, norms = rivals.our_ef21_rounds(problem)(60)
    theirs, known = rivals.ef21_rounds(problem, lowest=True)(60)
    np.testing.assert_allclose(params, theirs, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(norms, known, rtol=1e-12)


def test_times_are_divided_by_the_rounds_that_were_run():
    problems, done = benchmarks.module("_problems"), []
    times = problems.seconds_a_round({"run": done.append}, Settings(2, small=True))
    many = max(done)
    assert done[-4:] == [many, 1, many, 1]
    assert all(taken > 0 for taken in times["run"].seconds)


def test_a_disturbed_machine_is_said_and_gives_no_absurd_time():
    of_a_round = benchmarks.module("_problems")._of_a_round
    many, one = Times((1.2, 2.2)), Times((0.5, 0.2))
    assert of_a_round("GD", many, 11, one).seconds == pytest.approx((0.1, 0.2))
    with pytest.raises(ValueError, match=r"11 rounds of GD took 0\.2 s, expected more"):
        of_a_round("GD", Times((0.2, 2.2)), 11, one)
    assert of_a_round("GD", Times((0.22, 0.11)), 11, None).seconds == (0.02, 0.01)
