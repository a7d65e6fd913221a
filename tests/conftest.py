"""What all tests share."""

import jax
import pytest


@pytest.fixture
def x64():
    """float64 for one test; users never get it unasked."""
    with jax.enable_x64(True):
        yield
