"""Faults behind optax's wrappers, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import random_gradients
from rounds import MAX_DELAY, assert_same, drawn_faults, rounds_of

import gdsec_jax
from gdsec_jax import WorkerBatches, participation, robust, worker
from gdsec_jax import server as servers

M, ROUNDS = 5, 5


@pytest.mark.usefixtures("x64")
def test_faults_reach_both_parts_of_a_partition():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(4)}
    gradients = random_gradients(params, M, 3, ROUNDS)
    faults, given = drawn_faults(4, True, (ROUNDS, M)), {"absent": "accumulate"}
    parts = {
        "a": gdsec_jax.gdsec(M, 5.0, beta=0.1, server=servers.late(MAX_DELAY)),
        "b": gdsec_jax.top_j(M, 2, server=servers.late(MAX_DELAY)),
    }
    both = optax.partition(parts, {"a": "a", "b": "b"})
    together, _ = rounds_of(both, params, gradients, said=faults, **given)
    alone = {
        name: rounds_of(part, params[name], gradients[name], said=faults, **given)[0]
        for name, part in parts.items()
    }
    for k, (updates, sent) in enumerate(together):
        for name in parts:
            own, _ = alone[name][k]
            np.testing.assert_allclose(updates[name], own, rtol=1e-12, atol=1e-12)
        own = [alone[name][k][1] for name in parts]
        np.testing.assert_array_equal(sent.bits, own[0].bits + own[1].bits)
        np.testing.assert_array_equal(sent.lost, own[0].lost | own[1].lost)
        np.testing.assert_array_equal(sent.participants, own[0].participants)


@pytest.mark.usefixtures("x64")
def test_hyperparameters_in_the_state():
    params = jnp.ones(4)
    gradients = random_gradients(params, M, 3, ROUNDS).at[2, 1].multiply(1e3)
    faults = drawn_faults(4, True, (ROUNDS, M))
    late = servers.late(MAX_DELAY, max_norm_ratio=10.0)
    fixed = {"num_workers": M, "server": late}
    injected = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=tuple(fixed))
    numbers = {"xi": 5.0, "beta": 0.1}
    runs = [
        rounds_of(make(**numbers, **fixed), params, gradients, said=faults)
        for make in (gdsec_jax.gdsec, injected)
    ]
    for (plain, sent), (ours, counted) in zip(*(out for out, _ in runs), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12)
        assert_same(counted, sent)
    assert sum(int(sent.dropped) for _, sent in runs[1][0]) > 0


# What is refused


def updated(grouped=False, algorithm=None, **given):
    algorithm = algorithm or gdsec_jax.gd(3)
    params, grads = jnp.zeros(2), jnp.ones((3, 2))
    if grouped:
        grads = WorkerBatches(lambda index, own: own, grads, 2)
    return algorithm.update(grads, algorithm.init(params), params, **given)


def waits(**given):
    return updated(algorithm=gdsec_jax.gd(3, server=servers.late(2)), **given)


# By the sentence, what says it.
REFUSED = {
    r"active is bool\[2\], expected bool\[3\]": lambda: updated(
        active=jnp.ones(2, bool)
    ),
    r"active is float32\[3\], expected bool\[3\]": lambda: updated(active=jnp.ones(3)),
    r"delivered is bool\[\], expected bool\[3\]": lambda: updated(delivered=True),
    r"grant's mask is float32\[3\], expected bool\[3\]": lambda: updated(
        grant=lambda offers: offers.energy
    ),
    "absent is 'sleep', expected one of hold, accumulate": lambda: updated(
        absent="sleep"
    ),
    "delay is given, expected None without a server.late.max_delay": lambda: updated(
        delay=jnp.zeros(3, int)
    ),
    r"delay is int32\[2\], expected int\[3\]": lambda: waits(delay=jnp.zeros(2, int)),
    r"delay is float32\[3\], expected int\[3\]": lambda: waits(delay=jnp.zeros(3)),
    r"delay is 3, expected a number in \[0, 2\]": lambda: waits(
        delay=np.array([0, 1, 3])
    ),
    r"delay is -1, expected a number in \[0, 2\]": lambda: waits(
        delay=np.array([0, -1, 0])
    ),
    "WorkerBatches, expected those of all .* which grant looks at": lambda: updated(
        True, grant=participation.largest_energy(9)
    ),
    "WorkerBatches, .* which a robust server looks at": lambda: updated(
        True, gdsec_jax.gd(3, server=servers.robust(robust.median))
    ),
    "WorkerBatches, .* which max_norm_ratio looks at": lambda: updated(
        True, gdsec_jax.gd(3, server=servers.total(max_norm_ratio=10.0))
    ),
    "max_delay is 0, expected an integer from 1 to": lambda: servers.late(0),
    "capacity is 0, expected an integer": lambda: servers.sparse(0),
    "server is <function median.*, expected one of gdsec_jax.server: total": lambda: (
        gdsec_jax.gd(3, server=robust.median)
    ),
    "key is None, expected an int or a random key to draw with": lambda: gdsec_jax.gd(
        3, server=servers.Server(asks=lambda *_: 1)
    ),
    r"participation's mask is float32\[3\], expected bool\[3\]": lambda: updated(
        algorithm=gdsec_jax.federate(
            worker.whole(), 3, server=servers.Server(asks=lambda *_: jnp.ones(3)), key=0
        )
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_a_traced_delay_is_clipped():
    update = jax.jit(lambda delay: waits(delay=delay)[0])
    assert update(jnp.array([-5, 0, 9])).tolist() == [2.0, 2.0]
