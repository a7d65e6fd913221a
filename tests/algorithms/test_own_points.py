"""TAMUNA, LoCoDL, DASHA-PP, MARINA-P and ADIANA: their loops in NumPy.

A compressor that draws nothing makes the loops exact: twice every second entry, others
for the next worker and in the next round. What a method draws is read off its states.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_local import D, M, ridge

import gdsec_jax
from gdsec_jax import WorkerLosses, worker

RATE, P, MU = 0.05, 0.4, 0.1


def second_entries():
    def update(v, state, params=None, *, worker_index, round=0, **extra_args):
        del params, extra_args
        kept = (jnp.arange(D, dtype=jnp.int32) + worker_index + round) % 2 == 0
        return jnp.where(kept, 2 * v, 0), state

    plain = optax.GradientTransformationExtraArgs(lambda params: (), update)
    return worker.declare(plain, variance=lambda params: 1.0)


def compressed(v, m, k):
    return np.where((np.arange(D) + m + k) % 2 == 0, 2 * v, 0.0)


def course(name, rounds, own, outer=1.0):
    """theta, and the state after each round, at first before any."""
    problem, gradient = ridge()
    algorithm = getattr(gdsec_jax, name)(M, **own)

    @jax.jit
    def one(params, state):
        losses = WorkerLosses(problem.own_loss, problem.worker_data)
        direction, state = algorithm.update(losses, state, params)
        return params - outer * direction, state

    params = jnp.zeros(D)
    states, thetas = [algorithm.init(params)], [np.zeros(D)]
    for _ in range(rounds):
        params, state = one(params, states[-1])
        thetas.append(np.asarray(params))
        states.append(state)
    return gradient, np.array(thetas), states


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("owners", "cohort"), [(2, None), (2, 3), (3, 3), (4, None)])
def test_tamuna(owners, cohort):
    own = {"local_learning_rate": RATE, "probability": P, "owners": owners}
    rounds, c = 15, cohort or M
    gradient, thetas, states = course("tamuna", rounds, own | {"cohort": cohort})
    eta = P * M * (owners - 1) / (owners * (M - 1))
    theta, h = np.zeros(D), np.zeros((M, D))
    for before, after, ours in zip(states, states[1:], thetas[1:], strict=False):
        masks = np.asarray(after.own != before.own)  # who owned what
        here = np.asarray(gdsec_jax.last_round(after).participants)
        assert here.sum() == c and (masks.sum(0) == owners).all()
        assert not masks[~here].any()
        share = owners * D / c
        assert set(masks[here].sum(1)) <= {np.floor(share), np.ceil(share)}
        bits = gdsec_jax.last_round(after).bits
        assert (bits[here] == 64 * np.ceil(share)).all() and not bits[~here].any()
        ends = np.tile(theta, (M, 1))
        for m in np.flatnonzero(here):
            for _ in range(int(before.steps.number)):
                ends[m] -= RATE * (gradient(m, ends[m]) - h[m])
        theta = (masks * ends).sum(0) / owners
        h += eta / RATE * masks * (theta - ends)
        close(ours, theta)
        close(after.own, h)
        close(h.sum(0), 0)
    if owners == M:  # it is Scaffnew, with the same numbers of steps
        steps = [int(state.steps.number) for state in states]
        assert len(set(steps)) > 1


@pytest.mark.usefixtures("x64")
def test_tamuna_sums_to_zero_where_messages_are_lost():
    algorithm = gdsec_jax.tamuna(M, RATE, P, owners=3)
    problem, _ = ridge()
    losses = WorkerLosses(problem.own_loss, problem.worker_data)
    state, params = algorithm.init(jnp.zeros(D)), jnp.zeros(D)
    delivered = jnp.array([True, False, True, True])
    direction, state = algorithm.update(losses, state, params, delivered=delivered)
    assert direction.all() and not state.own[1].any() and state.own[0].any()
    close(state.own.sum(0), 0)


@pytest.mark.usefixtures("x64")
def test_locodl():
    own = {"compressor": second_entries(), "strong_convexity": MU}
    own |= {"local_learning_rate": RATE, "probability": P}
    gradient, thetas, states = course("locodl", 15, own)
    omega, rho = 1.0, 1 / (1 + 1 / M)
    y, x, u = np.zeros(D), np.zeros((M, D)), np.zeros((M, D))
    for k, (before, ours) in enumerate(zip(states, thetas[1:], strict=False)):
        v = -u.mean(0)
        for _ in range(int(before.steps.number)):
            for m in range(M):
                x[m] -= RATE * (gradient(m, x[m]) - MU / 2 * x[m] - u[m])
            y = y - RATE * (MU / 2 * y - v)
        d = np.stack([compressed(x[m] - y, m, k) for m in range(M)])
        middle = d.sum(0) / (2 * M)
        x = (1 - rho) * x + rho * (y + middle)
        y = y + rho * middle
        u += P * rho / (RATE * (1 + 2 * omega)) * (middle - d)
        close(ours, y)
        close(states[k + 1].own, u)
        close(states[k + 1].points, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cohort", [None, 2])
def test_dasha_pp(cohort):
    own = {"compressor": second_entries(), "cohort": cohort}
    gradient, thetas, states = course("dasha_pp", 20, own, outer=RATE)
    p = (cohort or M) / M
    a, b = p / 3, p / (2 - p)
    theta, before = np.zeros(D), np.zeros(D)
    g, h, begun = np.zeros((M, D)), np.zeros((M, D)), np.zeros(M, bool)
    for k, ours in enumerate(thetas[1:]):
        here = np.asarray(gdsec_jax.last_round(states[k + 1]).participants)
        assert here.sum() == (cohort or M)
        for m in np.flatnonzero(here):
            new, old = gradient(m, theta), gradient(m, before)
            h[m] = h[m] if begun[m] else old
            change = new - old - b * (h[m] - old)
            g[m] += compressed((change - a * (g[m] - h[m])) / p, m, k)
            h[m] += change / p
        begun |= here
        before, theta = theta, theta - RATE * g.mean(0)
        close(ours, theta)
        close(states[k + 1].own, h)
    assert begun.all()


@pytest.mark.usefixtures("x64")
def test_dasha_pp_with_all_workers_is_dasha():
    problem, _ = ridge()
    compressor = second_entries()
    runs = [
        gdsec_jax.simulate(problem, optax.chain(algorithm, optax.sgd(0.1)), 40)
        for algorithm in (
            gdsec_jax.dasha_pp(M, compressor),
            gdsec_jax.dasha(M, compressor, reduction="mean"),
        )
    ]
    # dasha is given f_m, of which f~_m = M f_m is what its mean divides by M.
    other = gdsec_jax.simulate(
        problem,
        optax.chain(gdsec_jax.dasha(M, compressor), optax.sgd(0.1)),
        40,
    )
    close(runs[0].params, other.params)
    assert (runs[0].gradient_evaluations == 2 * other.gradient_evaluations).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("compressor", [None, worker.random_k(2)])
def test_marina_p(compressor):
    """The default's M parts add up to M times what is sent, to nothing twice."""
    own = {"probability": 0.3, "compressor": compressor}
    gradient, thetas, states = course("marina_p", 20, own, outer=RATE)
    theta, points, rounds = np.zeros(D), np.zeros((M, D)), []
    for k, ours in enumerate(thetas[1:]):
        after = states[k + 1]
        change = theta - (thetas[k - 1] if k else theta)
        whole = bool((np.asarray(after.points) == thetas[k]).all())
        sent = np.asarray(after.points - states[k].points)
        if not whole:  # which entries a worker was sent is read off; no more than that
            factor, kept = (M, sent != 0) if compressor is None else (3, sent != 0)
            sent = factor * change * kept
            number = {1, 2} if compressor is None else {2}
            assert set(kept.sum(1)) <= number
            if compressor is None:
                assert (kept.sum(0) == 1).all()
        points = np.tile(theta, (M, 1)) if whole else points + sent
        close(after.points, points)
        theta = theta - RATE * np.mean([gradient(m, points[m]) for m in range(M)], 0)
        close(ours, theta)
        bits = int(gdsec_jax.last_broadcast(after).bits)
        if whole:
            assert bits == 64 * D  # once
        elif compressor is None:  # ceil(D / M) values to each, known places
            assert bits == 64 * 2 * M
        else:
            assert bits == M * (3 + 2 * (64 + 3))
        assert (gdsec_jax.last_round(after).bits == 64 * D).all()
        rounds.append(whole)
    assert rounds[0] and 0 < sum(rounds[1:]) < 19


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("probability", [None, 0.4])
def test_adiana(probability):
    own = {"compressor": second_entries(), "strong_convexity": MU}
    own |= {"learning_rate": RATE, "probability": probability}
    gradient, thetas, states = course("adiana", 20, own, outer=RATE)
    p = 1 / 4 if probability is None else probability
    first = min(1 / 4, np.sqrt(RATE * MU / p))
    alpha = RATE / (2 * (first + RATE * MU))
    beta = 1 - alpha * MU
    y, z, w, h, moved = *np.zeros((3, D)), np.zeros((M, D)), 0
    for k, ours in enumerate(thetas[1:]):
        x = first * z + w / 2 + (1 / 2 - first) * y
        workers = range(M)
        u = [compressed(gradient(m, x) - h[m], m, k) for m in workers]
        g = h.mean(0) + np.mean(u, 0)
        other = [compressed(gradient(m, w) - h[m], m, k) for m in workers]
        sent = np.count_nonzero(np.abs([u, other]) > 1e-13, axis=(0, 2))
        h += np.array(other) / 2
        z = beta * z + (1 - beta) * x - alpha * g
        moves = bool((np.asarray(states[k + 1].w) != np.asarray(states[k].w)).any())
        w, moved = (y.copy() if moves else w), moved + moves
        y = x - RATE * g
        close(ours, y)
        close(states[k + 1].z, z)
        close(states[k + 1].own, h)
        if k < 2:  # two messages of every worker; later their last bits may be sent
            assert (gdsec_jax.last_round(states[k + 1]).entries == sent).all()
    assert 0 < moved < 19
    assert int(gdsec_jax.last_broadcast(states[-1]).bits) == 64 * D


def test_what_is_wrong_with_them_is_said():
    c = second_entries()
    problem, _ = ridge()
    for make, match in (
        (lambda: gdsec_jax.tamuna(M, RATE, P, owners=1), "^owners is 1, expected"),
        (lambda: gdsec_jax.tamuna(M, RATE, P, owners=3, cohort=2), "^owners is 3, exp"),
        (lambda: gdsec_jax.tamuna(M, RATE, P, cohort=5), "^cohort is 5, expected"),
        (lambda: gdsec_jax.tamuna(1, RATE, P), "^num_workers is 1, expected at least"),
        (lambda: gdsec_jax.tamuna(M, RATE, 1e-10), "^probability is 1e-10, expected"),
        (lambda: gdsec_jax.theory("tamuna", problem, owners=0), "^owners is 0, expec"),
        (lambda: gdsec_jax.theory("scaffold", problem, steps=0), "^steps is 0, expec"),
        (
            lambda: gdsec_jax.theory(
                "locodl", problem, compressor=c, strong_convexity=-1.0
            ),
            "^strong_convexity is -1.0, expected",
        ),
        (lambda: gdsec_jax.dasha_pp(M, c, cohort=0), "^cohort is 0, expected"),
        (lambda: gdsec_jax.dasha_pp(M, c, momentum=2.0), "^momentum is 2"),
        (
            lambda: gdsec_jax.dasha_pp(M, worker.top_k(1)),
            "^compressor is .*declares its var",
        ),
        (lambda: gdsec_jax.locodl(M, c, RATE, P, 0.0), "^strong_convexity is 0"),
        (lambda: gdsec_jax.adiana(M, c, RATE, -1.0), "^strong_convexity is -1"),
        (lambda: gdsec_jax.marina_p(M, 0.0), "^probability is 0"),
        (lambda: worker.perm_k(M, 3, 2), "^owners is 3, expected"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    lasso = gdsec_jax.problems.lasso(np.eye(8), np.ones(8), M, regularization=0.1)
    with pytest.raises(ValueError, match="strongly convex.*set the strong_convexity"):
        gdsec_jax.theory("adiana", lasso, compressor=c)
    with pytest.raises(ValueError, match="set the probability, 1/T for T local steps"):
        gdsec_jax.theory("tamuna", lasso)
    losses = WorkerLosses(problem.own_loss, problem.worker_data)
    for algorithm in (gdsec_jax.tamuna(M, RATE, P), gdsec_jax.dasha_pp(M, c)):
        state = algorithm.init(jnp.zeros(D))
        with pytest.raises(ValueError, match="^active is given.*drawn by itself: coho"):
            algorithm.update(losses, state, jnp.zeros(D), active=jnp.ones(M, bool))
