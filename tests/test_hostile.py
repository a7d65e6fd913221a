"""Files that somebody or something changed: what they were, or one sentence."""

import json
import re
from pathlib import Path

import cases
import jax
import numpy as np
import optax
import pytest
import xarray as xr
from cases import slow_but
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inside import _grid, _netcdf, _saves, own_log

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_jax import History, logs, problems, simulate
from gdsec_jax.study import cli
from gdsec_jax.study import config as configs

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.toml"))
fuzz = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def refused(path, call, *others):
    """What a call says of a file, in one sentence that names it; None if nothing."""
    try:
        call(path)
    except (ValueError, *others) as error:
        text = str(error)
    else:
        return None
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 3000
    return text


# Configs

WORDS = (
    *("nan", "inf", "-1", "0", "1e400", "-9223372036854775809", "2147483648", "2.5"),
    *("true", '"x"', '""', "[]", "{}", "[[1]]", '[1,"a"]', "{a=1}", "[nan]"),
    *("1979-05-27", '"\\u0000"', '"\\U0001F600"'),
    *('"gdsec"', '"network"', '"ridge"', '"golomb"'),
    *("{start=1,stop=10,num=3}", "{start=1e-308,stop=1e308,num=5}"),
    *("{start=1,stop=nan,num=3}", "{start=1,stop=1,num=1}"),
    '{start=-1.7e308,stop=1.7e308,num=3,scale="linear"}',
)
TABLES = (
    *("[methods]", "[problem]", "[[problem]]", "[methods.GD]", "[grid]"),
    *("[methods.GD-SEC.grid]", "[problem.grid]", "[real.problem]"),
    *("[problem.options]", '[methods."a/b"]'),
)
NAMES = [
    name
    for model in (configs.RunConfig, *map(type, [configs.RunConfig().problem]))
    for name in model.model_fields
] + ["xi", "beta", "k", "levels", "seed", "start", "num", '"xi, beta"', '""', '"a b"']


def mutated_config(rng, text):
    lines = text.split("\n")
    for _ in range(rng.integers(1, 4)):
        at, word = int(rng.integers(len(lines))), WORDS[rng.integers(len(WORDS))]
        match rng.integers(0, 8):
            case 0 | 1 | 2 | 3 if "=" in lines[at]:
                lines[at] = f"{lines[at].split('=')[0]}= {word}"
            case 4 | 5:
                lines.insert(at, f"{NAMES[rng.integers(len(NAMES))]} = {word}")
            case 6:
                lines.insert(at, TABLES[rng.integers(len(TABLES))])
            case _:
                lines[at] = cases.mutated(rng, lines[at].encode()).decode("latin-1")
    return "\n".join(lines)


@pytest.mark.parametrize("number", slow_but([80], [80, 800]))
def test_mutated_configs(number, tmp_path):
    path, rng = tmp_path / "run.toml", np.random.default_rng(number)
    texts = [config.read_text("utf-8") for config in CONFIGS]
    texts = [text for text in texts if len(text) < 4000]
    loaded = 0
    for _ in range(number):
        text = mutated_config(rng, texts[rng.integers(len(texts))])
        path.write_text(text, "utf-8")
        loaded += refused(path, configs.load) is None
    assert 0 < loaded < number  # both are met


@fuzz
@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.text("a=[]{}'\"\n.1-#,é", max_size=80).map(str.encode),
    )
)
def test_configs_of_any_bytes(content, tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    refused(path, configs.load)


DEEP = {
    "list": "title = " + "[" * 5000 + "]" * 5000,
    "table": "title = " + "{a=" * 5000 + "1" + "}" * 5000,
    "header": f"[{'.'.join('a' * 5000)}]",
    "grid": "[grid]\nxi = " + "[" * 300 + "]" * 300,
    "options": "[problem]\noptions = " + "{a=" * 300 + "1" + "}" * 300,
    "real": "[real]\nx = " + "[" * 300 + "]" * 300 + "\n[methods]",
}
LONG = {
    "integer": ("num_rounds = " + "9" * 5000, "4300 digits"),
    "hexadecimal": ("num_rounds = 0x" + "f" * 5000, "is an integer of thousands of"),
    "word": (f"wire = '{'x' * 10**5}'", r"xx\.\.\.xx.*', expected 'dense'"),
    "list": (f"target = {[1] * 10_000}", r"1, \.\.\.\], expected a valid number"),
    "axis": (
        f'[methods.a]\nname = "gdsec"\n[methods.a.grid]\nxi = {[1] * 10_001}',
        "10001 values of xi, expected at most 10000",
    ),
    "file": ("#" * 2**20 + "\n", "has more than 1,048,576 bytes"),
    "range": (
        "[grid]\nbeta = {start=-1.7e308, stop=1.7e308, num=3, scale='linear'}",
        "expected a distance that is a finite number",
    ),
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_configs(text, tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    said = refused(path, configs.load)
    assert cli.main(["run", str(path)]) == 2
    assert capsys.readouterr().err == f"gdsec: {said}\n"


@pytest.mark.parametrize(("text", "message"), LONG.values(), ids=LONG)
def test_long_configs(text, message, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    said = refused(path, configs.load)
    assert said is not None
    assert re.search(message, said)


def test_a_sweep_of_too_many_settings():
    axes = {name: range(200) for name in ("xi", "beta", "zeta")}
    message = (
        "8,000,000 settings, 200 of xi, 200 of beta, 200 of zeta, expected at most"
    )
    with pytest.raises(ValueError, match=message):
        _grid.axes_of(axes)


def test_what_no_memory_holds_is_a_sentence(tmp_path, capsys, monkeypatch):
    path = tmp_path / "run.toml"
    path.write_text(
        '[problem]\ndata = "heterogeneous"\noptions = {num_features=10000000000000}\n'
    )
    assert cli.main(["run", str(path), "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch("gdsec: more memory is asked for than there is: Una.*\n", said)

    def fail(error):
        def load(path):
            raise error

        monkeypatch.setattr(configs, "load", load)
        return cli.main(["run", str(path)])

    exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")
    assert fail(exhausted) == 2
    assert capsys.readouterr().err.endswith("is: RESOURCE_EXHAUSTED: Out of memory\n")
    assert fail(MemoryError()) == 2
    assert capsys.readouterr().err.endswith("there is: MemoryError\n")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fail(jax.errors.JaxRuntimeError("INTERNAL: our own fault"))


# Histories and sweeps


@pytest.fixture(scope="module")
def history():
    problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
    optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(1.0))
    return simulate(problem, optimizer, 3, progress=False)


@pytest.mark.parametrize("number", slow_but([200], [200, 2000]))
def test_mutated_histories(number, history, tmp_path):
    """HDF5's own reader would hang on some, and raise what it likes."""
    path = tmp_path / "gd.nc"
    history.save(path)
    rng, data = np.random.default_rng(number), path.read_bytes()
    for _ in range(number):
        bad = cases.mutated(rng, data)
        path.write_bytes(bad)
        assert bad == data or "is not a saved History" in refused(path, History.load)


def test_a_checksum_is_no_hindrance_to_other_readers(tmp_path):
    path = tmp_path / "a.nc"
    written = xr.Dataset({"a": ("x", np.arange(10_000.0))})
    _netcdf.write(written, path)
    xr.testing.assert_identical(_netcdf.read(path), written)
    xr.testing.assert_identical(xr.load_dataset(path, engine="h5netcdf"), written)
    for end in (0, 1, 47, 48):
        short = tmp_path / "short.nc"
        short.write_bytes(path.read_bytes()[:end])
        with pytest.raises(ValueError, match="it is (no NetCDF file|damaged)"):
            _netcdf.read(short)


# Records of checkpoints, logs, results of benches


def test_mutated_records(tmp_path):
    rng = np.random.default_rng(0)
    _saves.write_part(tmp_path, _saves.Part(0, 2, 1.5, {"a": "b"}, {}, [np.arange(2)]))
    [path] = tmp_path.iterdir()
    data = path.read_bytes()
    for _ in range(300):
        bad = cases.mutated(rng, data)
        path.write_bytes(bad)
        assert (_saves.read_part(path) is None) == (bad != data)


@pytest.mark.parametrize("kind", [logs.csv, logs.json_lines])
def test_mutated_logs_are_gone_on_with_or_refused(kind, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "run.log"
    rows = {"round": [1, 2], "error": [0.5, 0.25]}
    with kind(path) as log:
        log(rows)
    data = path.read_bytes()

    def go_on(path):
        with kind(path, append=True) as log:
            log(rows)

    for _ in range(200):
        path.write_bytes(cases.mutated(rng, data))
        refused(path, go_on, OSError)
    if kind is logs.csv:
        path.write_text("a" * 200_000 + "\n")
        assert "is no CSV file to go on with: field" in refused(path, go_on, OSError)


def test_a_note_that_is_no_text_names_no_log(tmp_path):
    log = tmp_path / "run.csv"
    log.write_text("a\n1\n")
    (tmp_path / ".log").write_bytes(b"\xff\xfe\0")
    with pytest.raises(FileExistsError), own_log(log, tmp_path):
        pass
    assert log.read_text() == "a\n1\n"


def test_mutated_results_of_benches(tmp_path):
    measure = benchmarks.Measure("seconds", 1.5, "s", 0.1, must=2.0)
    reports = {"one": benchmarks.Report((measure,), 2.0)}
    result = benchmarks.Result("2026-01-01", {"jax": "0"}, 5, False, reports)
    path, rng = tmp_path / "bench.json", np.random.default_rng(0)
    benchmarks.save(result, path)
    data = path.read_bytes()
    for _ in range(300):
        path.write_bytes(cases.mutated(rng, data, [b"null", b"1e400", b"[]", b"{}"]))
        refused(path, benchmarks.load)
    for text in ("[" * 10**5, "9" * 5000, "NaN", json.dumps([[[]]])):
        path.write_text(text)
        assert refused(path, benchmarks.load)
