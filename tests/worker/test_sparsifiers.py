"""Compressors that keep some entries, against NumPy's and against their guarantees."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rivals
import pytest
from cases import slow_but
from inside import _uploads

from gdsec_jax import wire, worker

SCOPES = ("message", "leaf")
ONE = ("float32", "bfloat16", "float16", "float64")
MIXED = ("bfloat16", "float16", "float32")
FALSE_ALARM = 1e-9  # of each statistical test, by Hoeffding's inequality
DRAWS = 20_000


def tree_of(dtypes, seed=0):
    """Leaves of sizes 6, 1 and 9, with a tie over the first and the last of them."""
    rng = np.random.default_rng(seed)
    sizes = {"a": (3, 2), "b": (), "c": (9,)}
    values = {name: rng.standard_normal(shape) for name, shape in sizes.items()}
    values["a"][0, 1] = values["c"][2] = -1.5
    values["c"][4] = 1.5
    pairs = zip(values.items(), dtypes, strict=True)
    return {name: jnp.asarray(value, dtype) for (name, value), dtype in pairs}


def trees():
    return [pytest.param((one,) * 3, id=one, marks=pytest.mark.slow) for one in ONE] + [
        pytest.param(MIXED, id="mixed", marks=pytest.mark.slow),
        pytest.param(("float64", "bfloat16", "float32"), id="mixed64"),
    ]


def split(tree, scope):
    """The vectors of a tree in float64, and how many entries of each are a leaf's."""
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return leaves if scope == "leaf" else [np.concatenate(leaves)]


def flat(tree):
    return split(tree, "message")[0]


def as_sent(tree, like):
    """As it travels: in the dtypes of `like`, flushed."""
    return wire.flush(jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like))


def apply(piece, v, **extra):
    out, _ = jax.jit(piece.update)(v, piece.init(v), **extra)
    return out


def slack(bound):
    """How far a mean of draws in [0, bound] strays from the expectation, or less."""
    return bound * math.sqrt(math.log(2 / FALSE_ALARM) / (2 * DRAWS))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtypes", trees())
def test_top_k_equals_numpy(dtypes, scope):
    v = tree_of(dtypes)
    for k in (1, 2, 3, 0.3, 1.0, 100):
        ours = apply(worker.top_k(k, scope=scope), v)
        assert [x.dtype for x in ours.values()] == [x.dtype for x in v.values()]
        numbers = [
            k if isinstance(k, int) else math.ceil(k * x.size) for x in split(v, scope)
        ]
        expected = [
            oracle_rivals.compress_top_k(x, number)
            for x, number in zip(split(v, scope), numbers, strict=True)
        ]
        np.testing.assert_array_equal(flat(ours), np.concatenate(expected))


def test_of_equal_magnitudes_the_lower_index_is_sent():
    v = jnp.asarray([1.0, -2.0, 2.0, 2.0, -1.0])
    assert apply(worker.top_k(2), v).tolist() == [0.0, -2.0, 2.0, 0.0, 0.0]
    assert apply(worker.top_k(4), v).tolist() == [1.0, -2.0, 2.0, 2.0, 0.0]
    tree = {"a": jnp.asarray([0.0, 1.0], jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    assert flat(apply(worker.top_k(2), tree)).tolist() == [0, 1, 1, 0]
    assert flat(apply(worker.top_k(1, scope="leaf"), tree)).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("scaled", slow_but([True], [None, True, False]))
def test_zeros_one_entry_and_empty_leaves(scope, scaled):
    key = jax.random.key(0)
    for k in (1, 7, 0.5):
        piece = worker.top_k(k, scope=scope)
        if scaled is not None:
            piece = worker.random_k(k, scaled=scaled, scope=scope)
        assert apply(piece, jnp.zeros(5), key=key).tolist() == [0.0] * 5
        assert apply(piece, jnp.asarray(-3.0), key=key) == -3.0
        assert apply(piece, {}, key=key) == {}
        tree = [jnp.zeros(0), jnp.ones(1), jnp.zeros((2, 0))]
        assert flat(apply(piece, tree, key=key)).tolist() == [1.0]


def test_a_nan_is_sent():
    v = jnp.asarray([9.0, jnp.nan, jnp.inf, 1.0])
    assert np.isnan(apply(worker.top_k(1), v)[1])
    message = apply(worker.random_k(4), v, key=jax.random.key(0))
    assert np.isnan(message[1]) and message[2] == jnp.inf
    assert np.isnan(apply(worker.cast("bfloat16"), v)[1])


def shared_masks(key, vectors, k):
    """The entries that random_k draws, with the key it is handed."""
    masks = []
    for own, v in zip(jax.random.split(key, len(vectors)), vectors, strict=True):
        number = min(k, v.size) if isinstance(k, int) else math.ceil(k * v.size)
        words = np.asarray(jax.random.bits(own, v.shape, jnp.uint32))
        masks.append(np.zeros(v.size, bool))
        masks[-1][np.argsort(~words, kind="stable")[:number]] = True
    return masks


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scaled", slow_but([True], [True, False]))
@pytest.mark.parametrize("scope", slow_but(["message"], SCOPES))
@pytest.mark.parametrize("dtypes", trees())
def test_random_k_equals_numpy(dtypes, scope, scaled):
    v, key = tree_of(dtypes), jax.random.key(3)
    tolerance = 1e-15 if set(dtypes) == {"float64"} else 2e-7
    for k in (1, 4, 0.3, 100):
        piece = worker.random_k(k, scaled=scaled, scope=scope)
        ours = apply(piece, v, key=key)
        vectors = split(v, scope)
        expected = np.concatenate(
            [
                oracle_rivals.compress_rand_k(x, int(mask.sum()), mask, scaled)
                for x, mask in zip(vectors, shared_masks(key, vectors, k), strict=True)
            ]
        )
        np.testing.assert_allclose(flat(ours), expected, rtol=tolerance)
        np.testing.assert_array_equal(flat(ours) != 0, expected != 0)
        if not scaled:
            assert [x.dtype for x in ours.values()] == [x.dtype for x in v.values()]


@pytest.mark.parametrize("scope", slow_but(["message"], SCOPES))
@pytest.mark.parametrize("k", slow_but([3], [3, 0.5]))
def test_random_k_is_unbiased_with_its_variance(k, scope):
    v = tree_of(("float32",) * 3, seed=1)
    piece = worker.random_k(k, scope=scope)
    messages = draws(piece, v)
    sizes = [16] if scope == "message" else [6, 1, 9]
    scales = [
        d / (min(k, d) if isinstance(k, int) else math.ceil(k * d)) for d in sizes
    ]
    factor = np.repeat(scales, sizes)
    exact = flat(v)
    # A union over the 16 entries is paid by log(16) more.
    strays = np.abs(messages.mean(0) - exact) / (np.abs(exact) * factor)
    assert strays.max() <= slack(1) * 2
    omega = piece.variance(v)
    assert omega == max(scales) - 1
    errors = ((messages - exact) ** 2).sum(1)
    bound = max(scales) ** 2 * (exact**2).sum()
    assert errors.mean() <= omega * (exact**2).sum() + slack(bound)
    variances = ((factor - 1) * exact**2).sum()
    assert abs(errors.mean() - variances) <= slack(bound)


def draws(piece, v):
    """Messages, float64 [DRAWS, D]."""

    @jax.jit
    def all_of_them(keys):
        return jax.vmap(lambda key: piece.update(v, piece.init(v), key=key)[0])(keys)

    messages = all_of_them(jax.random.split(jax.random.key(7), DRAWS))
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(messages)]
    return np.concatenate([x.reshape(DRAWS, -1) for x in leaves], axis=1)


def test_random_k_for_an_error_memory_contracts():
    v = tree_of(("float32",) * 3, seed=2)
    exact = flat(v)
    errors = ((draws(worker.random_k(4, scaled=False), v) - exact) ** 2).sum(1)
    total = (exact**2).sum()
    assert (errors <= total * (1 + 1e-12)).all()
    assert abs(errors.mean() - (1 - 4 / 16) * total) <= slack(total)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("k", [5, 0.25])
def test_top_k_contracts(k, scope):
    piece = worker.top_k(k, scope=scope)
    for seed in range(5):
        v = tree_of(("float32",) * 3, seed)
        errors = (flat(apply(piece, v)) - flat(v)) ** 2
        kept = 1 / (1 + worker.random_k(k, scope=scope).variance(v))
        assert errors.sum() <= (1 - kept) * (flat(v) ** 2).sum() * (1 + 1e-12)


def test_random_k_without_scaling_has_no_variance_to_rely_on():
    piece = worker.random_k(3, scaled=False)
    assert not isinstance(piece, worker.UnbiasedCompressor)
    message = r"expected a worker.UnbiasedCompressor: random_k, qsgd, natural, terngra"
    with pytest.raises(ValueError, match=message):
        worker.variance_of(piece, jnp.zeros(5))


def test_variances_follow_the_shapes():
    tree = {"a": jnp.zeros((4, 5)), "b": jax.ShapeDtypeStruct((2,), jnp.float32)}
    assert worker.variance_of(worker.random_k(2), tree) == 10
    assert worker.variance_of(worker.random_k(2, scope="leaf"), tree) == 9
    assert worker.variance_of(worker.random_k(0.5), tree) == 1
    assert worker.variance_of(worker.random_k(100), tree) == 0
    assert worker.variance_of(worker.random_k(3), {}) == 0
    assert worker.variance_of(worker.whole(), tree) == 0


PIECES = {
    "top_k": worker.top_k(3),
    "top_k-leaf": worker.top_k(0.4, scope="leaf"),
    "random_k": worker.random_k(3),
    "random_k-leaf": worker.random_k(3, scope="leaf"),
    "unscaled": worker.random_k(0.3, scaled=False),
    "whole": worker.whole(),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(
            piece,
            id=name,
            marks=[] if name in ("top_k", "random_k-leaf") else [pytest.mark.slow],
        )
        for name, piece in PIECES.items()
    ],
)
def test_strict_dtypes_and_a_batch_equal_single_calls(piece):
    trees = [tree_of(("float64", "bfloat16", "float32"), seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(1), 3)
    one = lambda v, key: piece.update(v, piece.init(v), key=key)[0]  # noqa: E731
    with jax.numpy_dtype_promotion("strict"):
        batch = jax.vmap(one)(jax.tree.map(lambda *x: jnp.stack(x), *trees), keys)
    for i, v in enumerate(trees):
        alone = one(v, keys[i])
        np.testing.assert_array_equal(
            flat(jax.tree.map(lambda x, i=i: x[i], batch)), flat(alone)
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        ("float64", "float32"),
        ("float64", "float16"),
        ("float64", "bfloat16"),
        ("float32", "bfloat16"),
        ("float32", "float16"),
        ("float32", "float32"),
        ("float16", "float16"),
    ],
)
def test_cast_rounds_and_flushes(dtype, narrow):
    tiny = float(jnp.finfo(narrow).tiny)
    exact = np.asarray([1.001, -2.7, tiny, tiny / 2, -tiny / 4, 0.0, 6e4], dtype)
    v = jnp.asarray(exact)
    with jax.numpy_dtype_promotion("strict"):
        ours = apply(worker.cast(narrow), v)
    assert ours.dtype == dtype
    rounded = exact.astype(jnp.dtype(narrow)).astype(np.float64)
    expected = np.where(np.abs(rounded) < tiny, 0.0, rounded)
    np.testing.assert_array_equal(np.asarray(ours, np.float64), expected)
    assert not np.signbit(np.asarray(ours)[4])
    form = _uploads.layout_of(v, "dense", worker.cast(narrow).init(v).code)
    assert form.dense_bits == 7 * 8 * jnp.dtype(narrow).itemsize


def test_whole_sends_all_as_it_is():
    v = tree_of(MIXED)
    assert apply(worker.whole(), v).keys() == v.keys()
    np.testing.assert_array_equal(flat(apply(worker.whole(), v)), flat(v))
    assert worker.whole().init(v).code == wire.Code(dense=True)


@pytest.mark.parametrize("make", [worker.top_k, worker.random_k])
@pytest.mark.parametrize(
    "k", [0, -1, 0.0, 1.5, float("nan"), True, "3", None, jnp.asarray(3)]
)
def test_k_is_a_number_of_entries_or_a_fraction(make, k):
    with pytest.raises(ValueError, match=r"k is .*, expected an int of at least 1, or"):
        make(k)


def test_other_bad_input():
    for make in (worker.top_k, worker.random_k):
        with pytest.raises(ValueError, match="scope is 'row', expected one of message"):
            make(1, scope="row")
    piece = worker.random_k(1)
    with pytest.raises(
        ValueError, match=r"key is None, .*: random_k draws, so hand fe"
    ):
        piece.update(jnp.ones(2), piece.init(jnp.ones(2)))
    with pytest.raises(ValueError, match="dtype is 'int8', expected a floating-point"):
        worker.cast("int8")
    with pytest.raises(
        ValueError, match="dtype is None, expected a floating-point dty"
    ):
        worker.cast(None)
    wider = r"dtype is float32, expected none wider than the parameters' bfloat16"
    with pytest.raises(ValueError, match=wider):
        worker.cast("float32").init([jnp.zeros(2, jnp.bfloat16)])
    with pytest.raises(ValueError, match=r"dtype is bfloat16, .* parameters' float16"):
        worker.cast("bfloat16").init(jnp.zeros(2, jnp.float16))


def test_a_number_may_be_numpys_and_a_fraction_is_exact():
    v = jnp.arange(1.0, 101.0)
    for k, expected in ((np.int64(1), 1), (np.int64(3), 3), (0.07, 7), (0.55, 55)):
        message = apply(worker.top_k(k), v)
        assert np.count_nonzero(message) == expected
