"""DiLoCo and its kin: their loops in NumPy, where they end, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_local import D, M, course, ridge

import gdsec_jax
from gdsec_jax import WorkerLosses, problems
from gdsec_jax.study import config

pytestmark = pytest.mark.promotes  # optax's Adam does, in float64

H = 4
MAKE = {
    "diloco": {},
    "streaming_diloco": {"fragments": 2, "overlap": 1, "merging": 0.5},
    "sparse_loco": {"k": 2, "chunk": 3},
}


def attendance(rounds):
    active = np.random.default_rng(3).random((rounds, M)) < 0.6
    active[:, 1] |= ~active.any(1)  # somebody is there
    return active


class AdamW:
    """Of one worker, kept from round to round: optax's numbers, written out."""

    def __init__(self, rate):
        self.rate, self.m, self.v, self.t = rate, np.zeros(D), np.zeros(D), 0

    def step(self, theta, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return theta - self.rate * (m / (np.sqrt(v) + 1e-8) + 1e-4 * theta)


def moves(gradient, theta, own, here):
    """How far each of those who are there goes: D numbers each."""
    found = {}
    for m in here:
        at = theta.copy()
        for _ in range(H):
            at = own[m].step(at, gradient(m, at))
        found[m] = theta - at
    return found


@pytest.mark.usefixtures("x64")
def test_diloco_is_its_formulas():
    problem, gradient = ridge()
    rate, outer, beta, rounds = 0.05, 0.6, 0.8, 12
    active = attendance(rounds)
    own, theta, v = [AdamW(rate) for _ in range(M)], np.zeros(D), np.zeros(D)
    for here in map(np.flatnonzero, active):
        change = np.mean([*moves(gradient, theta, own, here).values()], 0)
        v = beta * v + change
        theta = theta - outer * (change + beta * v)
    algorithm = gdsec_jax.diloco(
        M, rate, H, outer_learning_rate=outer, outer_momentum=beta
    )
    optimizer = optax.chain(algorithm, optax.sgd(1.0))
    params, run = course(problem, optimizer, rounds, active)
    np.testing.assert_allclose(params, theta, rtol=1e-10)
    np.testing.assert_array_equal(run.participants, active)
    np.testing.assert_array_equal(run.gradient_evaluations, 10 * H * active.sum(1))
    assert (run.entries == D * active).all()


@pytest.mark.usefixtures("x64")
def test_streaming_diloco_is_its_formulas():
    problem, gradient = ridge()
    rate, outer, beta, rounds, P, V, a = 0.05, 0.6, 0.8, 13, 3, 1, 0.3
    own, at = [AdamW(rate) for _ in range(M)], np.zeros((M, D))
    theta, v = np.zeros(D), np.zeros(D)
    for k in range(rounds):
        for number in range(2 * P // P):
            if number == V and k:
                last = np.arange(D) // 2 == (k - 1) % P
                at = np.where(last, a * at + (1 - a) * theta, at)
            for m in range(M):
                at[m] = own[m].step(at[m], gradient(m, at[m]))
        now = np.arange(D) // 2 == k % P
        change = (theta - at).mean(0)
        v = np.where(now, beta * v + change, v)
        theta = np.where(now, theta - outer * (change + beta * v), theta)
    algorithm = gdsec_jax.streaming_diloco(
        M, rate, 2 * P, P, overlap=V, merging=a,
        outer_learning_rate=outer, outer_momentum=beta,
    )  # fmt: skip
    optimizer = optax.chain(algorithm, optax.sgd(1.0))
    params, run = course(problem, optimizer, rounds)
    np.testing.assert_allclose(params, theta, rtol=1e-10)
    assert (run.gradient_evaluations == 2 * 40).all()
    assert (run.bits == 2 * 64).all()  # a third of D numbers, and no places


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("average, bits", [("workers", 2), ("senders", None)])
def test_sparse_loco_is_its_formulas(average, bits):
    problem, gradient = ridge()
    rate, decay, rounds, k, chunk = 0.05, 0.9, 12, 2, 3
    active = attendance(rounds)
    own, theta, e = [AdamW(rate) for _ in range(M)], np.zeros(D), np.zeros((M, D))
    for here in map(np.flatnonzero, active):
        sent = np.zeros((M, D))
        for m, move in moves(gradient, theta, own, here).items():
            e[m] = decay * e[m] + move
            order = np.argsort(-np.abs(e[m].reshape(-1, chunk)), 1, kind="stable")
            kept = (order[:, :k] + chunk * np.arange(D // chunk)[:, None]).ravel()
            values = e[m][kept]
            if bits:  # four bins over six standard deviations, each to its mean
                width = 6 * values.std(ddof=1) / 4
                bins = np.clip(np.floor((values - values.mean()) / width) + 2, 0, 3)
                values = np.float32([values[bins == b].mean() for b in bins])
            sent[m][kept] = values
            e[m] -= sent[m]
        number = (sent != 0).sum(0) if average == "senders" else len(here)
        theta = theta - sent.sum(0) / np.maximum(number, 1)
    algorithm = gdsec_jax.sparse_loco(
        M, rate, H, k, chunk=chunk, bits=bits, decay=decay, average=average
    )
    optimizer = optax.chain(algorithm, optax.sgd(1.0))
    params, run = course(problem, optimizer, rounds, active)
    np.testing.assert_allclose(params, theta, rtol=1e-6 if bits else 1e-10)
    # Of two chunks: two values each, with places of two bits; the means of four bins.
    message = 2 * 2 * (2 + 2) + 4 * 32 if bits else 2 * 2 * (2 + 64)
    np.testing.assert_array_equal(run.bits, message * active)


def test_diloco_as_in_the_public_test_of_maxtext():
    """Its losses and parameters, to all digits that stand there: three inner steps of
    SGD 0.1 on a linear model, SGD 1.0 with Nesterov's momentum 0.9 outside.
    """

    def loss(params, data, key):
        del key
        x, y = data
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

    def of_both(many):
        own = [jax.tree.map(lambda x, m=m: x[m], data) for m in range(2)]
        return np.mean([loss(p, d, None) for p, d in zip(many, own, strict=True)])

    x = jnp.array([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    data = x, jnp.array([[1.0, 2.0], [2.0, 3.0]])
    params = {"w": jnp.array([2.0, 1.0]), "b": jnp.float32(1.0)}

    def after(steps):  # where each worker is
        trained = gdsec_jax.local(2, optax.sgd(0.1), steps)
        moved, _ = trained.update(
            WorkerLosses(loss, data), trained.init(params), params
        )
        return [jax.tree.map(lambda p, d, m=m: p - d[m], params, moved) for m in (0, 1)]

    losses = [of_both([params, params]), of_both(after(1)), of_both(after(2))]
    np.testing.assert_allclose(losses, [1.0, 0.65, 0.4481], atol=5e-5)
    algorithm = gdsec_jax.diloco(2, 0.1, 3, inner=optax.sgd, outer_learning_rate=1.0)
    optimizer = optax.chain(algorithm, optax.sgd(1.0))
    state = optimizer.init(params)
    updates, _ = optimizer.update(WorkerLosses(loss, data), state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], [1.5345, 1.0494], atol=5e-5)
    np.testing.assert_allclose(params["b"], 0.5839, atol=5e-5)
    np.testing.assert_allclose(of_both([params, params]), 0.574244, atol=5e-7)


def swept(problem, make, rates, rounds):
    """The largest of the last errors at some local rates, as parts of the first one."""

    def optimizer(rate):
        return optax.chain(make(rate), optax.sgd(1.0))

    found = gdsec_jax.sweep(problem, optimizer, {"rate": rates}, rounds, eval_every=100)
    late = np.abs(found.objective_error.isel(eval_round=slice(-6, None)))
    return (late.max("eval_round") / found.initial_error).values


@pytest.mark.usefixtures("x64")
def test_where_diloco_ends_if_the_workers_optima_differ():
    """With SGD inside: where its docstring says."""
    problem, gradient = ridge()
    rate = gdsec_jax.theory("diloco", problem, steps=H, inner=optax.sgd)
    assert rate.heuristic and rate.learning_rate == 1
    rate = rate.parameters["local_learning_rate"]
    weights, pulls = np.zeros((D, D)), np.zeros(D)
    for m in range(M):
        slope = gradient(m, np.zeros(D))
        hessian = np.stack([gradient(m, x) - slope for x in np.eye(D)], 1)
        one = np.eye(D) - rate * hessian
        weight = np.eye(D) - np.linalg.matrix_power(one, H)
        weights += weight
        pulls -= weight @ np.linalg.solve(hessian, slope)
    there = np.linalg.solve(weights, pulls)
    make = functools.partial(gdsec_jax.diloco, M, steps=H, inner=optax.sgd)
    far, near = swept(problem, make, [rate, rate / 4], 6000)
    there = problem.error(there) / problem.error(problem.init_params)
    np.testing.assert_allclose(far, there, rtol=1e-8)
    assert far > 1e-3 and 12 < far / near < 24  # with the square of it
    once = functools.partial(gdsec_jax.diloco, M, steps=1, inner=optax.sgd)
    assert swept(problem, once, [rate], 1500) < 1e-14


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_where_the_others_end_if_the_workers_optima_differ():
    """With SGD inside nearer for smaller rates, with AdamW nowhere near."""
    problem, _ = ridge()
    rate = 1 / (H * M * problem.worker_smoothness.max())
    for name in ("streaming_diloco", "sparse_loco"):
        factory = getattr(gdsec_jax, name)
        make = functools.partial(factory, M, steps=H, inner=optax.sgd, **MAKE[name])
        far, near = swept(problem, make, [rate, rate / 4], 3000)
        assert far > 1e-3 and near < far / 4, name
    for name, own in MAKE.items():
        make = functools.partial(getattr(gdsec_jax, name), M, steps=H, **own)
        assert (swept(problem, make, [4e-2, 4e-3], 6000) > 0.3).all(), name


@pytest.mark.usefixtures("x64")
def test_they_reach_the_solution_if_the_workers_have_one():
    """To 1e-10 with SGD's step of theory inside; with AdamW to its last steps."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, D)), rng.standard_normal(10)
    same = np.tile(x, (M, 1)), np.tile(y, M)
    problem = problems.ridge(*same, M, split="contiguous", regularization=0.1)
    stop = gdsec_jax.Stop(1e-10 * float(problem.error(problem.init_params)))
    # The last sends each entry every sixth round, and all that has gathered by then.
    for name, own in (*MAKE.items(), ("sparse_loco", {"k": 1, "chunk": 6})):
        given = {"steps": H, "inner": optax.sgd} | own
        known = gdsec_jax.theory(name, problem, **given)
        algorithm = getattr(gdsec_jax, name)(M, **given, **known.parameters)
        optimizer = optax.chain(algorithm, optax.sgd(known.learning_rate))
        run = gdsec_jax.simulate(problem, optimizer, 800, stop=stop, eval_every=40)
        assert run.outcome == "target", name
    rate = gdsec_jax.theory("diloco", problem, steps=H).parameters
    rates = [rate["local_learning_rate"], rate["local_learning_rate"] / 4]
    ends = swept(problem, functools.partial(gdsec_jax.diloco, M, steps=H), rates, 6000)
    assert ends[0] < 5e-3 and 4 < ends[0] / ends[1] < 64  # about with the square of it


def test_what_is_refused():
    make = functools.partial(gdsec_jax.diloco, M, 0.1, 6)
    stream = functools.partial(gdsec_jax.streaming_diloco, M, 0.1, 6)
    sparse = functools.partial(gdsec_jax.sparse_loco, M, 0.1, 6)
    for call, words in (
        (lambda: make(inner=optax.adamw(0.1)), "^inner is .*rate, such as optax.adamw"),
        (lambda: make(inner=lambda rate: rate), "^inner is 0.1, expected an optax cha"),
        (lambda: make(outer_learning_rate=0.0), "^outer_learning_rate is 0.0, expec"),
        (lambda: make(outer_momentum=1.5), "^outer_momentum is 1.5, expected a numb"),
        (lambda: stream(4), "^steps is 6, expected a multiple of the fragments, 4"),
        (lambda: stream(2, overlap=3), "^overlap is 3, expected an integer from 0 to"),
        (lambda: stream(2, merging=2.0), "^merging is 2, expected a number in"),
        (lambda: sparse(65, chunk=64), "^k is 65, expected at most the chunk's 64"),
        (lambda: sparse(average="senders", reduction="sum"), "no option 'reduction'"),
        (lambda: sparse(decay=2.0), "^decay is 2, expected a number in"),
        (
            lambda: sparse(average="all"),
            "^average is 'all', expected one of workers, s",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            call()


def test_a_config_names_what_is_inside():
    made = {
        "A": {"name": "diloco", "steps": 2},
        "B": {"name": "streaming_diloco", "steps": 4, "fragments": 2, "inner": "sgd"},
        "C": {"name": "sparse_loco", "steps": 2, "average": "senders", "inner": "muon"},
    }
    loaded = config.validate({"methods": made, "problem": {"num_workers": 2}}, "test")
    problem = config.make_problem(loaded.problem)
    methods = {x: config.resolved(one, problem) for x, one in loaded.methods.items()}
    assert {x.learning_rate for x in methods.values()} == {1.0}
    rates = {x: one.local_learning_rate for x, one in methods.items()}
    shared = 1 / (8 * problem.worker_smoothness.max())
    assert rates == {"A": 4e-4, "B": pytest.approx(shared), "C": 4e-4}
    inside = [one.parameters().get("inner") for one in methods.values()]
    assert inside == [None, optax.sgd, optax.contrib.muon]
    for method in methods.values():
        optimizer = config.make_optimizer(method, loaded, problem)
        gdsec_jax.check(optimizer, problem.init_params, 2)
    wrong = {"methods": {"A": made["A"] | {"inner": "adam"}}}
    with pytest.raises(ValueError, match="inner is 'adam', did you mean adamw. Expect"):
        config.validate(wrong, "test")
