"""Where a mask is set, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _masks


@pytest.mark.parametrize("size", [0, 1, 32, 1000, 1024, 5000, 65_537])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.6, 1.0])
def test_where_a_mask_is_set(size, share):
    mask = np.random.default_rng(size).random(size) < share
    for number in (size // 10, size + 40):
        found = jax.jit(lambda m, n=number: _masks.where_set(m, n))(jnp.asarray(mask))
        kept = np.flatnonzero(mask)[:number]
        rest = np.full(number - kept.size, size)
        np.testing.assert_array_equal(found, np.concatenate([kept, rest]))
        assert found.dtype == jnp.int32
