"""The k largest entries without a sort, against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _native, _select

FLOATS = ("float32", "bfloat16", "float16")
DTYPES = {name: jnp.dtype(name) for name in (*FLOATS, "float64", "uint32")}


@pytest.fixture(autouse=True)
def by_xla():
    """As XLA selects: the kernel's tests are beside it."""
    with _native.native_kernels(False):
        yield


@pytest.fixture
def short(monkeypatch):
    """Vectors of a few thousand entries are long, and go the way of long ones."""
    monkeypatch.setattr(_select, "FEW", 0)
    monkeypatch.setattr(_select, "SAMPLE", 64)
    monkeypatch.setattr(_select, "WINDOW", 96)


def expected(x, k):
    """bool, the k largest by magnitude, of equal ones the first; NaN above all."""
    x = np.asarray(x)
    if x.dtype == np.uint32:
        order = np.argsort(-x.astype(np.int64), kind="stable")
    else:
        wide = np.abs(x.astype(np.float64))
        keys = np.where(np.isnan(wide), np.inf, wide)
        order = np.lexsort((np.arange(x.size), -keys, ~np.isnan(wide)))
    mask = np.zeros(x.size, bool)
    mask[order[:k]] = True
    return mask


def agrees(vectors, k):
    """Both functions against NumPy, bit by bit, for vectors of a shape and dtype."""
    mask_of = jax.jit(lambda x: _select.mask_of_largest(x, k))
    largest = jax.jit(lambda x: _select.largest(x, k))
    for x in map(jnp.asarray, vectors):
        mask, (values, index) = mask_of(x), largest(x)
        assert mask.dtype == bool
        assert index.dtype == jnp.int32
        assert values.dtype == x.dtype
        np.testing.assert_array_equal(mask, expected(x, k))
        np.testing.assert_array_equal(index, np.flatnonzero(expected(x, k)))
        np.testing.assert_array_equal(values, np.asarray(x)[np.asarray(index)])
    assert mask_of._cache_size() == largest._cache_size() == 1


def vectors(size, seed=0):
    """By name, what a sample guesses well, and what deceives it."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(size).astype(np.float32)
    few = np.where(rng.random(size) < 0.02, normal, 0).astype(np.float32)
    signed_zeros = np.where(rng.random(size) < 0.5, -0.0, 0.0).astype(np.float32)
    special = normal.copy()
    special[::17], special[3::29], special[5::31] = np.nan, np.inf, -np.inf
    # The smallest numbers differ by one bit each, and all are subnormal.
    subnormal = rng.integers(0, 2**20, size).astype(np.uint32).view(np.float32)
    spike = np.full(size, 1e-3, np.float32)
    spike[size // 2 :: 7] = normal[size // 2 :: 7]
    with np.errstate(over="ignore"):
        return {
            "normal": normal,
            "Cauchy": rng.standard_cauchy(size).astype(np.float32),
            "log-normal, wide": np.exp(30 * normal).astype(np.float32),
            "ascending": np.sort(normal),
            "descending": -np.sort(-np.abs(normal)),
            "few non-zeros": few,
            "all equal": np.full(size, -2.5, np.float32),
            "zeros": signed_zeros,
            "few levels": np.round(normal * 2).astype(np.float32),
            "NaN and infinity": special,
            "subnormal": subnormal,
            "a spike at one value": spike,
        }


@pytest.mark.usefixtures("short")
@pytest.mark.has_nans
@pytest.mark.parametrize(("size", "k"), [(3000, 1), (3000, 300), (1024, 1023)])
def test_the_largest_are_those_of_a_stable_sort(size, k):
    agrees(vectors(size).values(), k)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_any_dtype(dtype, x64):
    rng = np.random.default_rng(1)
    if dtype == "uint32":
        x = rng.integers(0, 2**32, 3000, dtype=np.uint32)
        x[:3], x[100:102] = 2**32 - 1, 0
    else:
        x = jnp.asarray(rng.standard_cauchy(3000), dtype)
    for k in (2, 1500):
        agrees([x], k)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("size", [1, 33, 1023, 1025])
def test_at_the_edges_of_words_and_blocks(size):
    rng = np.random.default_rng(size)
    x = rng.integers(-3, 4, size).astype(np.float32)
    for k in {size // 3, size}:
        agrees([x], k)


def test_a_vector_that_is_long_indeed():
    made = vectors(2**18 + 7)
    some = [made[name] for name in ("normal", "few non-zeros", "few levels")]
    agrees(some, _select.FEW + 1)


def test_many_entries_are_chosen_without_a_sort():
    def lowered(k):
        x = jnp.zeros(2**17)
        return jax.jit(lambda x: _select.mask_of_largest(x, k)).lower(x).as_text()

    assert "top_k" in lowered(_select.FEW)
    assert "top_k" not in lowered(_select.FEW + 1)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("guess", [0, 1, 2**31, 2**32 - 1])
def test_a_sample_that_errs_costs_time_alone(monkeypatch, guess):
    def wrong(keys, k):
        return jnp.full(_select.WAYS, guess, keys.dtype)

    monkeypatch.setattr(_select, "_guess", wrong)
    made = vectors(3000)
    agrees([made[n] for n in ("normal", "few levels", "few non-zeros")], 30)


@pytest.mark.usefixtures("short")
def test_without_a_window_as_on_a_tpu():
    mask_of = jax.jit(lambda x: _select._mask(x, *_select._kth(x, 30, 0)))
    for name, x in vectors(3000).items():
        if name != "NaN and infinity":
            np.testing.assert_array_equal(mask_of(x), expected(x, 30), err_msg=name)


@pytest.mark.usefixtures("short")
def test_over_workers_inside_a_scan():
    xs = np.stack([v for n, v in vectors(2500).items() if "NaN" not in n])

    def step(carry, _):
        mask = jax.vmap(lambda x: _select.mask_of_largest(x, 40))(carry)
        values, index = jax.vmap(lambda x: _select.largest(x, 40))(carry)
        return carry[::-1], (mask, values, index)

    _, (mask, values, index) = jax.jit(lambda xs: jax.lax.scan(step, xs, length=2))(
        jnp.asarray(xs)
    )
    for turn, order in enumerate((xs, xs[::-1])):
        for row, x in enumerate(order):
            np.testing.assert_array_equal(mask[turn, row], expected(x, 40))
            np.testing.assert_array_equal(
                index[turn, row], np.flatnonzero(expected(x, 40))
            )
            np.testing.assert_array_equal(values[turn, row], x[index[turn, row]])


@pytest.mark.has_nans
@pytest.mark.usefixtures("short")
def test_nans_among_themselves_go_by_their_payload():
    bits = np.full(2000, 0x7FC00000, np.uint32) + np.arange(2000, dtype=np.uint32) % 50
    bits[::2] |= np.uint32(1 << 31)
    mask = _select.mask_of_largest(jax.lax.bitcast_convert_type(bits, jnp.float32), 60)
    order = np.argsort(-(bits & 0x7FFFFFFF).astype(np.int64), kind="stable")
    np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(order[:60]))


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), expected a vector."):
        _select.largest(jnp.zeros((2, 3)), 1)
    for k in (-1, 4):
        with pytest.raises(ValueError, match=f"k is {k}, expected 0 to the 3 entries"):
            _select.mask_of_largest(jnp.zeros(3), k)
