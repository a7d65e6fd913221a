"""Quantisers, against NumPy's with the same draws and against their guarantees."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rivals
import pytest
from cases import slow_but

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
SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("qsgd-1", "qsgd-128", "grid-1")
]
LEVELS = {"qsgd": 5, "qsgd-1": 1, "qsgd-128": 128, "terngrad": 1}
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


def tree_of(dtypes, seed=0):
    """Leaves of sizes 6, 1 and 9, with zeros."""
    rng = np.random.default_rng(seed)
    sizes = {"a": (3, 2), "b": (), "c": (9,)}
    values = {name: rng.standard_normal(shape) for name, shape in sizes.items()}
    values["a"][0, 1] = values["c"][2] = 0.0
    pairs = zip(values.items(), dtypes, strict=True)
    return {name: jnp.asarray(value, dtype) for (name, value), dtype in pairs}


def leaves_of(tree):
    return [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]


def flat(tree):
    return np.concatenate(leaves_of(tree))


def apply(piece, v, **extra):
    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(piece.update)(v, piece.init(v), **extra)


def widest(dtypes):
    return "float64" if "float64" in dtypes else "float32"


def vectors(v, scope):
    """What a quantiser works on: exact values, and the dtype it computes in."""
    leaves = jax.tree.leaves(v)
    if scope == "leaf":
        return [
            (np.asarray(x, np.float64).ravel(), widest([x.dtype.name])) for x in leaves
        ]
    return [(flat(v), widest([x.dtype.name for x in leaves]))]


def shared_draws(scope, parts):
    keys = [KEY] if scope == "message" else jax.random.split(KEY, len(parts))
    return [
        np.asarray(jax.random.uniform(key, x.shape, dtype), np.float64)
        for key, (x, dtype) in zip(keys, parts, strict=True)
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", [*FEW, *SLOW])
@pytest.mark.parametrize("dtypes", some_dtypes())
def test_equals_numpy(name, dtypes, scope):
    v = tree_of(dtypes)
    ours, packing = apply(QUANTISERS[name](scope), v, key=KEY)
    parts = vectors(v, scope)
    us = shared_draws(scope, parts)
    assert packing.scales.dtype == jnp.float32
    assert packing.scales.shape == (packing.code.num_scales,) == (len(parts),)
    expected = []
    for (x, dtype), u, scale in zip(parts, us, packing.scales.tolist(), strict=True):
        message, step = quantised(name, x, u, dtype, scale)
        expected.append(message)
        if dtype == "float64":
            assert scale == step
        else:
            assert scale == pytest.approx(step, rel=5e-7)
    ours, expected = flat(ours), np.concatenate(expected)
    if "grid" in name:  # the oracle rounds R there: see test_grid_rounds_zeros_up
        ours, expected = ours[flat(v) != 0], expected[flat(v) != 0]
    np.testing.assert_array_equal(ours, expected)


def test_grid_rounds_zeros_up():
    """q = floor((0 + R) / (2 tau R) + 1/2) = 2^(b - 1), the upper one, for any R."""
    largest = jnp.linspace(1.0, 2.0, 50)
    v = jnp.stack([largest, jnp.zeros(50)], axis=1)
    piece = worker.grid(4)
    messages = jax.vmap(lambda row: piece.update(row, piece.init(row))[0])(v)
    assert (messages[:, 1] > 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtypes", some_dtypes())
def test_natural_equals_numpy(dtypes):
    v = tree_of(dtypes)
    v["c"] = v["c"].at[0].set(2.0**-3).at[1].set(-(2.0**-3) * 1.5).at[3].set(-1e-4)
    ours, packing = apply(worker.natural(), v, key=KEY)
    (parts,) = vectors(v, "message")
    (u,) = shared_draws("message", [parts])
    np.testing.assert_array_equal(
        flat(ours), oracle_rivals.compress_natural(parts[0], u)
    )
    assert packing.code == wire.Code("power") and packing.scales.shape == (0,)


@pytest.mark.usefixtures("x64")
def test_natural_of_what_is_too_small_is_nothing_or_the_smallest():
    v = jnp.asarray(2.0**-126 * np.asarray([0.5, -0.25, 1.0, 1e-9, -1.0]))
    keys = jax.random.split(KEY, 4000)
    messages = jax.vmap(lambda key: worker.natural().update(v, (), key=key)[0])(keys)
    levels = np.asarray(messages) * 2.0**126
    assert set(np.unique(levels)) == {-1.0, 0.0, 1.0}
    slack = math.sqrt(math.log(2 * 5 / FALSE_ALARM) / (2 * 4000))
    np.testing.assert_allclose(levels.mean(0), v * 2.0**126, atol=slack)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", [*FEW, *SLOW])
def test_scales_are_rounded_up_and_no_level_exceeds_the_last(name, scope):
    piece = QUANTISERS[name](scope)
    for seed in range(20):
        dtype = "float64" if seed % 2 else "float32"
        v = tree_of((dtype,) * 3, seed)
        if seed == 18:  # one entry has all of the norm
            v = jax.tree.map(jnp.zeros_like, v)
            v["c"] = v["c"].at[5].set(1 / 3)
        ours, packing = apply(piece, v, key=KEY)
        pieces = leaves_of(ours) if scope == "leaf" else [flat(ours)]
        given = leaves_of(v) if scope == "leaf" else [flat(v)]
        for x, message, scale in zip(given, pieces, packing.scales, strict=True):
            scale = float(scale)
            levels = message / scale if scale else message
            top = LEVELS.get(name) or (1 if name == "sign" else 2 ** int(name[-1]) - 1)
            assert np.abs(levels).max() <= top * (1 + 1e-7)
            np.testing.assert_allclose(levels, np.rint(levels), rtol=2e-7)
            if name not in LEVELS and scale:
                assert (np.rint(levels) % 2 == 1).all()
            if dtype == "float64" and name != "sign":
                norm = np.linalg.norm(x) if "qsgd" in name else np.abs(x).max()
                assert scale >= norm / top * (1 - 1e-15)
                below = np.nextafter(np.float32(scale), np.float32(0))
                assert scale == 0 or below < norm / top * (1 + 1e-15)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["natural", *FEW, *SLOW])
def test_zeros_one_entry_and_empty_leaves(name, scope):
    piece = worker.natural() if name == "natural" else QUANTISERS[name](scope)
    message, packing = apply(piece, {"a": jnp.zeros(3), "b": jnp.zeros(())}, key=KEY)
    assert flat(message).tolist() == [0.0] * 4
    assert not np.asarray(packing.scales).any()
    message, _ = apply(piece, jnp.asarray(-2.0), key=KEY)
    assert message.shape == () and message == -2.0
    message, _ = apply(piece, [jnp.zeros(0), jnp.ones(1)], key=KEY)
    assert flat(message).tolist() == [1.0]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["qsgd", "terngrad", "sign", "grid-4"])
def test_no_leaves(name, scope):
    assert apply(QUANTISERS[name](scope), {}, key=KEY)[0] == {}


@pytest.mark.parametrize("name", [*QUANTISERS, "natural"])
def test_a_nan_is_not_hidden(name):
    piece = worker.natural() if name == "natural" else QUANTISERS[name]("message")
    message, _ = apply(piece, jnp.asarray([1.0, jnp.nan, 0.5]), key=KEY)
    assert np.isnan(np.asarray(message)[1])


@pytest.mark.parametrize("name", [*QUANTISERS, "natural"])
def test_an_infinity_is_not_hidden(name):
    piece = worker.natural() if name == "natural" else QUANTISERS[name]("message")
    message, _ = apply(piece, jnp.asarray([1.0, -jnp.inf, 0.5]), key=KEY)
    assert not np.isfinite(np.asarray(message)[1])


@pytest.mark.parametrize("name", ["terngrad", "sign", "grid-4", "natural", "qsgd"])
@pytest.mark.parametrize("size", [1e-22, 1e18, 1e25])
def test_small_and_large_numbers(name, size):
    piece = worker.natural() if name == "natural" else QUANTISERS[name]("message")
    v = jnp.asarray([3.0, -4.0, 0.0]) * size
    message, _ = apply(piece, v, key=jax.random.key(0))
    assert np.isfinite(message).all()
    assert np.abs(message).max() >= 2.0 * size


def draws(piece, v):
    """Messages, float64 [DRAWS, D]."""

    @jax.jit
    def all_of_them(keys):
        return jax.vmap(lambda key: piece.update(v, piece.init(v), key=key)[0])(keys)

    messages = all_of_them(jax.random.split(jax.random.key(5), DRAWS))
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(messages)]
    return np.concatenate([x.reshape(DRAWS, -1) for x in leaves], axis=1)


@pytest.mark.parametrize("scope", slow_but(["message"], SCOPES))
@pytest.mark.parametrize(
    "name",
    slow_but(
        ["qsgd", "natural"], ["qsgd", "qsgd-1", "qsgd-128", "terngrad", "natural"]
    ),
)
def test_is_unbiased_with_at_most_its_variance(name, scope):
    if name == "natural" and scope == "leaf":
        pytest.skip("natural has no scope")
    piece = worker.natural() if name == "natural" else QUANTISERS[name](scope)
    v = tree_of(("float32",) * 3, seed=4)
    exact, messages = flat(v), draws(piece, v)
    # Entry by entry the messages lie in an interval of this width.
    if name == "natural":
        steps = 2.0 ** np.floor(np.log2(np.maximum(np.abs(exact), 1e-30)))
    else:
        _, packing = apply(piece, v, key=KEY)
        sizes = [16] if scope == "message" else [6, 1, 9]
        steps = np.repeat(np.asarray(packing.scales, np.float64), sizes)
    slack = np.sqrt(np.log(2 * 17 / FALSE_ALARM) / (2 * DRAWS))
    assert np.ptp(messages, axis=0).max() <= steps.max() * (1 + 1e-5)
    strays = np.abs(messages.mean(0) - exact)
    assert (strays <= slack * steps + 1e-6 * np.abs(exact)).all()
    errors = ((messages - exact) ** 2).sum(1)
    omega = worker.variance_of(piece, v)
    assert errors.mean() <= omega * (exact**2).sum() + slack * (steps**2).sum()


def test_the_variance_bounds_are_met_by_the_worst_vectors():
    """Not looser than the formulas: each is reached, or nearly so."""
    number = np.sqrt(np.log(2 / FALSE_ALARM) / (2 * DRAWS))
    v = jnp.asarray([4.0 / 3])  # the worst for natural: omega is 1/8
    errors = (draws(worker.natural(), v)[:, 0] / (4 / 3) - 1) ** 2
    assert abs(errors.mean() - 1 / 8) <= number
    tree = {"a": jnp.zeros((4, 4)), "b": jnp.zeros(9)}
    assert worker.variance_of(worker.natural(), tree) == 1 / 8
    assert worker.variance_of(worker.terngrad(), tree) == 4
    assert worker.variance_of(worker.terngrad(scope="leaf"), tree) == 3
    assert worker.variance_of(worker.qsgd(1), tree) == 5
    assert worker.variance_of(worker.qsgd(10), tree) == 0.25
    assert worker.variance_of(worker.qsgd(10, scope="leaf"), tree) == 0.16
    assert worker.variance_of(worker.qsgd(2, scope="leaf"), tree) == 2
    for piece in (worker.qsgd(2), worker.terngrad()):
        assert worker.variance_of(piece, {}) == 0


def test_terngrad_reaches_its_variance_at_the_worst_vector():
    # One entry 1, the others b: (D-1)(b - b^2) / (1 + (D-1) b^2) is largest at
    # b = 1 / (1 + sqrt D), where it is (sqrt D - 1) / 2.
    v = jnp.full(16, 1 / 5).at[0].set(1.0)
    errors = ((draws(worker.terngrad(), v) - flat(v)) ** 2).sum(1) / (
        flat(v) ** 2
    ).sum()
    assert errors.mean() == pytest.approx(1.5, rel=0.05)
    assert errors.mean() <= worker.variance_of(worker.terngrad(), v)


@pytest.mark.parametrize("scope", SCOPES)
def test_sign_contracts(scope):
    """|C(v) - v|^2 = (1 - |v|_1^2 / (D |v|_2^2)) |v|^2, at most 1 - 1/D of it."""
    for seed in range(5):
        v = tree_of(("float32",) * 3, seed)
        message, _ = apply(worker.sign(scope=scope), v)
        given = leaves_of(v) if scope == "leaf" else [flat(v)]
        sent = leaves_of(message) if scope == "leaf" else [flat(message)]
        for x, y in zip(given, sent, strict=True):
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


def test_sign_of_zero_is_plus():
    message, packing = apply(worker.sign(), jnp.asarray([0.0, -0.0, -3.0]))
    assert message.tolist() == [1.0, 1.0, -1.0]
    assert packing.scales.tolist() == [1.0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(["qsgd"], ["natural", *FEW]) + SLOW)
def test_a_batch_equals_single_calls(name):
    piece = worker.natural() if name == "natural" else QUANTISERS[name]("leaf")
    trees = [tree_of(DTYPES["mixed64"], seed) for seed in range(3)]
    keys = jax.random.split(KEY, 3)
    one = lambda v, key: piece.update(v, piece.init(v), key=key)  # noqa: E731
    with jax.numpy_dtype_promotion("strict"):
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        messages, packing = jax.jit(jax.vmap(one))(stacked, keys)
    for i, v in enumerate(trees):
        alone, own = jax.jit(one)(v, keys[i])
        ours = jax.tree.map(lambda x, i=i: x[i], messages)
        np.testing.assert_allclose(flat(ours), flat(alone), rtol=3e-7)
        np.testing.assert_allclose(packing.scales[i], own.scales, rtol=3e-7)


def test_bad_input():
    for levels in (0, -1, 2**30 + 1, 2.0, True, None):
        with pytest.raises(
            ValueError, match="levels is .*, expected an integer from 1"
        ):
            worker.qsgd(levels)
    for bits in (0, 31, 1.5):
        with pytest.raises(
            ValueError, match="bits is .*, expected an integer from 1 t"
        ):
            worker.grid(bits)
    for make in (lambda s: worker.qsgd(2, scope=s), *QUANTISERS.values()):
        with pytest.raises(ValueError, match="scope is 'all', expected one of message"):
            make("all")
    for piece, name in (
        (worker.qsgd(2), "qsgd"),
        (worker.terngrad(), "terngrad"),
        (worker.natural(), "natural"),
    ):
        with pytest.raises(
            ValueError, match=rf"key is None, .*: {name} draws, so hand"
        ):
            piece.update(jnp.ones(2), piece.init(jnp.ones(2)))


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
    with pytest.raises(ValueError, match=f"expected at most {most}: {dtype} tells no"):
        piece = worker.qsgd(most + 1)
        piece.update(jnp.ones(2, jnp.float64), piece.init(v), v, key=KEY)
    with pytest.raises(ValueError, match=f"expected at most {most}: {dtype} tells no"):
        piece.update(jnp.ones(2, jnp.float64), piece.init(v), like=v, key=KEY)
