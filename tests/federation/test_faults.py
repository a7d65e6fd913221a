"""Lost, late, absent and dropped workers: federate against an oracle of loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_faults as oracle
import oracle_rivals as rivals
import oracles
import pytest
from cases import slow_but
from inside import _trees

import gdsec_jax
from gdsec_jax import numpy_worker, participation, worker
from gdsec_jax import server as servers
from gdsec_jax.server import LateMessagesState, ServerMemoryState
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

M, D, ROUNDS, MAX_DELAY, MOST = oracles.WORKERS, 8, 60, 3, 30.0


@functools.cache
def quadratics():
    """A_m and b_m of f_m = theta A_m theta / 2 - b_m theta, and a step."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(M, D, D))
    hessians = roots @ roots.transpose(0, 2, 1) / D + 0.3 * np.eye(D)
    targets = rng.normal(size=(M, D))
    return hessians, targets, 0.1 / np.linalg.eigvalsh(hessians.sum(0))[-1]


def gradient(k, m, theta):
    """Of f_m; now and then it is not finite, or out of all proportion."""
    hessians, targets, _ = quadratics()
    g = hessians[m] @ theta - targets[m]
    fate = np.random.default_rng([k, m]).random()
    if fate < 0.03:
        g[m] = np.nan if fate < 0.02 else np.inf
    return 1e4 * g if fate > 0.97 else g


def faults(seed, absent, *, late=True, budget_bits=np.inf, most=MOST):
    """Of all kinds at once."""
    rng = np.random.default_rng(seed)
    shape = ROUNDS, M
    delay = rng.integers(0, MAX_DELAY + 1, shape) if late else np.zeros(shape, int)
    active, delivered = rng.random((2, *shape)) < 0.7
    # Whole rounds without anybody, or without anything that arrives.
    active[10], delivered[20] = False, False
    return oracle.Faults(
        active, absent == "accumulate", delivered, delay, budget_bits, most
    )


def with_oracle(name):
    """Of a method the algorithm's factory, and the oracle's."""
    k = 3
    compressor = worker.random_k(k)
    masks = oracles.draws_of(D).masks(k)

    def compress(round, m, v):
        return rivals.compress_rand_k(v, k, masks[round, m])

    p = k / D  # 1 / (1 + omega)
    full = oracles.draws_of(D).coins < p
    full[0] = True
    key, half = {"key": oracles.KEY}, rivals.worker_half
    return {
        "gdsec": ({"xi": 20.0, "beta": 0.05}, half(numpy_worker.GDSEC(1, 20.0, 0.05))),
        "gdsoec": ({"xi": 2.0, "beta": 0.05}, half(numpy_worker.GDSOEC(1, 2.0, 0.05))),
        "top_j": ({"k": k}, half(numpy_worker.TopJ(k))),
        "cgd": ({"xi": 5.0}, half(numpy_worker.CGD(1, 5.0))),
        "ef21": ({"k": k}, half(numpy_worker.EF21(k))),
        "diana": ({"compressor": compressor} | key, rivals.diana(compress, p)),
        "marina": ({"compressor": compressor} | key, rivals.marina(compress, full)),
    }[name]


def ours(algorithm, given, absent, alpha):
    """The rounds of `given` through an algorithm, and what is in its states."""
    grant = None
    if np.isfinite(given.budget_bits):
        grant = participation.largest_energy(given.budget_bits)
    late = bool(given.delay.any())

    @jax.jit
    def update(gradients, state, params, active, delivered, delay):
        more = {"delay": delay} if late else {}
        return algorithm.update(
            gradients, state, params, active=active, absent=absent,
            delivered=delivered, grant=grant, **more,
        )  # fmt: skip

    theta = jnp.zeros(D)
    state, out = algorithm.init(theta), []
    for k in range(ROUNDS):
        gradients = jnp.asarray([gradient(k, m, np.asarray(theta)) for m in range(M)])
        masks = given.active[k], given.delivered[k], given.delay[k]
        direction, state = update(gradients, state, theta, *masks)
        theta = theta - alpha * direction
        out.append((np.asarray(theta), jax.device_get(state)))
    return out


def memories(state):
    """h_m, e_m, h and what is under way, of those that a state has."""
    kinds = {
        "h": (GradientDifferenceState, lambda node: node.memory),
        "e": (ErrorFeedbackState, lambda node: node.error),
        "server": (ServerMemoryState, lambda node: node.memory),
        "under_way": (LateMessagesState, lambda node: node.under_way.sum(0)),
    }
    return {
        name: of(node)
        for name, (kind, of) in kinds.items()
        for node in _trees.of_type(state, kind)
    }


def assert_the_same(algorithm, method, given, absent, acknowledged=False):
    alpha, about = quadratics()[2], (ROUNDS, M, given, acknowledged)
    expected = oracle.run(method, gradient, np.zeros(D), alpha, *about)
    got = ours(algorithm, given, absent, alpha)
    for k, (theta, state) in enumerate(got):
        close = functools.partial(
            np.testing.assert_allclose, rtol=1e-12, atol=1e-12, err_msg=f"round {k}"
        )
        for name, value in memories(state).items():
            scale = max(1.0, np.abs(getattr(expected, name)).max())
            close(value / scale, getattr(expected, name)[k + 1] / scale)
        close(theta, expected.thetas[k + 1])
        sent = gdsec_jax.last_round(state)
        for name, value in {
            "bits": sent.bits,
            "sent": sent.participants,
            "lost": sent.lost,
            "computed": sent.computed,
        }.items():
            np.testing.assert_array_equal(value, getattr(expected, name)[k], name)
        assert sent.dropped == expected.dropped[k].sum(), k
    return expected


NAMES = ("gdsec", "gdsoec", "top_j", "cgd", "ef21", "diana", "marina")
CASES = [(name, absent) for name in NAMES for absent in ("hold", "accumulate")]
FAST = (
    *(("gdsec", "hold"), ("top_j", "accumulate"), ("ef21", "hold")),
    *(("cgd", "accumulate"), ("marina", "accumulate")),
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", slow_but(FAST, CASES), ids="-".join)
def test_faults_of_all_kinds_at_once(case):
    name, absent = case
    arguments, method = with_oracle(name)
    algorithm = getattr(gdsec_jax, name)(
        M, **arguments, server=servers.late(MAX_DELAY, max_norm_ratio=MOST)
    )
    # A budget that grants about half of the workers.
    given = faults(1, absent, budget_bits=900)
    out = assert_the_same(algorithm, method, given, absent, name == "gdsec")
    refused = given.active & ~out.sent & ~out.dropped
    for happened in (out.lost, out.dropped, refused, out.sent):
        assert happened.sum() > 8
    assert out.bits[out.sent].min() < D * oracle.VALUE_BITS


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_faults_of_all_kinds_but_delay(case):
    name, absent = case
    arguments, method = with_oracle(name)
    seed, budget_bits = (2, 900) if absent == "hold" else (3, np.inf)
    given = faults(seed, absent, late=False, budget_bits=budget_bits)
    for kind in (servers.total, servers.running)[: 1 if name == "top_j" else 2]:
        server = kind(max_norm_ratio=MOST)
        algorithm = getattr(gdsec_jax, name)(M, **arguments, server=server)
        assert_the_same(algorithm, method, given, absent)
