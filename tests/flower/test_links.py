"""The bench of Flower's clients over links, at sizes that show that it works."""

import importlib.util
import math

import numpy as np
import pytest

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Settings, Skipped

flower = benchmarks.module("flower")
veth = benchmarks.module("_veth")
HERE = importlib.util.find_spec("flwr") is not None


def test_without_flower_the_bench_is_skipped(monkeypatch):
    monkeypatch.setattr(flower.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Skipped, match=r"pip install 'gdsec-jax\[flower\]'"):
        flower.bench(Settings(1, small=True))


def test_a_prediction_is_the_floor_and_what_is_carried_at_the_rate():
    floor = flower.Row(seconds=10.0, up=0.0, down=0.0, carried=100.0)
    row = flower.Row(seconds=14.0, up=0.0, down=0.0, carried=181_100.0)
    # 181,000 bytes are 125 segments of 1,448, each of them 1,514 on the link.
    assert flower.predicted(row, floor, 1) == pytest.approx(10 + 8e-6 * 125 * 1514)
    seconds = 10 + 8e-6 / 20 * 125 * 1514 / 0.98
    assert flower.predicted(row, floor, 20, loss=2.0) == pytest.approx(seconds)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="Flower is not installed")
def test_methods_reach_dense_trainings_loss_for_few_of_its_bytes():
    with flower._app_on_path():
        dense = flower.course("dense", 60, 60)
        sec = flower.course("gdsec", 60, 90)
    target = min(dense.losses[:40])
    reached = sec.to(target)
    assert reached is not None
    assert sum(sec.up[:reached]) < 0.1 * sum(dense.up[: dense.to(target)])


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="Flower is not installed")
def test_what_is_on_the_interface_is_what_is_carried_and_flowers_own():
    setup = flower.SMALL
    if reason := veth.unable(setup.loss):
        pytest.skip(reason)
    rows = flower.over_link(setup, setup.rates[0], Settings(1, small=True))
    for name, row in rows.items():
        own = row.up + row.down - 1.05 * row.carried
        assert 15e3 < own < 80e3, (name, own)  # headers, polls, packets
        assert 3 < row.seconds < 60
        assert math.isfinite(flower.predicted(row, rows["floor"], setup.rates[0]))
    assert np.isfinite([row.carried for row in rows.values()]).all()
