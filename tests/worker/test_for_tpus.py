"""What is computed another way on TPUs, held here against the usual one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _counting, _finite, _rounding, _select, _trees

RNG = np.random.default_rng(0)


def largest(x, k):
    """bool, the k largest of each row by magnitude, of equal ones the first."""
    wide = np.abs(x.astype(np.float64))
    order = np.argsort(-wide, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(x.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


@pytest.mark.parametrize(
    ("dtype", "on_chip"),
    [(np.float32, 0), (np.float32, 2**22), (np.float64, 2**22), (np.uint32, 2**22)],
)
@pytest.mark.parametrize("ties", [False, True])
def test_entries_chosen_by_counting_are_those_of_a_sort(
    dtype, on_chip, ties, monkeypatch
):
    monkeypatch.setattr(_counting, "ON_CHIP", on_chip)
    with jax.enable_x64(dtype == np.float64):
        x = RNG.standard_normal((4, 3000))
        if ties:
            x = np.round(2 * x) / 2
            x[1], x[2, 5:] = 0, -0.0
        x = (np.abs(2**29 * x) if dtype == np.uint32 else x).astype(dtype)
        leaves = [x[:, :1000].reshape(4, 20, 50), x[:, 1000:]]
        for k in (1, 1000):
            masks = jax.vmap(lambda *parts, k=k: _counting.masks([*parts], k))(*leaves)
            joined = np.concatenate([np.reshape(mask, (4, -1)) for mask in masks], 1)
            np.testing.assert_array_equal(joined, largest(x, k))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_threshold_tells_the_same_entries_part_by_part(dtype):
    with jax.enable_x64(dtype == np.float64):
        x = RNG.standard_normal((3, 900)).astype(dtype)
        x[1] = np.round(x[1])
        x[2] = 0
        parts, starts = [x[:, :400], x[:, 400:]], [0, 400]
        for k in (50, 900):
            found, largest_key = jax.vmap(
                lambda *parts, k=k: _counting.threshold([*parts], starts, k)
            )(*parts)
            masks = [
                jax.vmap(lambda t, x, s=s: t.mask(x, s))(found, part)
                for part, s in zip(parts, starts, strict=True)
            ]
            np.testing.assert_array_equal(np.concatenate(masks, 1), largest(x, k))
            most = np.abs(x).max(1)
            assert (np.asarray(largest_key) <= most).all()
            assert (np.asarray(largest_key) >= most / 2).all()


@pytest.mark.has_nans
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-39, 1.2e-38, 3.4e38, 0.0])
def test_the_largest_is_finite_and_normal_where_it_is(value):
    x = np.zeros(300, np.float32)
    x[123] = -value
    _, most = _counting.threshold([jnp.asarray(x)], [0], 2)
    assert np.isfinite(most) == np.isfinite(value)
    assert not most < np.finfo(np.float32).tiny or value < np.finfo(np.float32).tiny


def test_words_are_those_of_the_whole_vector():
    key, shapes = jax.random.key(3), ((5, 7), (2, 3), (2**11,))
    parts = [jax.ShapeDtypeStruct(shape, jnp.uint32) for shape in shapes]
    starts = (0, 35, 41)
    size = 41 + 2**11

    def words(data, n):
        typed = jax.random.wrap_key_data(data)
        return _rounding.words(typed, shapes[n], starts[n], size)

    masks = _counting.masks_by(words, jax.random.key_data(key), parts, 300)
    joined = np.concatenate([np.ravel(mask) for mask in masks])
    np.testing.assert_array_equal(joined, _select.mask_of_drawn(key, size, 300))


@pytest.mark.parametrize(
    "vector",
    [
        RNG.standard_normal(1000),
        1e30 * RNG.standard_normal(1000),
        1e-30 * RNG.standard_normal(1000),
        np.array([2e38, 3e37, 1.0]),
        np.array([2e-38, 3e-38]),
        np.concatenate([np.full(10_000, 1e-16), [1e-15]]),
        np.zeros(3),
    ],
)
def test_a_norm_in_one_pass_neither_overflows_nor_vanishes(vector):
    vector = vector.astype(np.float32)
    norm = _trees._norm_by_size([vector, vector[:1]], jnp.float32)
    exact = np.linalg.norm(np.append(vector, vector[0]).astype(np.float64))
    np.testing.assert_allclose(norm, exact, rtol=2e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_in_one_pass_of_no_numbers(bad):
    norm = _trees._norm_by_size([np.array([1.0, bad], np.float32)], jnp.float32)
    np.testing.assert_equal(np.asarray(norm), np.float32(bad))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_part_of_a_vector_has_the_draws_of_all_of_it(impl):
    key = jax.random.key(3, impl=impl)
    whole = np.asarray(jax.random.uniform(key, (41,)))
    first = _rounding.uniform(key, jnp.zeros((5, 7)), 0, 41)
    second = _rounding.uniform(key, jnp.zeros((2, 3)), 35, 41)
    np.testing.assert_array_equal(np.append(first, second), whole)


def test_where_something_is_not_finite_by_sums_and_by_flags():
    x = np.ones((3, 4, 2), np.float32)
    x[0, 1, 1], x[2, 0, 0] = np.inf, np.nan
    y = np.full((3, 5), np.finfo(np.float32).max)
    leaves = [jnp.asarray(x), jnp.asarray(y)]
    np.testing.assert_array_equal(_finite._all_finite(leaves), [False, True, False])
    np.testing.assert_array_equal(_finite._no_nan_in_sums(leaves), [False, True, False])


@pytest.mark.parametrize("length", [12 * 2**14, 2**17 + 29])  # the latter a prime
def test_long_rows_are_looked_at_in_pieces(length):
    piece = _finite.piece_of(length)
    assert length % piece == 0
    assert piece == (2**16 if length % 2 == 0 else length)
    for place in (0, piece - 1, piece % length, length - 1):
        x = np.ones((2, length), np.float32)
        x[1, place] = np.nan
        found = _finite._no_nan_in_sums([jnp.asarray(x)])
        np.testing.assert_array_equal(found, [True, False])
