"""What faults cannot take away: the law of error feedback, where messages may be late.

With U_k the sum of round k's messages that are not lost, A_k what arrives in round k,
and P_k what is under way behind it, P_k = P_{k-1} + U_k - A_k. The server steps with
H_{k-1} + A_k and keeps H_k = H_{k-1} + beta A_k; the workers' memories count A_k, too,
so that sum_m h_m = H_k. In a round sum_m e_m grows by
sum_m (g_m - h_m) - U_k = sum_m g_m - H_{k-1} - U_k. Over all rounds:

  sum_k update^k + P_K + sum_m e_m = sum_k sum_m g_m^k,

where the gradient of a worker whose state is frozen, since it holds or is dropped,
counts as its h_m. A lost message is in none of the sums but e_m. A server that does not
acknowledge lets the workers count U_k at once: then sum_m h_m = H_k + beta P_k, and
beta sum_k P_{k-1} is missing on the left.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_gradients, slow_but
from inside import _trees
from rounds import MAX_DELAY, drawn_faults, scanned, small

import gdsec_jax
from gdsec_jax import server as servers
from gdsec_jax.server import LateMessagesState
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

M, ROUNDS, BETA = 4, 50, 0.1


def factory(name, arguments):
    def make(**options):
        return getattr(gdsec_jax, name)(M, **(options | arguments))

    return make


# By name: the factory and beta, 0 where there is no difference memory.
FEEDBACK = {
    "gdsec": (factory("gdsec", {"xi": 5.0, "beta": BETA}), BETA),
    "gdsec, 0": (factory("gdsec", {"xi": 5.0, "beta": 0.0}), 0.0),
    "gdsec, 0.01": (factory("gdsec", {"xi": 5.0, "beta": 0.01}), 0.01),
    "gdsec, 1": (factory("gdsec", {"xi": 5.0, "beta": 1.0}), 1.0),
    "qsgdsec": (factory("qsgdsec", {"xi": 5.0, "beta": BETA, "levels": 8}), BETA),
    "gdsec, short": (
        factory("gdsec", {"xi": 1.0, "beta": BETA, "server": servers.sparse(6)}),
        BETA,
    ),
    "top_j": (factory("top_j", {"k": 3}), 0.0),
    "rand_k": (factory("rand_k", {"k": 3, "error_feedback": True}), 0.0),
    "sign_ef": (factory("sign_ef", {}), 0.0),
    "low_rank": (factory("low_rank", {"rank": 1}), 0.0),
    "power_sgd": (factory("power_sgd", {"rank": 1}), 0.0),
}
SENT = ("gdsec, 0.01", "gdsec, 1", "qsgdsec")  # with a beta whose share is missing
# GD-SEC in all ways; of the others what differs, their own memories.
CASES = [
    ("gdsec", absent, dtype, how)
    for absent in ("hold", "accumulate")
    for dtype in ("float32", "float64")
    for how in ("arrived", "sent")
]
CASES += [
    (name, absent, dtype, late)
    for name in FEEDBACK
    if name != "gdsec"
    for absent, dtype, late in (
        ("hold", "float32", name != "gdsec, short" and "arrived"),
        ("accumulate", "float64", name in SENT and "sent"),
    )
]
FAST = [
    *(("gdsec", "hold", "float64", "arrived"), ("gdsec", "hold", "float64", "sent")),
    ("qsgdsec", "accumulate", "float64", "sent"),
    ("top_j", "accumulate", "float64", False),
]


def frozen(states, faults, absent):
    """bool [rounds, M], whose state stays as it was."""
    sent = states.sent
    held = ~faults["active"] if absent == "hold" else False
    return np.asarray(sent.dropped | held)


def total(tree, over, dtype=np.float64):
    """The sums over the first axes."""
    return jax.tree.map(lambda x: np.asarray(x, dtype).sum(axis=over), tree)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", slow_but(FAST, CASES), ids=str)
def test_nothing_is_lost_by_error_feedback(case):
    name, absent, dtype, late = case
    make, beta = FEEDBACK[name]
    acknowledged = late == "arrived"
    late_server = servers.late(MAX_DELAY, acknowledged=acknowledged)
    server = late_server if late else None
    algorithm = make(server=server)
    params = small(dtype)
    gradients = random_gradients(params, M, 1, ROUNDS)
    # A dropped worker now and then.
    gradients["matrix"] = gradients["matrix"].at[7::10, 2, 3, 1].set(jnp.inf)
    faults = drawn_faults(2, late, (ROUNDS, M))
    updates, states = scanned(algorithm, params, gradients, faults, absent)
    sent = states.sent
    assert sent.dropped.sum() >= 2 and sent.lost.sum() > 10

    stays = frozen(states, faults, absent)
    memory = _trees.of_type(states.workers, GradientDifferenceState)
    known = memory[0].memory if memory else jax.tree.map(jnp.zeros_like, gradients)

    def counted(g, h):
        # h_m before the round, which in round 1 is 0.
        before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
        rows = stays.reshape(stays.shape + (1,) * (g.ndim - 2))
        return np.where(rows, before, g)

    gradients = jax.tree.map(counted, gradients, known)
    (feedback,) = _trees.of_type(states.workers, ErrorFeedbackState)
    kept = total(jax.tree.map(lambda e: e[-1], feedback.error), 0)
    left = total(updates, 0)
    if late:
        ways = _trees.of_type(states.server, LateMessagesState)[0].under_way
        ways = jax.tree.map(lambda p: np.asarray(p, np.float64).sum(axis=1), ways)
        assert all(np.any(p) for p in jax.tree.leaves(ways))
        missing = 0.0 if acknowledged else beta
        waited = jax.tree.map(lambda p: p[-1] + missing * p[:-1].sum(axis=0), ways)
        left = jax.tree.map(np.add, left, waited)
    left = jax.tree.map(np.add, left, kept)
    given = total(gradients, (0, 1))
    scale = np.sqrt(ROUNDS) * max(
        np.abs(np.asarray(x, np.float64)).max()
        for x in jax.tree.leaves((updates, feedback.error, gradients))
    )
    atol = 10 * scale * np.finfo(dtype).eps
    for ours, expected in zip(*map(jax.tree.leaves, (left, given)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)
