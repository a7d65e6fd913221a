"""What is read as component-wise, and what never may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _componentwise

M, N, BLOCK, REST = 3, 7, 4, 2
ROW = jnp.arange(1.0, M + 1)  # a number for each worker


def rows(n, *between):
    return jax.ShapeDtypeStruct((M, *between, n), jnp.float32)


def vector(n):
    return jax.ShapeDtypeStruct((n,), jnp.float32)


def kinds(function, make=rows, axes=(1,), originals=None):
    """What is found of a function of arrays that `make` makes of a length."""

    def listed(*arrays):
        out = function(*arrays)
        return out if isinstance(out, list) else [out]

    return component_axes(listed, axes, [make(n) for n in (N, BLOCK, REST)], originals)


def component_axes(function, axes, shapes, originals=None):
    """The kinds of a function whose arguments all have the same shape."""
    trace = jax.make_jaxpr(function)
    programs = [trace(*(shape for _ in axes)) for shape in shapes]
    alike = [] if originals is None else [trace(*originals)]
    return _componentwise.component_axes(programs, axes, alike)


def _where(x):
    return jnp.where(jnp.abs(x) > 1, x, 0)


def _custom(x):
    @jax.custom_jvp
    def f(x):
        return x * 2

    f.defjvp(lambda primals, tangents: (f(*primals), 2 * tangents[0]))
    return f(x)


def _lifted(x):
    # A worker's pipeline, with its own mask and number.
    def one(row, present):
        number = jax.lax.axis_index("workers")
        return jnp.where(present, row, 0) * (number == 1)

    return jax.vmap(one, axis_name="workers")(x, ROW > 1)


def _random_number(x):
    return x * jax.random.uniform(jax.random.key(0))


def _counted_number(x):
    return x * jnp.cumsum(jnp.ones(5))[-1]


ALLOWED = {
    "arithmetic": lambda x: 2.0 * x - x / 3 + x**2 - 1,
    "where": _where,
    "clip": lambda x: jnp.clip(x, -1, 1),
    "clip-by-number": lambda x: jax.lax.clamp(jnp.float32(0), x, jnp.float32(1)),
    "transcendental": lambda x: jnp.tanh(x) + jnp.exp(-jnp.abs(x)) + jnp.sqrt(x * x),
    "casts": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32).astype(jnp.int32),
    "constants": lambda x: jnp.full_like(x, 3) + jnp.zeros(x.shape),
    "nested jit": jax.jit(lambda x: jax.jit(_where)(x) + 1),
    "vmap": jax.vmap(lambda row: row * 2),
    "vmap over components": jax.vmap(lambda column: column * 2, 1, 1),
    "custom_jvp": _custom,
    "relu": jax.nn.relu,
    "workers": _lifted,
    "mask": lambda x: jnp.where((ROW > 1)[:, None], x, jnp.zeros_like(x)),
    "kept axes": lambda x: x - x.sum(0, keepdims=True),
    "a drawn number": _random_number,
    "a counted number": _counted_number,
    "number in": lambda x: x * jnp.square(ROW).sum(),
    "axes of one": lambda x: x[:, None, :].reshape(M, 1, 1, -1)[:, 0, 0] * 1,
    "finite": lambda x: jnp.where(jnp.isfinite(x), x, 0),
}


@pytest.mark.parametrize("function", ALLOWED.values(), ids=ALLOWED.keys())
def test_is_component_wise(function):
    (kind,) = kinds(function)
    assert kind.axis == 1 or 1 in kind.constant
    _check_slices(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(0),
        lambda x: x.max(0),
        lambda x: jnp.tensordot(ROW, x, 1),
        lambda x: ROW @ x,
    ],
    ids=["sum", "max", "tensordot", "dot"],
)
def test_sums_over_workers_are_component_wise(function):
    (kind,) = kinds(function)
    assert kind.axis == 0
    _check_slices(function)


def test_numbers_depend_on_no_component():
    found = kinds(lambda x: [ROW.sum(), ROW * 2, jnp.zeros_like(x)])
    assert [kind.axis for kind in found] == [None] * 3
    assert found[0].constant == frozenset()
    assert found[1].constant == frozenset()
    assert found[2].constant == {0, 1}


def test_two_arrays_of_the_same_components():
    found = kinds(lambda x, y: [x + y, y], axes=(1, 1))
    assert [kind.axis for kind in found] == [1, 1]


def _loop(x):
    return jax.lax.scan(lambda carry, _: (carry + x, None), x, length=3)[0]


def _over_components(x):
    return jax.lax.scan(lambda sum_, v: (sum_ + v, sum_), jnp.zeros(M), x.T)[1].T


def _while(x):
    return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x)


def _bcast(x):
    return jnp.broadcast_to(x[:, :, None], (*x.shape, x.shape[1]))


def _callback(x):
    jax.debug.print("one")
    return x * 2


REFUSED = {
    # Components meet.
    "norm": lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True),
    "mean": lambda x: x - x.mean(),
    "sum": lambda x: x.sum(1),
    "sum of all": lambda x: x.sum(),
    "max": lambda x: x == x.max(),
    "any": lambda x: jnp.where((x > 0).any(1, keepdims=True), x, 0),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cumulative maximum": lambda x: jax.lax.cummax(x, 1),
    "sort": lambda x: jnp.sort(x, 1),
    "argsort": lambda x: jnp.argsort(x, 1),
    "argmax": lambda x: x * x.argmax(1)[:, None],
    "top_k": lambda x: x * jax.lax.top_k(x, 1)[0],
    "softmax": lambda x: jax.nn.softmax(x, 1),
    "product": lambda x: x.prod(1),
    "contraction": lambda x: x @ jnp.ones(x.shape[1]),
    "gram": lambda x: x @ x.T,
    "outer product": lambda x: x.T @ x,
    "batched product": lambda x: jnp.einsum("mn,mn->n", x, x),
    "fft": lambda x: jnp.fft.fft(x, axis=1).real,
    # They are moved, or some are taken.
    "flip": lambda x: x[:, ::-1],
    "roll": lambda x: jnp.roll(x, 1, 1),
    "gather": lambda x: x[:, jnp.array([0, 0, 1])],
    "first": lambda x: x[:, 0],
    "first of all": lambda x: x * x[:, :1],
    "rest": lambda x: x[:, 1:],
    "at": lambda x: x.at[:, 0].set(0),
    "transpose": lambda x: x.T,
    "ravel": lambda x: x.ravel(),
    "pad": lambda x: jnp.pad(x, ((0, 0), (0, 1))),
    "concatenate": lambda x: jnp.concatenate([x, x], 1),
    "diff": lambda x: jnp.diff(x, axis=1),
    # Each has a number of its own, from elsewhere.
    "arange": lambda x: x * jnp.arange(x.shape[1]),
    "iota": lambda x: x + jax.lax.broadcasted_iota(x.dtype, x.shape, 1),
    "random": lambda x: x * jax.random.uniform(jax.random.key(0), x.shape),
    "one draw a component": lambda x: (
        x + jax.random.normal(jax.random.key(1), (x.shape[1],))
    ),
    "constant": lambda x: x * jnp.asarray(np.arange(x.shape[1], dtype=np.float32)),
    "the same constant": lambda x: x * np.ones(x.shape[1], np.float32),
    # What depends on how many there are.
    "size": lambda x: x / x.size,
    "power": lambda x: x ** x.shape[1],
    "counted": lambda x: x / jnp.ones_like(x).sum(),
    "counted by a dot": lambda x: x / (jnp.ones(x.shape[1]) @ jnp.ones(x.shape[1])),
    "counted by max": lambda x: x / jnp.arange(1.0, x.shape[1] + 1).max(),
    "counted by cumsum": lambda x: x / jnp.cumsum(jnp.ones(x.shape[1]))[-1],
    "counted by argmax": lambda x: x * jnp.argmax(jnp.arange(x.shape[1])),
    "counted by prod": lambda x: x * jnp.full(x.shape[1], 1.5).prod(),
    "counted copies": lambda x: _bcast(x).sum(2),
    "counted products": lambda x: _bcast(x) @ jnp.ones(x.shape[1]),
    "sum of draws": lambda x: (
        x * jax.random.uniform(jax.random.key(0), (x.shape[1],)).sum()
    ),
    "one of the draws": lambda x: (
        x * jax.random.uniform(jax.random.key(0), (x.shape[1],))[0]
    ),
    "as many bits": lambda x: jax.lax.reduce_precision(x, 8, x.shape[1]),
    "as many rounds": lambda x: x * jax.lax.fori_loop(0, x.shape[1], lambda i, c: c, 2),
    "branch": lambda x: x * 2.0 if x.shape[1] > BLOCK else x + 2.0,
    "branch of the rest": lambda x: x * min(x.shape[1], BLOCK - 1),
    "branch that mixes": lambda x: (
        x * 2.0 if x.shape[1] != REST else jnp.cumsum(x * 2.0, 1)
    ),
    "branch of operands": lambda x: x - ROW[:, None] * (x if x.shape[1] == N else 1),
    "branch of dtypes": lambda x: x.astype(
        jnp.float16 if x.shape[1] == N else jnp.bfloat16
    ).astype(jnp.float32),
    "branch of constants": lambda x: x * jnp.asarray([[1.0], [2.0], [x.shape[1] > 5]]),
    "branch in jit": jax.jit(lambda x: x * 2.0 if x.shape[1] > BLOCK else x + 2.0),
    # What is not looked into, and what is done once.
    "psum": jax.vmap(lambda row: row + jax.lax.psum(row, "m"), axis_name="m"),
    "scan": _loop,
    "scan over components": _over_components,
    "while": _while,
    "cond": lambda x: jax.lax.cond(True, lambda x: x * 2, lambda x: x, x),
    "callback": _callback,
}


@pytest.mark.parametrize("function", REFUSED.values(), ids=REFUSED.keys())
def test_is_not_component_wise(function):
    assert kinds(function) is None


def test_components_of_leaves_that_meet_at_different_axes():
    assert kinds(lambda x, y: x[:, None] * y[None, :], vector, (0, 0)) is None
    assert kinds(lambda x, y: x @ y, vector, (0, 0)) is None
    square = component_axes(lambda x, y: [x + y.T], (1, 1), [rows(M), rows(M)])
    assert square is None


def test_a_reshape_that_mixes_only_for_some_lengths():
    # With as many components as workers it does nothing.
    mixes = lambda x: [x.reshape(x.shape[1], x.shape[0])]  # noqa: E731
    assert component_axes(mixes, (1,), [rows(M)]) is not None
    assert component_axes(mixes, (1,), [rows(M), rows(2)]) is None
    assert kinds(lambda x: x.reshape(-1, M)) is None


@pytest.mark.parametrize(
    ("function", "same"),
    [
        (lambda x: x * 2, True),
        (lambda x: jnp.where(x > 0, x, 0) * ROW.reshape(M, *[1] * (x.ndim - 1)), True),
        (lambda x: jnp.tensordot(ROW, x, 1), True),
        (lambda x: x * 2 if x.ndim > 2 else x, False),
        (lambda x: x / jnp.ones(x.shape[1:]).sum(), False),
        (lambda x: x * (2 if x.ndim > 2 else 3), False),
        (lambda x: x * 2 if x.ndim > 1 else x, False),
        (lambda x: x * x.shape[-1], False),
        (lambda x: x + jnp.swapaxes(x, -1, -2) if x.ndim > 2 else x + x, False),
    ],
)
def test_the_same_is_done_whatever_the_parameters_shapes(function, same):
    shapes = (M, 3, 3), (M,)
    found = [
        kinds(function, originals=[jax.ShapeDtypeStruct(shape, jnp.float32)])
        for shape in shapes
    ]
    assert all(found) == same


# Any composition.

_UNARY = {
    "neg": jnp.negative,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "square": jnp.square,
    "where": _where,
    "clip": lambda x: jnp.clip(x, -1, 1),
    "half": lambda x: x / 2,
    "cast": lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
    "mask": lambda x: jnp.where((ROW > 1)[:, None], x, 0),
    "jit": jax.jit(lambda x: x + 1),
    "deviation": lambda x: x - jnp.max(x, 0),
    "vmap": jax.vmap(lambda row: row + row),
}
_BINARY = {
    "add": jnp.add,
    "mul": jnp.multiply,
    "max": jnp.maximum,
    "select": lambda x, y: jnp.where(x > y, x, y - x),
}
_MIXING = {
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "flip": lambda x: jnp.flip(x, 1),
    "norm": lambda x: x * jnp.abs(x).max(1, keepdims=True),
    "count": lambda x: x * jnp.ones_like(x).sum(),
    "size": lambda x: x + x.shape[1],
    "rows": lambda x: x + jnp.ones_like(x).sum(1, keepdims=True),
    "branch": lambda x: x * (2 if x.shape[1] > REST else 1),
    "reshape": lambda x: x.reshape(-1, M).reshape(x.shape),
    "rotate": lambda x: x.T.reshape(x.shape),
    "arange": lambda x: x + jnp.arange(x.shape[1]),
    "last": lambda x: x - x[:, -1:],
}


def _programs(mixing):
    names = [*_UNARY, *_BINARY, *(_MIXING if mixing else ())]
    step = st.tuples(st.sampled_from(names), st.integers(0, 9), st.integers(0, 9))
    return st.lists(step, min_size=1, max_size=6)


def _function(program):
    def function(x):
        values = [x, x / 4]
        for name, i, j in program:
            a, b = values[i % len(values)], values[j % len(values)]
            if name in _BINARY:
                values.append(_BINARY[name](a, b))
            else:
                values.append((_UNARY | _MIXING)[name](a))
        return values[-1] + 0 * x

    return function


def _check_slices(function):
    """A part of the components gives this part of the results."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(M, N)) * 4, jnp.float32)
    whole = function(x)
    for part in (slice(0, BLOCK), slice(BLOCK, BLOCK + REST)):
        expected = np.asarray(whole[..., part])
        np.testing.assert_allclose(function(x[:, part]), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(_programs(mixing=False))
def test_any_composition_is_component_wise(program):
    function = _function(program)
    (kind,) = kinds(function)
    assert kind.axis == 1
    with np.errstate(all="ignore"):
        _check_slices(function)


@settings(max_examples=40, deadline=None)
@given(_programs(mixing=True))
def test_what_is_accepted_is_component_wise(program):
    function = _function(program)
    if kinds(function) is not None:
        _check_slices(function)
