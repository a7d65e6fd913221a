"""The controller of xi, against a loop in plain Python, and what it promises."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import random_gradients, real_problem, run, slow_but
from inside import ControlState, _blocks, _parts, _trees

import gdsec_jax
from gdsec_jax import adaptive_xi, data, problems
from gdsec_jax.study import config, tuning
from gdsec_jax.worker import ErrorFeedbackState


class Plain:
    """The rules of `adaptive_xi` in scalar Python, one step a round."""

    def __init__(self, beta, start=1.5, growth=0.07, budget=None):
        self.beta, self.growth, self.budget = beta, growth, budget
        self.kappa, self.limit, self.wait = start, math.inf, 0.0
        self.log_step = self.level = self.least = self.first = None
        self.share, self.changes = budget, []

    def __call__(self, k, change, direction, share):
        """xi of round k, from |theta^k - theta^{k-1}|, the last |direction|, share."""
        beta, self.changes = self.beta, [change, *self.changes][:5]
        if change == 0:
            return None
        ratio = math.log(change / direction)
        if self.first is None:
            self.first, self.log_step, self.level = change, ratio, math.log(change)
        else:
            self.log_step += 0.1 * (ratio - self.log_step)
            rate = max(beta, 1 / k)
            self.level += rate * (math.log(change) - self.level)
        if self.budget is not None:
            self.share += beta * (share - self.share)
        alarm = len(self.changes) == 5 and min(self.changes) > 2 * self.first
        settled = beta * k > 2 and self.wait <= 0
        self.limit *= math.exp(0.2 * self.growth * beta)
        if alarm or (settled and self.level > self.least + math.log(1.25)):
            self.kappa, self.limit = self.kappa / 4, 0.7 * self.kappa
            self.wait, self.least = 1 / beta, self.level
            self.first = min(self.changes) if alarm else self.first
        else:
            pace = self.growth if self.limit == math.inf else 0.7
            if self.budget is not None:
                pace = min(pace, math.log(self.share / self.budget) / 2)
            pace = min(pace, 0.0) if self.wait > 0 else pace
            self.kappa = min(self.kappa * math.exp(pace * beta), self.limit)
            least = self.level if self.least is None else self.least
            self.least = min(least, self.level) if settled else self.level
            self.wait = max(self.wait - 1, 0.0)
        return self.kappa / (math.exp(self.log_step) * beta)


def course(problem, optimizer, num_rounds):
    """xi, the parameters and the entries of every round."""

    @jax.jit
    def run():
        def one(carry, _):
            params, state = carry
            gradients = problem.gradients(params)
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            sent = gdsec_jax.last_round(state).entries
            return (params, state), (gdsec_jax.last_xi(state), params, sent)

        params = problem.init_params
        carry = params, optimizer.init(params)
        return jax.lax.scan(one, carry, None, length=num_rounds)

    (_, state), records = run()
    return *map(np.asarray, records), state


def gdsec(problem, step=1.0, beta=0.01, **options):
    xi = adaptive_xi(**options)
    algorithm = gdsec_jax.gdsec(problem.num_workers, xi, beta)
    return optax.chain(algorithm, optax.sgd(step / problem.smoothness))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"start": 3.0, "growth": 0.3},
        {"budget": 0.1},
    ],
    ids=["default", "one that is cut", "budget"],
)
def test_equals_a_loop_in_plain_python(options):
    beta, rounds = 0.1, 200
    with jax.enable_x64(True):
        problem, x, y, parts = real_problem("digits", dtype="float64")
        xi, params, entries, _ = course(
            problem, gdsec(problem, beta=beta, **options), rounds
        )
        alpha = 1 / float(problem.smoothness)
    rule, num_samples, (m, d) = Plain(beta, **options), len(y), (5, x.shape[1])
    theta, before, h, e = np.zeros(d), np.zeros(d), np.zeros((m, d)), np.zeros((m, d))
    direction, share, cuts = np.zeros(d), 0.0, 0
    for k in range(rounds):
        kappa = rule.kappa
        change = theta - before
        own = rule(
            k, np.linalg.norm(change), max(np.linalg.norm(direction), 1e-300), share
        )
        cuts += rule.kappa < kappa / 2
        gradients = np.stack(
            [x[p].T @ (x[p] @ theta - y[p]) / num_samples for p in parts]
        )
        gradients += theta / num_samples / m
        v = gradients - h + e
        sent = np.where(np.abs(v) <= (own or 0.0) / m * np.abs(change), 0.0, v)
        direction = (h + sent).sum(0)
        h, e = h + beta * sent, v - sent
        before, theta = theta, theta - alpha * direction
        share = np.count_nonzero(sent) / sent.size
        if own is not None:
            np.testing.assert_allclose(xi[k], own, rtol=1e-8)
        np.testing.assert_array_equal(entries[k], np.count_nonzero(sent, axis=1))
        np.testing.assert_allclose(params[k], theta, rtol=1e-7, atol=1e-9)
    assert cuts > 0 or "growth" not in options


def steps(lengths, *, beta=0.1, share=0.5, **options):
    """The controller's states and xis, where theta moves by these lengths at step 1."""
    controller = adaptive_xi(**options)
    state, update = controller.init(jnp.zeros(3)), jax.jit(controller.update)
    past, seen = np.zeros(10, np.float32), []
    for k, length in enumerate(lengths):
        square = np.float32(length) ** 2
        past = np.concatenate([[square], past[:-1]])
        xi, state = update(
            state,
            beta=np.float32(beta),
            round=np.int32(k),
            past_changes=past,
            direction=square,
            share=np.float32(share),
        )
        seen.append((float(xi), state))
    return seen


def test_it_begins_where_theory_of_one_worker_puts_it():
    seen = steps([0.0, 1.0, 0.9], beta=0.1, start=1.2, growth=0.0)
    np.testing.assert_allclose([xi for xi, _ in seen], [0, 12, 12], rtol=1e-5)


def test_a_longer_mean_step_cuts_it_once_and_limits_it():
    lengths = [0.0, *0.9 ** np.arange(40), *np.full(80, 0.9**40 * 5)]
    seen = steps(lengths, growth=0.0)
    kappas = np.array([float(state.kappa) for _, state in seen])
    np.testing.assert_allclose(kappas[:40], 1.5)
    (cut,) = np.flatnonzero(np.diff(kappas) < 0)
    assert cut > 40
    np.testing.assert_allclose(kappas[cut + 1 : cut + 10], 1.5 / 4, rtol=1e-6)
    np.testing.assert_allclose(kappas[-1], 0.7 * 1.5, rtol=1e-5)
    assert np.all(np.diff(kappas[cut + 1 :]) >= 0)


def test_steps_that_explode_cut_it_at_once():
    seen = steps([0.0, *1.5 ** np.arange(12)], beta=0.01)
    kappas = np.array([float(state.kappa) for _, state in seen])
    first = int(np.argmin(kappas > 1.0))
    # The first in whose row of five all are more than twice as long as the first step.
    assert first == 1 + 2 + 4
    assert kappas[-1] < 1.5 / 4**2


def test_one_long_step_is_no_alarm():
    seen = steps([0.0, *([1.0, 0.1, 0.1, 50.0, 0.1, 0.1] * 3)], beta=0.01, growth=0.0)
    np.testing.assert_allclose([float(s.kappa) for _, s in seen], 1.5)


@pytest.mark.parametrize("length", [0.0, np.inf, np.nan, 1e-30, 1e18])
def test_xi_stays_finite_and_not_negative(length):
    seen = steps([0.0, 0.0, 1.0, 0.5, length, length, 0.5, 0.4])
    for xi, state in seen:
        assert math.isfinite(xi)
        assert xi >= 0
        assert all(np.isfinite(x) or x == np.inf for x in jax.tree.leaves(state))
    assert seen[-1][0] > 0


def test_where_theta_stands_still_it_waits():
    seen = steps([0.0, 1.0, 0.0, 0.0])
    assert seen[1][1] == seen[3][1]
    np.testing.assert_allclose(seen[1][0], seen[3][0], rtol=1e-5)


@pytest.mark.parametrize("budget", slow_but([0.1], [0.03, 0.1, 0.3]))
def test_with_a_budget_so_much_is_sent(budget, x64):
    problem, *_ = real_problem("digits", dtype="float64")
    _, _, entries, _ = course(problem, gdsec(problem, beta=0.05, budget=budget), 600)
    share = entries[200:].mean() / 64
    np.testing.assert_allclose(share, budget, rtol=0.25)


def test_more_than_the_problem_bears_is_not_asked_of_it(x64):
    problem, *_ = real_problem("digits", dtype="float64")
    optimizer = gdsec(problem, beta=0.05, budget=1e-4)
    _, params, entries, _ = course(problem, optimizer, 600)
    errors = jax.vmap(problem.error)(params[[0, -1]])
    assert errors[1] < 0.05 * errors[0]
    assert entries[200:].mean() / 64 > 2e-4


@pytest.mark.parametrize("step", slow_but([1.6], [1.0, 1.6]))
def test_steps_longer_than_one_over_l_cost_bits_but_not_the_run(step, x64):
    problem = problems.ridge(
        *_gaussian(), num_workers=4, regularization=0.01, dtype="float64"
    )
    optimizer = gdsec(problem, step=step, beta=0.1, growth=0.0)
    _, params, *_ = course(problem, optimizer, 400)
    xi = 0.5 * problem.smoothness / (step * 0.1)
    fixed = optax.chain(
        gdsec_jax.gdsec(4, _constant(xi), 0.1), optax.sgd(step / problem.smoothness)
    )
    _, lost, *_ = course(problem, fixed, 400)
    errors = jax.jit(jax.vmap(problem.error))(np.stack([params[-1], lost[-1]]))
    initial = problem.error(problem.init_params)
    assert errors[0] < 1e-3 * initial
    assert errors[1] > initial


def _gaussian():
    x = np.random.default_rng(0).standard_normal((40, 3))
    return x, x @ np.array([1.0, 2.0, 3.0])


def _constant(xi):
    return gdsec_jax.Controller(lambda params: (), lambda state, **seen: (xi, state))


def test_side_by_side_equals_one_after_the_other():
    problem, *_ = real_problem("breast_cancer")
    grid = {"start": [0.5, 1.5], "growth": [0.0, 0.2], "budget": [0.05, 0.2]}
    make = functools.partial(gdsec, problem, beta=0.1)
    swept = gdsec_jax.sweep(problem, make, grid, 40)
    setting = {"start": 0.5, "growth": 0.2, "budget": 0.05}
    alone = gdsec_jax.simulate(problem, make(**setting), 40)
    one = swept.sel(setting)
    np.testing.assert_allclose(one["objective_error"], alone.objective_error, rtol=1e-3)
    entries = float(one["total_entries"][-1])
    np.testing.assert_allclose(entries, alone.entries.sum(), rtol=0.02)


def test_the_conservation_law_holds(x64):
    """Directions and what is still unsent add up to the gradients, whatever xi was."""
    problem, *_ = real_problem("breast_cancer", dtype="float64")
    optimizer = gdsec(problem, beta=0.1, start=3.0)
    xi, params, _, state = course(problem, optimizer, 80)
    start = np.asarray(problem.init_params)
    before = np.concatenate([start[None], params[:-1]])
    gradients = np.asarray(jax.jit(jax.vmap(problem.gradients))(before)).sum((0, 1))
    directions = (start - params[-1]) * float(problem.smoothness)
    (memory,) = _trees.of_type(state, ErrorFeedbackState)
    total = directions + np.asarray(memory.error).sum(0)
    np.testing.assert_allclose(total, gradients, rtol=1e-9, atol=1e-10)
    assert len(set(xi)) > 10


def test_absent_workers_know_the_same_xi(x64):
    """It is the federation's: one who slept censors with the others' threshold."""
    optimizer = gdsec_jax.gdsec(2, adaptive_xi(growth=0.0), beta=0.5)
    theta, update = np.zeros(1), jax.jit(optimizer.update)
    state = jax.jit(optimizer.init)(theta)
    rounds = [(True, True), (True, False), (True, False), (True, True)]
    for change, active in zip((0.0, 1.0, 0.1, 0.01), rounds, strict=True):
        theta = theta - change
        _, state = update(np.ones((2, 1)), state, theta, active=jnp.asarray(active))
    (control,) = _trees.of_type(state, ControlState)
    assert control.xi.shape == ()
    assert control.controller.kappa.shape == ()


def test_the_mean_convention_is_the_same(x64):
    params = jnp.ones(6)
    grads = np.asarray(random_gradients(params, 5, seed=0, rounds=25))
    results = []
    for reduction, factor in (("sum", 1.0), ("mean", 5.0)):
        algorithm = gdsec_jax.gdsec(5, adaptive_xi(), 0.1, reduction=reduction)
        optimizer = optax.chain(algorithm, optax.sgd(0.05))
        final, state, *_ = run(optimizer, params, factor * grads)
        results.append((final, gdsec_jax.last_xi(state)))
    (one, xi), (other, other_xi) = results
    np.testing.assert_allclose(one, other, rtol=1e-9)
    np.testing.assert_allclose(xi, other_xi, rtol=1e-9)


@pytest.mark.parametrize("method", slow_but(["gdsoec"], ["gdsoec", "qsgdsec"]))
def test_its_kin_take_it_too(method):
    problem, *_ = real_problem("digits")
    algorithm = getattr(gdsec_jax, method)(5, adaptive_xi(budget=0.3), 0.1)
    optimizer = optax.chain(algorithm, optax.sgd(1 / problem.smoothness))
    xi, _, entries, _ = course(problem, optimizer, 150)
    assert np.all(xi[1:] > 0)
    np.testing.assert_allclose(entries[50:].mean() / 64, 0.3, rtol=0.4)


def test_the_step_is_estimated_behind_momentum_too(x64):
    problem, *_ = real_problem("digits", dtype="float64")
    alpha = 0.1 / float(problem.smoothness)
    algorithm = gdsec_jax.gdsec(5, adaptive_xi(growth=0.0), 0.05)
    optimizer = optax.chain(algorithm, optax.sgd(alpha, momentum=0.9))
    _, params, _, state = course(problem, optimizer, 600)
    (control,) = _trees.of_type(state, ControlState)
    # Of a direction that stays, the step is ten times alpha.
    assert 2 < math.exp(control.controller.step) / alpha < 20
    errors = jax.vmap(problem.error)(params[[0, -1]])
    assert errors[1] < 0.05 * errors[0]


def test_large_gradients_go_in_blocks_with_it(monkeypatch):
    taken, in_blocks = [], _blocks.in_blocks

    def spy(*args, **keywords):
        taken.append(args)
        return in_blocks(*args, **keywords)

    monkeypatch.setattr(_blocks, "in_blocks", spy)
    monkeypatch.setattr(_parts, "LEAST_BYTES", 1)
    optimizer = gdsec_jax.gdsec(2, adaptive_xi(), 0.1)
    params = jnp.zeros(64)
    state = jax.eval_shape(optimizer.init, params)
    jax.jit(optimizer.update).lower(jnp.ones((2, 64)), state, params)
    assert taken


def _updated(make, xi):
    optimizer = make(2, xi=xi)
    state = optimizer.init(jnp.zeros(2))
    return optimizer.update(jnp.ones((2, 2)), state, jnp.zeros(2))


REFUSED = {
    "start is 0.0, expected a finite number above 0": lambda: adaptive_xi(start=0.0),
    "start is -1.0, expected a finite number above 0": lambda: adaptive_xi(start=-1.0),
    "growth is -0.1, expected a number at least 0": lambda: adaptive_xi(growth=-0.1),
    "growth is None, expected one number": lambda: adaptive_xi(growth=None),
    "budget is 0.0, expected a finite number above 0": lambda: adaptive_xi(budget=0.0),
    r"budget is 1.5, expected a number in \[0, 1\]": lambda: adaptive_xi(budget=1.5),
    # Without error correction.
    "budget is None, expected a number in": lambda: _updated(
        gdsec_jax.gdsoec, adaptive_xi()
    ),
    "holds 0 controllers of xi, expected 1": lambda: gdsec_jax.last_xi(
        gdsec_jax.gdsec(2, xi=1.0).init(jnp.zeros(2))
    ),
    r"shape \(2,\), expected a scalar": lambda: _updated(
        gdsec_jax.gdsec, _constant(jnp.ones(2))
    ),
    "xi is Controller.*expected one number": lambda: gdsec_jax.cgd(2, xi=adaptive_xi()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_it_keeps_the_dtypes():
    for dtype, wide in ((jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32)):
        optimizer = gdsec_jax.gdsec(2, adaptive_xi())
        params, grads = jnp.zeros(3, dtype), jnp.ones((2, 3), dtype)
        state = jax.eval_shape(optimizer.init, params)
        updates, new = jax.eval_shape(optimizer.update, grads, state, params)
        assert updates.dtype == dtype
        assert gdsec_jax.last_xi(new).dtype == wide
        assert [x.dtype for x in jax.tree.leaves(state)] == [
            x.dtype for x in jax.tree.leaves(new)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "logistic", "nonlinear_least_squares"])
def test_it_never_diverges_and_keeps_the_rate(kind, x64):
    """Over 20 splits, starts and draws, where gradient descent does not."""
    loaded = data.load("digits" if kind == "ridge" else "breast_cancer")
    for seed in range(20):
        parts = data.split(loaded.targets, 5, seed=seed)
        problem = getattr(problems, kind)(
            loaded.features, loaded.targets, 5, split=parts, dtype="float64"
        )
        start = np.random.default_rng(seed).normal(size=loaded.features.shape[1])
        start = jnp.asarray(0.1 * start)
        _check_one(problem, start, 1e-2)


def _check_one(problem, start, target):
    gd = _rounds_to(problem, gdsec_jax.gd(5), start, target)
    adaptive = _rounds_to(problem, gdsec_jax.gdsec(5, adaptive_xi()), start, target)
    assert np.isfinite(gd)
    # About 1/beta rounds are needed to see anything.
    assert adaptive <= 1.2 * gd + 100


@functools.partial(jax.jit, static_argnames="algorithm")
def _errors(problem, algorithm, start):
    optimizer = optax.chain(algorithm, optax.sgd(1 / problem.smoothness))

    def one(carry, _):
        params, state = carry
        updates, state = optimizer.update(problem.gradients(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), problem.error(params)

    return jax.lax.scan(one, (start, optimizer.init(start)), None, length=1500)[1]


def _rounds_to(problem, algorithm, start, target):
    errors = np.asarray(_errors(problem, algorithm, start))
    reached = errors <= target * float(problem.error(start))
    stays = errors[-1] <= target * float(problem.error(start))
    return np.argmax(reached) + 1 if reached.any() and stays else np.inf


@pytest.mark.parametrize(
    "fields", [{"budget": 0.2}, pytest.param({}, marks=pytest.mark.slow)]
)
def test_a_config_makes_it(fields):
    method = {"name": "gdsec", "xi": "adaptive"} | fields
    made = config.validate({"methods": {"SEC": method}}, "here")
    problem, *_ = real_problem("digits")
    optimizer = config.make_optimizer(made.methods["SEC"], made, problem)
    xi, _, entries, _ = course(problem, optimizer, 60)
    assert len(set(xi)) > 10
    assert entries[10:].mean() < 0.5 * 64


@pytest.mark.slow
def test_budgets_are_swept_side_by_side():
    values = {
        "num_rounds": 30,
        "methods": {
            "SEC": {
                "name": "gdsec",
                "xi": "adaptive",
                "beta": 0.3,
                "grid": {"budget": [0.1, 0.9]},
            },
            "both": {"name": "gdsec", "xi": 1.0, "grid": {"xi": [1.0, "adaptive"]}},
        },
    }
    made = config.validate(values, "here")
    problem, *_ = real_problem("digits")
    budgets, both = (tuning.sweep_method(made, x, problem) for x in ("SEC", "both"))
    few, many = budgets["total_entries"].isel(eval_round=-1).values
    assert few < many
    fixed, adaptive = both["total_entries"].isel(eval_round=-1).values
    assert adaptive < fixed
