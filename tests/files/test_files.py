"""Files appear whole or not at all."""

import os
import stat
import sys
import types

import jax
import pytest
from inside import _native, _whole


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folders" / "result.txt"
    with _whole.whole(path) as temporary:
        assert temporary.parent == path.parent  # so that it can be renamed
        assert temporary.suffix == ".txt"  # writers look at it
        temporary.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    with _whole.whole(str(path)) as temporary:
        temporary.write_text("again")
        assert path.read_text() == "done"
    assert path.read_text() == "again"
    assert list(path.parent.iterdir()) == [path]


def test_a_target_is_a_file_that_can_be_written(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert _whole.target(path) == path
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    assert _whole.target(path).read_text() == "old"
    with pytest.raises(OSError, match="new is no file that can be written"):
        _whole.target(path.parent)
    with pytest.raises(OSError, match=r"a\.json is no folder that can be written to"):
        _whole.target(path / "b.json")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(error, tmp_path):
    path = tmp_path / "result.txt"
    for stood in ([], [path]):
        with pytest.raises(error), _whole.whole(path) as temporary:
            temporary.write_text("half")
            raise error
        assert list(tmp_path.iterdir()) == stood
        path.write_text("old")
    assert path.read_text() == "old"


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing_behind(tmp_path):
    path = tmp_path / "result.txt"
    path.mkdir()
    with pytest.raises(OSError, match=r"result\.txt"), _whole.whole(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_mode_of_any_new_file(mask, mode, tmp_path):
    path = tmp_path / "result.txt"
    before = os.umask(mask)
    try:
        with _whole.whole(path) as temporary:
            temporary.write_text("new")
        after = os.umask(mask)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert after == mask


def test_why_there_are_no_kernels(monkeypatch):
    said = {}
    monkeypatch.setenv("GDSEC_NATIVE", "")  # as if unset
    for found in ({"ARGUMENTS": 0}, {}, None):
        module = None if found is None else types.SimpleNamespace(**found)
        monkeypatch.setitem(sys.modules, "gdsec_jax_native", module)
        _native._package.cache_clear()
        said[found is None] = _native.said()
        assert not _native.used()
    assert said == {
        False: "off, of another version: pip install ./native",
        True: "not installed",
    }
    known = types.SimpleNamespace(ARGUMENTS=_native.ARGUMENTS, __version__="9.9")
    monkeypatch.setitem(sys.modules, "gdsec_jax_native", known)
    _native._package.cache_clear()
    assert _native.said() == "9.9" or len(jax.devices("cpu")) > 1
    monkeypatch.setenv("GDSEC_NATIVE", "0")  # too late: programs have been compiled
    assert _native.said() == "9.9" or len(jax.devices("cpu")) > 1
    with _native.native_kernels(False):
        assert _native.said() == "off"

    def no_device(platform):
        raise RuntimeError(f"Unknown backend {platform}")

    with monkeypatch.context() as without:
        without.setattr(jax, "devices", no_device)
        assert _native.said() == "off, no CPU device"
    monkeypatch.setenv("GDSEC_NATIVE", "false")
    _native._package.cache_clear()
    with pytest.raises(ValueError, match="^GDSEC_NATIVE is 'false', expected 0 or 1"):
        _native.said()
    monkeypatch.undo()
    _native._package.cache_clear()
