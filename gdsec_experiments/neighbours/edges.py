"""Values at the edges of formats: what libraries make of them, and what ours does.

Each row is computed: a function for what is seen elsewhere, and one for ours.
"""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import gdsec_jax
from gdsec_experiments import neighbours
from gdsec_jax import data, federate, logs, robust, server, wire, worker

HEADER = ("what", "elsewhere", "seen there", "ours")
_NAN = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32)  # of either sign


def caption() -> str:
    """What was asked."""
    names = "gdsec-jax", "jax", "numpy", "optax", "pandas", "scikit-learn", "ml-dtypes"
    return "On a CPU; " + neighbours.versions(*names) + "."


def _round(method: Any, gradients: Any, dtype: Any = jnp.float32) -> tuple[list, Any]:
    """The direction of one round, and what is said of it."""
    grads = jnp.asarray(gradients, dtype)
    params = jnp.zeros(grads.shape[1:], dtype)
    direction, state = method.update(grads, method.init(params), params)
    return direction.astype(jnp.float32).tolist(), gdsec_jax.last_round(state)


def _refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("taken")


def _message(piece: Any, values: Any) -> jax.Array:
    given = jnp.asarray(values, jnp.float32)
    return piece.update(given, piece.init(given), key=jax.random.key(0))[0]


def _place_of_nan() -> str:
    orders = [
        jax.lax.top_k(jnp.stack([1.0, x, -jnp.inf]), 3)[1].tolist().index(1)
        for x in _NAN
    ]
    return f"by its sign bit: place {orders[0] + 1} or {orders[1] + 1} of 3"


def _our_nan() -> str:
    kept = [_message(worker.top_k(1), [1.0, x, -np.inf]) for x in _NAN]
    assert all(bool(jnp.isnan(x[1])) for x in kept), kept
    for nan in _NAN:
        direction, said = _round(gdsec_jax.top_j(2, k=1), [[1.0, nan], [3.0, 1.0]])
        assert direction == [3.0, 0.0] and said.dropped == 1, (direction, said)
    return "of either sign the largest; in a round that worker is left out, and counted"


def _zeros_there() -> str:
    order = jax.lax.top_k(jnp.asarray([-0.0, 0.0]), 2)[1].tolist()
    return f"0.0 stands before -0.0, whatever comes first: {order}"


def _our_zeros() -> str:
    sent = _message(worker.top_k(1), [-2.0, 2.0, -0.0])
    assert sent.tolist() == [-2.0, 0.0, 0.0]
    assert wire.encode(wire.Message(wire.flush(np.float32([-0.0, 0.0]))), "coo") == b""
    return "by magnitudes, of equal ones the first; both are zeros that nobody sends"


_SUBNORMAL = np.float32([1e-40, 2e-42, -1e-39])


def _counts() -> str:
    by_jax = int(jnp.count_nonzero(jnp.asarray(_SUBNORMAL)))
    return f"JAX counts {by_jax} non-zeros, NumPy {np.count_nonzero(_SUBNORMAL)}"


def _our_counts() -> str:
    direction, said = _round(gdsec_jax.gdsec(1, xi=0.0), _SUBNORMAL[None])
    assert direction == [0.0] * 3 and said.bits.tolist() == [0]
    said = _refused(lambda: wire.encode(wire.Message(_SUBNORMAL), "coo"))
    assert "subnormal" in said
    return "0 before they are counted, so never sent; `wire.encode` refuses them"


def _infinity_there() -> str:
    stage = optax.apply_if_finite(optax.sgd(1.0), 5)
    params = jnp.zeros(2)
    update, _ = stage.update(jnp.asarray([jnp.inf, 1.0]), stage.init(params), params)
    assert update.tolist() == [0.0, 0.0]
    return "the whole step is dropped"


def _our_infinity() -> str:
    direction, said = _round(gdsec_jax.gd(2), [[np.inf, 1.0], [1.0, 2.0]])
    assert direction == [1.0, 2.0] and said.dropped == 1
    return "the worker that has it is left out, the others step"


def _cast_there() -> str:
    halves = jnp.asarray([1e5, 1.0]).astype(jnp.float16)
    return f"1e5 becomes {float(halves[0]):g}, and so does the sum"


def _our_cast() -> str:
    piece = worker.error_feedback(worker.cast("float16"))
    direction, said = _round(federate(piece, 2), [[1e5, 1.0], [1.0, 2.0]])
    assert direction == [1.0, 3.0] and said.dropped == 1
    return "that entry is lost, and its worker counted in `dropped`; the rest arrives"


def _codes_there() -> str:
    codes = jnp.full((4, 1), 100, jnp.int8)
    total = jax.vmap(lambda x: jax.lax.psum(x, "workers"), axis_name="workers")(codes)
    return f"four codes of 100 add up to {int(total[0, 0])}"


def _our_codes() -> str:
    direction, _ = _round(gdsec_jax.qgd(200, levels=127, key=0), np.ones((200, 1)))
    assert direction == [200.0]
    return "added as floats or in 32 bits: 200 workers with 127 levels are exact"


def _clipped_there() -> str:
    update, _ = optax.clip_by_global_norm(1.0).update(
        jnp.asarray([2e19, -2e19]), optax.EmptyState()
    )
    return f"becomes {update.tolist()}: its norm overflows"


def _our_clipped() -> str:
    method = federate(worker.whole(), 3, server=server.robust(robust.clipped_to_median))
    direction, _ = _round(method, [[2e19, -2e19], [1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(direction, [3.0, 1.0], rtol=1e-6)
    return "norms do not overflow: `robust.clipped_to_median` keeps the direction"


def _divided_there() -> str:
    x = jnp.full(8, 2.0**126, jnp.float32)
    there = float(jax.jit(lambda a, b: a / b)(x, jnp.float32(2.0**127))[0])
    return f"2^126 / 2^127 is {there:g}: the reciprocal is subnormal"


def _our_divided() -> str:
    sent = _message(worker.terngrad(), [3e38, -3e38, 0.0])
    np.testing.assert_array_equal(sent, np.float32([3e38, -3e38, 0]))
    return "quantisers divide both sides by 4 there: TernGrad of 3e38 is 3e38"


def _drawn_there() -> str:
    p = jnp.asarray(1e-3, jnp.bfloat16)
    share = float(jax.random.bernoulli(jax.random.key(0), p, (200_000,)).mean())
    assert abs(share - 1 / 128) < 1e-3
    return "true 8 times too often: there are 128 uniform numbers of bfloat16"


def _our_drawn() -> str:
    v = jnp.full(200_000, 1e-3, jnp.bfloat16).at[0].set(1)
    piece = worker.terngrad()
    sent, _ = piece.update(v, piece.init(v), key=jax.random.key(1))
    share = float((sent[1:] != 0).mean())
    assert abs(share - 1e-3) < 3e-4, share
    return "quantisers draw in float32 at least: unbiased"


def _forgets_there() -> str:
    return f"0.999 is {float(jnp.asarray(0.999, jnp.bfloat16)):g}: nothing fades"


def _our_forgets() -> str:
    piece = worker.error_feedback(worker.censor(1.0), decay=0.999)
    zeros = jnp.zeros(1, jnp.bfloat16)
    state = piece.init(zeros)
    told = {"params_change": jnp.ones(1, jnp.bfloat16), "like": zeros}
    _, state = piece.update(zeros + jnp.bfloat16(0.5), state, **told)
    first = float(state.error[0])
    for _ in range(100):
        _, state = piece.update(zeros, state, **told)
    assert state.error.dtype == jnp.float32
    np.testing.assert_allclose(float(state.error[0]), first * 0.999**100, rtol=1e-3)
    return "memories are float32 at least, unless `state_dtype` says otherwise"


def _saved(dtype: str) -> str:
    file = io.BytesIO()
    np.save(file, np.ones(3, jnp.dtype(dtype)))
    file.seek(0)
    try:
        return f"is void of {np.load(file).dtype.itemsize} bytes"
    except ValueError:
        return "cannot be loaded"


def _saved_there() -> str:
    names = "bfloat16", "float8_e4m3fn", "float8_e5m2"
    return ", ".join(f"{name} {_saved(name)}" for name in names)


def _our_saved() -> str:
    values = np.asarray(jnp.asarray([0.1, 0.0, -3e38], jnp.bfloat16))
    message = wire.Message(values)
    again = wire.decode(wire.encode(message, "coo"), values, "coo")
    assert again.values.dtype == values.dtype
    np.testing.assert_array_equal(again.values.view("u2"), values.view("u2"))
    said = _refused(lambda: _round(gdsec_jax.gd(1), np.ones((1, 2)), "float8_e5m2"))
    assert "expected a real floating-point dtype of 16 bits" in said
    return "messages keep bfloat16 bit for bit; parameters of 8 bits are refused"


def _json_there() -> str:
    text = pd.DataFrame({"e": [1.2345678e-12]}).to_json(double_precision=15)
    seen = json.loads(text)["e"]["0"]
    return f"1.2345678e-12 becomes {seen:g}: 15 decimals, not digits"


def _our_json() -> str:
    values = np.array([1.2345678e-12, 1 / 3, 5e-324, 1e300])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.jsonl")
        with logs.json_lines(path) as log:
            log({"e": values})
        again = [json.loads(line)["e"] for line in path.read_text().splitlines()]
    np.testing.assert_array_equal(again, values)
    return "`logs.json_lines` keeps every bit"


def _libsvm_numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((500, 10))


def _libsvm_there() -> str:
    from sklearn.datasets import dump_svmlight_file, load_svmlight_file

    x, file = _libsvm_numbers(), io.BytesIO()
    dump_svmlight_file(x, np.zeros(len(x)), file)
    file.seek(0)
    again = load_svmlight_file(file, n_features=10)[0].toarray()
    return f"{int((again != x).sum()):,} of {x.size:,} numbers come back as others"


def _our_libsvm() -> str:
    x = _libsvm_numbers()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.svm")
        data.write_libsvm(path, data.Dataset("x", x, np.zeros(len(x))))
        again = data.read_libsvm(path, 10).features.toarray()
    np.testing.assert_array_equal(again, x)
    return "`data.write_libsvm` keeps every bit"


Side = Callable[[], str]
ROWS: tuple[tuple[str, str, Side, Side], ...] = (
    ("a NaN among the largest", "`jax.lax.top_k`", _place_of_nan, _our_nan),
    ("0.0 and -0.0 in a tie", "`jax.lax.top_k`", _zeros_there, _our_zeros),
    ("three subnormal numbers", "`count_nonzero`", _counts, _our_counts),
    ("an infinite entry", "`optax.apply_if_finite`", _infinity_there, _our_infinity),
    ("1e5 as float16", "a cast before a sum", _cast_there, _our_cast),
    ("a sum of int8 codes", "`jax.lax.psum`", _codes_there, _our_codes),
    ("entries of 2e19", "`clip_by_global_norm`", _clipped_there, _our_clipped),
    ("entries of 2^126", "a quotient on CPUs", _divided_there, _our_divided),
    ("a probability of 0.001", "`bernoulli`, bfloat16", _drawn_there, _our_drawn),
    ("a memory's 0.999", "bfloat16", _forgets_there, _our_forgets),
    ("narrow floats in files", "`np.save`, `np.load`", _saved_there, _our_saved),
    ("small numbers as JSON", "pandas' `to_json`", _json_there, _our_json),
    ("float64 as LIBSVM text", "scikit-learn's writer", _libsvm_there, _our_libsvm),
)


def rows() -> list[tuple[str, ...]]:
    """A row an edge; what ours does is asserted where it is said."""
    return [(what, where, there(), ours()) for what, where, there, ours in ROWS]
