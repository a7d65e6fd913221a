"""Data files that somebody or something changed: data, or one sentence, soon."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile

import cases
import numpy as np
import pytest
from inside import _compressed

from gdsec_jax import data

X, Y = np.arange(12.0).reshape(4, 3), np.array([1, -1, 1, -1])
CSV = b"a,b,c\n1,2,3\n4,5,6e0\n-1.5,2e-3,7\n"
SVM = b"+1 1:0.5 3:2\n-1 2:1 # a comment\n1 qid:3 1:2\n"
IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 4, 3, 2) + bytes(range(24))
WORDS = [
    *(b"nan", b"inf", b"1e400", b"9" * 30, b"\0", b'"', b",", b":", b"\n", b"-", b"0:"),
    *(b"99999999999:1", b"2147483647:1", b"#", b"{", b"PK\x01\x02", b"'|O'", b"'<f8'"),
    *(b"(1000000000000,)", b"\x7f\xff\xff\xff", b"\x01\0\0\0"),
]


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


FILES = {
    "a.npz": npz(features=X, targets=Y),
    "b.npz": npz(np.savez_compressed, X=X, y=Y),
    "a.csv": CSV,
    "a.svm": SVM,
    "a.csv.gz": gzip.compress(CSV),
    "a.svm.bz2": bz2.compress(SVM),
    "b.svm.xz": lzma.compress(SVM),
    "a-idx": IDX,
    "b-idx": gzip.compress(IDX),
}


def read(path):
    return data.read_idx(path) if path.name.endswith("idx") else data.read(path)


def refused(path):
    """What is said of a file, in one sentence that names it; None if it is read."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        text = str(error)
    else:
        return None
    assert path.name in text
    assert "\n" not in text
    return text


def check_files(folder, seed, number):
    rng, count = np.random.default_rng(seed), 0
    for name, content in FILES.items():
        path = folder / name
        path.write_bytes(content)
        assert refused(path) is None
        for _ in range(number):
            path.write_bytes(cases.mutated(rng, content, WORDS))
            count += refused(path) is None
        for end in rng.integers(0, len(content), 10):  # cut, and noise behind a head
            for head in (content[:end], content[: end % 6] + rng.bytes(40)):
                path.write_bytes(head)
                refused(path)
    assert 0 < count < number * len(FILES) / 2


def test_mutated_files(tmp_path):
    check_files(tmp_path, 0, 40)


@pytest.mark.slow
def test_many_mutated_files(tmp_path):
    check_files(tmp_path, 1, 800)


def header(shape, descr="'<f8'", more=""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {more}}}\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode()


def archive(features, flags=0):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("X.npy", features)
        writer.writestr("y.npy", header("(4,)") + Y.astype(float).tobytes())
    content = bytearray(file.getvalue())
    content[content.index(b"PK\x01\x02") + 8] |= flags
    return bytes(content)


class Harm:
    """What a pickle can do."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


ARCHIVES = {
    "a claim of 24 TB": (archive(header("(1000000000000, 3)")), "expected 24000000000"),
    "a claim of 2^60": (archive(header(f"({2**60}, 3)")), "bytes, expected 27670116"),
    "a claim of less": (archive(header("(-4, 3)") + X.tobytes()), "s 1.* bytes, exp"),
    "a claim of 4 GB": (archive(header("(500000000,)") + bytes(10**6)), "ed 4000000"),
    "parentheses": (archive(header("(" * 4000)), "not an NPZ archive of plain arrays"),
    "signs": (archive(header("(4, 3)", more="-" * 9000 + "1")), "not an NPZ archive"),
    "objects": (npz(X=np.array([Harm()] * 4), y=Y), "X.npy holds Python's objects"),
    "encrypted": (archive(header("(4, 3)") + X.tobytes(), flags=1), "is encrypted"),
    "no array": (archive(b"text, and more of it"), "not an NPZ archive"),
    "numbers beyond int64": (
        npz(X=X, y=np.array([2**63, 1, 2, 3], np.uint64)),
        r"reach 9223372036854775808, expected integers below 2\^63",
    ),
}


@pytest.mark.parametrize(("content", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives(content, message, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read(path)


def test_an_archive_of_too_many_zeros(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(archive(header("(4, 31250)") + bytes(10**6)))
    data.read(path)
    monkeypatch.setattr(_compressed, "_ANYWAY", 2**17)
    most = _compressed.most_bytes(path)
    message = f"claims 1,000,.* bytes, expected at most {most:,} of a file of its size"
    with pytest.raises(ValueError, match=message):
        data.read(path)


def test_archives_of_plain_arrays_are_read(tmp_path):
    for kind in (np.float32, np.uint8, bool, np.longdouble):
        path = tmp_path / "a.npz"
        path.write_bytes(npz(X=X.astype(kind), y=Y))
        np.testing.assert_array_equal(data.read(path).features, X.astype(kind))
    path.write_bytes(npz(X=np.asfortranarray(X), y=Y))
    np.testing.assert_array_equal(data.read(path).features, X)


BOMBS = {
    "a-idx": struct.pack(">BBBB2I", 0, 0, 8, 2, 2**20, 2**20) + bytes(250_000),
    "a.csv": b"1,2\n" * 60_000,
    "a.svm": b"1 1:1\n" * 40_000,
}


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", BOMBS)
def test_what_decompresses_to_too_much(name, compress, tmp_path, monkeypatch):
    monkeypatch.setattr(_compressed, "_ANYWAY", 2**15)
    path = tmp_path / name
    path.write_bytes(compress(BOMBS[name]))
    most = _compressed.most_bytes(path)
    assert most < len(BOMBS[name])
    with pytest.raises(OSError, match=f"holds more than {most:,} bytes, expected few"):
        read(path)
    path.write_bytes(BOMBS[name])  # as large, yet on the disk
    if name != "a-idx":
        assert len(data.read(path).targets) >= 40_000


@pytest.mark.parametrize("exponent", [10, 28, 40, 60])
def test_an_idx_file_that_claims_much(exponent, tmp_path):
    path = tmp_path / "a-idx"
    sides = 2 ** (exponent // 2), 2 ** (exponent - exponent // 2)
    path.write_bytes(struct.pack(">BBBB2I", 0, 0, 8, 2, *sides) + bytes(100))
    with pytest.raises(ValueError, match=f"holds only 100 bytes .* {2**exponent} for"):
        data.read_idx(path)
