"""Messages as words of a fixed number: what was packed is what is added up."""

import jax.numpy as jnp
import numpy as np
import pytest

from gdsec_jax.wire import Code
from gdsec_jax.wire import _words as wire_words


def told(code, dtypes, sizes, multiples, scales=(), capacity=None):
    """The entries of a message, in float32, and what comes of their words."""
    params = [jnp.zeros(n, d) for n, d in zip(sizes, dtypes, strict=True)]
    words = wire_words.words_of(params, code, capacity)
    per = np.repeat(np.broadcast_to(scales or (1.0,), len(sizes)), sizes)
    ends = np.cumsum(sizes)[:-1]
    exact = np.split(np.float32(per) * np.float32(multiples), ends)
    sent = [jnp.asarray(x, d) for x, d in zip(exact, dtypes, strict=True)]
    vector = jnp.concatenate([x.astype(jnp.float32) for x in sent])
    packed = wire_words.pack(words, vector, jnp.asarray(scales, jnp.float32))
    return vector, wire_words.total(words, packed[None])


@pytest.mark.parametrize("capacity", [None, 4])
@pytest.mark.parametrize("scales", [(0.1,), (0.1, 0.3)])
def test_leaves_of_several_dtypes_are_each_rounded_as_they_were(capacity, scales):
    code = Code("levels", 7, num_scales=len(scales))
    multiples = [3, 0, -7, 0, 5, 7]
    dtypes = ["bfloat16", "float32"]
    sent, found = told(code, dtypes, (3, 3), multiples, scales, capacity)
    np.testing.assert_array_equal(found, sent)


@pytest.mark.parametrize("length", [33, 2**16, 2**16 + 1])
def test_non_zeros_around_a_block_of_places(length):
    multiples = np.zeros(length)
    multiples[[0, length // 2, -1]] = 3.0, -2.0, 1.0
    sent, found = told(Code(), ["float32"], (length,), multiples, capacity=9)
    np.testing.assert_array_equal(found, sent)
