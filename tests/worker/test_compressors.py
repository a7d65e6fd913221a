"""Compressors of one worker, against NumPy's with the same draws, and their laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rivals
import pytest
from cases import slow_but
from inside import _trees, _uploads

from gdsec_jax import wire, worker

SCOPES = ("message", "leaf")
DTYPES = {
    "float32": ("float32",) * 3,
    "bfloat16": ("bfloat16",) * 3,
    "float16": ("float16",) * 3,
    "float64": ("float64",) * 3,
    "mixed": ("bfloat16", "float16", "float32"),
    "mixed64": ("float64", "bfloat16", "float32"),
}
QUANTISERS = {
    "qsgd": lambda scope: worker.qsgd(5, scope=scope),
    "qsgd-1": lambda scope: worker.qsgd(1, scope=scope),
    "qsgd-128": lambda scope: worker.qsgd(128, scope=scope),
    "terngrad": lambda scope: worker.terngrad(scope=scope),
    "sign": lambda scope: worker.sign(scope=scope),
    "grid-1": lambda scope: worker.grid(1, scope=scope),
    "grid-4": lambda scope: worker.grid(4, scope=scope),
}
FEW = ("qsgd", "terngrad", "sign", "grid-4")
LEVELS = {"qsgd": 5, "qsgd-1": 1, "qsgd-128": 128, "terngrad": 1}
ALL = QUANTISERS | {
    "natural": lambda scope: worker.natural(),
    "top_k": lambda scope: worker.top_k(3, scope=scope),
    "top_k, fraction": lambda scope: worker.top_k(0.4, scope=scope),
    "random_k": lambda scope: worker.random_k(3, scope=scope),
    "unscaled": lambda scope: worker.random_k(0.5, scaled=False, scope=scope),
    "whole": lambda scope: worker.whole(),
    "cast": lambda scope: worker.cast("bfloat16"),
}
FALSE_ALARM = 1e-9  # of each statistical test, by Hoeffding's inequality
DRAWS = 20_000
KEY = jax.random.key(11)


def some_dtypes():
    return [
        pytest.param(
            dtypes, id=name, marks=[] if name == "mixed64" else [pytest.mark.slow]
        )
        for name, dtypes in DTYPES.items()
    ]


@functools.cache
def piece_of(name, scope="message"):
    return ALL[name](scope)


def tree_of(dtypes, seed=0):
    """Leaves of sizes 6, 1 and 9, with zeros, and a tie in the first and the last."""
    rng = np.random.default_rng(seed)
    sizes = {"a": (3, 2), "b": (), "c": (9,)}
    values = {name: rng.standard_normal(shape) for name, shape in sizes.items()}
    values["a"][0, 0] = values["c"][2] = 0.0
    values["a"][0, 1] = values["c"][5] = -1.37
    values["c"][4] = 1.37
    pairs = zip(values.items(), dtypes, strict=True)
    return {name: jnp.asarray(value, dtype) for (name, value), dtype in pairs}


def split(tree, scope="leaf"):
    """The vectors of a tree that a compressor works on, in float64."""
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return leaves if scope == "leaf" else [np.concatenate(leaves)]


def flat(tree):
    return split(tree, "message")[0]


@functools.cache
def compiled(piece):
    return jax.jit(piece.update)


def apply(piece, v, **extra):
    with jax.numpy_dtype_promotion("strict"):
        return compiled(piece)(v, piece.init(v), **extra)


def slack(bound, draws=DRAWS, events=1):
    """How far a mean of draws in [0, bound] strays from the expectation, or less."""
    return bound * math.sqrt(math.log(2 * events / FALSE_ALARM) / (2 * draws))


# Quantisers.


def computed_in(tree, scope):
    """The dtype of each vector's arithmetic."""
    names = [x.dtype.name for x in jax.tree.leaves(tree)]
    if scope == "leaf":
        return ["float64" if name == "float64" else "float32" for name in names]
    return ["float64" if "float64" in names else "float32"]


def shared_draws(scope, parts, dtypes):
    keys = [KEY] if scope == "message" else jax.random.split(KEY, len(parts))
    return [
        np.asarray(jax.random.uniform(key, x.shape, dtype), np.float64)
        for key, x, dtype in zip(keys, parts, dtypes, strict=True)
    ]


def quantised(name, v, u, dtype, scale):
    """The oracle's message and scale; in float32 from our scale, which is rounded."""
    exact = dtype == "float64"
    if name in LEVELS:
        compress = oracle_rivals.compress_terngrad
        if name != "terngrad":
            compress = lambda v, u: oracle_rivals.compress_qsgd(v, LEVELS[name], u)  # noqa: E731
        message, step = compress(v, u)
        if not exact and step:
            message = oracle_rivals._round_to_levels(v, scale, LEVELS[name], u)
    elif name == "sign":
        message, step = oracle_rivals.compress_sign(v)
        if not exact:
            message = scale * np.where(v >= 0, 1.0, -1.0)
    else:
        bits = int(name[-1])
        message, step = oracle_rivals.compress_grid(v, bits)
        if not exact and step:
            top = 2**bits - 1
            q = np.floor((v + scale * top) / (2 * scale) + 0.5)
            message = scale * (2 * np.clip(q, 0, top) - top)
    return message.astype(dtype).astype(np.float64), step


def check_levels(name, x, message, scale, exact):
    """The message is integers times the scale, which is rounded up to float32."""
    levels = message / scale if scale else message
    top = LEVELS.get(name) or (1 if name == "sign" else 2 ** int(name[-1]) - 1)
    assert np.abs(levels).max() <= top * (1 + 1e-7)
    np.testing.assert_allclose(levels, np.rint(levels), rtol=2e-7)
    if name not in LEVELS and scale:
        assert (np.rint(levels) % 2 == 1).all()
    if exact and name != "sign":
        norm = np.linalg.norm(x) if "qsgd" in name else np.abs(x).max()
        assert scale >= norm / top * (1 - 1e-15)
        below = np.nextafter(np.float32(scale), np.float32(0))
        assert scale == 0 or below < norm / top * (1 + 1e-15)


# In both scopes with arithmetic in float32 and in float64; other dtypes are cast to it.
QUANTISED = [("mixed64", name, scope) for name in QUANTISERS for scope in SCOPES]
QUANTISED += [
    (dtypes, name, "message" if dtypes == "mixed" else "leaf")
    for dtypes in DTYPES
    for name in FEW
    if dtypes != "mixed64"
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "case",
    slow_but([x for x in QUANTISED if x[0] == "mixed64" and x[1] in FEW], QUANTISED),
    ids="-".join,
)
def test_quantisers_equal_numpy(case):
    kind, name, scope = case
    dtypes = DTYPES[kind]
    for seed in range(6):
        v = tree_of(dtypes, seed)
        if seed == 5:  # one entry has all of the norm
            v = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), v)
            v["c"][5] = 1 / 3
        ours, packing = apply(piece_of(name, scope), v, key=KEY)
        parts, wide = split(v, scope), computed_in(v, scope)
        assert packing.scales.dtype == jnp.float32
        assert packing.scales.shape == (packing.code.num_scales,) == (len(parts),)
        draws, scales = shared_draws(scope, parts, wide), packing.scales.tolist()
        columns = parts, split(ours, scope), draws, wide, scales
        for x, own, u, dtype, scale in zip(*columns, strict=True):
            expected, step = quantised(name, x, u, dtype, scale)
            if dtype == "float64":
                assert scale == step
            else:
                assert scale == pytest.approx(step, rel=5e-7)
            check_levels(name, x, own, scale, dtype == "float64")
            held = x != 0 if "grid" in name else slice(None)  # its zeros: see below
            np.testing.assert_array_equal(own[held], expected[held])


def test_grid_rounds_zeros_up():
    """q = floor((0 + R) / (2 tau R) + 1/2) = 2^(b - 1), the upper one, for any R."""
    v = np.stack([np.linspace(1.0, 2.0, 50), np.zeros(50)], axis=1)
    piece = worker.grid(4)
    one = lambda row: piece.update(row, piece.init(row))[0]  # noqa: E731
    messages = jax.jit(jax.vmap(one))(jnp.asarray(v))
    assert np.all(messages[:, 1] > 0)


def test_sign_of_zero_is_plus():
    message, packing = apply(worker.sign(), jnp.asarray([0.0, -0.0, -3.0]))
    assert message.tolist() == [1.0, 1.0, -1.0]
    assert packing.scales.tolist() == [1.0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtypes", some_dtypes())
def test_natural_equals_numpy(dtypes):
    v = tree_of(dtypes)
    v["c"] = np.array(v["c"])
    v["c"][[0, 1, 3]] = 2.0**-3, -(2.0**-3) * 1.5, -1e-4
    ours, packing = apply(worker.natural(), v, key=KEY)
    (x,) = split(v, "message")
    (u,) = shared_draws("message", [x], computed_in(v, "message"))
    np.testing.assert_array_equal(flat(ours), oracle_rivals.compress_natural(x, u))
    assert packing.code == wire.Code("power") and packing.scales == ()


@pytest.mark.usefixtures("x64")
def test_natural_of_what_is_too_small_is_nothing_or_the_smallest():
    v = jnp.asarray(2.0**-126 * np.asarray([0.5, -0.25, 1.0, 1e-9, -1.0]))
    levels = draws(worker.natural(), v, 4000) * 2.0**126
    assert set(np.unique(levels)) == {-1.0, 0.0, 1.0}
    exact = np.asarray(v) * 2.0**126
    np.testing.assert_allclose(levels.mean(0), exact, atol=slack(1, 4000, events=5))


# Sparsifiers.


def count(k, length):
    """How many entries a k stands for."""
    return min(k, length) if isinstance(k, int) else math.ceil(k * length)


def apply_all(make, ks, v, **extra):
    """The messages of a compressor at several k, by one program."""
    pieces = [make(k) for k in ks]

    @jax.jit
    def messages(v):
        return [piece.update(v, piece.init(v), **extra)[0] for piece in pieces]

    with jax.numpy_dtype_promotion("strict"):
        return messages(v)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtypes", some_dtypes())
def test_top_k_equals_numpy(dtypes, scope):
    v, ks = tree_of(dtypes), (1, 2, 3, 0.3, 1.0, 100)
    messages = apply_all(lambda k: worker.top_k(k, scope=scope), ks, v)
    for k, ours in zip(ks, messages, strict=True):
        assert [x.dtype for x in ours.values()] == [x.dtype for x in v.values()]
        expected = [
            oracle_rivals.compress_top_k(x, count(k, x.size)) for x in split(v, scope)
        ]
        np.testing.assert_array_equal(flat(ours), np.concatenate(expected))


def test_of_equal_magnitudes_the_lower_index_is_sent():
    v = jnp.asarray([1.0, -2.0, 2.0, 2.0, -1.0])
    assert apply(worker.top_k(2), v)[0].tolist() == [0.0, -2.0, 2.0, 0.0, 0.0]
    assert apply(worker.top_k(4), v)[0].tolist() == [1.0, -2.0, 2.0, 2.0, 0.0]
    tree = {"a": jnp.asarray([0.0, 1.0], jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    assert flat(apply(worker.top_k(2), tree)[0]).tolist() == [0, 1, 1, 0]
    leaves = apply(worker.top_k(1, scope="leaf"), tree)[0]
    assert flat(leaves).tolist() == [0, 1, 1, 0]


def shared_masks(vectors, k):
    """The entries that random_k draws, with the key it is handed."""
    masks = []
    for own, v in zip(jax.random.split(KEY, len(vectors)), vectors, strict=True):
        words = np.asarray(jax.random.bits(own, v.shape, jnp.uint32))
        masks.append(np.zeros(v.size, bool))
        masks[-1][np.argsort(~words, kind="stable")[: count(k, v.size)]] = True
    return masks


RANDOM = [("mixed64", scope, scaled) for scope in SCOPES for scaled in (True, False)]
RANDOM += [(dtypes, "leaf", False) for dtypes in DTYPES if dtypes != "mixed64"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", slow_but(RANDOM[:1], RANDOM), ids=str)
def test_random_k_equals_numpy(case):
    kind, scope, scaled = case
    dtypes = DTYPES[kind]
    v, ks = tree_of(dtypes), (1, 4, 0.3, 100)
    tolerance = 1e-15 if set(dtypes) == {"float64"} else 2e-7
    make = functools.partial(worker.random_k, scaled=scaled, scope=scope)
    for k, ours in zip(ks, apply_all(make, ks, v, key=KEY), strict=True):
        vectors = split(v, scope)
        expected = np.concatenate(
            [
                oracle_rivals.compress_rand_k(x, int(mask.sum()), mask, scaled)
                for x, mask in zip(vectors, shared_masks(vectors, k), strict=True)
            ]
        )
        np.testing.assert_allclose(flat(ours), expected, rtol=tolerance)
        np.testing.assert_array_equal(flat(ours) != 0, expected != 0)
        if not scaled:
            assert [x.dtype for x in ours.values()] == [x.dtype for x in v.values()]


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
    v, piece = jnp.asarray(exact), worker.cast(narrow)
    ours, _ = apply(piece, v)
    assert ours.dtype == dtype
    rounded = exact.astype(jnp.dtype(narrow)).astype(np.float64)
    expected = np.where(np.abs(rounded) < tiny, 0.0, rounded)
    np.testing.assert_array_equal(np.asarray(ours, np.float64), expected)
    assert not np.signbit(np.asarray(ours)[4])
    form = _uploads.layout_of(v, "dense", piece.init(v).code)
    assert form.dense_bits == 7 * 8 * jnp.dtype(narrow).itemsize


def test_whole_sends_all_as_it_is():
    v = tree_of(DTYPES["mixed"])
    message, state = apply(worker.whole(), v)
    assert [x.dtype for x in message.values()] == [x.dtype for x in v.values()]
    np.testing.assert_array_equal(flat(message), flat(v))
    assert state.code == wire.Code(dense=True)


def test_a_number_may_be_numpys_and_a_fraction_is_exact():
    ks = (np.int64(1), np.int64(3), 0.07, 0.55)
    messages = apply_all(worker.top_k, ks, jnp.asarray(np.arange(1.0, 101.0)))
    assert [np.count_nonzero(message) for message in messages] == [1, 3, 7, 55]


# What holds of all.


@pytest.mark.parametrize("scope", slow_but(["leaf"], SCOPES))
@pytest.mark.parametrize(
    "name", slow_but([*FEW, "natural", "top_k", "random_k", "cast"], ALL)
)
def test_zeros_one_entry_and_empty_leaves(name, scope):
    piece = piece_of(name, scope)

    @jax.jit
    def messages(*trees):
        return [piece.update(v, piece.init(v), key=KEY) for v in trees]

    zeros, one = {"a": np.zeros(3, np.float32), "b": np.float32(0)}, np.ones(1)
    trees = zeros, np.float32(-2.0), [np.zeros(0), np.float32(one), np.zeros((2, 0))]
    (none, packing), (scalar, _), (some, _) = messages(*trees)
    assert flat(none).tolist() == [0.0] * 4
    assert not any(np.any(x) for x in jax.tree.leaves(packing))
    assert scalar.shape == () and scalar == -2.0
    assert flat(some).tolist() == [1.0]
    assert piece.update({}, piece.init({}), key=KEY)[0] == {}


@pytest.mark.parametrize("name", ALL)
def test_nothing_that_is_not_finite_is_hidden_nor_any_size_lost(name):
    piece = worker.random_k(3) if name == "unscaled" else piece_of(name)
    hand = functools.partial(apply, piece, key=jax.random.key(0))
    message = np.asarray(hand(jnp.asarray([1.0, jnp.nan, 0.5]))[0])
    assert np.isnan(message[1])
    message = np.asarray(hand(jnp.asarray([1.0, -jnp.inf, 0.5]))[0])
    assert not np.isfinite(message[1])
    for size in (1e-22, 1e18, 1e25):
        if name in ("qsgd-1", "qsgd-128", "grid-1"):
            continue  # as the others of their kind
        message = np.asarray(hand(jnp.asarray(np.float32([3.0, -4.0, 0.0]) * size))[0])
        assert np.isfinite(message).all()
        assert np.abs(message).max() >= 2.0 * size


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(["qsgd"], ALL))
def test_a_batch_equals_single_calls(name):
    piece = piece_of(name, "leaf")
    trees = [tree_of(DTYPES["mixed64"], seed) for seed in range(3)]
    keys = jax.random.split(KEY, 3)
    one = lambda v, key: piece.update(v, piece.init(v), key=key)  # noqa: E731
    with jax.numpy_dtype_promotion("strict"):
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        messages, packing = jax.jit(jax.vmap(one))(stacked, keys)
    for i, v in enumerate(trees):
        alone, own = apply(piece, v, key=keys[i])
        ours = jax.tree.map(lambda x, i=i: x[i], messages)
        np.testing.assert_allclose(flat(ours), flat(alone), rtol=3e-7)
        if name in QUANTISERS:
            np.testing.assert_allclose(packing.scales[i], own.scales, rtol=3e-7)


# In expectation, and at worst.


@functools.cache
def drawing(piece):
    one = lambda key, v: piece.update(v, piece.init(v), key=key)[0]  # noqa: E731
    return jax.jit(jax.vmap(one, (0, None)))


def draws(piece, v, number=DRAWS):
    """Messages, float64 [number, D]."""
    messages = drawing(piece)(jax.random.split(jax.random.key(5), number), v)
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(messages)]
    return np.concatenate([x.reshape(number, -1) for x in leaves], axis=1)


@pytest.mark.parametrize("scope", slow_but(["message"], SCOPES))
@pytest.mark.parametrize(
    "name",
    slow_but(
        ["qsgd", "natural"], ["qsgd", "qsgd-1", "qsgd-128", "terngrad", "natural"]
    ),
)
def test_a_quantiser_is_unbiased_with_at_most_its_variance(name, scope):
    if name == "natural" and scope == "leaf":
        pytest.skip("natural has no scope")
    piece, v = piece_of(name, scope), tree_of(("float32",) * 3, seed=4)
    exact, messages = flat(v), draws(piece, v)
    # Entry by entry the messages lie in an interval of this width.
    if name == "natural":
        steps = 2.0 ** np.floor(np.log2(np.maximum(np.abs(exact), 1e-30)))
    else:
        _, packing = apply(piece, v, key=KEY)
        sizes = [16] if scope == "message" else [6, 1, 9]
        steps = np.repeat(np.asarray(packing.scales, np.float64), sizes)
    assert np.ptp(messages, axis=0).max() <= steps.max() * (1 + 1e-5)
    strays = np.abs(messages.mean(0) - exact)
    assert (strays <= slack(steps, events=17) + 1e-6 * np.abs(exact)).all()
    errors = ((messages - exact) ** 2).sum(1)
    omega = worker.variance_of(piece, v)
    assert errors.mean() <= omega * (exact**2).sum() + slack(
        (steps**2).sum(), events=17
    )


@pytest.mark.parametrize("scope", slow_but(["message"], SCOPES))
@pytest.mark.parametrize("k", slow_but([3], [3, 0.5]))
def test_random_k_is_unbiased_with_its_variance(k, scope):
    v = tree_of(("float32",) * 3, seed=1)
    piece = worker.random_k(k, scope=scope)
    exact, messages = flat(v), draws(piece, v)
    sizes = [16] if scope == "message" else [6, 1, 9]
    scales = [d / count(k, d) for d in sizes]
    factor = np.repeat(scales, sizes)
    strays = np.abs(messages.mean(0) - exact)
    assert (strays <= slack(np.abs(exact) * factor, events=17)).all()
    omega = worker.variance_of(piece, v)
    assert omega == max(scales) - 1
    errors = ((messages - exact) ** 2).sum(1)
    bound = max(scales) ** 2 * (exact**2).sum()
    assert errors.mean() <= omega * (exact**2).sum() + slack(bound)
    variances = ((factor - 1) * exact**2).sum()
    assert abs(errors.mean() - variances) <= slack(bound)


def test_random_k_for_an_error_memory_contracts():
    v = tree_of(("float32",) * 3, seed=2)
    exact = flat(v)
    errors = ((draws(worker.random_k(4, scaled=False), v) - exact) ** 2).sum(1)
    total = (exact**2).sum()
    assert (errors <= total * (1 + 1e-12)).all()
    assert abs(errors.mean() - (1 - 4 / 16) * total) <= slack(total)


@pytest.mark.parametrize("scope", SCOPES)
def test_biased_ones_contract(scope):
    """top_k by k/D at least; |sign(v) - v|^2 = (1 - |v|_1^2 / (D |v|_2^2)) |v|^2."""
    top = [(k, worker.top_k(k, scope=scope)) for k in (5, 0.25)]
    for seed in range(5):
        v = tree_of(("float32",) * 3, seed)
        for k, piece in top:
            errors = (flat(apply(piece, v)[0]) - flat(v)) ** 2
            kept = 1 / (1 + worker.variance_of(worker.random_k(k, scope=scope), v))
            assert errors.sum() <= (1 - kept) * (flat(v) ** 2).sum() * (1 + 1e-12)
        message, _ = apply(piece_of("sign", scope), v)
        for x, y in zip(split(v, scope), split(message, scope), strict=True):
            total = (x**2).sum()
            left = total - np.abs(x).sum() ** 2 / x.size
            assert ((y - x) ** 2).sum() == pytest.approx(left, rel=1e-5, abs=1e-6)
            assert ((y - x) ** 2).sum() <= (1 - 1 / x.size) * total + 1e-6


def test_grid_errs_by_half_a_step_at_most():
    for bits in (1, 3, 8):
        v = tree_of(("float32",) * 3, bits)
        message, packing = apply(worker.grid(bits), v)
        step = float(packing.scales[0])
        assert np.abs(flat(message) - flat(v)).max() <= step * (1 + 1e-5)


def test_the_worst_vectors_reach_the_variances_or_nearly():
    v = jnp.asarray([4.0 / 3])  # the worst for natural: omega is 1/8
    errors = (draws(worker.natural(), v)[:, 0] / (4 / 3) - 1) ** 2
    assert abs(errors.mean() - 1 / 8) <= slack(1)
    # One entry 1, the others b: (D-1)(b - b^2) / (1 + (D-1) b^2) is largest at
    # b = 1 / (1 + sqrt D), where it is (sqrt D - 1) / 2.
    v = jnp.asarray(np.float32([1.0, *[1 / 5] * 15]))
    total = (flat(v) ** 2).sum()
    errors = ((draws(worker.terngrad(), v) - flat(v)) ** 2).sum(1) / total
    assert errors.mean() == pytest.approx(1.5, rel=0.05)
    assert errors.mean() <= worker.variance_of(worker.terngrad(), v)


def test_variances_follow_the_shapes():
    tree = {"a": jnp.zeros((4, 4)), "b": jax.ShapeDtypeStruct((9,), jnp.float32)}
    for piece, omega in (
        (worker.natural(), 1 / 8),
        (worker.terngrad(), 4),
        (worker.terngrad(scope="leaf"), 3),
        (worker.qsgd(1), 5),
        (worker.qsgd(10), 0.25),
        (worker.qsgd(10, scope="leaf"), 0.16),
        (worker.qsgd(2, scope="leaf"), 2),
        (worker.random_k(2), 11.5),
        (worker.random_k(2, scope="leaf"), 7),
        (worker.random_k(0.5), 25 / 13 - 1),
        (worker.random_k(100), 0),
        (worker.whole(), 0),
    ):
        assert worker.variance_of(piece, tree) == omega
    for piece in (worker.qsgd(2), worker.terngrad(), worker.random_k(3)):
        assert worker.variance_of(piece, {}) == 0
    message = "expected a worker.Piece that declares its variance: random_k, perm_k,"
    for biased in (worker.random_k(3, scaled=False), worker.top_k(1), worker.sign()):
        with pytest.raises(ValueError, match=message):
            worker.variance_of(biased, jnp.zeros(5))


# Bad input.


@pytest.mark.parametrize("make", [worker.top_k, worker.random_k])
@pytest.mark.parametrize(
    "k", [0, -1, 0.0, 1.5, float("nan"), True, "3", None, jnp.asarray(3)]
)
def test_k_is_a_number_of_entries_or_a_fraction(make, k):
    with pytest.raises(ValueError, match=r"k is .*, expected an int of at least 1, or"):
        make(k)


def test_bad_input():
    for levels in (0, -1, 2**30 + 1, 2.0, True, None):
        with pytest.raises(ValueError, match="levels is .*, expected an integer from"):
            worker.qsgd(levels)
    for bits in (0, 31, 1.5):
        with pytest.raises(ValueError, match="bits is .*, expected an integer from 1"):
            worker.grid(bits)
    scoped = (name for name in ALL if name not in ("natural", "whole", "cast"))
    for make in map(ALL.get, scoped):
        with pytest.raises(ValueError, match="scope is 'all', expected one of message"):
            make("all")
    for name in ("qsgd", "terngrad", "natural", "random_k"):
        piece, message = piece_of(name), rf"key is None, .*: {name} draws, so hand"
        with pytest.raises(ValueError, match=message):
            piece.update(jnp.ones(2), piece.init(jnp.ones(2)))
    for dtype in ("int8", None):
        message = f"dtype is {dtype!r}, expected a floating-point dtype"
        with pytest.raises(ValueError, match=message):
            worker.cast(dtype)
    wider = r"dtype is float32, expected none wider than the parameters' bfloat16"
    with pytest.raises(ValueError, match=wider):
        worker.cast("float32").init([jnp.zeros(2, jnp.bfloat16)])
    with pytest.raises(ValueError, match=r"dtype is bfloat16, .* parameters' float16"):
        worker.cast("bfloat16").init(jnp.zeros(2, jnp.float16))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "most"),
    [("bfloat16", 2**7), ("float16", 2**10), ("float32", 2**23), ("float64", 2**30)],
)
def test_a_dtype_tells_so_many_levels_apart(dtype, most):
    v = jnp.ones(2, dtype)
    apply(worker.qsgd(most), v, key=KEY)
    bits = min(most.bit_length() - 1, 30)
    message, packing = apply(worker.grid(bits), jnp.asarray([1.0, -0.3], dtype))
    assert np.isfinite(flat(message)).all() and packing.code.size == bits
    if dtype == "float64":
        return
    with pytest.raises(
        ValueError, match=rf"levels is {most + 1}, expected at most {most}: {dtype} te"
    ):
        apply(worker.qsgd(most + 1), v, key=KEY)
    with pytest.raises(
        ValueError, match=rf"2\*\*bits is {2 * most}, expected at most {most}: "
    ):
        apply(worker.grid(bits + 1), v)
    # What counts is how the message travels, not the dtype it is computed in.
    piece, wide = worker.qsgd(most + 1), jnp.ones(2, jnp.float64)
    for params, more in ((v, {}), (None, {"like": v})):
        message = f"expected at most {most}: {dtype} tells no"
        with pytest.raises(ValueError, match=message):
            piece.update(wide, piece.init(v), params, key=KEY, **more)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("piece", ["qsgd", "terngrad", "grid"])
def test_entries_near_the_largest_number_keep_their_levels(piece, jitted):
    """Above 2^126, whose reciprocals are subnormal: XLA on CPUs takes them for 0."""
    made = {
        "qsgd": worker.qsgd(4),
        "terngrad": worker.terngrad(),
        "grid": worker.grid(4),
    }
    v = np.full(4096, 1.0e38, np.float32)
    v[0], v[1] = 3.0e38, -3.0e38

    def send(v, key):
        return made[piece].update(v, made[piece].init(v), v, key=key)[0]

    send = jax.jit(send) if jitted else send
    message = np.asarray(send(jnp.asarray(v), jax.random.key(0)), np.float64)
    if piece == "qsgd":  # its norm is beyond all numbers: nothing says what is sent
        v = (v / np.float32(64)).astype(np.float32)
        message = np.asarray(send(jnp.asarray(v), jax.random.key(0)), np.float64)
    scale = {"qsgd": np.linalg.norm(v.astype(np.float64)) / 4}.get(
        piece, np.abs(v).max()
    )
    if piece == "grid":
        assert np.abs(message - v).max() <= 1.001 * scale / 15
        return
    assert abs(np.abs(message[message != 0]).min() / scale - 1) < 1e-5
    share = message[2:].mean() / np.float64(v[2])
    assert abs(share - 1) < 5 * np.sqrt(scale / v[2] / 4094)


def test_a_norm_near_the_largest_number(x64):
    v = jnp.array([1.8e38, 1e37], jnp.float32)
    expected = np.linalg.norm(np.asarray(v, np.float64))
    for norm in (_trees.norm, jax.jit(_trees.norm, static_argnums=1)):
        np.testing.assert_allclose(norm(v, jnp.float32), expected, rtol=1e-6)
