"""Readers: data, or soon one sentence, also of files that somebody changed."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile
from typing import Any

import cases
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _compressed
from scipy import sparse
from sklearn import datasets

from gdsec_jax import data

EYE = np.eye(2)
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


NONE, PLAIN = pd.DataFrame([[4.0, 0.5, 1], [2, 1.5, 0]]), {"header": True}
A_B_Y = NONE.set_axis(list("aby"), axis=1)
LETTERS = A_B_Y.set_axis(["elm", "oak"])


@pytest.mark.parametrize(
    ("table", "saved", "options", "read_as"),
    [  # what pandas writes, and what is decided of it
        (A_B_Y, {"index": False}, {}, {"header": True, "target": "y", "index": False}),
        (A_B_Y, {}, {}, {"header": True, "target": "y", "index": 0}),
        (LETTERS, {}, {}, {"header": True, "target": "y", "index": 0}),
        (NONE, {"index": False}, PLAIN, {"target": "2", "index": False}),
        (NONE, {}, {}, {"header": True, "target": "2", "index": 0}),
        (NONE, {"header": False}, {"index": 0}, {"header": False, "target": 3}),
        (NONE, {"header": False, "index": False}, {}, {"header": False, "target": 2}),
        (NONE.rename(columns={2: "y"}), {"index": False}, {}, {"target": "y"}),
        (NONE, {"index_label": "id"}, {"index": "id"}, {"target": "2", "index": "id"}),
        (LETTERS, {"index_label": "id"}, {"index": 0}, {"target": "y", "index": 0}),
        (A_B_Y.reset_index(names="Unnamed: 0"), {"index": False}, {}, {"index": 0}),
    ],
)
def test_what_pandas_writes(tmp_path, table, saved, options, read_as):
    for compression in ("", ".gz"):
        path = tmp_path / f"toy.csv{compression}"
        table.to_csv(path, **saved)
        result = data.read(path, **options)
        np.testing.assert_array_equal(result.features, NONE.to_numpy()[:, :2])
        np.testing.assert_array_equal(result.targets, NONE.to_numpy()[:, 2])
        assert result.read_as == result.read_as | read_as
        alike = data.read(path, **result.read_as)
        np.testing.assert_array_equal(alike.features, result.features)


def test_an_index_is_a_feature_if_it_is_said_to_be(tmp_path):
    path = put(tmp_path, "toy.csv", ",a,y\n7,1,0\n8,2,1\n")
    assert data.read(path).features.tolist() == [[1], [2]]
    assert data.read(path, index=False).features.tolist() == [[7, 1], [8, 2]]
    assert data.read(path, index="a").features.tolist() == [[7], [8]]
    # Numbers of columns are the file's, whatever is left out.
    result = data.read(path, target=1)
    assert (result.features.tolist(), result.targets.tolist()) == ([[0], [1]], [1, 2])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2))
@settings(max_examples=50, deadline=None)
def test_floats_survive_csv(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("csv") / "toy.csv"
    pd.DataFrame({"x": numbers, "y": numbers}).to_csv(path, index=False)
    result = data.read(path)
    assert result.targets.tobytes() == np.array(numbers).tobytes()
    assert result.features.tobytes() == np.array(numbers).tobytes()


def test_whole_numbers_in_the_first_line(tmp_path):
    """Samples, unless a column has them there alone: then one has to say."""
    path = put(tmp_path, "toy.csv", "2019,2020\n1,2\n5.5,3\n2,7\n")
    assert data.read(path).features.tolist() == [[2019], [1], [5.5], [2]]
    path = put(tmp_path, "toy.csv", "2019,2020\n1.5,2\n5.5,3\n2.5,7\n")
    for header, number in ((True, 3), (False, 4)):
        assert len(data.read(path, header=header).targets) == number
    path = put(tmp_path, "toy.csv", "2,2\n1.5,2.5\n5.5,3.5\n")
    assert len(data.read(path).targets) == 3  # names differ


def test_truths_are_numbers(tmp_path):
    table = pd.DataFrame({"a": [True, False], "b": pd.array([1, 2], "Int64")})
    table.to_csv(tmp_path / "toy.csv", index=False)
    result = data.read(tmp_path / "toy.csv", target="a")
    assert (result.features.tolist(), result.targets.tolist()) == ([[1], [2]], [1, 0])


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("features", "targets"), {}),
        (("X", "y"), {}),
        (("X", "label"), {"target": "label"}),
        (("x_train", "y"), {"features": "x_train"}),
        (("x_train", "y_train"), {"features": "x_train", "target": "y_train"}),
    ],
)
def test_read_npz(tmp_path, names, options):
    arrays: tuple[Any, Any] = (np.eye(3, dtype="f4"), np.arange(3, dtype="u1"))
    np.savez(tmp_path / "toy.npz", other=EYE, **dict(zip(names, arrays, strict=True)))
    result = data.read(tmp_path / "toy.npz", **options)
    np.testing.assert_array_equal(result.features, np.eye(3))
    assert (result.features.dtype, result.targets.dtype) == (np.float64, np.int64)
    assert result.read_as == dict(zip(("features", "target"), names, strict=True))


@pytest.mark.parametrize("target", ["2", 2])
def test_a_number_is_a_name_before_it_is_a_place(tmp_path, target):
    path = put(tmp_path, "toy.csv", ",2,1,0\n7,1,2,3\n8,4,5,6\n")
    result = data.read(path, target=target, header=True)
    assert result.targets.tolist() == [1, 4]
    assert result.read_as == {"header": True, "target": "2", "index": 0}
    assert data.read(path, target=3, header=True).targets[0] == 3
    assert data.read(path, target=-2, header=True).targets[0] == 2


# A first sample that is like no name: others ascend, repeat, or are whole, too.
@pytest.mark.parametrize(
    "text",
    [
        "0.5,1.5,2.5\n1,2,3\n4,5,6\n",
        "0.5,1.5,1.5\n3,2,3\n4,5,1\n",
        "True,0.5\nFalse,0.1\nTrue,0.4\n",
        "5,2\n5,3.5\n7,1.5\n7,1\n",
        "3,.4\n1,.5\n4,.7\n",
        "70,.4\n1,.5\n7,.7\n",
    ],
)
def test_samples_that_are_like_no_names(tmp_path, text):
    path = put(tmp_path, "toy.csv", text)
    assert len(data.read(path).targets) == text.count("\n")


# A training file whose indices start at 0, and a test file in which no 0 occurs.
ZERO_BASED = b"1 0:1 2:3\n-1 1:2\n", b"1 1:5\n-1 2:7\n"


def test_a_test_file_is_read_as_its_training_file(tmp_path):
    paths = [
        put(tmp_path, f"toy{suffix}", content)
        for suffix, content in zip(("", ".t"), ZERO_BASED, strict=True)
    ]
    train = data.read(paths[0])
    assert train.read_as == {"num_features": 3, "zero_based": True}
    test = data.read(paths[1], **train.read_as)
    x, _, z, _ = datasets.load_svmlight_files([str(path) for path in paths])
    np.testing.assert_array_equal(train.features.toarray(), x.toarray())
    np.testing.assert_array_equal(test.features.toarray(), z.toarray())
    assert z.toarray().tolist() == [[0, 5, 0], [0, 0, 7]]
    # On its own it is one that starts at 1, and says so.
    alone = data.read(paths[1])
    assert alone.features.toarray().tolist() == [[5, 0], [0, 7]]
    assert alone.read_as == {"num_features": 2, "zero_based": False}


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
EDGES = [0.1 + 0.2, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308]


def test_what_the_writer_prints(tmp_path):
    path = tmp_path / "toy.svm"
    y = np.array([0.1 + 0.2, -1.0])
    toy = data.Dataset("toy", np.array([EDGES, [0, 1, 0, 0, -2.5]]), y)
    data.write_libsvm(path, toy)
    assert path.read_text() == (
        "0.30000000000000004 1:0.30000000000000004 2:0.3333333333333333 3:5e-324 "
        "4:2.2250738585072014e-308 5:1.7976931348623157e+308\n"
        "-1.0 2:1.0 5:-2.5\n"
    )
    data.write_libsvm(path, toy._replace(targets=np.array([3, -1])), zero_based=True)
    assert path.read_text().startswith("3 0:0.30000000000000004 1:0.333")
    # Which scikit-learn's writer, with its 16 digits, rounds.
    datasets.dump_svmlight_file(toy.features, y, str(path), zero_based=False)
    assert path.read_text().startswith("0.3 1:0.3 2:0.3333333333333333 3:4.94")


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_writer_keeps_every_bit(tmp_path_factory, rows, zero_based):
    path = tmp_path_factory.mktemp("svm") / "toy.svm"
    table = np.array(rows)
    toy = data.Dataset("toy", sparse.csr_array(table[:, :2]), table[:, 2])
    data.write_libsvm(path, toy, zero_based=zero_based)
    found = data.read(path, num_features=2, zero_based=zero_based)
    assert found.targets.tobytes() == toy.targets.tobytes()
    assert found.features.toarray().tobytes() == toy.features.toarray().tobytes()


def test_repeated_entries_are_added_up(tmp_path):
    repeated = sparse.csr_array(([1.0, 2.0, 4.0], [1, 1, 0], [0, 2, 3]), (2, 2))
    assert not repeated.has_canonical_format
    y = np.array([1, -1])
    data.write_libsvm(tmp_path / "toy.svm", data.Dataset("toy", repeated, y))
    assert (tmp_path / "toy.svm").read_text() == "1 2:3.0\n-1 1:4.0\n"
    assert repeated.nnz == 3  # the caller's own stays as it is


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, *arrays.pop("alone", ()), **arrays)
    return file.getvalue()


# Three quarters of 80 samples that were drawn without their header.
PART = "\n".join(f"{n * 37 % 80},{n}.5" for n in range(60))
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
        (b"1 1:1\n\n# no\n1 3:1 2:1\n", {}, "at line 4, .* increasing .*sorted"),
        (b"1 1:1\n1 2:1 2:1\n", {}, "not a LIBSVM file at line 2, .* and unique"),
        (b"1 1:1\n1 -2:1\n", {}, "at line 2, expected 'label index:value ...'"),
        (b"1 1:1\n1 99999999999:1\n", {}, "at line 2, .* too large"),
        (b"1 1:1_000 # 1_0\n", {}, "at line 1, .*a number has the character _"),
        (b"1_0 1:1\n", {}, "at line 1, .*a number has the character _"),
        (b"1 0:1\n", {"zero_based": False}, "at line 1, .*Invalid index 0"),
        (LIBSVM, {"num_features": 2}, "has the index 3, .* the first of index 1"),
        (b"1 0:1 2:1\n", {"num_features": 2}, "has the index 2, .* first of index 0"),
        (LIBSVM, {"zero_based": 1}, "zero_based is 1, expected True, False or None"),
        (LIBSVM, {"header": True}, "header is True .* it only for a CSV file"),
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
        ("0,1,2\n4,5,6\n", {}, "is 0, 1, 2, a sample or names: expected header=T"),
        (
            "0,1,2,3\n4,5,6,7\n",
            {},
            r"line .* is 0, 1, 2, \.\.\., a sample or names",
        ),
        ("9,4\n.5,1\n3.5,2\n", {}, "is 9, 4, a sample or names: expected header=True"),
        (
            "0,4\n1,5\n2,7\n",
            {},
            "column .* is 0, 1, 2, a feature or .*: expected index=0",
        ),
        (
            "1,4\n2,5\n3,7\n4,1\n",
            {},
            r"is 1, 2, 3, \.\.\., a feature or the samples' num",
        ),
        ("a,b\n1,2\n,\n", {}, "line 3, column 1 of .*toy.csv' is '', expected"),
        *(
            (text, {}, f"first {what} of .*, a .* or .*: expected {options}")
            for text, what, options in (
                ("0.5,1.5,2.5\n1,3,0\n2,1,0\n3,1,2\n", "line", "header=True"),
                ("4.5,5.5,6.5\n1,3,9\n2,1,0\n3,1,2\n", "line", "header=True"),
                ("True,False\n1.5,0.5\n2.5,1.5\n", "line", "header=True"),
                ("0,0\n1,2\n.5,.1\n.2,.3\n", "line", r".* \(2 lines of names are"),
                ("3,.4\n1,.5\n2,.7\n", "column", "index=0"),
                ("2,.4\n0,.5\n1,.7\n", "column", "index=0"),
                (PART, "column", "index=0"),
            )
        ),
        (
            ",Unnamed: 0,a\n0,0,1\n",
            {},
            "columns '', 'Unnamed: 0' of .* no name, as the",
        ),
        ("Unnamed: 0.1,Unnamed: 0,a\n0,0,1\n", {}, "'Unnamed: 0.1', 'Unnamed: 0' of"),
        (",a,a\n,x,y\n0,1,2\n", {}, "line 2, column 2 of .* is 'x', expected a finite"),
        (",,\n1,2,3\n", {}, "line 1, column 1 of .*toy.csv' is '', expected"),
        ("nan,NA\n1,2\n", {}, "line 1, column 1 of .*toy.csv' is 'nan', expected"),
        ("NA,2\n1,2\n", {}, "column 1 of .*'NA', expected .* header=True it is a name"),
        ("1,b\n1,2\n", {}, "column 2 of .*'b', expected .*with header=True it is a n"),
        ("1,2\n3,1_000\n", {}, "line 2, column 2 of .* is '1_000', expected a finite"),
        ("a,b\n1,2\n", {"header": False}, "line 1, column 1 of .* is 'a', expected a"),
        ("a,b\n1,2\n", {"header": 0}, "header is 0, expected True, False or None"),
        ("a,b\n1,2\n", {"index": "c"}, "no column 'c', expected one of a, b"),
        ("a,b\n1,2\n", {"index": -3}, "index, a column of .*, is -3, expected an int"),
        ("a,b\n1,2\n", {"index": True}, "index is True, expected a column's name"),
        ("a,b\n1,2\n", {"target": True}, "target, a column of .*, is True, expected"),
        ("a,b\n1,2\n", {"index": "b", "target": 1}, "index and target are one column"),
        ("a,a,b\n1,2,3\n", {"target": "a"}, "more than one column 'a', expected one"),
    ],
    "toy.npz": [
        (npz(X=EYE), {}, "holds the arrays X, expected features and targets, or X and"),
        (npz(X=EYE), {"features": "z", "target": "t"}, "arrays X, expected z and t: f"),
        (npz(X=EYE, y=np.array([1, np.nan])), {}, "targets of 'toy.npz' hold a NaN"),
        (npz(X=EYE, y=np.ones(3)), {}, r"\(2, 2\) and targets of shape \(3,\)"),
        (npz(X=np.ones(2), y=np.ones(2)), {}, r"features of shape \(2,\)"),
        (npz(X=EYE, y=np.array(["a", "b"])), {}, "targets of 'toy.npz' have dtyp"),
        (npz(X=EYE, y=np.array([{}, {}])), {}, NO_NPZ),
        (npz(np.save, alone=(EYE,)), {}, NO_NPZ),
        *((content, {}, NO_NPZ) for content in (b"", b"PK\x03\x04 no", b"text")),
    ],
    "toy.parquet": [("", {}, "suffix '.parquet', expected .npz, .csv.* data.read_csv")],
    "images-idx3-ubyte": [
        (
            idx(np.ones((2, 3, 3), "u1")),
            {},
            r"is an IDX file, an array of shape \(2, 3",
        ),
        (
            idx(np.ones((2, 3), "u1")),
            {"header": False},
            "header is False .* a CSV file",
        ),
    ],
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


@pytest.mark.parametrize("name", ["images-idx2-ubyte", "images.idx2-ubyte", "a.csv"])
def test_a_pair_of_idx_files_is_a_data_set(tmp_path, name):
    images = np.arange(24, dtype="u1").reshape(2, 3, 4)
    path = put(tmp_path, name, gzip.compress(idx(images)))
    put(tmp_path, "labels", idx(np.array([7, 2], "u1")))
    result = data.read(path, target="labels")
    np.testing.assert_array_equal(result.features, images.reshape(2, 12))
    assert (result.features.dtype, result.targets.tolist()) == (np.float64, [7, 2])
    with pytest.raises(FileNotFoundError, match="no file .*/elsewhere'"):
        data.read(path, target="elsewhere")


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (data.read_csv, b"1,2\n"),
        (data.read_libsvm, b"2 1:1\n"),
        (data.read_npz, npz(X=EYE[:1, :1], y=np.array([2.0]))),
    ],
)
def test_readers_read_files_of_any_name(tmp_path, reader, content):
    result = reader(put(tmp_path, "toy.data", content))
    assert np.asarray(result.features.sum()) == 1 and result.targets.tolist() == [2]


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


# Files that somebody or something changed


X, Y = np.arange(12.0).reshape(4, 3), np.array([1, -1, 1, -1])
CSV = b"a,b,c\n1,2,3\n4,5,6e0\n-1.5,2e-3,7\n"
SVM = b"+1 1:0.5 3:2\n-1 2:1 # a comment\n1 qid:3 1:2\n"
IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 4, 3, 2) + bytes(range(24))
WORDS = [
    *(b"nan", b"inf", b"1e400", b"9" * 30, b"\0", b'"', b",", b":", b"\n", b"-", b"0:"),
    *(b"99999999999:1", b"2147483647:1", b"#", b"{", b"PK\x01\x02", b"'|O'", b"'<f8'"),
    *(b"(1000000000000,)", b"\x7f\xff\xff\xff", b"\x01\0\0\0"),
]


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
