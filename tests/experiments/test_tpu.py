"""The benchmark of a step on TPUs, of which there need be none."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _blocks, _devices, _parts
from inside import _hlo as hlo
from jax import export
from rich.console import Console

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Settings, Skipped
from gdsec_jax import problems

tpu = benchmarks.module("tpu")
SETTINGS = Settings(repeats=1, small=True, console=Console())
WITH_LIBTPU = importlib.util.find_spec("libtpu") is not None
WITH = pytest.mark.skipif(
    not WITH_LIBTPU, reason="libtpu is absent, of the extra tpu-aot"
)

# Ten blocks go from HBM into VMEM and back in place; then a sum over the chips.
PROGRAM = """
HloModule step, entry_computation_layout={(f32[1000]{0:T(1024)})->f32[1000]{0:T(1024)}}

%fused_block (param_0: f32[1000], param_1: s32[]) -> f32[100] {
  %param_0 = f32[1000]{0:T(1024)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %slice = f32[100]{0:T(128)} dynamic-slice(%param_0, %param_1)
  ROOT %negate.1 = f32[100]{0:T(128)S(1)} negate(%slice)
}

%fused_put (param_2: f32[1000], param_3: f32[100], param_4: s32[]) -> f32[1000] {
  %param_2 = f32[1000]{0:T(1024)} parameter(0)
  %param_3 = f32[100]{0:T(128)} parameter(1)
  %param_4 = s32[]{:T(128)} parameter(2)
  ROOT %put.1 = f32[1000]{0} dynamic-update-slice(%param_2, %param_3, %param_4)
}

%body (carry: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %carry = (s32[]{:T(128)S(6)}, f32[1000]{0:T(1024)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%carry), index=0
  %x = f32[1000]{0:T(1024)} get-tuple-element(%carry), index=1
  %block = f32[100]{0:T(128)S(1)} fusion(%x, %i), kind=kLoop, calls=%fused_block
  %put = f32[1000]{0:T(1024)} fusion(%x, %block, %i), kind=kLoop, calls=%fused_put
  %next = s32[]{:T(128)S(6)} add(%i, %i)
  ROOT %carried = (s32[]{:T(128)S(6)}, f32[1000]{0:T(1024)}) tuple(%next, %put)
}

%condition (carry.1: (s32[], f32[1000])) -> pred[] {
  %carry.1 = (s32[]{:T(128)S(6)}, f32[1000]{0:T(1024)}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%carry.1), index=0
  %ten = s32[]{:T(128)S(6)} constant(10)
  ROOT %more = pred[]{:T(512)S(6)} compare(%i.1, %ten), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

ENTRY %main (x.1: f32[1000]) -> f32[1000] {
  %x.1 = f32[1000]{0:T(1024)} parameter(0)
  %zero = s32[]{:T(128)S(6)} constant(0)
  %start = (s32[]{:T(128)S(6)}, f32[1000]{0:T(1024)}) tuple(%zero, %x.1)
  %loop = (s32[], f32[1000]{0}) while(%start), condition=%condition, body=%body
  %y = f32[1000]{0:T(1024)} get-tuple-element(%loop), index=1
  ROOT %total = f32[1000]{0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
}
"""


def test_traffic_of_a_loop_over_blocks():
    moved = hlo.traffic(PROGRAM)
    block, whole = 4 * 100, 4 * 1000
    assert moved.bytes == 10 * (block + block) + 2 * whole
    assert moved.collectives == {"all-reduce": 1}
    assert moved.collective_bytes == {"all-reduce": whole}


@pytest.mark.skipif(WITH_LIBTPU, reason="libtpu is present: the benchmark runs")
def test_without_libtpu_the_benchmark_says_so():
    with pytest.raises(Skipped, match=r"which is absent: pip install .*tpu-aot"):
        tpu.bench(SETTINGS)


@WITH
def test_the_bench_reads_what_the_compiler_makes():
    measures = {measure.name: measure for measure in tpu.bench(SETTINGS)}
    assert 1 <= measures["v5e: gd, vector, 8 workers: bytes moved / least"].value <= 3
    assert measures["v5e: sorts in all updates"].value == 0
    assert measures["v5e: products in bfloat16"].value == 0
    assert measures["v5e: record buffers of a run / their numbers"].value <= 1.5
    assert measures["v5e: methods that compile in float64"].value == 2
    kernels = {name: x.value for name, x in measures.items() if "kernels" in name}
    assert max(kernels.values()) <= 200
    assert measures["a step over chips: all-reduce"].value >= 1


@WITH
def test_traffic_is_what_xla_counts_where_nothing_loops_or_stays_on_the_chip(
    monkeypatch,
):
    monkeypatch.setattr(_parts, "LEAST_BYTES", 2**60)
    params = jax.ShapeDtypeStruct((50_000_000,), jnp.float32)
    algorithm = gdsec_jax.gdsec(8, xi=4.0, on_nonfinite="propagate")
    read = tpu.lowered(algorithm, params, 8, "v5e:2x2")
    assert read.open_loops == 0
    counted = read.compiled.cost_analysis()["bytes accessed"]
    assert read.bytes_moved == pytest.approx(counted, rel=1e-3)


# What an update moves on a v5e chip over the least, 8 workers; and in 64 bits all
# compile. A ratio that grows by a tenth fails: `gdsec bench tpu` prints the new ones.
RATIOS = json.loads((Path(__file__).parent / "tpu_ratios.json").read_text("utf-8"))


LOOPS = RATIOS.pop("loops")
PAGE = (Path(__file__).parents[2] / "docs" / "tpus.md").read_text("utf-8")
ROWS = {
    "ridge, gdsec, float32: kernels a round": "kernels a round, ridge, gdsec, "
    "`simulate`, float32",
    "ridge, gdsec, float64: kernels a round": "the same, float64",
    "record buffers of a run / their numbers": "record buffers of a run over their "
    "numbers",
    "sweep of 64: kernels a round": "kernels a round, sweep of 64",
    "sweep of 64: HBM bytes a round and setting": "HBM bytes a round and setting, "
    "sweep of 64",
}


def cells(row):
    """Of a row of a table on the page, by its name."""
    (found,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def test_the_page_says_what_is_held():
    for name, held in RATIOS.items():
        vector, _, _, tree, *_ = cells(name)
        assert float(vector) == pytest.approx(held["vector"], abs=0.006)
        if "tree" in held:
            assert float(tree) == pytest.approx(held["tree"], abs=0.006)
        else:
            assert tree == ""
    assert {name: float(cells(row)[1]) for name, row in ROWS.items()} == LOOPS


@WITH
def test_the_page_prints_what_lower_says(capsys):
    setup, call, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(setup.split("mesh = ")[0], names)
    exec(re.search("grid = .*", setup)[0], names)  # pyright: ignore
    exec(call, names)
    (shown,) = re.findall(r"```\n(bytes moved.*?)```", PAGE, re.DOTALL)

    def lines(text):
        return [x for x in text.split("\n") if not x.startswith("seconds")]

    assert lines(capsys.readouterr().out) == lines(shown)


@WITH
def test_no_round_takes_more_than_before():
    settings = Settings(repeats=1, small=False, console=Console())
    found = {each.name: each.value for each in tpu._loops(settings, "v5e")}
    assert found.keys() == LOOPS.keys()
    for name, value in found.items():
        assert value <= 1.05 * LOOPS[name], name


@WITH
def test_a_topology_that_cannot_be_is_told_of():
    algorithm = gdsec_jax.gd(3)
    params = jax.ShapeDtypeStruct((8,), jnp.float32)
    words = "on is 'v5e:3x3', expected a topology that libtpu describes"
    with pytest.raises(ValueError, match=words):
        tpu.lowered(algorithm, params, 3, "v5e:3x3")
    with pytest.raises(ValueError, match="mesh has 4 devices, expected a divisor"):
        tpu.lowered(algorithm, params, 3, "v5e:2x2")
    features = np.arange(30.0).reshape(10, 3)
    five = problems.ridge(features, features.sum(1), 5, dtype="float32")

    def optimizer(rate):
        return optax.chain(gdsec_jax.gd(5), optax.sgd(rate))

    with pytest.raises(ValueError, match="mesh has 4 devices, .* num_workers, 5"):
        gdsec_jax.lower(gdsec_jax.simulate, five, optimizer(0.1), on="v5e:2x2")
    # Settings are filled up, as where they are run.
    grid = {"rate": [0.1] * 6}
    assert gdsec_jax.lower(gdsec_jax.sweep, five, optimizer, grid, on="v5e:2x2").kernels


@WITH
@pytest.mark.parametrize("name", ["gd", "qgd"])
def test_what_is_exported_without_libtpu_compiles_in_float64(name, monkeypatch):
    pytest.importorskip("flatbuffers", reason="extra test: bytes of exported programs")
    monkeypatch.setattr(_devices, "TPU_IS_KNOWN", False)
    monkeypatch.setattr(_blocks, "TPU_IS_KNOWN", False)
    algorithm = tpu.methods(8, 2000)[name]
    with jax.enable_x64():
        params = {"w": jax.ShapeDtypeStruct((100, 20), jnp.float64)}
        gradients = {"w": jax.ShapeDtypeStruct((8, 100, 20), jnp.float64)}
        state = jax.eval_shape(algorithm.init, params)
        update = export.export(jax.jit(algorithm.update), platforms=["tpu"])
        call = update(gradients, state, params).call
        assert gdsec_jax.lower(call, gradients, state, params, on="v5e").kernels > 0


@WITH
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vector", "tree"])
@pytest.mark.parametrize("name", tpu.methods(8, tpu.FULL.length))
def test_no_method_moves_more_than_before(name, kind):
    if kind not in RATIOS.get(name, {}):
        pytest.skip("no ratio was recorded")
    read = tpu.update(name, tpu.params_of(tpu.FULL, kind), 8, "v5e")
    assert read.ratio <= 1.1 * RATIOS[name][kind]
    assert read.rough_products == 0


@WITH
@pytest.mark.slow
@pytest.mark.parametrize("name", tpu.methods(8, tpu.FULL.length))
def test_every_method_compiles_in_float64(name):
    with jax.enable_x64():
        params = {"w": jax.ShapeDtypeStruct((100, 20), jnp.float64)}
        assert tpu.update(name, params, 8, "v5e").kernels > 0
