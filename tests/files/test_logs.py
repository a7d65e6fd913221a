"""What a log was given can be read back from its file, at any time of the run."""

import csv
import io
import json
import math
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gdsec_jax import logs

ROWS = {
    "round": np.arange(1, 4),
    "objective_error": np.array([0.1, np.nan, 1 / 3]),
    "gradient_norm": np.array([2.5, np.inf, -np.inf], np.float32),
    "bits": [2**40, 0, 64],
}
LATER = {name: [9] for name in ROWS}
FILES = {logs.csv: "run.csv", logs.json_lines: "run.jsonl"}
kinds = pytest.mark.parametrize(
    "kind", [*FILES, logs.tensorboard], ids=lambda kind: kind.__name__
)


def _read_csv(path):
    return list(csv.reader(io.StringIO(path.read_text("utf-8"))))


def _not_json(word):
    raise AssertionError(f"{word} is not JSON")


def _read_lines(path):
    lines = path.read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=_not_json) for line in lines]


def _read_events(path):
    """Records are length, its checksum, content, its checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    # The check value of RFC 3720's checksum, rotated by 15 bits, and a constant added.
    assert masked_crc32c(b"123456789") == 0xC78AB0E5
    content, events = path.read_bytes(), []
    while content:
        length, check = struct.unpack("<QI", content[:12])
        assert check == masked_crc32c(content[:8])
        data, check = content[12 : 12 + length], content[12 + length : 16 + length]
        assert check == struct.pack("<I", masked_crc32c(data))
        events.append(Event.FromString(data))
        content = content[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    return events[1:]


def _read_run(folder):
    """(step, tag) to value, over the files of one run."""
    return {
        (event.step, value.tag): value.simple_value
        for path in sorted(folder.glob("*tfevents*"))
        for event in _read_events(path)
        for value in event.summary.value
    }


@pytest.fixture(params=FILES, ids=lambda kind: kind.__name__)
def kind(request):
    """A kind of log in a file."""
    return request.param


@pytest.fixture
def path(kind, tmp_path):
    return tmp_path / FILES[kind]


def test_csv_is_read_back_exactly(tmp_path):
    path = tmp_path / "new" / "folders" / "run.csv"
    with logs.csv(path) as log:
        log(ROWS)
        log({name: LATER[name] for name in reversed(LATER)})
    header, *lines = _read_csv(path)
    assert header == list(ROWS)
    read = np.array(lines, float).T
    for values, name in zip(read, ROWS, strict=True):
        np.testing.assert_array_equal(values, [*ROWS[name], 9])
    assert lines[0][0] == "1"  # counts stay integers
    assert lines[0][3] == str(2**40)
    assert lines[1][1:3] == ["nan", "inf"]
    table = np.genfromtxt(path, delimiter=",", names=True)
    assert table.dtype.names == tuple(ROWS)
    np.testing.assert_array_equal(table["objective_error"][:3], ROWS["objective_error"])


def test_json_lines_are_json_and_read_back_exactly(tmp_path):
    path = tmp_path / "new" / "folders" / "run.jsonl"
    with logs.json_lines(path) as log:
        log(ROWS)
        log({"round": [4], "h_norm": [0.5]})
    assert _read_lines(path) == [
        {"round": 1, "objective_error": 0.1, "gradient_norm": 2.5, "bits": 2**40},
        {"round": 2, "objective_error": None, "gradient_norm": None, "bits": 0},
        {"round": 3, "objective_error": 1 / 3, "gradient_norm": None, "bits": 64},
        {"round": 4, "h_norm": 0.5},
    ]


def test_tensorboard_is_read_back_without_what_is_not_finite(tmp_path):
    with logs.tensorboard(tmp_path / "new" / "run") as log:
        log(ROWS)
        log({"round": [4], "objective_error": [1e39], "dropped": [True]})
        log({"round": [5], "objective_error": [np.nan]})
    single = np.float32
    assert _read_run(tmp_path / "new" / "run") == {
        (1, "objective_error"): single(0.1),
        (1, "gradient_norm"): 2.5,
        (1, "bits"): 2.0**40,
        (2, "bits"): 0,
        (3, "objective_error"): single(1 / 3),
        (3, "bits"): 64,
        (4, "dropped"): 1,
    }
    [path] = (tmp_path / "new" / "run").iterdir()
    events = _read_events(path)
    assert [event.step for event in events] == [1, 2, 3, 4]  # one event a round
    assert all(event.wall_time > 1e9 for event in events)


def test_the_settings_of_a_sweep_lead_the_line(tmp_path):
    setting = {"method": 'a, "b"', "xi": np.float64(10), "beta": jnp.float32(0.5)}
    with logs.csv(tmp_path / "a.csv") as log:
        log(ROWS, setting=setting)
        log(LATER, setting=setting | {"method": "ξ\n"})
    with logs.json_lines(tmp_path / "a.jsonl") as log:
        log(LATER, setting=setting)
        log(LATER, setting=setting | {"xi": math.inf})
    header, *lines = _read_csv(tmp_path / "a.csv")
    assert header == ["method", "xi", "beta", *ROWS]
    assert [line[:3] for line in lines] == [
        *[['a, "b"', "10.0", "0.5"]] * 3,
        ["ξ\n", "10.0", "0.5"],
    ]
    first, second = _read_lines(tmp_path / "a.jsonl")
    assert first == {"method": 'a, "b"', "xi": 10.0, "beta": 0.5} | {
        name: 9 for name in ROWS
    }
    assert list(first) == header
    assert second["xi"] is None


def test_a_column_keeps_its_values_types(tmp_path):
    path = tmp_path / "a.jsonl"
    values = [1.5, np.float32(0.5), np.int64(3), "own", None, True]
    dtypes = (jnp.bfloat16, jnp.float32, jnp.int32, bool)
    with logs.json_lines(path) as log:
        log({"xi": values, "method": np.array(["gd"] * 6)})
        for dtype in dtypes:
            log({"xi": jnp.arange(3).astype(dtype)})
    lines = _read_lines(path)
    assert [line.get("method") for line in lines] == ["gd"] * 6 + [None] * 12
    read = [line["xi"] for line in lines]
    assert read[:6] == [1.5, 0.5, 3, "own", None, True]
    assert [type(value) for value in read[:3]] == [float, float, int]
    for number, dtype in enumerate(dtypes):
        found = read[6 + 3 * number : 9 + 3 * number]
        assert found == np.arange(3).astype(dtype).tolist()


def test_each_setting_is_a_run(tmp_path):
    settings = {
        "xi=10,beta=0.01": {"xi": 10.0, "beta": 0.01},
        "xi=0.1,k=3": {"xi": np.float32(0.1), "k": 3},
        "xi=1e-05,method=gdsec": {"xi": 1e-5, "method": "gdsec"},
        "method=a%2Fb%2Cc%3Dd": {"method": "a/b,c=d"},
        "version=1.0": {"version": "1.0"},
        "ξ=λ (own)": {"ξ": "λ (own)"},
        "xi=0.1": {"xi": 0.1},
        "xi=0.10000000000000002": {"xi": math.nextafter(0.1, 1)},
    }
    with logs.tensorboard(tmp_path) as log:
        for number, setting in enumerate(settings.values()):
            log(LATER | {"bits": [number]}, setting=setting)
            log(LATER | {"round": [10], "bits": [number]}, setting=dict(setting))
    assert {path.name for path in tmp_path.iterdir()} == {*settings}
    for number, name in enumerate(settings):
        assert len(list((tmp_path / name).iterdir())) == 1
        read = _read_run(tmp_path / name)
        assert {read[step, "bits"] for step in (9, 10)} == {number}


def test_a_sweep_does_not_keep_its_files_open(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with logs.tensorboard(tmp_path) as log:
            for xi in range(300):
                log(LATER, setting={"xi": xi})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(tmp_path.iterdir())) == 300


@kinds
def test_every_call_reaches_the_file(kind, tmp_path):
    path = tmp_path / FILES.get(kind, "run")

    def rounds():
        if kind is logs.tensorboard:
            return len({step for step, _ in _read_run(path)})
        return len(path.read_text("utf-8").splitlines()) - (kind is logs.csv)

    with kind(path) as log:
        for number in range(1, 4):
            log(LATER | {"round": [number]})
            assert rounds() == number


def contents(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in files}


@kinds
@pytest.mark.parametrize("setting", [None, {"xi": 1.0}])
def test_what_is_there_is_not_replaced(kind, setting, tmp_path):
    path = tmp_path / FILES.get(kind, "run")
    with kind(path):  # broken off before its first round: as good as none
        pass
    with kind(path) as log:
        log(LATER, setting=setting)
    before = contents(tmp_path)
    message = (
        r"run\.\w+ is there already, expected|run holds a TensorBoard log, expected"
    )
    with pytest.raises(FileExistsError, match=message):
        kind(path).__enter__()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("cut", [0, 1, 3, None])
def test_append_gives_what_one_run_gives(cut, kind, path):
    """Also behind a last line that was cut short, even if it is all there is."""
    with kind(path) as log:
        log(ROWS)
        log(LATER)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] if cut is None else whole[: len(whole) - cut])
    with kind(path, append=True) as log:
        if cut is None:
            log(ROWS)
        if cut != 0:
            log(LATER)
    assert path.read_bytes() == whole


def test_append_to_tensorboard_drops_the_rounds_that_are_run_again(tmp_path):
    for first in (1, 3):
        with logs.tensorboard(tmp_path, append=True) as log:
            log({"round": np.arange(first, first + 4), "bits": [first] * 4})
    one, other = (_read_events(path) for path in sorted(tmp_path.iterdir()))
    assert [event.step for event in one[1:]] == [1, 2, 3, 4]
    assert other[0].session_log.status == other[0].session_log.START
    assert [event.step for event in other] == [3, 3, 4, 5, 6]


def test_a_path_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for kind, place, what in [
        *((kind, place, "file") for kind in FILES for place in ("file/run", "folder")),
        (logs.tensorboard, "file", "folder"),
    ]:
        message = f"{place} is no {what} that can be written to: "
        with pytest.raises(OSError, match=message):
            kind(tmp_path / place).__enter__()


@kinds
def test_rows_that_are_none(kind, tmp_path):
    path = tmp_path / FILES.get(kind, "run")
    for rows, setting, message in [
        ({}, None, r"lengths {}, expected one length\."),
        ({"round": [1], "bits": []}, None, r"{'round': 1, 'bits': 0}, expected one"),
        ({"round": 1}, None, r"rows\['round'\] has shape \(\), expected one value a"),
        ({"round": [[1]]}, None, r"rows\['round'\] has shape \(1, 1\), expected"),
        ({"round": [1j]}, None, r"round holds 1j, expected numbers, words or None\."),
        ({"round": [1], "bits": [{}]}, None, r"bits holds {}, expected numbers, words"),
        ({"round": [1]}, {"round": 2}, r"setting names 'round', expected a name that"),
        ({"round": [1]}, {"xi": [2]}, r"setting\['xi'\] is \[2\], expected a number"),
        ({"round": [1]}, {"xi": print}, r"xi holds <built-in.*, expected numbers"),
    ]:
        with kind(path) as log, pytest.raises(ValueError, match=message):
            log(rows, setting=setting)
        assert list(path.iterdir() if path.is_dir() else path.read_text()) == []


def test_csv_has_one_header(tmp_path):
    path = tmp_path / "run.csv"
    for append in (False, True):
        with logs.csv(path, append=append) as log:
            log(LATER if append else ROWS)
            before = path.read_bytes()
            for other in ({"round": [2]}, LATER | {"h_norm": [1.0]}):
                with pytest.raises(ValueError, match="those in .*run.csv: round, obj"):
                    log(other)
            with pytest.raises(
                ValueError, match="of the columns xi, round, .*expected"
            ):
                log(LATER, setting={"xi": 1.0})
            assert path.read_bytes() == before
            log({name: LATER[name] for name in reversed(LATER)})
    assert _read_csv(path)[4:] == [["9"] * 4] * 3


def test_tensorboard_needs_rounds_and_numbers(tmp_path):
    for rows, message in (
        ({"bits": [1]}, r"rows is of the columns bits, expected one named round\."),
        ({"round": [1], "method": ["gd"]}, r"rows\['method'\] holds 'gd', expected nu"),
    ):
        with (
            logs.tensorboard(tmp_path) as log,
            pytest.raises(ValueError, match=message),
        ):
            log(rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run.csv", "run.CSV", "run.jsonl", "runs/xi=0.5"])
def test_open_log_goes_by_the_name(name, tmp_path):
    for _ in range(2):
        with logs.open_log(str(tmp_path / name), append=True) as log:
            log(LATER)
    path = tmp_path / name
    if name.lower().endswith(".csv"):
        assert _read_csv(path) == [list(ROWS), ["9"] * 4, ["9"] * 4]
    elif name.endswith(".jsonl"):
        assert _read_lines(path) == [{name: 9 for name in ROWS}] * 2
    else:
        assert len(list(path.glob("*tfevents*"))) == 2
    if not path.is_dir():
        with pytest.raises(FileExistsError):
            logs.open_log(path).__enter__()


@pytest.mark.parametrize("name", ["run.txt", "run.h5", "run.json", "run.cvs"])
def test_open_log_refuses_an_unknown_suffix(name, tmp_path):
    message = rf"the log is '.*{name}', expected a name that ends in \.csv or \.jsonl"
    with pytest.raises(ValueError, match=message):
        logs.open_log(tmp_path / name)
    (tmp_path / name).mkdir()
    with logs.open_log(tmp_path / name) as log:  # a folder that is there
        log({"round": [1], "bits": [64]})
    assert len(list((tmp_path / name).iterdir())) == 1


@pytest.mark.parametrize("module", ["tensorboardX", "tensorboardX.proto.event_pb2"])
def test_a_missing_library_is_a_sentence(module, monkeypatch, tmp_path):
    for loaded in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'gdsec-jax\[tensorboard\]'\."):
        logs.tensorboard(tmp_path / "run").__enter__()
    assert list(tmp_path.iterdir()) == []
    with logs.csv(tmp_path / "run.csv") as log:  # needs none
        log(LATER)
