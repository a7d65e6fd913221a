"""What is read off compiled calls, here of this machine's own compiler."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _hlo as hlo

import gdsec_jax
from gdsec_jax import data, problems

DIGITS = data.load("digits")


def ridge():
    return problems.ridge(DIGITS.features[:200, :8], DIGITS.targets[:200], 4)


def optimizer(xi=1.0):
    return optax.chain(gdsec_jax.gdsec(4, xi), optax.sgd(1e-3))


def test_an_update_of_shapes_alone():
    algorithm = gdsec_jax.gd(4)
    params = jax.ShapeDtypeStruct((1000,), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)
    gradients = jax.ShapeDtypeStruct((4, 1000), jnp.float32)
    read = gdsec_jax.lower(algorithm.update, gradients, state, params)
    # Gradients, theta and theta^{k-1} in; direction and theta^k out; and a few numbers.
    arrays = 4 * 1000 * (4 + 2 + 2)
    assert read.bytes_least is not None
    assert arrays <= read.bytes_least <= arrays + 1000
    assert read.ratio == read.bytes_moved / read.bytes_least > 0.9
    assert (read.sorts, read.scatters, read.collectives) == (0, 0, {})
    assert read.rough_products == 0
    lines = dict(line.split("  ", 1) for line in str(read).splitlines())
    assert lines["least"].strip() == f"{read.bytes_least:,}"


def test_a_run_and_a_sweep_are_read_by_the_round():
    problem = ridge()
    run = gdsec_jax.lower(gdsec_jax.simulate, problem, optimizer())
    longer = gdsec_jax.lower(gdsec_jax.simulate, problem, optimizer(), 10_000)
    assert run.kernels == longer.kernels > 0
    assert run.bytes_moved == longer.bytes_moved > 0
    assert run.bytes_least is None
    assert np.isnan(run.ratio)
    assert run.rough_products == 0  # which a CPU does not cut
    grid = {"xi": [0.0, 1.0, 2.0]}
    many = gdsec_jax.lower(gdsec_jax.sweep, problem, optimizer, grid)
    assert many.bytes_moved > run.bytes_moved


def test_what_cannot_be_lowered():
    with pytest.raises(ValueError, match=r"on is 'v1', expected .*Mesh, or TPUs"):
        gdsec_jax.lower(gdsec_jax.simulate, ridge(), optimizer(), on="v1")
    grid = {"xi": gdsec_jax.Static([0.0, 1.0])}
    with pytest.raises(ValueError, match="grid makes 2 loops, .* lower each by itself"):
        gdsec_jax.lower(gdsec_jax.sweep, ridge(), optimizer, grid)


UPDATE = gdsec_jax.gd(4).update
PARAMS = np.zeros(8)
GRADIENTS = np.zeros((4, 8))
STATE = gdsec_jax.gd(4).init(PARAMS)


@pytest.mark.parametrize(
    ("call", "options", "words"),
    [
        (("simulate", ridge, optimizer), {}, "what is 'simulate', expected gdsec_jax"),
        ((gdsec_jax.gd(4), GRADIENTS, STATE), {}, "what is .*: its update"),
        ((UPDATE, GRADIENTS), {}, "missing .*'state'; expected update, updates, state"),
        ((UPDATE, GRADIENTS, 3), {}, "state is 3, expected arrays"),
        ((UPDATE, GRADIENTS, {"a": PARAMS}), {}, "what fails on these arguments"),
        ((lambda *_: 0, GRADIENTS, STATE), {}, "what returns 0, expected updates and"),
        ((gdsec_jax.simulate, ridge, optimizer), {"log": print}, "argument 'log'"),
        ((gdsec_jax.simulate, ridge, optimizer), {"nosuch": 1}, "argument 'nosuch'"),
        ((gdsec_jax.simulate, optimizer, ridge), {}, "problem is Grad.*, expected a"),
        (
            (gdsec_jax.simulate, ridge, optimizer),
            {"mesh": 1, "on": "v5e"},
            "mesh is given beside on, expected one of the two",
        ),
        (
            (gdsec_jax.sweep, ridge, optimizer, {"xi": [0.0]}),
            {},
            "make_optimizer is Grad.*, expected a function",
        ),
        (
            (gdsec_jax.sweep, ridge, lambda xi: optimizer(xi), {"nosuch": [0.0]}),
            {},
            "grid has the parameter 'nosuch', but neither",
        ),
        *(
            ((UPDATE, GRADIENTS, STATE), {"on": name}, f"on is '{name}', expected a")
            for name in ("v5e:", "v5e:axb", "v5e:2", "v5e:2x2x2", "v5e:0x1", "v1")
        ),
    ],
)
def test_a_call_that_cannot_be_lowered_is_told_of(call, options, words):
    made: list[Any] = [x() if x is ridge or x is optimizer else x for x in call]
    with pytest.raises(ValueError, match=words):
        gdsec_jax.lower(*made, **options)


def test_a_mesh_is_the_devices():
    mesh = jax.make_mesh((1,), ("chips",))
    calls: Any = (
        (gdsec_jax.simulate, ridge(), optimizer()),
        (gdsec_jax.sweep, ridge(), optimizer, {"xi": [0.0, 1.0]}),
    )
    for call in calls:
        assert gdsec_jax.lower(*call, mesh=mesh).kernels > 0


def program(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"ENTRY %main (x: f32[8]) -> f32[8] {{\n{body}\n}}\n"


def test_a_sweep_of_32_bits_is_lowered_as_it_runs_where_there_are_64(x64):
    features = np.ones((4, 3), np.float32)
    problem = problems.ridge(features, features[:, 0], 2, dtype="float32")

    def optimizer(xi):
        return optax.chain(gdsec_jax.gdsec(2, xi), optax.sgd(0.1))

    grid = {"xi": [1.0, 2.0]}
    assert gdsec_jax.lower(gdsec_jax.sweep, problem, optimizer, grid).kernels > 0


def test_words_are_no_arrays():
    algorithm = gdsec_jax.gd(2)
    params, grads = jnp.zeros(4), jnp.ones((2, 4))
    call = algorithm.update, grads, algorithm.init(params), params
    held = gdsec_jax.lower(*call, active=jnp.array([True, False]), absent="accumulate")
    assert held.bytes_least is not None


def test_shapes_of_64_bits_are_taken_in_32():
    algorithm, wide = gdsec_jax.gd(2), jax.ShapeDtypeStruct((2, 1000), jnp.float64)
    params = jnp.zeros(1000)
    call = algorithm.update, wide, algorithm.init(params), params
    narrow = (call[0], jnp.zeros((2, 1000)), *call[2:])
    least = [gdsec_jax.lower(*x).bytes_least for x in (call, narrow)]
    assert least[0] == least[1]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("s4[1000]{0}", 500),
        ("f8e4m3fn[10,3]{1,0}", 30),
        ("(bf16[3], pred[2], u32[])", 12),
    ],
)
def test_the_size_of_every_type(shape, size):
    assert sum(own for own, _ in hlo._arrays(shape)) == size


def test_a_slice_that_is_fetched_ahead_moves_what_it_takes():
    text = program(
        "%x = f32[1024]{0:T(1024)} parameter(0)",
        "%s = ((f32[1024]{0:T(1024)}), f32[256]{0:T(256)S(1)}, s32[]{:S(2)}) "
        "slice-start(%x), slice={[0:256]}",
        "ROOT %d = f32[256]{0:T(256)S(1)} slice-done(%s)",
    )
    assert hlo.traffic(text).bytes == 4 * 256


def test_a_sort_passes_more_often_over_what_exceeds_the_chip():
    def sorted_bytes(length):
        array = f"f32[2,{length}]{{1,0:T(8,128)}}"
        text = program(
            f"%x = {array} parameter(0)",
            f"ROOT %y = {array} sort(%x), dimensions={{1}}, to_apply=%less",
        )
        assert hlo.traffic(text).operations["sort"] == 1
        return hlo.traffic(text).bytes / (2 * 2 * 4 * length)

    fits = hlo.VMEM // 8
    assert [sorted_bytes(n) for n in (fits, 2 * fits, 4 * fits)] == [1, 2, 3]


def test_a_reduction_of_two_arrays_is_one_root():
    text = """
%both (a: f32[64], b: f32[64]) -> (f32[], f32[]) {
  %a = f32[64]{0:T(128)} parameter(0)
  %b = f32[64]{0:T(128)} parameter(1)
  %zero = f32[]{:T(128)} constant(0)
  ROOT %r = (f32[]{:T(128)}, f32[]{:T(128)}) reduce(%a, %b, %zero, %zero), to_apply=%add
}

ENTRY %main (x: f32[64]) -> (f32[], f32[]) {
  %x = f32[64]{0:T(128)} parameter(0)
  ROOT %f = (f32[]{:T(128)}, f32[]{:T(128)}) fusion(%x, %x), kind=kLoop, calls=%both
}
"""
    moved = hlo.traffic(text)
    assert (moved.bytes, moved.kernels) == (4 * (64 + 64 + 2), 1)


def test_products_in_one_pass_of_the_matrix_unit_are_told_apart():
    def rough(attributes, kind="f32"):
        product = f"{kind}[8,8]{{1,0:T(8,128)}}"
        text = program(
            f"%x = {product} parameter(0)",
            f"ROOT %y = {product} convolution(%x, %x), window={{}}{attributes}",
        )
        return hlo.traffic(text).rough

    assert rough("") == 1
    assert rough(", operand_precision={highest,highest}") == 0
    assert rough("", "bf16") == 0
