"""Robust sums over the workers: their limits, and a worker that lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_gradients, slow_but
from hypothesis import given, settings
from hypothesis import strategies as st

import gdsec_jax
from gdsec_jax import robust
from gdsec_jax import server as servers

rows = st.lists(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2),
    min_size=1,
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(0.0, 0.49))
def test_the_rules_by_sorting(values, share):
    values = np.array(values, np.float64)
    count = len(values)
    ordered = np.sort(values, axis=0)
    cut = int(np.floor(share * count + 1e-9))
    kept = ordered[cut : count - cut]
    given_ = {"a": jnp.asarray(values, jnp.float32)}
    np.testing.assert_allclose(
        robust.trimmed_mean(share)(given_)["a"],
        count * kept.mean(0),
        rtol=1e-5,
        atol=1e-3,
    )
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    np.testing.assert_allclose(
        robust.median(given_)["a"], count * middle, rtol=1e-5, atol=1e-4
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(rows)
def test_further_rules_by_numpy(values):
    values = np.array(values, np.float64)
    values[np.abs(values) < 1e-30] = 0  # no subnormal numbers, as in messages
    given_ = {
        "a": jnp.asarray(values[:, :1], jnp.float32),
        "b": jnp.asarray(values[:, 1]),
    }
    flat = lambda tree: np.concatenate([np.ravel(x) for x in tree.values()])  # noqa: E731
    norms = np.linalg.norm(values, axis=1)
    spoken = norms[norms > 0]
    limit = np.median(spoken) if spoken.size else 0.0
    factor = np.where(norms > limit, limit / np.where(norms > 0, norms, 1), 1)
    ours = flat(robust.clipped_to_median(given_))
    np.testing.assert_allclose(
        ours, (factor[:, None] * values).sum(0), rtol=1e-4, atol=1e-3
    )
    count = np.maximum((values != 0).sum(0), 1)
    ours = flat(robust.over_senders(given_))
    expected = len(values) * values.sum(0) / count
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)
    ours = flat(robust.majority(given_))
    np.testing.assert_array_equal(ours, np.sign(np.sign(values).sum(0)))


@pytest.mark.parametrize("reduction", slow_but(("sum",), ("sum", "mean")))
def test_limits_that_are_the_sum(reduction):
    params = jnp.ones(7)
    for rule, num_workers in ((robust.median, 1), (robust.trimmed_mean(0.0), 4)):
        grads = random_gradients(params, num_workers, 0)
        updates = []
        for how in (None, servers.robust(rule)):
            algorithm = gdsec_jax.gdsec(
                num_workers, 0.5, 0.1, server=how, reduction=reduction
            )
            update, state = algorithm.update(grads, algorithm.init(params), params)
            again = algorithm.update(
                grads, state, jax.tree.map(lambda p: p + 1, params)
            )
            updates.append((update, again[0]))
        for ours, plain in zip(*map(jax.tree.leaves, updates[::-1]), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_an_absent_worker_counts_as_what_is_known_of_it():
    params = jnp.zeros(1)
    algorithm = gdsec_jax.gdsec(3, 0.0, beta=1.0, server=servers.robust(robust.median))
    first = jnp.asarray([[1.0], [5.0], [3.0]])
    _, state = algorithm.update(first, algorithm.init(params), params)
    then = jnp.asarray([[10.0], [100.0], [20.0]])
    for fault in ("active", "delivered"):
        mask = {fault: jnp.asarray([True, False, True])}
        assert algorithm.update(then, state, params, **mask)[0].tolist() == [3 * 10.0]


ALGORITHMS = {
    "gd": lambda **own: gdsec_jax.gd(5, **own),
    "gdsec": lambda **own: gdsec_jax.gdsec(5, xi=1.0, beta=0.1, **own),
    "ef21": lambda **own: gdsec_jax.ef21(5, k=2, **own),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but(("gdsec",), tuple(ALGORITHMS)))
def test_a_worker_that_lies(name):
    """Ridge regression; one of five equal workers sends -1e6 times its gradient."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    y = x @ rng.standard_normal(4)
    hessian = jnp.asarray(x.T @ x / 30 + 0.1 * np.eye(4)) / 5
    target = jnp.asarray(x.T @ y / 30) / 5
    solution = np.linalg.solve(hessian, target)
    step = (0.2 if name == "ef21" else 0.5) / np.linalg.eigvalsh(5 * hessian)[-1]
    factors = jnp.asarray([1.0, 1.0, -1e6, 1.0, 1.0])[:, None]
    errors = {}
    for rule in (None, robust.median, robust.trimmed_mean(0.2)):
        server = rule and servers.robust(rule)
        algorithm = ALGORITHMS[name](server=server)

        def one(carry, _, algorithm=algorithm):
            theta, state = carry
            grads = factors * (hessian @ theta - target)
            update, state = algorithm.update(grads, state, theta)
            return (theta - step * update, state), None

        start = jnp.zeros(4), algorithm.init(jnp.zeros(4))
        (theta, _), _ = jax.jit(lambda s: jax.lax.scan(one, s, length=600))(start)
        errors[rule] = float(jnp.linalg.norm(theta - solution))
    plain, *robustly = errors.values()
    assert not plain < 1e6
    assert max(robustly) < 1e-6


@pytest.mark.parametrize("share", [0.5, -0.1, 0.6, np.nan, None])
def test_what_is_no_share(share):
    with pytest.raises(ValueError, match="share is .*, expected"):
        robust.trimmed_mean(share)


def test_the_shape_of_a_share_is_exact():
    values = jnp.arange(100.0)[:, None]
    rule = robust.trimmed_mean(0.29)  # in floats 0.29 * 100 is 28.99…
    values = values.at[28].set(-1e9).at[0].set(28.0)
    assert float(rule(values)[0]) == pytest.approx(100 * np.arange(29, 71).mean())


def test_what_is_no_rule():
    with pytest.raises(ValueError, match="rule is 'median', expected a function such"):
        servers.robust("median")
