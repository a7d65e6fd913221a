"""Splits: every sample with exactly one worker. Stacks: padding without weight."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from gdsec_jax import data
from gdsec_jax.data import split

HOW = ["shuffled", "contiguous", "sorted", "dirichlet"]
TARGETS = np.array([2, 0, 1, 0, 2, 1, 1, 0, 2, 2, 0])


@settings(max_examples=60, deadline=None)
@given(
    how=st.sampled_from(HOW),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    part=st.floats(0, 1),
    seed=st.integers(0, 99),
    concentration=st.sampled_from([1e-300, 1e-3, 0.5, 1e3]),
)
def test_a_split_is_a_partition(how, labels, part, seed, concentration):
    num_workers = 1 + int(part * (len(labels) - 1))
    parts = split(labels, num_workers, how, seed=seed, concentration=concentration)
    assert len(parts) == num_workers
    assert all(len(indices) for indices in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    if how != "dirichlet":
        lengths = [len(indices) for indices in parts]
        assert max(lengths) - min(lengths) <= 1


def test_orders():
    np.testing.assert_array_equal(
        np.concatenate(split(TARGETS, 3, "contiguous")), np.arange(11)
    )
    np.testing.assert_array_equal(
        np.concatenate(split(TARGETS, 3, "sorted")), np.argsort(TARGETS, kind="stable")
    )
    shuffled = np.concatenate(split(TARGETS, 3))
    assert not np.array_equal(shuffled, np.arange(11))


@pytest.mark.parametrize("how", ["shuffled", "dirichlet"])
def test_the_seed_decides(how):
    labels = np.arange(200) % 5
    one, same, other = (split(labels, 4, how, seed=seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one, same))
    assert not all(map(np.array_equal, one, other))


@pytest.mark.parametrize("how", HOW[:3])
def test_uneven_sizes(how):
    parts = split(TARGETS, 3, how, sizes=[1, 7, 3])
    assert [len(indices) for indices in parts] == [1, 7, 3]
    assert sorted(np.concatenate(parts)) == list(range(11))


def test_concentration_separates_labels():
    labels = np.arange(4_000) % 10

    def kinds(concentration):
        parts = split(labels, 10, "dirichlet", concentration=concentration)
        return np.mean([len(np.unique(labels[indices])) for indices in parts])

    assert kinds(0.05) < 6 < kinds(100.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_workers": 12}, "num_workers is 12, expected at most .* samples, 11"),
        ({"num_workers": 0}, "num_workers is 0, expected an integer at least 1"),
        ({"num_workers": 2.0}, "num_workers is 2.0, expected an integer"),
        ({"targets": TARGETS[None]}, r"targets have shape \(1, 11\), expected \[N\]"),
        ({"how": "random"}, "how is 'random', expected one of shuffled"),
        ({"seed": -1}, "seed is -1, expected an integer at least 0"),
        ({"sizes": [5, 5]}, "2 entries that sum to 10, expected 2 that su"),
        ({"sizes": [11]}, "sizes has 1 entries that sum to 11"),
        ({"sizes": [0, 11]}, "an entry of sizes is 0, expected an integer"),
        ({"how": "dirichlet", "sizes": [5, 6]}, "how='dirichlet', expected None"),
        *(
            (
                {"how": "dirichlet", "concentration": value},
                f"concentration is {value!r}, expected a finite number above 0",
            )
            for value in (0, "a", True, "1")
        ),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        split(**{"targets": TARGETS, "num_workers": 2} | wrong)


# Samples stacked by worker


@st.composite
def shares(draw):
    """Features, targets and a split that may leave a worker empty."""
    num_samples, length = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    num_workers = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    features = rng.standard_normal((num_samples, length))
    features *= rng.random((num_samples, length)) < draw(st.sampled_from([0.0, 0.3, 1]))
    owner = rng.integers(num_workers, size=num_samples)
    parts = [rng.permutation(np.flatnonzero(owner == m)) for m in range(num_workers)]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    targets = rng.integers(-3, 4, num_samples)
    return features.astype(dtype), targets, parts


@settings(max_examples=100, deadline=None)
@given(shares())
def test_each_worker_has_its_samples_and_the_rest_weighs_nothing(share):
    features, targets, parts = share
    shards = data.stack(features, targets, parts)
    rows = max(len(part) for part in parts)
    assert shards.features.shape == (len(parts), rows, features.shape[1])
    assert shards.targets.shape == shards.weight.shape == (len(parts), rows)
    assert shards.features.dtype == shards.weight.dtype == features.dtype
    assert shards.targets.dtype == targets.dtype
    for worker, part in enumerate(parts):
        n = len(part)
        np.testing.assert_array_equal(shards.features[worker, :n], features[part])
        np.testing.assert_array_equal(shards.targets[worker, :n], targets[part])
        np.testing.assert_allclose(shards.weight[worker, :n], 1 / len(features), 1e-6)
        assert not shards.weight[worker, n:].any()
        assert not shards.features[worker, n:].any()
    assert shards.weight.sum() == pytest.approx(1, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(shares())
def test_sparse_rows_hold_the_non_zeros_alone(share):
    features, targets, parts = share
    dense = data.stack(features, targets, parts)
    sparse = data.stack(scipy.sparse.csr_array(features), targets, parts)
    rows = sparse.features
    assert isinstance(rows, data.SparseRows)
    most = max(np.count_nonzero(features[part]) for part in parts)
    assert rows.values.shape == (len(parts), most)
    assert rows.indices.shape == (len(parts), most, 2)
    assert rows.indices.dtype == np.int32
    assert rows.values.dtype == features.dtype
    rebuilt = np.zeros_like(dense.features)
    for worker in range(len(parts)):
        row, column = rows.indices[worker].T
        np.add.at(rebuilt[worker], (row, column), rows.values[worker])
    np.testing.assert_array_equal(rebuilt, dense.features)
    np.testing.assert_array_equal(sparse.targets, dense.targets)
    np.testing.assert_array_equal(sparse.weight, dense.weight)


@pytest.mark.parametrize("convert", [scipy.sparse.coo_array, scipy.sparse.csc_matrix])
def test_any_sparse_format_will_do(convert):
    features = np.array([[0.0, 2.0], [1.0, 0.0], [0.0, 3.0]])
    parts = [np.array([2, 0]), np.array([1])]
    rows = data.stack(convert(features), np.arange(3), parts).features
    np.testing.assert_array_equal(rows.values, [[3.0, 2.0], [1.0, 0.0]])
    np.testing.assert_array_equal(rows.indices[0], [[0, 1], [1, 1]])


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.uint8])
def test_narrow_and_integer_features_get_weights_of_a_float(dtype):
    shards = data.stack(np.eye(3, dtype=dtype), np.arange(3), [np.arange(3)])
    assert shards.weight.dtype.kind == "f"
    assert shards.weight.dtype.itemsize >= 4
    np.testing.assert_allclose(shards.weight, 1 / 3, rtol=1e-6)
