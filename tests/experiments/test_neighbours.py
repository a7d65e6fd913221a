"""The tables beside the neighbours: what the page says is what is seen now.

Rows that need another library, or its version, are skipped without it.
"""

import contextlib
import inspect
import os
import re
import sys
import types

import jax
import numpy as np
import optax
import optax.contrib
import pytest

from gdsec_experiments import neighbours
from gdsec_experiments.neighbours import (
    __main__,
    _public,
    behind,
    bits,
    codecs,
    edges,
    handed,
    hooks,
    methods,
    processes,
    readers,
    rounds,
)
from gdsec_jax import data, wire

PAGE = neighbours.PAGE.read_text("utf-8")


def shown(name):
    """The page's rows of a table, by their first cells."""
    return {row[0]: row for row in neighbours.shown(name)}


def needs(table, *names):
    """Skip without a library, or with another version than the table's caption has."""
    caption = neighbours.shown_caption(table)
    for name in names:
        try:
            said = neighbours.versions(name)
        except ModuleNotFoundError:
            pytest.skip(f"{name} is not installed")
        assert f"{name} " in caption
        if not names_version(caption, said):
            pytest.skip(f"{said} is not the version of the page")


def names_version(caption, said):
    return re.search(rf"(?<![\w-]){re.escape(said)}(?![\w+]|\.\w)", caption)


def test_a_version_is_read_whole():
    caption = "Seen; gdsec-jax 0.1.0, optax 0.2.81, torch 2.13.0+cpu, jaxlib 0.10.2."
    for said in ("gdsec-jax 0.1.0", "torch 2.13.0+cpu", "jaxlib 0.10.2"):
        assert names_version(caption, said)
    for said in ("jax 0.1.0", "optax 0.2.8", "optax 0.2", "torch 2.13.0"):
        assert not names_version(caption, said)


def test_every_table_is_on_the_page():
    assert set(re.findall(r"<!-- table: (\w+) -->", PAGE)) == set(neighbours.TABLES)
    for name in neighbours.TABLES:
        rows = neighbours.shown(name)
        width = len(neighbours.table(name).HEADER)
        assert rows and {len(row) for row in rows} == {width}, name


def test_a_table_takes_its_own_place_alone(monkeypatch):
    end = "<!-- end -->"
    page = f"a\n<!-- table: codecs -->\nold\n{end}\n<!-- table: bits -->\n\n{end}"
    made = types.SimpleNamespace(
        HEADER=("a", "b"), rows=lambda: [("1", "2")], caption=lambda: "seen"
    )
    monkeypatch.setattr(neighbours, "table", lambda name: made)
    text = neighbours.made("codecs")
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n*seen*"
    assert neighbours.written(page, "codecs", text) == page.replace("old", text)
    with pytest.raises(ValueError, match="no markers of 'hooks'"):
        neighbours.written(page, "hooks", text)


def test_a_table_that_is_not_there_is_refused_in_a_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["nosuch"])
    assert "invalid choice: 'nosuch'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        __main__.main(["--help"])
    assert "readers" in capsys.readouterr().out


def test_a_process_that_fails_says_why():
    command = [sys.executable, "-c", "import os; print(os.environ['GIVEN'])"]
    assert neighbours.told(command, {"GIVEN": "[1, 2]"}) == [1, 2]
    with pytest.raises(RuntimeError, match="KeyError: 'GIVEN'"):
        neighbours.told(command)


# optax


def stages(module):
    """The names of functions that make a stage of nothing, or of one number."""
    for name, function in inspect.getmembers(module, callable):
        for given in () if inspect.isclass(function) else ((), (0.1,)):
            with contextlib.suppress(Exception):
                made = function(*given)
                if hasattr(made, "init") and hasattr(made, "update"):
                    yield name
                    break


@pytest.mark.promotes
@pytest.mark.filterwarnings("ignore")
def test_no_function_of_optax_is_left_out():
    needs("behind", "optax")
    names = behind.names()
    found = {*stages(optax), *(f"contrib.{name}" for name in stages(optax.contrib))}
    assert len(found) > 90
    assert found <= set(names)
    assert {"MultiSteps", "monitor", "contrib.dog"} <= set(names)
    for name in names:
        assert hasattr(behind.make(name), "update"), name


def test_the_page_has_those_that_deviate():
    rows = shown("behind")
    assert {name.strip("`") for name in rows} == set(behind.WHY)
    caption = neighbours.shown_caption("behind")
    assert caption.startswith(f"The {len(rows)} of {len(behind.names())} functions")
    for row in rows.values():
        assert set(row[1:-1]) <= {"\N{CHECK MARK}", "no", "nor alone"} and row[-1]


SAMPLES = [
    ("adam", "scan"),
    ("adam", "donated"),
    ("adam", "injected"),
    ("lookahead", "donated"),
    ("lbfgs", "donated"),
    ("inject_hyperparams", "bfloat16"),
    ("contrib.sam", "donated"),
    ("contrib.scale_by_muon", "loop"),
]


def holds(name, way):
    needs("behind", "optax", "jax")
    row = shown("behind").get(f"`{name}`")
    expected = "\N{CHECK MARK}" if row is None else row[1 + behind.WAYS.index(way)]
    assert behind.tried(name, way)[0] == expected, behind.tried(name, way)[1]


@pytest.mark.has_nans
@pytest.mark.promotes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "way"), SAMPLES)
def test_a_few_ways_of_optax(name, way):
    holds(name, way)


def test_what_is_injected_counts(monkeypatch):
    """A chain that takes an injected xi for another number is seen."""
    gdsec = behind._gdsec
    monkeypatch.setattr(
        behind, "_gdsec", lambda xi=2.0: gdsec(xi if isinstance(xi, float) else 3 * xi)
    )
    mark, said = behind.tried("sgd", "injected")
    assert mark == "no" and "others than expected" in said


def test_a_device_that_keeps_what_is_given_away_is_seen(monkeypatch):
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, donate_argnums=(), **to: jit(f, **to))
    mark, said = behind.tried("sgd", "donated")
    assert mark != "\N{CHECK MARK}" and "keeps what is given away" in said


def test_a_row_without_its_reason_is_refused(monkeypatch):
    monkeypatch.setattr(behind, "names", lambda: ["sgd", "lbfgs", "lookahead"])
    marks = {"sgd": "\N{CHECK MARK}", "lbfgs": "no", "lookahead": "no"}
    monkeypatch.setattr(behind, "tried", lambda name, way: (marks[name], ""))
    monkeypatch.setattr(behind, "WHY", {"lbfgs": "a", "lookahead": "b"})
    assert [row[0] for row in behind.rows()] == ["`lbfgs`", "`lookahead`"]
    monkeypatch.setattr(behind, "WHY", {"lbfgs": "a", "sgd": "b"})
    with pytest.raises(ValueError, match="^lookahead, sgd: in one of WHY"):
        behind.rows()


@pytest.mark.slow
@pytest.mark.has_nans
@pytest.mark.promotes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(behind.WHY))
def test_what_deviates_in_optax(name):
    """In one of the ways in which it does."""
    row = shown("behind")[f"`{name}`"]
    marks = dict(zip(behind.WAYS, row[1:], strict=False))
    holds(name, next(way for way, mark in marks.items() if mark != "\N{CHECK MARK}"))


# Codecs


def test_our_bytes_are_the_page_s():
    needs("codecs", "numpy")
    for name, message in codecs.messages().items():
        row = shown("codecs")[name]
        form, own = codecs.ours(message)
        assert row[1] == f"{np.count_nonzero(message.values):,}"
        assert row[2] == f"{form} **{len(own):,}**"
        form = "coo" if form == "any format" else form
        again = wire.decode(own, message.values, form, message.code)
        np.testing.assert_array_equal(again.values, message.values)


def test_what_the_page_says_of_codecs():
    """Of chosen entries ours is the smallest but for rows; a coder behind saves."""
    sizes = {
        name: [int(re.sub(r"[^0-9]", "", cell)) for cell in row[2:]]
        for name, row in shown("codecs").items()
    }
    chosen = [name for name in sizes if re.search(r"% of|one entry|largest", name)]
    beaten = {name for name in chosen if sizes[name][0] > min(sizes[name][1:-1])}
    assert len(chosen) == 4 and beaten == {"1 % of the rows, whole"}
    (name,) = beaten
    assert f"{1 - min(sizes[name][1:-1]) / sizes[name][0]:.0%}" == "5%"
    for name, saved in (("QSGD, 15 levels", "29%"), ("natural compression", "39%")):
        assert f"{1 - sizes[name][-1] / sizes[name][0]:.0%}" == saved
    assert sizes["1 % of the entries"][2] > sizes["1 % of the entries"][1]


@pytest.mark.slow
def test_the_bytes_of_general_compressors():
    needs("codecs", "zstandard", "blosc2", "numpy")
    assert codecs.rows() == neighbours.shown("codecs")


# Hooks


def test_our_names_of_hooks_cost_what_the_page_says():
    rows = shown("hooks")
    for name in ("fp16_compress_hook", "powerSGD_hook", "quantization_pertensor_hook"):
        assert rows[f"`{name}`"][-2:] == hooks.ours(name)


def test_a_hook_fails_for_the_reason_that_is_known():
    assert hooks.ran("powerSGD_hook", "") == "runs"
    for name in hooks._WHY:
        for error in ("", "no answer"):
            with pytest.raises(ValueError, match=f"{name}: .*, expected"):
                hooks.ran(name, error)
    with pytest.raises(ValueError, match="'no answer', expected 'no error'"):
        hooks.ran("powerSGD_hook", "no answer")


@pytest.mark.slow
def test_what_a_hook_hands_to_gloo():
    needs("hooks", "torch")
    seen = hooks.seen("powerSGD_hook")["powerSGD_hook"]
    row = shown("hooks")["`powerSGD_hook`"]
    assert row[2] == f"{seen['bytes']:,}" and row[4] == f"{seen['said']:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, function", [("DeMo", "demo"), ("SparseLoCo", "sparse_loco")]
)
def test_what_public_code_sends(name, function):
    needs("hooks", "torch")
    variable = {"DeMo": "GDSEC_DEMO", "SparseLoCo": "GDSEC_TEMPLAR"}[name]
    if variable not in os.environ:
        pytest.skip(f"{variable} names no checkout")
    (row,) = (row for first, row in shown("hooks").items() if first.startswith(name))
    assert row[1:5] == getattr(hooks, function)()


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_goes_as_its_public_code(name):
    row = shown("methods")[name]
    assert float(row[2]) < 1e-12
    variables = (_public.THREE_POINTS, _public.DASHA, _public.PROXSKIP, _public.FEDNL)
    if not all(x in os.environ for x in variables):
        pytest.skip(f"{', '.join(variables)} name no checkouts")
    assert methods.seen(name) < 1e-12


def test_parts_of_a_file_need_nothing_that_it_imports(monkeypatch, tmp_path):
    text = "import nowhere\n\n@nowhere.remote\ndef twice(x):\n    return other(2 * x)\n"
    (tmp_path / "script.py").write_text(text + "\nnowhere.run()\n")
    monkeypatch.setenv("GDSEC_3PC", str(tmp_path))
    code = _public.parts("GDSEC_3PC", "script.py", "twice", other=lambda x: x + 1)
    assert code.twice(3) == 7
    with pytest.raises(ValueError, match=r"script\.py has no thrice\."):
        _public.parts("GDSEC_3PC", "script.py", "twice", "thrice")


def test_public_code_that_is_not_there_is_skipped(monkeypatch, tmp_path):
    monkeypatch.delenv("GDSEC_DEMO", raising=False)
    with pytest.raises(neighbours.Skipped, match="GDSEC_DEMO names no checkout"):
        _public.module("GDSEC_DEMO", "demo.py")
    monkeypatch.setenv("GDSEC_DEMO", str(tmp_path))
    with pytest.raises(neighbours.Skipped, match=r"where demo\.py is not"):
        _public.module("GDSEC_DEMO", "demo.py")


# Edge values


@pytest.mark.has_nans
@pytest.mark.promotes
@pytest.mark.parametrize("edge", edges.ROWS, ids=[row[0] for row in edges.ROWS])
def test_an_edge_value(edge):
    needs("edges", "jax", "numpy", "optax", "pandas", "scikit-learn", "ml-dtypes")
    what, where, there, ours = edge
    assert (what, where, there(), ours()) == shown("edges")[what]


# LIBSVM


@pytest.mark.parametrize("reader", ["ours", "scikit_learn", "libsvm", "xgboost"])
def test_libsvm_files(reader):
    needs("readers", "scikit-learn")
    read = getattr(readers, reader)
    place = 1 + readers.READERS.index(read)
    try:
        seen = {name: readers.verdict(read, *f) for name, f in readers.FILES.items()}
    except neighbours.Skipped as reason:
        pytest.skip(str(reason))
    others = {"libsvm": ["libsvm-official"], "xgboost": ["xgboost-cpu"]}
    needs("readers", *others.get(reader, []))
    assert seen == {name: row[place] for name, row in shown("readers").items()}


@pytest.mark.slow
def test_libsvm_s_own_command():
    try:
        seen = [readers.verdict(readers.svm_train, *f) for f in readers.FILES.values()]
    except neighbours.Skipped as reason:
        pytest.skip(str(reason))
    assert seen == [row[4] for row in neighbours.shown("readers")]


def test_what_is_refused_is_said_in_a_sentence(tmp_path):
    for name, (content, _) in readers.FILES.items():
        if shown("readers")[name][1] == "refused":
            path = tmp_path / "data.libsvm"
            path.write_bytes(content)
            with pytest.raises(ValueError, match="expected"):
                data.read_libsvm(path)


# A million rounds, of which a part tells


def test_who_is_silent_at_the_end():
    """EF21 and beta = 1; GD-SEC sends on what its memory cannot take up any more."""
    needs("rounds", "jax", "optax")
    for name in ("`gdsec(xi=5, beta=0.01)`", "`gdsec(xi=5, beta=1)`", "`ef21(k=2)`"):
        row = next(row for row in neighbours.shown("rounds") if row[0] == name)
        _, last, error = rounds.seen(name, "float32", 10_000)
        assert f"{last:,.0f}" == row[3]
        assert f"{error:.0e}" == row[4]


@pytest.mark.slow
@pytest.mark.parametrize("name", rounds.NARROW)
def test_the_end_of_a_run_in_bfloat16(name):
    needs("rounds", "jax", "optax")
    row = next(
        row for row in neighbours.shown("rounds") if row[:2] == (name, "bfloat16")
    )
    assert rounds.row(name, "bfloat16", 10_000)[3:] == row[3:]


# Elsewhere


def test_what_the_page_says_of_runs_that_differ():
    """Messages of four workers, from the first that differs on: nine in ten differ."""
    rows = [row for row in neighbours.shown("bits") if row[2] != "never"]
    firsts = [int(row[2]) for row in rows]
    assert (min(firsts), max(firsts)) == (146, 190)
    for row, first in zip(rows, firsts, strict=True):
        share = int(row[3].split(" of ")[0]) / (4 * (bits.ROUNDS + 1 - first))
        assert 0.85 < share < 0.95
        assert abs(float(row[4].strip("%"))) <= 1


def test_other_pythons_are_those_that_are_named(monkeypatch):
    monkeypatch.delenv("GDSEC_PYTHONS", raising=False)
    assert bits.others() == []
    monkeypatch.setenv("GDSEC_PYTHONS", "Python 3.13=/a/python;another=/b=c")
    assert [(x.name, x.python) for x in bits.others()] == [
        ("Python 3.13", "/a/python"),
        ("another", "/b=c"),
    ]
    monkeypatch.setenv("GDSEC_PYTHONS", "/a/python")
    with pytest.raises(ValueError, match="has '/a/python', expected name=path"):
        bits.others()


@pytest.mark.slow
def test_a_flag_that_changes_bits_and_one_that_does_not():
    needs("bits", "jax", "jaxlib")
    plain = bits.run(bits.Setting("plain"))
    rows = shown("bits")
    names = "4 devices, of which one is used", "`--xla_backend_optimization_level=0`"
    settings = {setting.name: setting for setting in bits.SETTINGS}
    for setting in (settings[name] for name in names):
        row = bits.row(setting, plain)
        assert row[0] == rows[setting.name][0]
        assert (row[1] == "never") == (rows[setting.name][1] == "never")


# Files and processes


@pytest.mark.slow
def test_what_one_process_hands_to_another(tmp_path):
    needs("handed", "jax", "jaxlib", "orbax-checkpoint")
    setting = bits.Setting("again")
    whole = handed.written(str(tmp_path))
    assert handed.row(setting, str(tmp_path), whole) == shown("handed")["again"]


def test_what_is_refused_is_said_in_short(monkeypatch):
    def told(*_):
        raise RuntimeError(
            "a\nValueError: checkpoint is 'x', expected a new folder or that of this "
            "run: the one there differs in jax_version.\n"
        )

    monkeypatch.setattr(handed, "told", told)
    said = handed.cell(bits.Setting("again"), "", "checkpoint", 0)
    assert said == "refused, ValueError: the one there differs in jax_version"


@pytest.mark.slow
def test_ten_thousand_workers_over_two_processes():
    needs("processes", "jax", "jaxlib")
    (shown,) = (row for row in neighbours.shown("processes") if row[0] == "2")
    found = processes.row(2, 2, processes.run(1, 1))
    assert (found[:3], found[5]) == (shown[:3], shown[5])

    # What lies at its threshold goes by the last bits of sums: the processor's.
    def count(cell: str) -> int:
        return int(cell.split(" of ")[0].replace(",", ""))

    assert count(found[3]) == pytest.approx(count(shown[3]), rel=0.1)
    assert count(found[4]) == pytest.approx(count(shown[4]), rel=1e-4)
