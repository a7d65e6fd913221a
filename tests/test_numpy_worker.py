"""The workers' half in NumPy alone: what the pieces decide, and the same bytes."""

import inspect
import subprocess
import sys
from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _methods, _plain, _trees
from messages import assert_same, flushed

import gdsec_jax
from gdsec_jax import numpy_worker, wire, worker

M, ROUNDS, XI, LEVELS, K = 4, 6, 6.0, 5, 4
BETA = 0.01
SHAPES = {"w": (3, 4), "b": [(5,), ()]}
LENGTH = 18
CENSOR = worker.censor(XI / M)


class Case(NamedTuple):
    """A method, and the pipeline of the package's method of this name."""

    method: object
    pipeline: optax.GradientTransformation
    scopes: int = 1  # how many keys draw


def difference(piece, beta=1.0):
    return worker.gradient_difference(piece, beta)


CASES = {
    "gd": Case(numpy_worker.GD(), worker.whole()),
    "gdsec": Case(
        numpy_worker.GDSEC(M, XI, BETA), difference(worker.error_feedback(CENSOR), BETA)
    ),
    "gdsoec": Case(numpy_worker.GDSOEC(M, XI, BETA), difference(CENSOR, BETA)),
    "qsgdsec": Case(
        numpy_worker.QSGDSEC(M, XI, BETA, LEVELS),
        difference(
            worker.error_feedback(worker.chain(CENSOR, worker.qsgd(LEVELS))), BETA
        ),
    ),
    "cgd": Case(numpy_worker.CGD(M, XI), difference(worker.censor_whole(XI / M))),
    "top_j": Case(numpy_worker.TopJ(K), worker.error_feedback(worker.top_k(K))),
    "top_j of leaves": Case(
        numpy_worker.TopJ(0.3, "leaf"),
        worker.error_feedback(worker.top_k(0.3, scope="leaf")),
    ),
    "ef21": Case(numpy_worker.EF21(K), difference(worker.first_whole(worker.top_k(K)))),
    "qgd": Case(numpy_worker.QGD(LEVELS), worker.qsgd(LEVELS)),
    "qgd of leaves": Case(
        numpy_worker.QGD(LEVELS, "leaf"), worker.qsgd(LEVELS, scope="leaf"), 3
    ),
}


def tree(values, dtype):
    """The entries in order as a tree of the parameters' shapes."""
    values = np.asarray(values).astype(dtype)
    b, w = values[:6], values[6:]
    return {"w": w.reshape(3, 4), "b": [b[:5], b[5].reshape(())]}


def rounds(dtype, seed=0):
    """Gradients and changes with ties, entries on their threshold, zeros, tiny ones."""
    rng = np.random.default_rng(seed)
    for k in range(ROUNDS):
        gradient = rng.integers(-24, 25, LENGTH) / 8 * 2.0 ** -(2 * k)
        change = rng.integers(-4, 5, LENGTH) / 8 * (k > 0) * 2.0 ** -(2 * k)
        gradient[rng.integers(LENGTH, size=2)] = 0.0, -0.0
        gradient[rng.integers(LENGTH)] = 0.6 * _plain.finfo(dtype).tiny
        yield tree(gradient, dtype), tree(change, dtype)


def draws(case, key, dtype):
    """The key's uniforms as the quantiser draws them, in order."""
    wide = jnp.promote_types(dtype, jnp.float32)
    if case.scopes == 1:
        return np.asarray(jax.random.uniform(key, (LENGTH,), wide))
    keys = jax.random.split(key, case.scopes)
    each = zip(keys, (5, 1, 12), strict=True)
    return np.concatenate([jax.random.uniform(key, (n,), wide) for key, n in each])


def assert_alike(a, b):
    """To the bit, but for subnormal numbers, of which XLA's CPU backend makes 0."""

    def one(x, y):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(flushed(np.asarray(x)), flushed(np.asarray(y)))

    jax.tree.map(one, a, b)


def own_memories(state):
    """h and e of a pipeline's state, () of what it has not."""
    h = _trees.of_type(state, worker.GradientDifferenceState)
    e = _trees.of_type(h[0].compressor if h else state, worker.ErrorFeedbackState)
    return h[0].memory if h else (), e[0].error if e else ()


def both_ways(case, dtype, k, gradient, change, state, memory):
    """A round of the piece and of NumPy's worker: each a message, and what is kept."""
    like, key = jax.tree.map(jnp.asarray, gradient), jax.random.key(k)
    told = {"params_change": change, "round": k, "delivered": k not in (0, 3)}
    piece = optax.with_extra_args_support(case.pipeline)
    given = jax.tree.map(jnp.asarray, told)
    update, state = piece.update(like, state, like, **given, key=key)
    theirs = wire.message_of(_trees.cast_like(update, like), state)
    drawn = draws(case, key, dtype)
    return theirs, state, *case.method.update(gradient, memory, **told, uniforms=drawn)


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_in_either_case_is_made_at_once(name):
    """Of one array, too, which is compared with nothing."""
    method, rng = CASES[name].method, np.random.default_rng(0)
    gradient, change, uniforms = rng.normal(size=(3, LENGTH)).astype(np.float32)
    memory = method.init(gradient)
    told = {"params_change": change / 9, "round": 1, "uniforms": np.abs(uniforms) % 1}
    expected = [
        method.update(gradient, memory, **told, delivered=arrives)
        for arrives in (True, False)
    ]
    made = _methods.both(
        method, gradient, memory, _methods.Told(**told, begun=memory.begun)
    )
    for (message, kept), own in zip(expected, made[1:], strict=True):
        assert_alike(message.values, made[0].values)
        assert_alike(kept[:2], own[:2])
        assert kept.begun == own.begun


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_messages_and_memories_are_those_of_the_pieces(name, dtype, x64):
    """To the bit, lost messages among them, and so are the bytes in every format.

    But for the last bit of a quantiser's scale, for which the order of a sum matters.
    """
    case, moved = CASES[name], 0
    params = tree(np.zeros(LENGTH), jnp.dtype(dtype))
    state, memory = case.pipeline.init(params), case.method.init(params)
    for k, (gradient, change) in enumerate(rounds(jnp.dtype(dtype))):
        theirs, state, message, memory = both_ways(
            case, dtype, k, gradient, change, state, memory
        )
        moved += any(np.any(x) for x in jax.tree.leaves(message.values))
        if theirs.code.kind == "levels" and dtype != "float64":
            assert message.code == theirs.code
            same_levels(message, theirs)
            h, e = jax.tree.map(np.asarray, own_memories(state))
            memory = memory._replace(h=h, e=e)
            continue
        assert_same(message, theirs)
        np.testing.assert_array_equal(message.scales, theirs.scales)
        for form in wire.FORMATS:
            assert wire.encode(message, form) == wire.encode(theirs, form)
        assert_alike((memory.h, memory.e), own_memories(state))
    assert moved >= (1 if name == "cgd" else ROUNDS - 1)


def same_levels(message, theirs):
    """Of scales that may differ by their last bits."""
    np.testing.assert_array_max_ulp(message.scales, theirs.scales, 2)
    found = []
    for one in (message, theirs):
        each = jax.tree.leaves(one.values)
        scales = np.resize(np.where(one.scales > 0, one.scales, 1), len(each))
        found.append([np.rint(x / c) for x, c in zip(each, scales, strict=True)])
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_federation_with_absent_workers_and_lost_messages():
    """A worker that rests keeps its memories; bits are the lengths of the bytes."""
    algorithm = gdsec_jax.gdsec(M, XI, beta=2.0**-4, wire="rle")
    method = numpy_worker.GDSEC(M, XI, beta=2.0**-4)
    params = tree(np.zeros(LENGTH), "float32")
    state, memories = algorithm.init(params), [method.init(params)] * M
    h, previous, rng = params, params, np.random.default_rng(3)
    update = jax.jit(algorithm.update)
    for _ in range(ROUNDS):
        drawn = rng.integers(-24, 25, (M, LENGTH)) / 8
        gradients = [tree(row, "float32") for row in drawn]
        active, delivered = rng.random((2, M)) < 0.7
        change = jax.tree.map(np.subtract, params, previous)
        total, bits = h, []
        for m in range(M):
            sent, bits = None, [*bits, 0]
            if active[m]:
                message, memories[m] = method.update(
                    gradients[m], memories[m], change, delivered=delivered[m]
                )
                sent = message.values
                bits[m] = len(wire.encode(message, "rle"))
            if sent is not None and delivered[m]:
                total = jax.tree.map(np.add, total, sent)
                h = jax.tree.map(lambda h, u: h + np.float32(2.0**-4) * u, h, sent)
        stacked = jax.tree.map(lambda *x: np.stack(x), *gradients)
        direction, state = update(
            stacked, state, params, active=active, delivered=delivered
        )
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6),
            direction,
            total,
        )
        counted = np.asarray(gdsec_jax.last_round(state).bits)
        np.testing.assert_array_equal(-(-counted // 8), bits)
        previous = params
        params = jax.tree.map(lambda x, d: x - np.float32(0.25) * d, params, total)


CLIENT = """
import sys
for name in ("jax", "jaxlib", "ml_dtypes", "optax", "scipy", "lazy_loader", "flax"):
    sys.modules[name] = None  # as if it were not installed
import numpy as np
from gdsec_jax import numpy_worker, wire
assert not [name for name in sys.modules if name.startswith(("jax.", "scipy."))]
params = {"w": np.zeros((3, 4), np.float32), "b": [np.zeros(5), np.zeros(())]}
rng = np.random.default_rng(0)
for name, numbers in METHODS.items():
    method = numpy_worker.METHODS[name](**numbers)
    memory = method.init(params)
    for k in range(3):
        draw = lambda x: np.asarray(rng.integers(-9, 10, x.shape) / 8, x.dtype)
        b = [draw(x) for x in params["b"]]
        gradient = {"w": draw(params["w"]), "b": b}
        change = {"w": draw(params["w"]), "b": [draw(x) for x in params["b"]]}
        message, memory = method.update(
            gradient, memory, change, round=k, uniforms=rng.random(18))
        data = wire.encode(message, "golomb")
        back = wire.decode(data, params, "golomb", message.code, message.whole)
        assert back.values["w"].tolist() == message.values["w"].tolist()
        leaves = [*message.values["b"], message.values["w"]]
        values = np.concatenate([np.ravel(x).astype(float) for x in leaves])
        print(name, data.hex() or "-", message.whole, *values.tolist())
"""
NUMBERS = {
    "gd": {},
    "gdsec": {"num_workers": M, "xi": {"w": 1.0, "b": [2.0, 3.0]}},
    "gdsoec": {"num_workers": M, "xi": 4.0},
    "qsgdsec": {"num_workers": M, "xi": 4.0, "levels": 3},
    "cgd": {"num_workers": M, "xi": 0.5},
    "top_j": {"k": 3},
    "ef21": {"k": 0.2, "scope": "leaf"},
    "qgd": {"levels": 3, "scope": "leaf"},
}


def test_a_device_with_numpy_alone_sends_what_a_server_reads():
    code = CLIENT.replace("METHODS.items()", f"{NUMBERS}.items()")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    like = {"w": jnp.zeros((3, 4)), "b": [np.zeros(5), np.zeros(())]}
    codes = {
        "gd": wire.Code(dense=True),
        "cgd": wire.Code(dense=True),
        "qsgdsec": wire.Code("levels", 3, num_scales=1),
        "qgd": wire.Code("levels", 3, num_scales=3),
    }
    lines = ran.stdout.splitlines()
    assert len(lines) == 3 * len(NUMBERS)
    for line in lines:
        name, data, whole, *values = line.split()
        data = bytes.fromhex(data.strip("-"))
        code = codes.get(name, wire.Code())
        message = wire.decode(data, like, "golomb", code, whole == "True")
        read = np.concatenate([np.ravel(x) for x in jax.tree.leaves(message.values)])
        np.testing.assert_array_equal(read, np.float64(values))


def test_the_methods_are_the_packages():
    """Of the same names, with the same numbers."""
    for name, method in numpy_worker.METHODS.items():
        theirs = inspect.signature(gdsec_jax.METHODS[name].factory).parameters
        own = inspect.signature(method).parameters
        assert own.keys() <= theirs.keys()
        for argument in own.values():
            assert theirs[argument.name].default == argument.default, argument
    assert NUMBERS.keys() == numpy_worker.METHODS.keys()


def test_schedules_and_prefixes_of_xi():
    v, change = tree(np.arange(18.0), "float64"), tree(np.ones(18), "float64")
    for xi, sent in (
        (7.0, 10),
        (lambda k: 7.0 + k, 9),
        ({"w": 7.0, "b": 0.0}, 15),
        ({"w": np.full((1, 4), 16.0), "b": [3.0, 5.0]}, 2),
    ):
        method = numpy_worker.GDSEC(num_workers=1, xi=xi)
        message, _ = method.update(v, method.init(v), change, round=1)
        leaves = jax.tree.leaves(message.values)
        assert sum(map(np.count_nonzero, leaves)) == sent


def test_a_nan_is_sent_and_the_largest():
    v = np.array([1.0, np.nan, -3.0, 2.0])
    for method in (numpy_worker.GDSEC(1, 9.0), numpy_worker.TopJ(1)):
        message, _ = method.update(v, method.init(v), np.ones(4))
        assert np.isnan(message.values[1])
    v[2] = -np.inf
    assert np.isinf(numpy_worker.top_k(v, 2)[2])


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (numpy_worker.GDSEC(0, 1.0), "num_workers is 0, expected an integer"),
        (numpy_worker.GDSEC(2, -1.0), "xi is -1, expected a number at least 0"),
        (numpy_worker.GDSOEC(2, 1.0, 1.5), r"beta is 1.5, expected .* \[0, 1\]"),
        (numpy_worker.CGD(2, [1.0]), r"xi is \[1.0\], expected one number"),
        (numpy_worker.TopJ(0), "k is 0, expected an int of at least 1"),
        (numpy_worker.EF21(3, "layer"), "scope is 'layer', expected one of message"),
        (numpy_worker.QGD(0), "levels is 0, expected an integer from 1"),
        (numpy_worker.QSGDSEC(2, 1.0, levels=2**24), "levels is 16777216, expected"),
    ],
)
def test_numbers_out_of_range_are_refused(method, match):
    with pytest.raises(ValueError, match=match):
        method.init(np.zeros(3, np.float32))


def test_what_an_update_lacks_is_named():
    gdsec, qgd, params = numpy_worker.GDSEC(2, 1.0), numpy_worker.QGD(), np.zeros(3)
    memory = gdsec.init(params)
    with pytest.raises(ValueError, match="params_change is None, expected it"):
        gdsec.update(params, memory)
    with pytest.raises(ValueError, match=r"gradient has shape \(4,\), expected \(3,\)"):
        gdsec.update(np.zeros(4), memory, params)
    with pytest.raises(ValueError, match="gradient is the tree"):
        gdsec.update({"w": params}, memory, params)
    with pytest.raises(ValueError, match=r"params_change has shape \(2,\)"):
        gdsec.update(params, memory, np.zeros(2))
    for xi, message in (
        ({"w": 1.0}, "xi is .*, expected a number or a prefix of the params' tree"),
        (np.ones((2, 3)), r"xi has shape \(2, 3\), expected one that broadcasts to"),
        (np.ones(2), r"xi has shape \(2,\), expected one that broadcasts to the par"),
    ):
        with pytest.raises(ValueError, match=message):
            gdsec._replace(xi=xi).update(params, memory, params)
    with pytest.raises(ValueError, match="uniforms is None, expected it"):
        qgd.update(params, qgd.init(params))
    with pytest.raises(ValueError, match=r"uniforms has shape \(2,\), expected \(3,\)"):
        qgd.update(params, qgd.init(params), uniforms=np.zeros(2))


TREES = [
    1.0,
    None,
    [],
    {"b": 1.0, "a": [2.0, None, (3.0,)]},
    OrderedDict([("b", 1.0), ("a", 2.0)]),
    numpy_worker.Memory(h={"x": 1.0}, e=(), begun=True),
    {"w": {}},
]


@pytest.mark.parametrize("nest", TREES, ids=str)
def test_trees_are_jaxs_where_nobody_has_loaded_it(nest, monkeypatch):
    found, structure = _plain.flatten(nest)
    with_none = _plain.leaves(nest, nones=True)
    doubled = _plain.map(lambda x: 2 * x, nest)
    filled = _plain.filled(5, nest)
    again = _plain.unflatten(structure, [leaf for _, leaf in found])
    monkeypatch.setattr(_plain, "jax_if_loaded", lambda: None)
    own, structure = _plain.flatten(nest)
    assert own == found and _plain.leaves(nest) == [leaf for _, leaf in found]
    assert _plain.leaves(nest, nones=True) == with_none
    assert _plain.map(lambda x: 2 * x, nest) == doubled
    assert _plain.filled(5, nest) == filled
    assert again == _plain.unflatten(structure, [leaf for _, leaf in own])
    assert type(again) is type(_plain.unflatten(structure, [x for _, x in own]))


@pytest.mark.parametrize("loaded", [True, False])
def test_prefixes_of_trees(loaded, monkeypatch):
    if not loaded:
        monkeypatch.setattr(_plain, "jax_if_loaded", lambda: None)
    nest = {"a": [1, 2], "b": (3, {"c": 4})}
    assert _plain.filled({"a": 7, "b": (8, 9)}, nest) == {
        "a": [7, 7],
        "b": (8, {"c": 9}),
    }
    for wrong in ({"a": 7}, [7, 8], {"a": [7], "b": 8}, {"a": 7, "c": 8}):
        with pytest.raises(ValueError):
            _plain.filled(wrong, nest)
    with pytest.raises(ValueError):
        _plain.filled({"d": 1}, 2)
