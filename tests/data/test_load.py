"""Named data sets: found locally or downloaded, verified either way."""

import bz2
import gzip
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from inside import _registry
from scipy import sparse

from gdsec_jax import data

TOY = b"+1 1:1\n-1 2:1\n+1 3:1\n"
SHARED = os.environ.get("GDSEC_DATA_DIR", "")
DEAD = "http://127.0.0.1:9/"  # the discard port: nothing listens


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Point both folders of the package at empty ones of this test."""
    own, cache = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    monkeypatch.setenv("GDSEC_DATA_DIR", str(own))
    monkeypatch.setenv("GDSEC_CACHE_DIR", str(cache))
    return own, cache


@pytest.fixture
def mirror(tmp_path):
    """Serve a folder on this machine; also files cut short, under ``cut/``."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def do_GET(self):
            if not self.path.startswith("/cut/"):
                return super().do_GET()
            content = (served / Path(self.path).name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield served, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def register(monkeypatch):
    """Make ``toy`` a data set whose file the given mirrors serve."""

    def do(*mirrors, name="toy.libsvm", content=TOY, **facts):
        facts.setdefault("sha256", sha256(content))
        urls = tuple(mirror + name for mirror in mirrors)
        inner = name.removesuffix(".bz2")
        file = _registry.File(inner, urls, (3, 3), **facts)
        toy = _registry.Remote("binary", "nowhere", {"train": (file,)})
        monkeypatch.setitem(_registry.REMOTE, "toy", toy)

    return do


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


def found():
    return {entry.name: entry.found for entry in data.available()}


def test_embedded_sets():
    digits = data.load("digits")
    assert digits.name == "digits"
    assert digits.features.shape == (1797, 64)
    assert (digits.features.min(), digits.features.max()) == (0, 1)
    assert set(digits.targets) == set(range(10))
    cancer = data.load("breast_cancer")
    columns = np.asarray(cancer.features)
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(columns.var(axis=0), 1)
    assert set(cancer.targets) == {0, 1}
    assert digits.targets.dtype == cancer.targets.dtype == np.int64
    assert data.fetch("digits") == []


def test_the_registry_is_well_formed():
    names = "a9a colon_cancer covtype dna fashion_mnist mnist mushrooms phishing "
    assert " ".join(sorted(_registry.REMOTE)) == names + "rcv1 w2a w8a"
    every = [
        file
        for data_set in _registry.REMOTE.values()
        for split in data_set.splits.values()
        for file in split
    ]
    assert len({file.name for file in every}) == len(every)
    for file in every:
        base = Path(file.name).name
        assert all(Path(url).name.startswith(base) for url in file.urls)
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
        if file.served_hash is not None:
            algorithm, digest = file.served_hash.split(":")
            size = {"md5": 16, "sha256": 32}[algorithm]
            assert len(bytes.fromhex(digest)) == size


def test_available(folders):
    entries = {entry.name: entry for entry in data.available()}
    assert entries["digits"].found == {"train": "embedded"}
    assert entries["mnist"].found == {"train": "remote", "test": "remote"}
    assert entries["mnist"].shapes == {"train": (60_000, 784), "test": (10_000, 784)}
    assert entries["rcv1"].shapes["train"] == (20_242, 47_236)
    for entry in entries.values():
        assert entry.task in ("regression", "binary", "multiclass")
        assert entry.shapes.keys() == entry.found.keys()


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)],
)
def test_own_folder_first_then_cache(folders, register, suffix, compress):
    own, cache = folders
    register(DEAD)
    assert found()["toy"] == {"train": "remote"}
    cache.mkdir()
    (cache / "toy.libsvm").write_bytes(TOY)
    assert found()["toy"] == {"train": "cache"}
    (own / f"toy.libsvm{suffix}").write_bytes(compress(TOY))
    assert found()["toy"] == {"train": "GDSEC_DATA_DIR"}
    assert data.fetch("toy") == [own / f"toy.libsvm{suffix}"]
    toy = data.load("toy")
    assert toy.name == "toy"
    assert isinstance(toy.features, sparse.csr_array)


def test_a_set_of_two_files_is_found_when_both_are(folders):
    own, _ = folders
    (own / "t10k-images-idx3-ubyte.gz").touch()
    assert found()["mnist"]["test"] == "remote"
    (own / "t10k-labels-idx1-ubyte").touch()
    assert found()["mnist"]["test"] == "GDSEC_DATA_DIR"
    assert found()["fashion_mnist"]["test"] == "remote"


BAD = b"+1 1:2\n"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, f"toy.libsvm' has SHA-256 {sha256(BAD)}, expected {sha256(TOY)}"),
        ({"sha256": None}, r"holds shape \(1, 3\), expected \(3, 3\)"),
    ],
)
def test_a_corrupt_local_file_is_an_error_and_stays(folders, register, facts, message):
    own, _ = folders
    register(DEAD, **facts)
    path = own / "toy.libsvm"
    path.write_bytes(BAD)
    # Without a hash its shape tells, which is known once it is read.
    for call in (data.load, data.fetch) if not facts else (data.load,):
        with pytest.raises(ValueError, match=message):
            call("toy")
    assert path.read_bytes() == BAD


MD5 = hashlib.md5(TOY, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("toy.libsvm", {}),
        ("toy.libsvm.bz2", {}),
        ("toy.libsvm", {"sha256": None, "served_hash": f"md5:{MD5}"}),
    ],
)
def test_download(folders, mirror, register, capfd, name, facts):
    _, cache = folders
    served, url = mirror
    (served / name).write_bytes(bz2.compress(TOY) if name.endswith("bz2") else TOY)
    register(url, name=name, **facts)
    assert data.fetch("toy") == [cache / name]
    assert files(cache) == [name]
    (served / name).unlink()
    np.testing.assert_array_equal(data.load("toy").targets, [1, -1, 1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("first", ["dead", "missing/", "cut/"])
def test_the_second_mirror_is_used(folders, mirror, register, first):
    _, cache = folders
    served, url = mirror
    (served / "toy.libsvm").write_bytes(TOY)
    register(DEAD if first == "dead" else url + first, url)
    assert data.load("toy").features.shape == (3, 3)
    assert files(cache) == ["toy.libsvm"]


@pytest.mark.parametrize(
    ("content", "place", "facts", "reason"),
    [
        (BAD, "", {}, "has SHA-256 .*, expected"),
        (BAD, "", {"sha256": None, "served_hash": "md5:00"}, "it has md5 .* expected"),
        (BAD, "", {"sha256": None}, r"holds shape \(1, 3\), expected \(3, 3\)"),
        (TOY, "cut/", {}, ""),
    ],
)
def test_a_corrupt_download_leaves_nothing(
    folders, mirror, register, content, place, facts, reason
):
    _, cache = folders
    served, url = mirror
    (served / "toy.libsvm").write_bytes(content)
    register(url + place, **facts)
    with pytest.raises(OSError, match=f"cannot download 'toy.libsvm'.*{reason}"):
        data.load("toy")
    assert files(cache) == []


def test_without_a_network_the_error_says_what_to_do(folders, register):
    register(DEAD, DEAD + "again/")
    with pytest.raises(OSError) as info:
        data.load("toy")
    message = str(info.value)
    for part in ("'toy'", DEAD, DEAD + "again/", "GDSEC_DATA_DIR", "toy.libsvm"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "data set name is 'imagenet', expected one of digits, "),
        ({"name": "digits", "split": "test"}, "split of 'digits' is 'test', .* train"),
        ({"name": "dna", "split": "val"}, "split of 'dna' is 'val', .* train, test"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)
    with pytest.raises(ValueError, match="data set name is 'imagenet'"):
        data.fetch("imagenet")


def test_own_folder_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("GDSEC_DATA_DIR", "/no/such/folder")
    with pytest.raises(FileNotFoundError, match="is '/no/such/folder', expected a fol"):
        data.load("a9a")


@pytest.mark.parametrize(
    ("name", "split", "shape", "labels"),
    [
        ("mnist", "test", (10_000, 784), set(range(10))),
        ("dna", "train", (2_000, 180), {1, 2, 3}),
        ("a9a", "train", (32_561, 123), {-1, 1}),
        ("mushrooms", "train", (8_124, 112), {1, 2}),
    ],
)
def test_real_data(name, split, shape, labels):
    if not SHARED:
        pytest.skip("GDSEC_DATA_DIR is not set")
    if found()[name][split] != "GDSEC_DATA_DIR":
        pytest.skip(f"the files of {name} are not in GDSEC_DATA_DIR")
    result = data.load(name, split=split)
    assert result.features.shape == shape
    assert set(result.targets) == labels
    assert result.features.max() == 1
    assert sparse.issparse(result.features) == (name != "mnist")
