"""The proximal step of the l1 norm against its definition."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdsec_jax import problems

finite = st.floats(-10, 10, width=32)


@settings(max_examples=60, deadline=None)
@given(param=finite, step=finite, strength=st.floats(0, 5, width=32))
def test_the_step_minimises_its_definition(param, step, strength):
    transform = problems.proximal_l1(strength)
    theta = jnp.float32(param)
    update, _ = transform.update(jnp.float32(step), transform.init(theta), theta)
    assert update.dtype == jnp.float32
    center = float(np.float32(param) + np.float32(step))
    got = float(theta + update)

    def cost(x):
        return (x - center) ** 2 / 2 + strength * np.abs(x)

    grid = np.append(np.linspace(-21, 21, 4201), 0.0)
    assert cost(got) <= cost(grid).min() + 1e-4
    assert abs(got) <= abs(center) + 1e-5


def test_trees_dtypes_and_exact_zeros():
    half = jnp.bfloat16
    params = {"w": jnp.array([1.0, -3.0, 0.5, 0.0]), "b": jnp.array(2.0, half)}
    updates = {"w": jnp.array([0.0, 0.0, -0.25, 0.5]), "b": jnp.array(-4.0, half)}
    transform = problems.proximal_l1(0.5)
    shrunk, _ = transform.update(updates, transform.init(params), params, value=1.0)
    chex.assert_trees_all_equal_dtypes(shrunk, params)
    expected = {"w": jnp.array([0.5, -2.5, 0.0, 0.0]), "b": jnp.array(-1.5, half)}
    chex.assert_trees_all_equal(optax.apply_updates(params, shrunk), expected)


def test_strength_may_be_traced():
    def shrink(strength, theta):
        transform = problems.proximal_l1(strength)
        update, _ = transform.update(jnp.zeros(()), transform.init(theta), theta)
        return theta + update

    strengths = jnp.array([0.0, 1.0, 3.0])
    np.testing.assert_array_equal(
        jax.vmap(shrink, (0, None))(strengths, jnp.float32(2.0)), [2.0, 1.0, 0.0]
    )


@pytest.mark.parametrize("strength", [-0.5, np.nan])
def test_strength_must_not_be_negative(strength):
    with pytest.raises(ValueError, match=f"strength is {strength}, expected a number"):
        problems.proximal_l1(strength)


def test_params_are_needed():
    transform = problems.proximal_l1(0.5)
    with pytest.raises(ValueError, match="proximal_l1 needs params: update"):
        transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
