"""Features of one scale: NumPy says what they are, over all samples."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gdsec_jax import data, problems
from gdsec_jax.study import config


def made(features, targets=None):
    targets = np.arange(float(features.shape[0])) if targets is None else targets
    return data.Dataset("made", features, targets, {"header": True})


@pytest.fixture
def wild():
    """Scales from 1e-200 to 1e200, one column far from zero, one constant, one zero."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 7)) * [1e-200, 1e-3, 1.0, 1e5, 1e200, 1e-6, 1.0]
    x[:, 5] += 1e4
    x[:, 6] = 0.1
    return np.column_stack([x, np.zeros(50)])


def test_standard_is_mean_0_and_deviation_1_of_all_samples(wild):
    got = data.scaled(made(wild), "standard")
    assert got.features.dtype == np.float64
    assert got.read_as == {"header": True}
    np.testing.assert_allclose(got.features.mean(0), 0.0, atol=1e-15)
    np.testing.assert_allclose(got.features[:, :6].std(0), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(got.features[:, 6:], 0.0)  # those that are constant
    for column in range(1, 4):  # NumPy's squares of the others overflow or vanish
        plain = wild[:, column]
        plain = (plain - plain.mean()) / plain.std()
        np.testing.assert_allclose(got.features[:, column], plain, atol=1e-13)
    near = wild[:, 5] - 1e4  # what the far one has kept of its digits
    near = (near - near.mean()) / near.std()
    np.testing.assert_allclose(got.features[:, 5], near, atol=1e-9)


def test_max_is_the_largest_magnitude_and_keeps_sparse_ones_sparse(wild):
    wild[::2] = 0.0
    wild[:, 2] *= -1
    largest = np.abs(wild).max(0)
    expected = wild / np.where(largest > 0, largest, 1.0)
    dense = data.scaled(made(wild), "max").features
    np.testing.assert_array_equal(dense, expected)
    np.testing.assert_array_equal(np.abs(dense).max(0), [1] * 7 + [0])
    for kind in (scipy.sparse.csr_array, scipy.sparse.coo_array):
        given = kind(wild)
        got = data.scaled(made(given), "max", intercept=True).features
        assert isinstance(got, scipy.sparse.csr_array)
        assert got.nnz == np.count_nonzero(wild) + 50
        np.testing.assert_array_equal(got.toarray()[:, :-1], expected)
        np.testing.assert_array_equal(got.toarray()[:, -1], 1.0)
        np.testing.assert_array_equal(given.toarray(), wild)  # as it was


def test_none_is_what_it_was_and_an_intercept_comes_last(wild):
    np.testing.assert_array_equal(data.scaled(made(wild), "none").features, wild)
    got = data.scaled(made(wild), "none", intercept=True).features
    np.testing.assert_array_equal(got, np.column_stack([wild, np.ones(50)]))


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(
        *(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
        elements=st.floats(-1e300, 1e300, allow_subnormal=False),
    ),
    how=st.sampled_from(["standard", "max"]),
)
def test_any_numbers_stay_finite_and_of_size_one(x, how):
    got = data.scaled(made(x), how).features
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= np.sqrt(len(x)) * (1 + 1e-12)
    constant = x.min(0) == x.max(0)
    if how == "standard":
        np.testing.assert_array_equal(got[:, constant], 0.0)
        assert np.abs(got.mean(0)).max() < 1e-14 * len(x)


REFUSED = [
    ((np.eye(3),), {}, "dataset is array.*, expected a Dataset"),
    ((made(np.eye(3)), "std"), {}, "scale is 'std', expected one of none, standard, m"),
    ((made(np.eye(3)), "max"), {"intercept": 1}, "intercept is 1, expected True or F"),
    (
        (made(scipy.sparse.csr_array(np.eye(3))),),
        {},
        "scale is 'standard' for the sparse features of 'made', expected 'max': ",
    ),
    ((made(np.eye(3) * 1j),), {}, "features has dtype complex128, expected real num"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), REFUSED)
def test_what_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        data.scaled(*arguments, **options)


def test_a_config_scales_before_it_splits(tmp_path, wild):
    """The statistics are those of all workers' samples, as the problem has them."""
    x = wild[:, 1:4]
    y = x @ [1e3, 1.0, 1e-5] + 7
    np.savez(tmp_path / "own.npz", features=x, targets=y)
    given = {"data": str(tmp_path / "own.npz"), "num_workers": 4, "split": "sorted"}
    one = config.ProblemConfig(**given, scale="standard", intercept=True)
    got = config.make_problem(one)
    z = np.column_stack([(x - x.mean(0)) / x.std(0), np.ones(50)])
    expected = problems.ridge(z, y, 4, split="sorted")
    assert got.init_params.shape == (4,)
    np.testing.assert_allclose(got.smoothness, expected.smoothness, rtol=1e-12)
    np.testing.assert_allclose(got.solution, expected.solution, rtol=1e-5)
    rows = np.concatenate(np.asarray(got.worker_data.shards.features))
    weight = np.concatenate(np.asarray(got.worker_data.shards.weight))
    held = rows[weight > 0]
    np.testing.assert_allclose(held.mean(0), [0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(held.std(0), [1, 1, 1, 0], atol=1e-6)
