"""Records that a compiled loop keeps on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _buffers as buffers

ROUNDS = 5


def record(number):
    """Arrays of several dtypes and sizes, none and many entries among them."""
    rng = np.random.default_rng(number)
    return {
        "error": jnp.asarray(rng.normal(), jnp.float32),
        "masks": [jnp.asarray(rng.random(3) < 0.5) for _ in range(3)],
        "entries": jnp.asarray(rng.integers(100, size=(3, 2)), jnp.int32),
        "nothing": jnp.zeros((0, 4)),
        "steps": jnp.asarray(number, jnp.int32),
        "many": jnp.asarray(rng.normal(size=(buffers.FEW, 2)), jnp.float32),
    }


@pytest.mark.parametrize("as_on_tpu", [False, True])
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 2, 1)])
def test_what_was_put_is_read(packs, order, as_on_tpu, monkeypatch):
    def chosen(*arguments, tpu, default):
        return (tpu if as_on_tpu else default)(*arguments)

    monkeypatch.setattr(buffers, "unless_on_tpu", chosen)
    put = jax.jit(buffers.put, donate_argnums=0)
    made = buffers.empty(record(0), ROUNDS, packs)
    assert made.capacity == ROUNDS
    for index in order:
        made = put(made, index, record(index))
    read = buffers.rounds_first(made)
    expected = jax.tree.map(lambda *x: np.stack(x), *map(record, range(ROUNDS)))
    jax.tree.map(np.testing.assert_array_equal, read, expected)
    dtypes = (jax.tree.map(lambda x: x.dtype, tree) for tree in (read, expected))
    assert next(dtypes) == next(dtypes)
    none = jax.tree.map(lambda x: x[:0], expected)
    jax.tree.map(np.testing.assert_array_equal, buffers.no_rounds(made), none)


def test_arrays_of_few_entries_share_a_vector_for_each_dtype():
    made = buffers.empty(record(0), ROUNDS, packs=True)
    sizes = {name: vector.shape for name, vector in made.vectors.items()}
    assert sizes == {
        "float32": (ROUNDS,),
        "bool": (9 * ROUNDS,),
        "int32": (7 * ROUNDS,),
    }
    assert made.record["many"].shape == (ROUNDS, buffers.FEW, 2)
    assert buffers.empty(record(0), ROUNDS, packs=False).vectors == {}
