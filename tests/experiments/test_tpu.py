"""The benchmark of a step on TPUs, of which there need be none."""

import importlib.util

import pytest
from inside import _hlo as hlo
from inside import _parts
from rich.console import Console

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Settings, Skipped

tpu = benchmarks.module("tpu")
SETTINGS = Settings(repeats=1, small=True, console=Console())
WITH_LIBTPU = importlib.util.find_spec("libtpu") is not None

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
    with pytest.raises(Skipped, match=r"libtpu is absent: pip install .*tpu-aot"):
        tpu.bench(SETTINGS)


@pytest.mark.skipif(not WITH_LIBTPU, reason="libtpu is absent, of the extra tpu-aot")
def test_the_step_compiles_for_a_tpu():
    measures = {measure.name: measure for measure in tpu.bench(SETTINGS)}
    ratio = measures["bytes accessed / minimum"]
    assert 1 <= ratio.value <= 3
    workers, length = tpu.SMALL.num_workers // 4, tpu.SMALL.length
    held = 4e-9 * length * (3 * workers + 2)  # g, h and e; theta and the one before
    assert measures["HBM: arguments"].value == pytest.approx(held, rel=1e-3)
    assert measures["all-reduce"].value >= 1
    assert measures["reduce-scatter"].value == 0


@pytest.mark.skipif(not WITH_LIBTPU, reason="libtpu is absent, of the extra tpu-aot")
def test_traffic_is_what_xla_counts_where_nothing_loops_or_stays_on_the_chip(
    monkeypatch,
):
    monkeypatch.setattr(_parts, "LEAST_BYTES", 2**60)
    _, compiled = tpu.compile_step(tpu.FULL, on_nonfinite="propagate")
    text = compiled.as_text()
    if "while(" in text:
        pytest.skip("the step runs in a loop")
    counted = compiled.cost_analysis()["bytes accessed"]
    assert hlo.traffic(text).bytes == pytest.approx(counted, rel=1e-3)
