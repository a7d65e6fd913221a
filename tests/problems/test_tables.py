"""Samples in tables, and in the dtypes that tables and models have."""

import jax
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from inside import real

from gdsec_jax import data, problems

RNG = np.random.default_rng(0)
X = RNG.integers(-3, 4, (20, 3)).astype(float)  # which bfloat16 holds exactly
Y = RNG.integers(-3, 4, 20).astype(float)
TABLE = pd.DataFrame(X, columns=list("abc"))
OBJECTS = TABLE.astype(object)
FEATURES = {
    "table": TABLE,
    "nullable": TABLE.astype("Int64"),
    "one nullable column": TABLE.astype({"b": "Float64"}),
    "objects": OBJECTS,
    "objects of several kinds": OBJECTS.astype({"a": "int64", "c": "float32"}),
    "float16": X.astype(np.float16),
    "bfloat16": X.astype(ml_dtypes.bfloat16),
    "integers": X.astype(np.int8),
}
TARGETS = {
    "a column": pd.Series(Y),
    "nullable": pd.Series(Y).astype("Int64"),
    "an array of pandas": pd.array(Y, "Float64"),
    "objects": Y.astype(object),
    "bfloat16": Y.astype(ml_dtypes.bfloat16),
}


@pytest.fixture(scope="module")
def plain():
    with jax.enable_x64(True):
        return problems.ridge(X, Y, 2, dtype="float64")


def check(problem, plain):
    """The optimum of the normal equations, and the same samples."""
    hessian = X.T @ X / 20 + np.eye(3) / 20
    theta = np.linalg.solve(hessian, X.T @ Y / 20)
    optimum = np.sum((X @ theta - Y) ** 2) / 40 + theta @ theta / 40
    np.testing.assert_allclose(problem.optimum, optimum, rtol=1e-12)
    shards, expected = problem.worker_data.shards, plain.worker_data.shards
    np.testing.assert_array_equal(shards.features, expected.features)
    np.testing.assert_array_equal(shards.targets, expected.targets)


@pytest.mark.parametrize("kind", FEATURES)
def test_features(kind, plain, x64):
    check(problems.ridge(FEATURES[kind], Y, 2, dtype="float64"), plain)
    parts = data.split(Y, 2)
    stacked = data.stack(FEATURES[kind], Y, parts).features
    np.testing.assert_array_equal(stacked, plain.worker_data.shards.features)


@pytest.mark.parametrize("kind", TARGETS)
def test_targets(kind, plain, x64):
    check(problems.ridge(X, TARGETS[kind], 2, dtype="float64"), plain)
    for how in ("sorted", "dirichlet"):
        for own, other in zip(
            data.split(TARGETS[kind], 3, how), data.split(Y, 3, how), strict=True
        ):
            np.testing.assert_array_equal(own, other)


def test_truths_are_numbers(x64):
    table = TABLE.assign(d=pd.array(X[:, 0] > 0, "boolean"), e=X[:, 1] > 0)
    numbers = np.column_stack([X, X[:, 0] > 0, X[:, 1] > 0])
    optima = [problems.ridge(x, Y, 2).optimum for x in (table, numbers)]
    assert optima[0] == optima[1]
    truths = problems.logistic(X, pd.array(Y > 0, "boolean"), 2).optimum
    assert truths == problems.logistic(X, Y > 0, 2).optimum


def test_features_of_few_digits_make_parameters_of_few_digits():
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        assert problems.ridge(X.astype(dtype), Y, 2).init_params.dtype == dtype


HERE = np.arange(60).reshape(20, 3) == 10
GAP, HOLE = TABLE.astype("Int64").mask(HERE), OBJECTS.mask(HERE)
WORDS = np.array(["a", "b"] * 10, object)
REFUSED = {
    r"features holds <NA> at \[3, 1\], expected no missing value": (GAP, Y),
    r"features holds nan at \[3, 1\], expected no missing value": (HOLE, Y),
    r"features holds nan at \[3, 1\], expected finite": (HOLE.astype(float), Y),
    "features has dtype <U1, expected real numbers": (X.astype(int).astype("<U1"), Y),
    "features has dtype <U32, expected real numbers": (OBJECTS.assign(b=WORDS), Y),
    "features has dtype datetime64.*, expected real": (X.astype("datetime64[s]"), Y),
    "features has dtype complex128, expected real numbers": (X + 0j, Y),
    r"features is masked at \[0, 1\], expected an array without missing": (
        np.ma.masked_equal(X, X[0, 1]),
        Y,
    ),
    r"targets holds None at \[0\], expected no missing": (X, [None, *Y[1:].tolist()]),
    r"targets holds nan at \[0\], expected finite numbers": (X, [np.nan, *Y[1:]]),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        problems.ridge(*REFUSED[sentence], 2)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_are_refused(missing):
    labels = np.array([*WORDS[1:], missing], object)
    for call in (
        lambda: problems.logistic(X, labels, 2),
        lambda: problems.softmax(X, labels, 2),
        lambda: data.split(labels, 2),
        lambda: data.stack(X, labels, [np.arange(20)]),
    ):
        with pytest.raises(
            ValueError, match=r"targets holds .* at \[19\], expected no"
        ):
            call()
    with pytest.raises(ValueError, match="targets hold a NaN, expected no missing"):
        data.split([np.nan, 1.0], 1, "sorted")


def test_labels_may_be_words_and_stay_what_they_are():
    for labels in (WORDS, WORDS.astype(str), pd.Series(WORDS), pd.Categorical(WORDS)):
        problem = problems.logistic(X, labels, 2)
        assert problem.optimum == problems.logistic(X, WORDS == "b", 2).optimum
    np.testing.assert_array_equal(real("x", X.astype(np.int8)), X)
    assert real("x", X.astype(np.int8)).dtype == np.int8
