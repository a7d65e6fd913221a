"""Faults in rounds by blocks and groups, behind optax's wrappers; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import methods, random_gradients, slow_but
from test_blocks import Blocks, assert_same, many
from test_fault_laws import MAX_DELAY, drawn_faults

import gdsec_jax
from gdsec_jax import WorkerBatches, participation, robust, worker
from gdsec_jax import server as servers

M, ROUNDS = 5, 5


def faults_of(seed, late=False):
    return drawn_faults(seed, late, (ROUNDS, M))


def rounds_of(optimizer, params, gradients, faults, size=None, **given):
    """Updates, counts and the last state; gradients in groups if there is a size."""

    @jax.jit
    def one(grads, state, params, faults):
        if size is not None:
            grads = WorkerBatches(lambda index, own: own, grads, size)
        updates, state = optimizer.update(grads, state, params, **faults, **given)
        params = jax.tree.map(
            lambda p, u: p - (0.1 * u).astype(p.dtype), params, updates
        )
        return updates, state, params

    state, out = optimizer.init(params), []
    for k in range(ROUNDS):
        now = jax.tree.map(lambda x, k=k: x[k], (gradients, faults))
        updates, state, params = one(now[0], state, params, now[1])
        out.append((updates, gdsec_jax.last_round(state)))
    return out, state


@pytest.mark.usefixtures("x64")
@methods(lambda method: method.name != "power_sgd", dear=True, core=("gdsec",))
@pytest.mark.parametrize("late", slow_but((True,), (True, False)))
def test_batches_of_workers(method, late):
    params = {"matrix": jnp.ones((3, 2))}
    options = {"key": 2} if method.draws else {}
    server = servers.late(MAX_DELAY) if late else None
    algorithm = method.make(M, server=server, **options)
    gradients = random_gradients(params, M, 3, ROUNDS)
    gradients["matrix"] = gradients["matrix"].at[2, 4, 0, 0].set(jnp.nan)
    faults = faults_of(4, late)
    at_once = rounds_of(algorithm, params, gradients, faults, absent="accumulate")
    grouped = rounds_of(algorithm, params, gradients, faults, 2, absent="accumulate")
    # Chaotic in rounding: a last bit of the sums grows.
    assert_same(grouped, at_once, 1e-6 if method.name == "low_rank" else 1e-12)
    assert any(sent.lost.any() for _, sent in at_once[0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", slow_but(
    (("gdsec", "accumulate"),),
    [(n, a) for n in ("gd", "gdsec", "gdsoec") for a in ("hold", "accumulate")],
), ids="-".join)  # fmt: skip
def test_blocks_of_components(case, monkeypatch):
    name, absent = case
    blocks, params = Blocks(monkeypatch), many(jnp.float64)
    own = {} if name == "gd" else {"xi": 5.0, "beta": 0.1, "wire": "rle"}
    algorithm = getattr(gdsec_jax, name)(M, **own)
    gradients = random_gradients(params, M, 3, ROUNDS)
    gradients["matrix"] = gradients["matrix"].at[2, 4, 6, 4].set(jnp.nan)
    runs = []
    for allowed in (False, True):
        with blocks.allowed(allowed):
            arguments = algorithm, params, gradients, faults_of(4)
            runs.append(rounds_of(*arguments, absent=absent))
    assert blocks.taken == 1
    assert_same(*runs)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", ["delay", "norms", "grant"])
def test_blocks_of_components_with_what_looks_at_all_of_them(how, monkeypatch):
    """Late messages are not cut; judged and granted ones are."""
    blocks, params = Blocks(monkeypatch), many(jnp.float64)
    options = {"delay": {"max_delay": MAX_DELAY}, "norms": {"max_norm_ratio": 3.0}}
    algorithm = gdsec_jax.gdsec(M, 5.0, beta=0.1, **options.get(how, {}))
    gradients = random_gradients(params, M, 3, ROUNDS)
    gradients = jax.tree.map(lambda g: g.at[1:, 2].multiply(1e3), gradients)
    given = {}
    if how == "grant":
        given = {"grant": participation.largest_energy(4000), "absent": "accumulate"}
    runs = []
    for allowed in (False, True):
        with blocks.allowed(allowed):
            arguments = algorithm, params, gradients, faults_of(4, how == "delay")
            runs.append(rounds_of(*arguments, **given))
    assert blocks.taken == (how != "delay")
    assert_same(*runs)
    sent = [sent for _, sent in runs[0][0]]
    if how == "norms":
        assert sum(int(one.dropped) for one in sent) > 0
    if how == "grant":
        assert 0 < sum(one.participants.sum() for one in sent) < M * ROUNDS


@pytest.mark.usefixtures("x64")
def test_faults_reach_both_parts_of_a_partition():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(4)}
    gradients = random_gradients(params, M, 3, ROUNDS)
    faults, given = faults_of(4, late=True), {"absent": "accumulate"}
    parts = {
        "a": gdsec_jax.gdsec(M, 5.0, beta=0.1, server=servers.late(MAX_DELAY)),
        "b": gdsec_jax.top_j(M, 2, server=servers.late(MAX_DELAY)),
    }
    both = optax.partition(parts, {"a": "a", "b": "b"})
    together, _ = rounds_of(both, params, gradients, faults, **given)
    alone = {
        name: rounds_of(part, params[name], gradients[name], faults, **given)[0]
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
    faults = faults_of(4, late=True)
    late = servers.late(MAX_DELAY, max_norm_ratio=10.0)
    fixed = {"num_workers": M, "server": late}
    injected = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=tuple(fixed))
    numbers = {"xi": 5.0, "beta": 0.1}
    runs = [
        rounds_of(make(**numbers, **fixed), params, gradients, faults)
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


REFUSED = {
    "active's shape": (
        lambda: updated(active=jnp.ones(2, bool)),
        r"active is bool\[2\], expected bool\[3\]",
    ),
    "active's dtype": (
        lambda: updated(active=jnp.ones(3)),
        r"active is float32\[3\], expected bool\[3\]",
    ),
    "delivered": (
        lambda: updated(delivered=True),
        r"delivered is bool\[\], expected bool\[3\]",
    ),
    "grant": (
        lambda: updated(grant=lambda offers: offers.energy),
        r"grant's mask is float32\[3\], expected bool\[3\]",
    ),
    "absent": (
        lambda: updated(absent="sleep"),
        "absent is 'sleep', expected one of hold, accumulate",
    ),
    "delay": (
        lambda: updated(delay=jnp.zeros(3, int)),
        "delay is given, expected None for an algorithm without max_delay",
    ),
    "delay's shape": (
        lambda: waits(delay=jnp.zeros(2, int)),
        r"delay is int32\[2\], expected int\[3\]",
    ),
    "delay's dtype": (
        lambda: waits(delay=jnp.zeros(3)),
        r"delay is float32\[3\], expected int\[3\]",
    ),
    "a longer delay": (
        lambda: waits(delay=np.array([0, 1, 3])),
        r"delay is 3, expected a number in \[0, 2\]",
    ),
    "a negative delay": (
        lambda: waits(delay=np.array([0, -1, 0])),
        r"delay is -1, expected a number in \[0, 2\]",
    ),
    "WorkerBatches, grant": (
        lambda: updated(True, grant=participation.largest_energy(9)),
        "WorkerBatches, expected those of all workers at once, which grant looks at",
    ),
    "WorkerBatches, robust": (
        lambda: updated(True, gdsec_jax.gd(3, server=servers.robust(robust.median))),
        "WorkerBatches, .* which a robust server looks at",
    ),
    "WorkerBatches, max_norm_ratio": (
        lambda: updated(
            True, gdsec_jax.gd(3, server=servers.total(max_norm_ratio=10.0))
        ),
        "WorkerBatches, .* which max_norm_ratio looks at",
    ),
    "max_delay": (
        lambda: servers.late(0),
        "max_delay is 0, expected an integer from 1 to",
    ),
    "capacity": (
        lambda: servers.sparse(0),
        "capacity is 0, expected an integer of at least 1|capacity is 0, expected",
    ),
    "server": (
        lambda: gdsec_jax.gd(3, server=robust.median),
        "server is <function median.*, expected one of gdsec_jax.server: total",
    ),
    "asks without a key": (
        lambda: gdsec_jax.gd(3, server=servers.Server(asks=lambda *_: 1)),
        "key is None, expected an int or a random key to draw with",
    ),
    "asks": (
        lambda: updated(
            algorithm=gdsec_jax.federate(
                worker.whole(),
                3,
                server=servers.Server(asks=lambda *_: jnp.ones(3)),
                key=0,
            )
        ),
        r"participation's mask is float32\[3\], expected bool\[3\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_traced_delay_is_clipped():
    update = jax.jit(lambda delay: waits(delay=delay)[0])
    assert update(jnp.array([-5, 0, 9])).tolist() == [2.0, 2.0]
