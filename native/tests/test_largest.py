"""The k largest entries by the kernel against XLA's own forms, which define them."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import _native
from gdsec_jax.worker import _select

pytestmark = pytest.mark.skipif(not _native.used(), reason=f"kernels: {_native.said()}")

M = 3


def vectors_of(size, dtype):
    """Entries that a sample guesses well, and what deceives it."""
    rng = np.random.default_rng(size)
    normal = rng.standard_normal(size)
    special = normal.copy()
    special[::17], special[3::29], special[5::31] = np.nan, np.inf, -np.inf
    zeros = np.where(rng.random(size) < 0.5, -0.0, 0.0)
    made = {
        "normal": normal,
        "few non-zeros": np.where(rng.random(size) < 0.02, normal, zeros),
        "few levels": np.round(2 * normal),
        "all equal": np.full(size, -2.5),
        "special": special,
        "ascending": np.sort(np.abs(normal)),
        "subnormal": normal * 1e-40,
        "not where the sample looks": _off_the_sample(normal),
    }
    if dtype == "uint32":
        wide = {name: x.astype(np.float32) for name, x in made.items()}
        return {name: jnp.asarray(x.view(np.uint32)) for name, x in wide.items()}
    return {name: jnp.asarray(x, dtype) for name, x in made.items()}


def _off_the_sample(x):
    """Small wherever the kernel's sample looks, in `Selection::guessed`; else large."""
    x, size = 1 + np.abs(x), min(2**14, x.size // 32)
    place = np.arange(size, dtype=np.uint32)
    stride = np.uint32(x.size // max(1, size))
    within = (place * np.uint32(2654435769) >> np.uint32(8)) % max(1, stride)
    x[place * stride + within] *= 1e-3
    return x


def mask_of(x, k):
    """The kernel's."""
    return _select._mask(x, *_native.kth_largest(x, k)[:2])


def mask_by_xla(x, k):
    """By counting, however few k are."""
    return _select._mask(x, *_select._kth(x, k, min(64, x.size)))


@pytest.mark.parametrize("dtype", list(_native.KEYS))
@pytest.mark.parametrize("size", [1, 2, 63, 4097, 70_001, 10**6])
def test_the_largest_are_the_first_of_a_stable_sort(size, dtype):
    with jax.enable_x64(True):
        stacked = jnp.stack(list(vectors_of(size, dtype).values()))
        bits = np.asarray(stacked)
        bits = bits.view(f"uint{8 * bits.itemsize}")
        if dtype != "uint32":
            bits = bits & (np.iinfo(bits.dtype).max >> 1)
        order = np.argsort(~bits, axis=1, kind="stable")
        for k in sorted({1, -(-size // 100), size - size // 3, size}):
            ours = np.asarray(
                jax.jit(jax.vmap(functools.partial(mask_of, k=k)))(stacked)
            )
            np.testing.assert_array_equal(ours.sum(1), k)
            assert np.take_along_axis(ours, order[:, :k], 1).all()


@pytest.mark.parametrize("dtype", list(_native.KEYS))
def test_the_largest_are_those_of_xla(dtype):
    with jax.enable_x64(True):
        stacked = jnp.stack(list(vectors_of(9001, dtype).values()))
        ours, theirs = (
            jax.jit(jax.vmap(functools.partial(mask, k=90)))(stacked)
            for mask in (mask_of, mask_by_xla)
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("k", [0, 1, 30, 4000])
def test_the_largest_are_those_of_a_sort(k):
    """As called; `jax.lax.top_k` defines them."""
    stacked = jnp.stack(list(vectors_of(4000, "float32").values()))

    @jax.jit
    def found(x):
        order = jnp.sort(jax.lax.top_k(jnp.abs(x), k)[1])
        return _select.mask_of_largest(x, k), *_select.largest(x, k), order

    made = jax.vmap(found)(stacked)
    for x, ours, values, index, order in zip(stacked, *made, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(ours), order)
        np.testing.assert_array_equal(index, order)
        np.testing.assert_array_equal(values, x[order])


def test_nans_of_every_payload():
    bits = np.random.default_rng(0).integers(0x7F80, 0x8000, 3000).astype(np.uint16)
    for x in (bits.view(jnp.bfloat16), (bits.astype(np.uint32) << 16).view(np.float32)):
        ours, theirs = (
            jax.jit(functools.partial(mask, k=700))(jnp.asarray(x))
            for mask in (mask_of, mask_by_xla)
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", ["top_j", "ef21"])
def test_rounds_by_the_largest(method):
    """The same runs, to the bit: ridge by Gram matrices has no kernel of its own."""
    x = np.random.default_rng(0).normal(size=(60, 15))
    problem = gdsec_jax.problems.ridge(x, x.sum(1) + x[:, 0] ** 2, num_workers=M)
    optimizer = optax.chain(
        getattr(gdsec_jax, method)(M, 3), optax.sgd(1 / problem.smoothness)
    )

    def run():
        return gdsec_jax.simulate(problem, optimizer, num_rounds=12)

    ours = run()
    with _native.native_kernels(False):
        theirs = run()
    np.testing.assert_array_equal(ours.params, theirs.params)
    np.testing.assert_array_equal(ours.entries, theirs.entries)
    assert ours.entries[-1].tolist() == [3] * M


@pytest.fixture(autouse=True)
def of_any_length(monkeypatch):
    """Short vectors, too, of which XLA is the faster."""
    monkeypatch.setattr(_select, "SHORT", 0)


def test_programs_have_the_kernel(monkeypatch):
    def lowered():
        mask_of = jax.jit(jax.vmap(lambda x: _select.mask_of_largest(x, 9)))
        return mask_of.lower(jnp.zeros((M, 100))).as_text()

    assert "gdsec_select" in lowered()
    with monkeypatch.context() as patch:
        patch.setattr(_select, "SHORT", 101)
        assert "gdsec_select" not in lowered()
    with _native.native_kernels(False):
        assert "gdsec_select" not in lowered()


@pytest.mark.parametrize(
    ("x", "k", "what"),
    [
        (jnp.zeros(5), 0, "k or D"),
        (jnp.zeros(5), 6, "k or D"),
        (jnp.zeros(5, jnp.int8), 1, "type"),
        (jnp.zeros(()), 1, r"no \[D\]"),
    ],
)
def test_what_the_kernel_of_the_largest_refuses(x, k, what):
    like = jax.ShapeDtypeStruct
    out = like((), jnp.uint32), like((), jnp.int32), like((), jnp.uint32)
    select = jax.ffi.ffi_call("gdsec_select", out)
    call = jax.jit(lambda x: select(x, jnp.zeros(0), k=np.int64(k)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"select: .*{what}"):
        jax.block_until_ready(call(x))


# Rounds of `top_j`, whose workers' half is one pass


def lowered_round(on, num_params=1, **options):
    optimizer = gdsec_jax.top_j(M, 5, **options)
    params = {str(n): jnp.zeros(50) for n in range(num_params)}
    grads = jax.tree.map(lambda x: jnp.ones((M, *x.shape)), params)
    with _native.native_kernels(on):
        step = jax.jit(optimizer.update)
        return step.lower(grads, optimizer.init(params), params).as_text()


def test_who_has_rounds_in_one_pass():
    assert "gdsec_update" in lowered_round(True)
    assert "gdsec_update" not in lowered_round(False)
    for made in (
        lowered_round(True, num_params=2),  # the k largest of both together
        lowered_round(True, state_dtype="bfloat16"),
        lowered_round(True, on_nonfinite="propagate"),
    ):
        assert "gdsec_update" not in made


@pytest.mark.parametrize(
    ("size", "k", "dtype"),
    [
        (50, 5, "float64"),
        (3000, 0.01, "float32"),
        (40, 40, "float32"),
        (70_000, 0.3, "float32"),
    ],
)
def test_rounds_in_one_pass(size, k, dtype):
    """Ties, NaN, subnormal numbers, rests and losses: as the rounds by pieces."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(size)
        optimizer, params = gdsec_jax.top_j(M, k), jnp.zeros(size, dtype)

        @functools.partial(jax.jit, static_argnums=0)
        def step(on, grads, state, active, delivered):
            with _native.native_kernels(on):
                return optimizer.update(
                    grads, state, params, active=active, delivered=delivered
                )

        states = [optimizer.init(params)] * 2
        for turn in range(7):
            grads = np.round(4 * rng.standard_normal((M, size)))
            if turn == 3:
                grads[0, 1], grads[1, 0] = np.nan, np.finfo(dtype).tiny / 4
            if turn == 4:
                grads[:2], grads[2, 7] = 0, np.inf
            heard = [jnp.asarray(rng.random(M) < 0.7) for _ in range(2)]
            made = [
                step(on, jnp.asarray(grads, dtype), state, *heard)
                for on, state in zip((True, False), states, strict=True)
            ]
            states = [state for _, state in made]
            jax.tree.map(np.testing.assert_array_equal, *made)
        assert gdsec_jax.last_round(states[0]).entries.max() > 0


def test_exported_rounds_are_those_of_xla():
    optimizer, params = gdsec_jax.top_j(M, 5), jnp.zeros(50)
    grads, state = jnp.arange(3.0 * 50).reshape(M, 50) % 7, optimizer.init(params)

    def total(grads):
        return optimizer.update(grads, state, params)[0]

    exported = jax.export.export(jax.jit(total))(grads)
    assert "@gdsec_" not in exported.mlir_module()
    with _native.native_kernels(False):
        np.testing.assert_array_equal(exported.call(grads), jax.jit(total)(grads))


def test_a_sweep_of_rounds_in_one_pass():
    optimizer = gdsec_jax.top_j(M, 5)
    params = jnp.zeros(50)
    grads = jax.random.normal(jax.random.key(0), (4, M, 50))
    state = optimizer.init(params)

    def update(grads):
        return optimizer.update(grads, state, params)

    together = jax.jit(jax.vmap(update))(grads)
    alone = jax.tree.map(lambda *x: jnp.stack(x), *map(jax.jit(update), grads))
    jax.tree.map(np.testing.assert_array_equal, together, alone)
