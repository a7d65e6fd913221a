"""Every kernel against XLA's own form, which defines it."""

import os

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from gdsec_jax import _native
from gdsec_jax.problems import _compiled, _linear, _losses

pytestmark = pytest.mark.skipif(not _native.used(), reason=f"kernels: {_native.said()}")

M = 3
STATES = [
    (message, state) for message, states in _native.STATES.items() for state in states
]


def round_of(size, message="float32", state="float32", seed=0, memories="he", **masks):
    """A round with entries of every kind."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(M, size)) * 10.0 ** rng.integers(-3, 4, (M, size))
    g[rng.random((M, size)) < 0.2] = 0
    h, e = rng.normal(size=(2, M, size))
    nothing = np.zeros((M, 0))
    params, previous = rng.normal(size=(2, size))
    previous = np.where(rng.random(size) < 0.3, params, previous)
    masks = {"computes": [1, 1, 1], "sends": [1, 1, 1], "arrives": [1, 1, 1]} | masks
    return _native.Round(
        jnp.asarray(g, message),
        jnp.asarray(h if "h" in memories else nothing, state),
        jnp.asarray(e if "e" in memories else nothing, state),
        jnp.asarray(params, message),
        jnp.asarray(previous, message),
        jnp.asarray(0.7, message),
        jnp.asarray(0.3, message),
        *(jnp.asarray(masks[name], bool) for name in ("computes", "sends", "arrives")),
        key=jnp.zeros((M, 0), jnp.uint32),
        last=jnp.zeros((M, 0), jnp.int32),
    )


def both(round, estimates=True, drops=True):
    options = {"estimates": estimates, "drops": drops}
    kernel = jax.jit(lambda round: _native._update(round, **options))(round)
    by_xla = jax.jit(lambda round: _native._update_by_xla(round, **options))(round)
    return kernel, by_xla


def agree(round, **options):
    """To a rounding, of which XLA's may be one fewer; counts to the bit."""
    kernel, by_xla = both(round, **options)
    for name in ("entries", "lost"):
        np.testing.assert_array_equal(getattr(kernel, name), getattr(by_xla, name))
    for name in ("known", "error", "previous", "total"):
        ours, theirs = (np.asarray(getattr(x, name)) for x in (kernel, by_xla))
        assert ours.dtype == theirs.dtype
        eps = 2 * float(jnp.finfo(ours.dtype).eps)
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        size = max([1.0, *np.abs(theirs[np.isfinite(theirs)])])
        np.testing.assert_allclose(ours, theirs, rtol=eps, atol=eps * size / 10)
    return kernel


@pytest.mark.parametrize(("message", "state"), STATES)
@pytest.mark.parametrize("size", [1, 7, 16, 1000, 40_000])
def test_update(message, state, size):
    with jax.enable_x64(True):
        kernel = agree(round_of(size, message, state))
        assert size < 7 or 0 < kernel.entries.sum() < M * size


@pytest.mark.parametrize("memories", ["h", "e", "he"])
@pytest.mark.parametrize("estimates", [True, False])
def test_update_with_fewer_memories(memories, estimates):
    agree(round_of(100, memories=memories), estimates=estimates)


@pytest.mark.parametrize(
    "masks",
    [
        {"computes": [1, 0, 1]},
        {"sends": [0, 1, 1], "arrives": [0, 1, 1]},
        {"arrives": [1, 1, 0]},
        {"computes": [0, 0, 0]},
    ],
)
def test_who_computes_sends_and_is_heard(masks):
    round = round_of(100, **masks)
    kernel = agree(round)
    if "computes" in masks:  # the state of the others is frozen, to the bit
        for m in np.flatnonzero(1 - np.asarray(masks["computes"])):
            np.testing.assert_array_equal(kernel.known[m], round.known[m])
            np.testing.assert_array_equal(kernel.error[m], round.error[m])


@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_entries_that_are_not_finite(drops, state):
    round = round_of(200, state=state)._replace(beta=jnp.float32(1))
    gradients = round.gradients.at[0, 3].set(jnp.inf).at[1, 5].set(jnp.nan)
    gradients = gradients.at[2, 7].set(3.4e38)  # infinite in a state of bfloat16
    kernel = agree(round._replace(gradients=gradients), drops=drops)
    np.testing.assert_array_equal(
        kernel.lost, [drops, drops, drops and state == "bfloat16"]
    )


def test_subnormal_messages_are_zero():
    zeros = jnp.zeros((M, 4))
    round = round_of(4)._replace(known=zeros, error=zeros)
    gradients = jnp.tile(jnp.array([1e-40, -1e-39, 2e-38, 1.0]), (M, 1))
    kernel = agree(round._replace(gradients=gradients, previous=round.params))
    np.testing.assert_array_equal(kernel.entries, [2] * M)


def test_all_settings_of_a_sweep():
    rounds = [round_of(50, seed=seed) for seed in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rounds)

    def update(round):
        return _native.update(round, estimates=True, drops=True)

    together = jax.jit(jax.vmap(update))(stacked)
    alone = jax.tree.map(lambda *x: jnp.stack(x), *map(jax.jit(update), rounds))
    jax.tree.map(np.testing.assert_array_equal, together, alone)


def test_exported_programs_have_no_kernel():
    def update(*round):
        made = _native.update(_native.Round(*round), estimates=True, drops=True)
        return tuple(made)

    function, round = jax.jit(update), round_of(20)
    assert "@gdsec_update" in function.lower(*round).as_text()
    exported = jax.export.export(function)(*round)
    assert "@gdsec_" not in exported.mlir_module()


def test_derivatives_are_those_of_xla():
    round = round_of(20)

    def total(gradients, update):
        made = update(round._replace(gradients=gradients), estimates=True, drops=True)
        return jnp.square(made.total).sum()

    ours, theirs = (
        jax.jit(lambda g, update=update: jax.grad(total)(g, update))(round.gradients)
        for update in (_native.update, _native._update_by_xla)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 100), (2, 200_000), (300, 1000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite(shape, dtype):
    with jax.enable_x64(True):
        x = np.ones(shape, dtype)
        check = jax.jit(_native.all_finite)
        assert check(jnp.asarray(x)).all()
        x[-1, -1], x[0, 0] = np.nan, np.inf
        expected = np.isfinite(x).all(1)
        np.testing.assert_array_equal(check(jnp.asarray(x)), expected)


@pytest.mark.parametrize("size", [31, 64, 200])
def test_finite_sees_every_entry(size):
    x = np.where(np.eye(size, dtype=bool), np.nan, np.float32(1))
    assert not jax.jit(_native.all_finite)(jnp.asarray(x)).any()


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 0.0, 1e-42])
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_norm_of_a_change(scale, size):
    a, b = np.random.default_rng(0).normal(size=(2, size)) * scale
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    norm = jax.jit(lambda a, b: _native.change_norm(a, b, jnp.float32))(a, b)
    exact = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    np.testing.assert_allclose(norm, exact, rtol=1e-5, atol=1e-38)
    for bad in (jnp.inf, jnp.nan):
        worse = jax.jit(lambda a, b: _native.change_norm(a, b, jnp.float32))
        assert not jnp.isfinite(worse(a.at[0].set(bad), b))


# Gradients

PHI = {
    "square": lambda z, y: (z - y) ** 2 / 2,
    "logistic": _losses._logistic,
    "sigmoid_square": _losses._sigmoid_squares,
}


def features_of(kind, shape, seed=0):
    """Features that are read in a way."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if kind == "entries":
        x *= rng.random(shape) < 0.02
    elif kind == "ones":
        x = (rng.random(shape) < 0.05).astype(float)
    elif kind in ("blocks", "codes"):
        x *= np.repeat(rng.random((shape[0], -(-shape[1] // 8))) < 0.1, 8, 1)[
            :, : shape[1]
        ]
        if kind == "codes":
            x = np.round(np.abs(x) * 50) / 255
    return x


def worker_data(x, y, dtype):
    """Of M workers, and whether the kernel reads rows without zeros."""
    parts = np.array_split(np.arange(len(y)), M)
    rows = _compiled.rows_of(x, parts, dtype)
    shards = _linear.data.stack(x, y, parts)
    device = jax.tree.map(
        lambda a: jnp.asarray(a, dtype if a.dtype.kind == "f" else None), (shards, rows)
    )
    return _linear.LinearData(device[0], jnp.full(M, 0.1, dtype), None, device[1])


@pytest.mark.parametrize("name", list(PHI))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("dense", (50, 7)),
        ("dense", (700, 130)),
        ("entries", (200, 1000)),
        ("ones", (200, 1000)),
        ("blocks", (200, 500)),
        ("codes", (200, 500)),
        ("codes", (200, 501)),
    ],
)
def test_gradient(name, dtype, kind, shape):
    with jax.enable_x64(True):
        x, rng = features_of(kind, shape), np.random.default_rng(1)
        y = (
            np.sign(rng.normal(size=shape[0]))
            if name == "logistic"
            else rng.random(shape[0])
        )
        workers = worker_data(x, y, dtype)
        rows = workers.rows
        found = (
            "dense"
            if rows is None
            else "entries"
            if rows.values.ndim == 2
            else "blocks"
        )
        assert found == {"ones": "entries", "codes": "blocks"}.get(kind, kind)
        assert kind != "ones" or rows.values.size == 0
        assert kind != "codes" or rows.values.dtype == np.uint8
        loss = _linear.linear_loss(PHI[name], _linear.half_square, name)
        params = jnp.asarray(rng.normal(size=shape[1]), dtype)
        gradient = jax.jit(lambda *x: jax.vmap(jax.grad(loss), (None, 0))(*x))
        ours = np.asarray(gradient(params, workers))
        with _native.native_kernels(False):
            theirs = np.asarray(gradient(params, workers))
        assert f"gdsec_{found}" in gradient.lower(params, workers).as_text()
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=40 * eps * np.abs(theirs).max()
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [*range(1, 36), 63, 64, 65])
def test_rows_that_end_within_a_register(dtype, length):
    with jax.enable_x64(True):
        x, rng = features_of("dense", (3 * 11, length)), np.random.default_rng(1)
        workers = worker_data(x, rng.random(len(x)), dtype)
        model = _compiled.Model(
            workers.shards.features,
            workers.shards.targets,
            workers.shards.weight,
            workers.regularization,
        )
        params = rng.normal(size=length)
        call = jax.jit(lambda params: _compiled._call(0, params, model))
        ours = np.asarray(call(jnp.asarray(params, dtype)))
        features, targets, weight = (np.asarray(leaf) for leaf in workers.shards)
        slopes = weight * (features @ params - targets)
        theirs = np.einsum("mn,mnd->md", slopes, features) + 0.1 * params
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=40 * eps * np.abs(theirs).max()
        )


@pytest.mark.parametrize("kind", ["dense", "codes"])
@pytest.mark.parametrize("settings", [3, 2 * _compiled.MOST_SETTINGS])
def test_gradients_of_settings_side_by_side(kind, settings):
    x, rng = features_of(kind, (200, 500)), np.random.default_rng(1)
    workers = worker_data(x, rng.random(200), "float32")
    loss = _linear.linear_loss(PHI["square"], _linear.half_square, "square")
    gradients = jax.vmap(jax.grad(loss), (None, 0))
    params = jnp.asarray(rng.normal(size=(settings, 500)), jnp.float32)
    together = jax.jit(jax.vmap(gradients, (0, None)))(params, workers)
    alone = jnp.stack([jax.jit(gradients)(p, workers) for p in params])
    np.testing.assert_allclose(together, alone, rtol=2e-5, atol=1e-5)


def test_other_derivatives_are_those_of_xla():
    x, rng = features_of("dense", (40, 6)), np.random.default_rng(1)
    workers = worker_data(x, np.sign(rng.normal(size=40)), "float32")
    worker = jax.tree.map(lambda a: a[0], workers)
    loss = _linear.linear_loss(PHI["logistic"], _linear.half_square, "logistic")
    params = jnp.asarray(rng.normal(size=6), jnp.float32)

    def of(params, targets):
        shards = worker.shards._replace(targets=targets)
        return loss(params, worker._replace(shards=shards))

    def derivatives():
        at = params, worker.shards.targets
        return jax.hessian(of)(*at), jax.grad(of, 1)(*at), jax.jvp(of, at, at)

    ours = derivatives()
    with _native.native_kernels(False):
        theirs = derivatives()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        ours,
        theirs,
    )


def test_each_worker_at_its_own_parameters():
    x, rng = features_of("codes", (200, 500)), np.random.default_rng(1)
    workers = worker_data(x, rng.random(200), "float32")
    loss = _linear.linear_loss(PHI["square"], _linear.half_square, "square")
    params = jnp.asarray(rng.normal(size=(M, 500)), jnp.float32)
    ours = jax.jit(jax.vmap(jax.grad(loss)))(params, workers)
    with _native.native_kernels(False):
        theirs = jax.jit(jax.vmap(jax.grad(loss)))(params, workers)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_threads_change_no_bit():
    """Each program says its bits; one is held to a core."""
    import subprocess
    import sys

    code = """
import os, sys
if sys.argv[1] == "1":
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
import hashlib, jax, numpy as np
sys.path.insert(0, sys.argv[2])
import test_kernels as t
round = t.round_of(100_000)
made = jax.jit(lambda r: t._native.update(r, estimates=True, drops=True))(round)
workers = t.worker_data(t.features_of("codes", (3000, 500)), np.ones(3000), "float32")
loss = t._linear.linear_loss(t.PHI["square"], None, "square")
grad = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(jax.numpy.ones(500), workers)
found = hashlib.sha256()
for leaf in jax.tree.leaves((tuple(made), grad)):
    found.update(np.asarray(leaf).tobytes())
print(found.hexdigest())
"""
    from pathlib import Path

    here = str(Path(__file__).parent)
    said = {
        subprocess.run(
            [sys.executable, "-c", code, cores, here],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for cores in ("1", "all")
    }
    assert len(said) == 1 and said != {""}


def test_the_context_is_a_part_of_what_is_compiled():
    function = jax.jit(lambda x: jnp.float32(_native.used()) + x)
    assert function(0.0) == 1
    with _native.native_kernels(False):
        assert function(0.0) == 0
    assert function(0.0) == 1
