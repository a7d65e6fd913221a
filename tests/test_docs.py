"""What the page on new methods shows runs, in order, and the page stays short."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _uploads

import gdsec_jax
from gdsec_jax import wire

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ADDING_A_METHOD.md").read_text("utf-8")


@pytest.fixture(scope="module")
def names():
    """What the blocks define, run one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    found: dict = {}
    for block in blocks:
        exec(compile(block, "ADDING_A_METHOD.md", "exec"), found)
    return found


def test_the_page_is_short():
    assert len(PAGE.splitlines()) < 60


def test_the_oracle_moved(names):
    assert np.abs(names["theta"]).max() > 0.01
    assert (
        names["row"].line == "Each entry to the nearest of -c, 0 and c, the rest kept."
    )


def test_the_method_learns(names):
    """Like gradient descent, for a fraction of its bits."""
    problem = names["problem"]
    step = optax.sgd(1 / problem.smoothness)
    ours, gd = (
        gdsec_jax.simulate(problem, optax.chain(algorithm, step), 500)
        for algorithm in (names["row"].factory(5, wire="golomb"), gdsec_jax.gd(5))
    )
    assert ours.objective_error[-1] < 1.1 * gd.objective_error[-1]
    assert ours.total_bits[-1] < 0.2 * gd.total_bits[-1]


def test_its_messages_become_the_bytes_that_are_counted(names):
    piece = names["nearest_of_three"]()
    rng = np.random.default_rng(0)
    v = {"w": jnp.float32(rng.standard_normal((4, 3))), "b": jnp.float32([0.5, -2.0])}
    update, state = piece.update(v, piece.init(v))
    message = wire.message_of(wire.flush(update), state)
    layout = _uploads.layout_of(v, "rle", message.code)
    bits = _uploads.count(update, layout).bits()
    encoded = wire.encode(message, "rle")
    assert 0 < len(encoded) == -(-int(bits) // 8)
    again = wire.decode(encoded, v, "rle", message.code)
    jax.tree.map(np.testing.assert_array_equal, again.values, message.values)


@pytest.mark.parametrize("path", re.findall(r"`([\w/]+(?:\.py|\.md|/))`", PAGE))
def test_the_places_exist(path):
    assert (ROOT / path).exists() or (ROOT / "gdsec_jax" / path).exists()


def test_its_options_are_named(names):
    """optax.inject_hyperparams and the configs look for them there."""
    parameters = inspect.signature(names["ternary_difference"]).parameters
    assert {"num_workers", "beta", "wire", "reduction", "weights"} <= set(parameters)


def test_the_architecture_names_what_there_is():
    """Every file that the page names, in the room of the lines around it."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    package = ROOT / "gdsec_jax"
    rooms = [ROOT, package, *(path for path in package.iterdir() if path.is_dir())]
    for name in re.findall(r"`([\w/]+\.py)`", page):
        assert any((room / name).is_file() for room in rooms), name
