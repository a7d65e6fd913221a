"""What all tests share."""

import contextlib
import gc
import logging
import os
import re
from pathlib import Path

import jax
import pytest

# Programs that tests start use the door to private modules, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
).rstrip(os.pathsep)

FLAGS = os.environ.get("XLA_FLAGS")
MANY = 5_000  # mappings of memory

gc.set_threshold(100_000, 50, 100)  # as the command has it


def pytest_addoption(parser):
    words = "the K-th of N parts of the tests: every N-th, from the K-th on"
    parser.addoption("--part", metavar="K/N", help=words)


@pytest.hookimpl(trylast=True)  # of those that markers leave
def pytest_collection_modifyitems(config, items):
    if not (given := config.getoption("--part")):
        return
    of_all = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", given)
    if of_all is None or int(of_all[1]) > int(of_all[2]):
        raise pytest.UsageError(f"--part is {given!r}, expected K/N, K from 1 to N")
    chosen = items[int(of_all[1]) - 1 :: int(of_all[2])]
    left = {item.nodeid for item in chosen}
    config.hook.pytest_deselected(items=[x for x in items if x.nodeid not in left])
    items[:] = chosen


def pytest_collection_finish():
    """All examples are looked for, in scripts too: one may set what others run with."""
    assert os.environ.get("XLA_FLAGS") == FLAGS, "a module sets XLA_FLAGS on import"


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
    """Compiled programs go once there are many: every one maps memory a few times,
    and a process that exceeds the system's number of mappings (65,530 by default on
    Linux) dies within the compiler, without a word."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > MANY:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def as_strict_as_can_be(request):
    """With JAX's strict settings in the environment: what a test does without."""
    with contextlib.ExitStack() as settings:
        if request.node.get_closest_marker("has_nans"):
            settings.enter_context(jax.debug_nans(False))
        if request.node.get_closest_marker("promotes"):
            settings.enter_context(jax.numpy_dtype_promotion("standard"))
        yield


@pytest.fixture
def x64():
    """float64 for one test; users never get it unasked."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiled(caplog):
    """The names of the functions that XLA compiles, as it goes."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):

        def names():
            messages = [record.getMessage() for record in caplog.records]
            caplog.clear()
            start = "Finished XLA compilation of "
            return [m.split()[4] for m in messages if m.startswith(start)]

        yield names
