"""Generators: the smoothness constants promised, the sparsity promised; text."""

import numpy as np
import pytest
from scipy import sparse

from gdsec_jax.data import characters, heterogeneous, sparse_binary


@pytest.mark.parametrize(("problem", "curvature"), [("ridge", 1), ("logistic", 0.25)])
@pytest.mark.parametrize("shape", [(10, 50, 50), (60, 3, 7), (1, 1, 1), (4, 9, 2)])
@pytest.mark.parametrize("regularization", [None, 0.3])
def test_smoothness_of_each_worker(problem, curvature, shape, regularization):
    num_workers, size, _ = shape
    data = heterogeneous(*shape, problem=problem, regularization=regularization)
    num_samples = num_workers * size
    assert data.features.shape == (num_samples, shape[2])
    lam = 1 / num_samples if regularization is None else regularization
    for m in range(num_workers):
        block = data.features[m * size : (m + 1) * size]
        largest = np.linalg.eigvalsh(block.T @ block)[-1]
        constant = curvature * largest / num_samples + lam / num_workers
        np.testing.assert_allclose(constant, (1.3**m + 1) ** 2, rtol=1e-12)


def test_labels_are_signs_with_some_flips():
    data = heterogeneous(5, 400, 5)
    assert set(data.targets) == {-1.0, 1.0}
    rows = np.asarray(data.features)
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    fit = np.linalg.lstsq(directions, data.targets)[0]
    wrong = np.mean(np.sign(directions @ fit) != data.targets)
    assert 0.05 < wrong < 0.2


def test_ridge_noise_has_unit_variance():
    data = heterogeneous(5, 400, 5, problem="ridge")
    features = np.asarray(data.features)
    fit = np.linalg.lstsq(features, data.targets)[0]
    assert 0.9 < np.std(data.targets - features @ fit) < 1.1


@pytest.mark.parametrize(
    "make", [heterogeneous, lambda **k: sparse_binary(9, 9, 0.5, **k)]
)
def test_the_seed_decides(make):
    one, same, other = (make(seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.targets, same.targets)
    assert abs(one.features - same.features).max() == 0
    assert abs(one.features - other.features).max() > 0


@pytest.mark.parametrize(
    ("shape", "density"), [((200, 1000), 0.02), ((50, 40), 1.0), ((300, 10), 1e-6)]
)
def test_sparse_rows(shape: tuple[int, int], density: float):
    data = sparse_binary(*shape, density)
    assert isinstance(data.features, sparse.csr_array)
    assert data.features.has_canonical_format
    assert data.features.shape == shape
    counts = np.diff(data.features.indptr)
    assert counts.min() >= 1
    assert abs(counts.mean() - max(1, density * shape[1])) < 2
    assert data.features.data.min() > 0
    lengths = np.sqrt(data.features.power(2).sum(axis=1))
    np.testing.assert_allclose(lengths, 1, rtol=1e-12)
    assert set(data.targets) <= {-1.0, 1.0}


def test_the_size_of_rcv1():
    data = sparse_binary(20_242, 47_236, 0.0016)  # 7.6 GB, were it dense
    features = sparse.csr_array(data.features)
    assert 0.0015 < features.nnz / (20_242 * 47_236) < 0.0017
    assert 0.4 < np.mean(data.targets == 1) < 0.6


HETEROGENEOUS = [
    ({"num_workers": 61}, "num_workers is 61, expected an integer from 1 to 60"),
    ({"num_workers": 0}, "num_workers is 0, expected an integer from 1 to 60"),
    ({"samples_per_worker": 0}, "samples_per_worker is 0, expected an integer"),
    ({"num_features": 1.5}, "num_features is 1.5, expected an integer at least 1"),
    ({"problem": "lasso"}, "problem is 'lasso', expected one of ridge, logistic"),
    ({"seed": None}, "seed is None, expected an integer at least 0"),
    ({"regularization": 0}, "regularization is 0, expected a finite number above"),
    ({"regularization": 40}, "regularization is 40, .* times num_workers, 40"),
]
SPARSE = [
    ({"num_samples": 0}, "num_samples is 0, expected an integer at least 1"),
    ({"num_features": 0}, "num_features is 0, expected an integer at least 1"),
    ({"density": 0.0}, "density is 0.0, expected a finite number above 0"),
    ({"density": float("nan")}, "density is nan, expected a finite number above 0"),
    ({"density": 1.5}, "density is 1.5, expected at most 1"),
]


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        *((heterogeneous, *row) for row in HETEROGENEOUS),
        *((sparse_binary, *row) for row in SPARSE),
    ],
)
def test_bad_arguments(make, wrong, message):
    sound = {"num_samples": 1, "num_features": 1, "density": 0.5}
    with pytest.raises(ValueError, match=message):
        make(**wrong if make is heterogeneous else sound | wrong)


# Windows of text: what comes next is what they are to predict


def test_windows_join_to_the_text_again():
    text = "Ünder the sun,\nover the m~o~on.\t"
    windows = characters(5, text=text)
    kept = "nder the sun,\nover the m~o~on."
    assert windows.features.shape == (5, 5)
    decoded = "".join(chr(c + 31) if c else "\n" for c in windows.features.ravel())
    assert decoded == kept[:25]
    following = "".join(chr(c + 31) if c else "\n" for c in windows.targets.ravel())
    assert following == kept[1:26]


def test_the_documentation_of_python_uses_most_characters():
    windows = characters()
    assert windows.features.dtype == np.int32
    used = np.unique(windows.features)
    assert used.min() == 0
    assert used.max() <= 95
    assert used.size > 80
    assert windows.features.shape[1] == 64


@pytest.mark.parametrize("text", ["", "abc", "ü" * 10])
def test_what_is_refused(text):
    with pytest.raises(ValueError, match="characters of ASCII, expected at least 4"):
        characters(3, text=text)
    with pytest.raises(ValueError, match="length is 0, expected an integer"):
        characters(0)
