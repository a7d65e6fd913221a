"""Readers: the formats, and a sentence for every file that is not in one."""

import bz2
import gzip
import io
import lzma
import struct
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from gdsec_jax import data

X = np.eye(2)
LIBSVM = b"+1 1:0.5 3:2\n-1 2:1 # a comment\n"
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def idx(array: np.ndarray, code: int = 8) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("suffix", ["", ".libsvm", ".svm", ".txt", ".scale", ".t"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_read_libsvm(tmp_path, suffix, compression):
    content = COMPRESS[compression](LIBSVM)
    path = put(tmp_path, f"toy{suffix}{compression}", content)
    result = data.read(path, num_features=4)
    assert result.name == path.name
    assert isinstance(result.features, sparse.csr_array)
    assert result.features.dtype == result.targets.dtype == np.float64
    np.testing.assert_array_equal(
        result.features.toarray(), [[0.5, 0, 2, 0], [0, 1, 0, 0]]
    )
    np.testing.assert_array_equal(result.targets, [1, -1])
    # By default as wide as the largest index.
    assert data.read_libsvm(path).features.shape == (2, 3)


@pytest.mark.parametrize(
    ("target", "features", "targets"),
    [
        (None, [[1, 2], [4, 5]], [3, 6]),
        ("a", [[2, 3], [5, 6]], [1, 4]),
        (1, [[1, 3], [4, 6]], [2, 5]),
        (-3, [[2, 3], [5, 6]], [1, 4]),
    ],
)
@pytest.mark.parametrize("header", ["a,b,c\n", "\ufeffa, b, c\n\n"])
def test_read_csv(tmp_path, header, target, features, targets):
    path = put(tmp_path, "toy.csv", header + "1,2,3\n4,5,6e0\n")
    result = data.read(path, target=target)
    np.testing.assert_array_equal(result.features, features)
    np.testing.assert_array_equal(result.targets, targets)
    assert result.features.dtype == result.targets.dtype == np.float64


def test_read_compressed_csv_without_header(tmp_path):
    path = put(tmp_path, "toy.csv.gz", gzip.compress(b"1,2\n3,4\n"))
    np.testing.assert_array_equal(data.read(path).features, [[1], [3]])


@pytest.mark.parametrize("names", [("features", "targets"), ("X", "y")])
def test_read_npz(tmp_path, names):
    arrays: tuple[Any, Any] = (np.eye(3, dtype="f4"), np.arange(3, dtype="u1"))
    np.savez(tmp_path / "toy.npz", **dict(zip(names, arrays, strict=True)))
    result = data.read(tmp_path / "toy.npz")
    np.testing.assert_array_equal(result.features, np.eye(3))
    assert (result.features.dtype, result.targets.dtype) == (np.float64, np.int64)


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, *arrays.pop("alone", ()), **arrays)
    return file.getvalue()


NO_NPZ = "toy.npz' is not an NPZ archive"
REFUSED = {
    "toy.svm": [
        (b"1 a:b\n", {}, "toy.svm' is not a LIBSVM file"),
        (b"1,2 1:1\n", {}, "toy.svm' is not a LIBSVM file"),
        (LIBSVM, {"num_features": 2}, "with at most 2 features"),
        (b"", {}, r"features of shape \(0, 1\)"),
        (b"1 1:nan\n", {}, "features of 'toy.svm' hold a NaN"),
        (b"inf 1:1\n", {}, "targets of 'toy.svm' hold a NaN or an infinity"),
        (LIBSVM, {"num_features": 0}, "num_features is 0, expected an integer at leas"),
        (LIBSVM, {"num_features": 2.5}, "num_features is 2.5, expected an integer at"),
        (LIBSVM, {"target": 0}, "target is 0 .* expected it only for a CSV file"),
    ],
    "toy.csv": [
        ("1,2\n3,x\n", {}, "line 2, column 2 of .*toy.csv' is 'x', expected"),
        ("a,b\n1,nan\n", {}, "line 2, column 2 of .* is 'nan'"),
        ("1,2\n3\n", {}, "line 2 of .*toy.csv' has 1 cells, expected 2"),
        ("a,b\n", {}, "toy.csv' holds no row of numbers"),
        ("", {}, "toy.csv' holds no row of numbers"),
        ("1\n2\n", {}, r"features of shape \(2, 0\)"),
        ("a,b\n1,2\n", {"target": "c"}, "no column 'c', expected one of a, b"),
        ("1,2\n", {"target": "c"}, r"expected one of \(none: the file has no header\)"),
        ("1,2\n", {"target": 2}, "toy.csv', is 2, expected an integer from -2 to 1"),
        ("1,2\n3," + "4" * 200_000 + "\n", {}, "not a CSV file at line 2"),
        ("", {"num_features": 3}, "num_features is 3 .* only for a LIBSVM file"),
    ],
    "toy.npz": [
        (npz(X=X), {}, "holds the arrays X, expected features and targets"),
        (npz(X=X, y=np.ones(3)), {}, r"\(2, 2\) and targets of shape \(3,\)"),
        (npz(X=np.ones(2), y=np.ones(2)), {}, r"features of shape \(2,\)"),
        (npz(X=X, y=np.array(["a", "b"])), {}, "targets of 'toy.npz' have dtyp"),
        (npz(X=X, y=np.array([{}, {}])), {}, NO_NPZ),
        (npz(np.save, alone=(X,)), {}, NO_NPZ),
        *((content, {}, NO_NPZ) for content in (b"", b"PK\x03\x04 no", b"text")),
    ],
    "toy.parquet": [("", {}, "suffix '.parquet', expected .npz, .csv")],
}


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [(name, *row) for name, rows in REFUSED.items() for row in rows],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_refused(tmp_path, name, content, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.read(put(tmp_path, name, content), **arguments)


@pytest.mark.parametrize("name", ["no.csv", "no.npz", "no.svm", "no"])
def test_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is no file '.*{name}'"):
        data.read(tmp_path / name)


@pytest.mark.parametrize("compression", list(COMPRESS)[1:])
def test_truncated_compression(tmp_path, compression):
    content = COMPRESS[compression](LIBSVM * 50)[:-12]
    path = put(tmp_path, "toy" + compression, content)
    with pytest.raises(OSError, match=r"toy.* cannot be read to its end"):
        data.read(path)


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, "u1"), (9, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")],
)
@pytest.mark.parametrize("compression", COMPRESS)
def test_read_idx(tmp_path, code, dtype, compression):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = put(tmp_path, "images", COMPRESS[compression](idx(array, code)))
    result = data.read_idx(path)
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype.newbyteorder("=")


WHOLE = idx(np.arange(6, dtype="u1").reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with the bytes '', expected an IDX magic number"),
        (b"\x00\x00\x07\x01", "starts with the bytes '00000701'"),
        (b"\x01" + WHOLE[1:], "starts with the bytes '01000802'"),
        (b"\x00\x00\x08\x00", "declares 0 dimensions, expected 1 to 32"),
        (b"\x00\x00\x08\x21", "declares 33 dimensions"),
        (WHOLE[:9], "ends within its IDX header"),
        (WHOLE[:-1], r"holds only 5 bytes .* expected 6 for shape \(2, 3\)"),
        (WHOLE + b"\x00", "holds more than 6 bytes after its IDX header"),
        (b"\x00\x00\x08\x01" + bytes(4), r"declares shape \(0,\), expected no zero"),
        (b"\x00\x00\x0e\x20" + b"\xff" * 128, "holds only 0 bytes"),
    ],
)
def test_bad_idx(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        data.read_idx(put(tmp_path, "images", content))
