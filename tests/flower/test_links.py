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


def test_a_round_shorter_than_the_floor_has_no_ratio():
    rows = {
        "floor": flower.Row(12.0, 20e3, 10e3, 100.0),
        "dense": flower.Row(92.0, 5e6, 5e6, 9e6),
        "gdsec": flower.Row(14.0, 2e5, 2e5, 2e5),
        "top_j": flower.Row(11.0, 1e5, 2e5, 2e5),
    }
    least = rows["floor"]._replace(seconds=10.0)
    courses = {"dense": flower.Course([3.0, 2.0, 1.0], [9] * 3, [0.1] * 9)}
    setup = flower.Setup(course=6)
    measures = {m.name: m for m in flower._of_rows(rows, least, courses, 1, setup)}
    ratio = measures["seconds beyond the floor, dense / gdsec, 1 Mbit/s"]
    assert ratio.value == pytest.approx(40)
    short = measures["seconds beyond the floor, dense / top_j, 1 Mbit/s"]
    assert math.isnan(short.value)
    assert short.note == "it took no longer than the floor"
    off = measures["channel's seconds, gdsec, 1 Mbit/s: off by"].value
    expected = flower.predicted(rows["gdsec"], least, 1, setup.loss) / 14.0
    assert off == pytest.approx(abs(expected - 1))
    assert measures["to the loss, dense, 1 Mbit/s"].value == pytest.approx(3 * 92.0)


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
