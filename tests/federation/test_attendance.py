"""Who takes part, who sends, and whose message arrives: limits, layouts, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import DEAR, METHODS, methods, random_gradients, slow_but
from inside import _trees
from rounds import MAX_DELAY, assert_same, drawn_faults, scanned, small

import gdsec_jax
from gdsec_jax import participation
from gdsec_jax import server as servers
from gdsec_jax.server import LateMessagesState, ServerMemoryState
from gdsec_jax.worker import GradientDifferenceState

M, ROUNDS = 4, 50
NO_SERVER = ("low_rank", "power_sgd", "top_j", "sign_ef")  # that has a memory
ACKNOWLEDGED = ("gdsec", "qsgdsec")
EVERYONE = jnp.ones((ROUNDS, M), bool)


def make(method, **options):
    return method.make(M, **({"key": 3} if method.draws else {}), **options)


def course(algorithm, faults, absent="hold", grant=None, seed=1):
    """Updates and states of all rounds, or of as many as faults are given for."""
    rounds = len(jax.tree.leaves(faults)[0]) if faults else ROUNDS
    params = small(jnp.float64)
    gradients = random_gradients(params, M, seed, rounds)

    def update(*args, **own):
        return algorithm.update(*args, grant=grant, **own)

    together = algorithm._replace(update=update) if grant else algorithm
    return scanned(together, params, gradients, faults, absent)


# Faults that are none


def everyone(offers):
    return jnp.ones(offers.bits.shape, bool)


NONE = {
    "delivered": ({"delivered": EVERYONE}, "hold", None),
    "active, accumulate": ({"active": EVERYONE}, "accumulate", None),
    "grant": ({}, "hold", everyone),
    "grant, accumulate": ({}, "accumulate", everyone),
    "budget": ({}, "hold", participation.largest_energy(1e9)),
}
WITHOUT = [("gdsec", none) for none in NONE]
WITHOUT += [(name, "grant, accumulate") for name in DEAR if name != "gdsec"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", slow_but(WITHOUT[:1], WITHOUT), ids=", ".join)
def test_faults_that_are_none(case):
    name, none = case
    (method,) = (method for method in METHODS if method.name == name)
    faults, absent, grant = NONE[none]
    # To rounding: the compiler fuses the pieces of another program otherwise.
    assert_same(course(make(method), faults, absent, grant), course(make(method), {}))


@pytest.mark.usefixtures("x64")
@methods(lambda method: method.memory, dear=True, core=("gdsec",))
def test_no_delay_is_a_running_server(method):
    arrived = make(method, server=servers.late(MAX_DELAY))
    sent = make(method, server=servers.late(MAX_DELAY, acknowledged=False))
    delay = jnp.zeros((ROUNDS, M), jnp.int32)
    server = {} if method.name in NO_SERVER else {"server": servers.running()}
    running = make(method, **server)
    expected = course(running, {})
    for faults, late in (({"delay": delay}, sent), ({}, sent), ({}, arrived)):
        updates, states = course(late, faults)
        assert_same(updates, expected[0])
        if late is sent:
            assert_same(states.workers, expected[1].workers)
        assert_same(states.sent, expected[1].sent)
        (waiting,) = _trees.of_type(states, LateMessagesState)
        assert not any(np.any(p) for p in jax.tree.leaves(waiting))


# Faults that are the same


@pytest.mark.usefixtures("x64")
@methods(dear=True)
def test_a_round_that_is_lost_is_a_silent_one(method):
    """To the memories: who sends in vain is as who accumulates, but for what counts."""
    rounds = 6
    some = jnp.ones((rounds, M), bool).at[2:4].set(False)
    lost = course(make(method), {"delivered": some})
    silent = course(make(method), {"active": some}, "accumulate")
    assert_same(lost[0], silent[0])
    assert_same(lost[1].workers, silent[1].workers)
    assert_same(lost[1].server, silent[1].server)
    for states, sends in ((lost[1], True), (silent[1], False)):
        sent = states.sent
        assert (np.asarray(sent.uploads.bits())[2:4].sum() > 0) == sends
        assert sent.lost[2:4].any() == sends
        np.testing.assert_array_equal(sent.dropped, False)
    if method.name != "iag":
        np.testing.assert_array_equal(silent[1].sent.computed, True)
        np.testing.assert_array_equal(lost[1].sent.participants, True)
        np.testing.assert_array_equal(silent[1].sent.participants, some)


@pytest.mark.usefixtures("x64")
@methods(
    lambda method: method.memory and method.name != "iag", dear=True, core=("gdsec",)
)
def test_who_holds_is_frozen(method):
    faults = drawn_faults(5, False, (ROUNDS, M))
    _, states = course(make(method), faults)
    for leaf in jax.tree.leaves(states.workers):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        same = np.asarray(leaf)[1:] == np.asarray(leaf)[:-1]
        same = same.reshape(*same.shape[:2], -1).all(axis=-1)
        assert same[~np.asarray(faults["active"])[1:]].all()
    assert not states.sent.computed[~faults["active"]].any()


@pytest.mark.usefixtures("x64")
@methods(
    lambda method: method.name not in (*NO_SERVER, "gd", "qgd"),
    dear=True,
    core=("gdsec",),
)
def test_memories_on_both_sides_agree_while_messages_are_under_way(method):
    """The server's h, and beta times what is under way if h_m has it, are the sum."""
    params = small(jnp.float64)
    gradients = random_gradients(params, M, 4, ROUNDS)
    faults = drawn_faults(6, True, (ROUNDS, M))
    for absent, acknowledged in (("hold", True), ("accumulate", False)):
        server = servers.late(MAX_DELAY, acknowledged=acknowledged)
        algorithm = make(method, server=server)
        _, states = scanned(algorithm, params, gradients, faults, absent)
        (server,) = _trees.of_type(states, ServerMemoryState)
        (late,) = _trees.of_type(states, LateMessagesState)
        (own,) = _trees.of_type(states, GradientDifferenceState)
        waits = acknowledged and method.name in ACKNOWLEDGED
        beta = 0.0 if waits else method.arguments.get("beta", 1.0)
        for h, p, h_m in zip(
            *map(jax.tree.leaves, (server.memory, late.under_way, own.memory)),
            strict=True,
        ):
            np.testing.assert_allclose(
                h + beta * p.sum(1), h_m.sum(1), rtol=1e-12, atol=1e-12
            )
            assert np.any(p)


def test_a_message_comes_as_many_rounds_late_as_is_said():
    algorithm = gdsec_jax.gd(2, server=servers.late(3))
    params, state = jnp.zeros(1), algorithm.init(jnp.zeros(1))
    step = jax.jit(lambda *args, **own: algorithm.update(*args, params, **own))
    delays = [[0, 3], [1, 2], [0, 0], [0, 0], [0, 0]]
    came = []
    for k, delay in enumerate(delays):
        gradients = jnp.asarray([[10.0**k], [2 * 10.0**k]])
        update, state = step(gradients, state, delay=jnp.asarray(delay))
        came.append(float(update[0]))
    # Of round 3: its own, the second worker's of rounds 0 and 1.
    assert came == [1.0, 0.0, 300.0 + 10.0, 3000.0 + 2.0 + 20.0, 30000.0]
