"""The server as one object, and the options that it has replaced."""

import copy

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import robust, server, worker

M = 3
GRADIENTS = jnp.asarray([[1.0, 4.0], [2.0, -3.0], [9.0, 0.0]])


def two_rounds(algorithm, **said):
    """The directions of two rounds, and the last state."""
    params, out = jnp.zeros(2), []
    state = algorithm.init(params)
    for k in (1, 2):
        direction, state = algorithm.update(k * GRADIENTS, state, params, **said)
        params = params - 0.1 * direction
        out.append(direction)
    return np.stack(out), state


# What was said by options, and the server in their place.
OLD = {
    "aggregation": ({"aggregation": robust.median}, server.robust(robust.median)),
    "capacity": ({"capacity": 1}, server.sparse(1)),
    "max_delay": ({"max_delay": 2}, server.late(2)),
    "max_norm_ratio": ({"max_norm_ratio": 2.0}, server.total(max_norm_ratio=2.0)),
    "workers": ({"server": "workers"}, server.total()),
    "running": ({"server": "running"}, server.running()),
    "running, max_delay": (
        {"server": "running", "max_delay": 1, "max_norm_ratio": 9.0},
        server.late(1, max_norm_ratio=9.0),
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_options_are_their_servers(name):
    old, new = OLD[name]
    with pytest.warns(DeprecationWarning, match="use server=gdsec_jax.server"):
        before = gdsec_jax.gdsec(M, 0.5, 0.1, **old)
    after = gdsec_jax.gdsec(M, 0.5, 0.1, server=new)
    np.testing.assert_array_equal(two_rounds(before)[0], two_rounds(after)[0])


def test_old_options_of_federate():
    pipeline = gdsec_jax.worker.gradient_difference(optax.identity(), 0.5)
    estimate = gdsec_jax.gradient_estimate

    def rule(key, number):
        return jnp.arange(M) != number

    with pytest.warns(DeprecationWarning, match="summand=.*, participation="):
        before = gdsec_jax.federate(
            pipeline, M, summand=estimate, participation=rule, key=0
        )
    after = gdsec_jax.federate(
        pipeline, M, server=server.Server(prepare=estimate, asks=rule), key=0
    )
    directions, state = two_rounds(before)
    np.testing.assert_array_equal(directions, two_rounds(after)[0])
    sent = gdsec_jax.last_round(state)
    assert sent.participants.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"aggregation": robust.median, "max_delay": 1},
            "aggregation is given beside max_delay, expected one",
        ),
        (
            {"capacity": 2, "max_delay": 1},
            "capacity is given beside max_delay, expected one",
        ),
        (
            {"server": "running", "aggregation": robust.median},
            "server is 'running', expected 'workers' beside an aggregation",
        ),
        ({"server": "walking"}, "server is 'walking', expected one of gdsec_jax.se"),
        ({"max_norm_ratio": 0.5}, "max_norm_ratio is 0.5, expected"),
        (
            {"capacity": 1, "server": server.late(1)},
            "capacity is given beside a server, expected it inside",
        ),
    ],
)
def test_what_old_options_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gdsec_jax.gdsec(M, 0.5, **options)


def test_a_memory_of_the_servers_own_is_the_workers_sum():
    estimates, state = two_rounds(gdsec_jax.gdsec(M, 0.5, 0.1))
    running, own = two_rounds(gdsec_jax.gdsec(M, 0.5, 0.1, server=server.running()))
    np.testing.assert_allclose(running, estimates, rtol=1e-6)
    np.testing.assert_allclose(
        own.server.memory, state.workers.memory.sum(0), rtol=1e-6
    )


def test_what_no_memory_can_be_added_to():
    estimate = gdsec_jax.gradient_estimate
    for given, message in (
        (server.Server(prepare=lambda m, s: m), "server.prepare is <function .*, exp"),
        (gdsec_jax.server_memory(0.1), "server has a server_memory, expected none"),
    ):
        with pytest.raises(ValueError, match=message):
            gdsec_jax.gdsec(M, 0.5, 0.1, server=given).init(jnp.zeros(2))
    same = gdsec_jax.gdsec(M, 0.5, 0.1, server=server.Server(prepare=estimate))
    np.testing.assert_array_equal(
        two_rounds(same)[0], two_rounds(gdsec_jax.gdsec(M, 0.5, 0.1))[0]
    )


def test_a_step_may_be_any_transformation():
    clipped = server.Server(step=optax.clip(1.0))
    directions = [two_rounds(gdsec_jax.gd(M, server=s))[0] for s in (clipped, None)]
    np.testing.assert_array_equal(directions[0], np.clip(directions[1], -1, 1))


def test_a_mask_may_be_numpys():
    delivered = np.array([True, False, True])
    directions, _ = two_rounds(gdsec_jax.gd(M), delivered=delivered)
    np.testing.assert_array_equal(directions[0], GRADIENTS[delivered].sum(0))


def test_which_servers_go_component_by_component():
    kinds = {
        "total": server.total(),
        "estimates": server.total().with_memories(0.1, None),
        "running": server.running().with_memories(0.1, None),
        "beta by length": server.running().with_memories(lambda p: 0.1, None),
        "sparse": server.sparse(2),
        "short": server.Server(capacity=2),
        "late": server.late(2),
        "robust": server.robust(robust.median),
        "of one's own": server.Server(combine=lambda x, late: x.sum(0)),
        "a step": server.Server(step=optax.clip_by_global_norm(1.0)),
        "prepared": server.Server(prepare=lambda message, state: message),
    }
    alike = {name for name, each in kinds.items() if each.component_wise}
    assert alike == {"total", "estimates", "running"}
    whole = {name for name, each in kinds.items() if not each.batches}
    assert whole == {"robust", "of one's own"}


def test_a_copied_server_is_the_same():
    running = copy.deepcopy(server.running())
    directions = [
        two_rounds(gdsec_jax.gdsec(M, 0.5, 0.1, server=s))[0]
        for s in (running, server.running())
    ]
    np.testing.assert_array_equal(*directions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: server.Server(asks=3), "server.asks is 3, expected a function"),
        (lambda: server.Server(max_norm_ratio=0.5), "max_norm_ratio is 0.5, expected"),
        (lambda: server.Server(capacity=-1), "server.capacity is -1, expected an"),
        (lambda: server.Server(max_delay=1.5), "server.max_delay is 1.5, expected an"),
        (lambda: server.Server(max_delay=2), "max_delay is 2, expected 0 with the sum"),
        (
            lambda: server.Server(adds_up="yes"),
            "server.adds_up is 'yes', expected True",
        ),
        (lambda: server.Server(estimates=None), "estimates is None, expected True or"),
        (lambda: server.Server(step=3), "server.step is 3, expected an optax trans"),
        (lambda: server.Server(combine=3), "server.combine is 3, expected a function"),
        (lambda: 3, "server is 3, expected one of gdsec_jax.server: total"),
    ],
)
def test_what_is_no_server(make, message):
    with pytest.raises(ValueError, match=message):
        gdsec_jax.gd(M, server=make())


def test_iag_asks_by_itself():
    with pytest.raises(ValueError, match=r"server.asks is .*, expected None: iag asks"):
        gdsec_jax.iag(M, server=server.Server(asks=lambda key, k: jnp.ones(M, bool)))


def test_a_capacity_follows_what_is_sent():
    follow = server.fitting_capacity
    assert follow([[100, 3], [100, 100]], 100) == 200
    assert follow([100] + [99] * 9, 100) == 100  # a tenth is no reason
    assert follow([25, 0], 100) == 50
    assert follow([26, 0], 100) == 100
    assert follow([0], 1) == 1
    for entries, capacity, sentence in (
        ([], 5, "entries are empty"),
        ([6], 5, "entries reach 6, expected at most the capacity, 5"),
        ([1], 0, "capacity is 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            follow(entries, capacity)


def test_a_second_rounding_keeps_what_it_leaves_over():
    """What was sent and what is kept is the sum, and parts have their own scales."""
    parts, length = 3, 11
    rng = np.random.default_rng(0)
    two_shot = server.two_shot(worker.grid(3), parts)
    algorithm = gdsec_jax.federate(worker.whole(), 2, server=two_shot)
    params = jnp.zeros(length)
    state = algorithm.init(params)
    error = np.zeros((parts, 4), np.float32)
    for _ in range(3):
        grads = rng.standard_normal((2, length)).astype(np.float32)
        direction, state = algorithm.update(jnp.asarray(grads), state, params)
        v = np.pad(grads[0] + grads[1], (0, 1)).reshape(parts, 4) + error
        largest = np.abs(v).max(axis=1, keepdims=True)
        unit = (largest / 7).astype(np.float32)  # the scale, to rounding
        levels = 2 * np.clip(np.floor(v / (2 * unit) + 4), 0, 7) - 7
        sent = unit * levels
        error = v - sent
        np.testing.assert_allclose(direction, sent.reshape(-1)[:length], rtol=1e-5)
