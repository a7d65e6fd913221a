"""The loop over blocks, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _parts


def looped(moving, fixed, number):
    """The loop over a function of every kind of array, jitted."""

    def function(moving, fixed):
        new = {
            name: (x * 2 + fixed[name].astype(x.dtype).sum(0)).astype(x.dtype)
            for name, x in moving.items()
        }
        totals = {
            "sum": sum(x.astype(jnp.float32).sum(-1) for x in fixed.values()),
            "count": jnp.asarray(sum(x.shape[-1] for x in moving.values())),
        }
        return new, totals

    totals = {"sum": jnp.full(2, 0.5), "count": jnp.asarray(3)}

    @jax.jit
    def run(moving, fixed, always):
        return _parts.in_parts(function, number, moving, fixed, totals, always)

    return run(moving, fixed, True)


def arrays(lengths, dtype):
    rng = np.random.default_rng(0)
    whole = lambda *shape: rng.integers(-9, 9, shape).astype(dtype)  # noqa: E731
    moving = {f"{i}": whole(n) for i, n in enumerate(lengths)}
    return moving, {f"{i}": whole(2, n) for i, n in enumerate(lengths)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize(
    ("lengths", "number"),
    [
        ((12,), 1),
        ((1000,), 7),  # in place, a second visit would double again
        ((12,), 4),
        ((13,), 4),  # a rest of one
        ((12, 24, 4), 4),  # no rest
        ((15, 4, 2), 4),  # rests of 3, 0 and 2; a leaf shorter than the blocks
        ((3,), 8),  # nothing but a rest
        ((16, 0), 4),
        ((0,), 2),
    ],
)
def test_equals_numpy(lengths, number, dtype):
    moving, fixed = arrays(lengths, jnp.dtype(dtype))
    new, totals = looped(moving, fixed, number)
    for name, x in moving.items():
        expected = (x * 2 + fixed[name].sum(0)).astype(x.dtype)
        assert new[name].dtype == x.dtype
        np.testing.assert_array_equal(new[name], expected)
    sums = sum(x.astype(np.float32).sum(-1) for x in fixed.values())
    np.testing.assert_array_equal(totals["sum"], sums + 0.5)
    assert int(totals["count"]) == 3 + sum(lengths)


def test_several_dtypes_and_ranks_at_once():
    x = np.arange(10, dtype=np.float32)
    moving = (jnp.asarray(x, jnp.float16), jnp.ones((3, 2, 5), bool))
    fixed = {"n": jnp.arange(10)}

    def function(moving, fixed):
        half, mask = moving
        return (half + fixed["n"].astype(half.dtype), ~mask), (~mask).sum((1, 2))

    @jax.jit
    def run(moving, fixed, always):
        totals = jnp.zeros(3, jnp.int32)
        return _parts.in_parts(function, 3, moving, fixed, totals, always)

    (half, mask), totals = run(moving, fixed, True)
    np.testing.assert_array_equal(half, 2 * x)
    assert half.dtype == jnp.float16
    assert not mask.any()
    assert totals.tolist() == [0, 0, 0]


def test_nothing_but_what_is_read():
    def function(_, fixed):
        return (), fixed.sum(-1)

    def run(x, always):
        return _parts.in_parts(function, 4, (), x, jnp.zeros(2), always)

    x = jnp.arange(22.0).reshape(2, 11)
    moving, total = jax.jit(run)(x, True)
    assert moving == ()
    np.testing.assert_array_equal(total, x.sum(-1))


def test_over_a_batch():
    def function(moving, fixed):
        return moving + fixed, fixed.sum()

    def run(x, y, always):
        return _parts.in_parts(function, 3, x, y, jnp.zeros(()), always)

    x, y = jnp.ones((4, 8)), jnp.arange(32.0).reshape(4, 8)
    new, totals = jax.jit(jax.vmap(run))(x, y, jnp.ones(4, bool))
    np.testing.assert_array_equal(new, x + y)
    np.testing.assert_array_equal(totals, y.sum(-1))


def test_number_of_parts(monkeypatch):
    monkeypatch.setitem(_parts.PART_BYTES, "cpu", 64)
    number = lambda *shapes: _parts.number_of_parts(  # noqa: E731
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes], "cpu"
    )
    assert number((16,)) == 1
    assert number((17,)) == 2
    assert number((32,)) == 2
    assert number((35,)) == 5  # rather more blocks than a rest
    assert number((4, 16)) == 4
    assert number((37,)) == 3  # a prime: with a rest
    assert number((32,), (16,)) == 4  # divides both
    assert number((32,), (7,)) == 3
    assert number((0,)) == 1
    half = jax.ShapeDtypeStruct((32,), jnp.float16)
    assert _parts.number_of_parts({"a": half, "b": None}, "cpu") == 1
    assert _parts.number_of_parts([], "cpu") == 1
