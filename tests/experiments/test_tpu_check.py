"""The report of what only a chip can say: here of this machine's CPU."""

import json

import pytest

from gdsec_experiments import tpu_check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--output", "nowhere/check.json"],
            "--output is nowhere/check.json, expected",
        ),
        (["--output", "."], "--output is ., expected a file"),
        (["--length", "0"], "--length is 0, expected at least 100"),
        (["--only", "warmth"], "--only is ['warmth'], expected"),
    ],
)
def test_wrong_arguments_are_told_of_before_anything_runs(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tpu_check._environment, "everything", None)  # not called
    with pytest.raises(SystemExit):
        tpu_check.main(arguments)
    assert words in capsys.readouterr().err


def test_parts_that_were_made_are_kept(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("the chip is gone")

    monkeypatch.setattr(tpu_check, "casts", broken)
    path = tmp_path / "check.json"
    with pytest.raises(RuntimeError, match="gone"):
        tpu_check.main(["--output", str(path), "--length", "100"])
    kept = json.loads(path.read_text("utf-8"))
    assert list(kept) == ["environment", "devices"]
    assert kept["devices"]


@pytest.mark.slow
def test_the_tests_of_the_core_run_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tpu_check, "CORE_TESTS", ("tests/worker/test_permuted.py",))
    path = tmp_path / "check.json"
    tpu_check.main(["--output", str(path), "--only", "tests", "devices"])
    kept = json.loads(path.read_text("utf-8"))
    assert list(kept) == ["devices", "tests"]
    assert kept["tests"]["exit"] == 0
    assert kept["tests"]["passed"] > 0
    assert kept["tests"]["failed"] == []
