"""Splits: every sample with exactly one worker, in each way of sharing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
            for value in (0, "a")
        ),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        split(**{"targets": TARGETS, "num_workers": 2} | wrong)
