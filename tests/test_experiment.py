"""The claims of the README and of the main job, as the command runs them."""

import os
from pathlib import Path

import pytest
import rich.console

from gdsec_jax import config, data, experiment

CONFIGS = Path(__file__).parent.parent / "configs"


def run(path, folder):
    loaded = config.load(path)
    return experiment.run(loaded, path.stem, folder, rich.console.Console(quiet=True))


@pytest.mark.slow
def test_gdsec_on_mnist_keeps_the_error_and_saves_97_percent_of_the_bits(tmp_path):
    if not os.environ.get("GDSEC_DATA_DIR"):
        pytest.skip("GDSEC_DATA_DIR is not set: the MNIST test images are needed")
    found = {entry.name: entry.found for entry in data.available()}
    if found["mnist"]["test"] != "GDSEC_DATA_DIR":
        pytest.skip("the MNIST test images are not in GDSEC_DATA_DIR")
    histories = run(CONFIGS / "ridge_mnist.toml", tmp_path)
    gd, gdsec = histories["GD"], histories["GD-SEC"]
    assert gd.num_rounds == gdsec.num_rounds == 3000
    assert gdsec.objective_error[-1] == pytest.approx(gd.objective_error[-1], rel=0.01)
    assert gd.bits.sum() == 3000 * 5 * 784 * 32
    assert gdsec.bits.sum() < 0.03 * gd.bits.sum()
    assert histories["GD-SOEC"].objective_error[-1] > 100 * gd.objective_error[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_the_figures_show_what_they_are_for(name, tmp_path):
    path = CONFIGS / "figures" / f"{name}.toml"
    histories = run(path, tmp_path)
    gd, gdsec, gdsoec = (histories[label] for label in ("GD", "GD-SEC", "GD-SOEC"))
    target = config.load(path).target * gd.initial_error
    rounds, reference = gdsec.rounds_to(target), gd.rounds_to(target)
    assert rounds is not None and reference is not None
    assert rounds <= 1.01 * reference
    assert (gdsec.bits_to(target) or 0) < 0.03 * (gd.bits_to(target) or 0)
    assert gdsoec.rounds_to(target) is None  # without error correction, at the same xi
    assert {file.suffix for file in tmp_path.glob(f"{name}.*")} == {".png", ".svg"}
