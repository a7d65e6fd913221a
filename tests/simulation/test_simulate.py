"""The round loop: the oracle's course, when it stops, and what it compiles."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_rivals as rivals
import pytest
from cases import slow_but
from inside import _chunks, _uplink

import gdsec_jax
from gdsec_jax import (
    Checkpoints,
    Stop,
    Uplink,
    data,
    numpy_worker,
    problems,
    simulate,
    wire,
    worker,
)

WORKERS, ROUNDS, BETA = 5, 150, 0.01

# On each data set a threshold that censors most entries, and converges.
SETS = {"digits": ("ridge", 100.0), "breast_cancer": ("logistic", 30.0)}


def chain(algorithm, problem) -> optax.GradientTransformation:
    return optax.chain(algorithm, optax.sgd(1 / problem.smoothness))


# Made once, and run for the same number of rounds, so that little is compiled.
TOY_ROUNDS = 60


@functools.cache
def toy(seed=0) -> problems.Problem:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 4)) * [1.0, 0.5, 2.0, 0.3]
    y = x @ np.array([1.0, -2.0, 0.5, 3.0]) + rng.standard_normal(40)
    return problems.ridge(x, y, WORKERS, dtype="float32")


@functools.cache
def toy_optimizer() -> optax.GradientTransformation:
    form = wire.Format("rle", 32)
    return chain(gdsec_jax.gdsec(WORKERS, xi=10.0, wire=form), toy())


@functools.cache
def diverging() -> optax.GradientTransformation:
    return optax.chain(gdsec_jax.gd(WORKERS), optax.sgd(10 / toy().smoothness))


def run_toy(num_rounds=TOY_ROUNDS, **options) -> gdsec_jax.History:
    return simulate(toy(), toy_optimizer(), num_rounds, **options)


def assert_same_course(one, other):
    """Equal to the last bit."""
    known = {"attributes", "format_bits", "observed", "metrics"}
    for name in {field.name for field in dataclasses.fields(one)} - known:
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(a, b, err_msg=name, strict=not isinstance(a, str))


# Against the oracle


@pytest.mark.parametrize(
    ("name", "formats"),
    [("digits", ("dense", "rle")), ("breast_cancer", ("coo", "bitmap"))],
)
def test_course_and_bits_are_the_oracles(name, formats, x64):
    kind, xi = SETS[name]
    of_kind = (getattr(oracle, f"{kind}_{x}") for x in ("gradient", "objective"))
    make_gradient, make_objective = of_kind
    loaded = data.load(name)
    x, lam = loaded.features, 1 / len(loaded.targets)
    y = loaded.targets
    if name == "breast_cancer":
        y = np.where(y > 0, 1.0, -1.0)
    parts = data.split(y, WORKERS, seed=1)
    problem = getattr(problems, kind)(x, loaded.targets, WORKERS, split=parts)
    gradient, objective = make_gradient(x, y, parts, lam), make_objective(x, y, lam)
    step, start = 1 / problem.smoothness, np.zeros(x.shape[1])
    run = rivals.Start(gradient, start, step, ROUNDS, WORKERS)
    half = rivals.worker_half(numpy_worker.GDSEC(1, xi, BETA))
    plain, sparse = rivals.gd(run), rivals.alone(run, half)
    sent = np.count_nonzero(sparse.messages, axis=2)
    assert 0.02 < sent.mean() / np.count_nonzero(plain.messages, axis=2).mean() < 0.5
    assert (sent == 0).any()  # some workers were silent

    for form in formats:
        algorithm = gdsec_jax.gdsec(WORKERS, xi, BETA, wire=wire.Format(form, 32))
        expected, bits_of = sparse, getattr(oracle, f"{form}_bits")
        if form == "dense":
            algorithm, expected = gdsec_jax.gd(WORKERS, wire="rle"), plain
        history = simulate(problem, chain(algorithm, problem), ROUNDS)
        errors = [objective(theta) - problem.optimum for theta in expected.thetas]
        np.testing.assert_allclose(history.objective_error, errors[1:], 1e-9, 1e-13)
        assert history.initial_error == pytest.approx(errors[0], rel=1e-12)
        np.testing.assert_allclose(history.params, expected.thetas[-1], 0, 1e-10)
        entries = np.count_nonzero(expected.messages, axis=2)
        width = 64 if expected is plain else 32
        if bits_of is oracle.dense_bits:
            entries = np.where(entries > 0, x.shape[1], 0)
        np.testing.assert_array_equal(history.entries, entries)
        bits = [[bits_of(m, width) for m in row] for row in expected.messages]
        np.testing.assert_array_equal(history.bits, bits)
        assert history.bits.dtype == history.entries.dtype == np.int64
        np.testing.assert_array_equal(history.broadcast_bits, width * x.shape[1])
        np.testing.assert_array_equal(history.eval_rounds, np.arange(1, ROUNDS + 1))
        total = np.cumsum(np.sum(bits, axis=1))
        np.testing.assert_array_equal(history.total_bits, total)
        assert history.participants.all()
        assert not history.dropped.any()
        assert history.outcome == "completed"


def test_what_a_history_says_of_its_run():
    history = run_toy(attributes={"seed": 7, "problem": "mine"})
    attributes = dict(history.attributes)
    assert attributes["problem"] == "mine"
    assert attributes["seed"] == 7
    assert attributes["error_name"] == "objective error"
    assert attributes["wire"] == [{"name": "rle", "value_bits": 32, "also": ()}]
    assert attributes["seconds"] > 0
    assert attributes["versions"]["jax"] == jax.__version__
    assert attributes["versions"]["x64"] == "False"
    assert history.participants.shape == (TOY_ROUNDS, WORKERS)
    assert history.participants.dtype == bool
    assert isinstance(history.params, jax.Array)
    assert history.params.shape == (4,)


# When errors are evaluated, and when the run ends


@pytest.mark.parametrize("eval_every", slow_but([7], [7, 1000]))
def test_evaluating_less_often_changes_nothing_else(eval_every):
    full = run_toy()
    history = run_toy(eval_every=eval_every)
    rounds = np.arange(1, TOY_ROUNDS + 1)
    expected = rounds[(rounds % eval_every == 0) | (rounds == TOY_ROUNDS)]
    np.testing.assert_array_equal(history.eval_rounds, expected)
    np.testing.assert_allclose(
        history.objective_error, full.objective_error[expected - 1], 1e-5, 1e-6
    )
    for name in ("entries", "bits", "params"):
        np.testing.assert_array_equal(getattr(history, name), getattr(full, name))
    np.testing.assert_array_equal(history.total_bits, full.total_bits[expected - 1])


@pytest.mark.parametrize("eval_every", [1, 7])
def test_target_error_ends_the_run_at_the_first_evaluation_below(eval_every):
    full = run_toy(eval_every=eval_every)
    target = 1.001 * float(full.objective_error[full.eval_rounds == 35][0])
    expected = full.cost_to(target).rounds
    assert expected is not None
    assert 20 < expected <= 35  # behind the first chunk, before the end
    history = run_toy(eval_every=eval_every, stop=Stop(target))
    assert history.outcome == "target"
    assert history.num_rounds == expected == history.eval_rounds[-1]
    assert history.objective_error[-1] <= target < history.objective_error[-2]
    exact = run_toy(expected, eval_every=eval_every)
    assert exact.outcome == "completed"
    assert_same_course(history, dataclasses.replace(exact, outcome="target"))


def test_an_error_of_exactly_the_target_is_enough():
    target = float(run_toy().objective_error[24])
    assert run_toy(stop=Stop(target)).num_rounds == 25
    below = float(np.nextafter(np.float32(target), np.float32(0)))
    assert run_toy(stop=Stop(below)).num_rounds > 25


def test_a_target_may_be_any_number():
    assert Stop(jnp.float32(0.5), np.int64(10)) == Stop(0.5, 10.0)
    for target in ("1", True, np.ones(2)):
        with pytest.raises(ValueError, match="^target_error is .*expected a number or"):
            Stop(target)


def test_a_target_that_rounding_hides_is_refused():
    resolution = toy().resolution
    assert 0 < resolution == np.finfo(np.float32).eps * toy().optimum
    for target in (0.99 * resolution, 0.0, -1.0, math.nan):
        message = f"target_error is {target!r}, expected at least what"
        with pytest.raises(ValueError, match=message):
            run_toy(stop=Stop(target))


@pytest.mark.parametrize(("eval_every", "factor"), [(4, 1e6), (1, 50.0)])
def test_divergence_ends_the_run_with_a_warning(eval_every, factor):
    message = r"^diverged: stopped after \d+ rounds, objective error .* uploaded\.$"
    own = {"eval_every": eval_every, "stop": Stop(divergence_factor=factor)}
    with pytest.warns(RuntimeWarning, match=message) as caught:
        history = simulate(toy(), diverging(), TOY_ROUNDS, **own)
    assert str(caught[0].message) == history.summary()
    assert caught[0].filename == __file__
    assert history.outcome == "diverged"
    assert history.num_rounds < 20
    assert history.num_rounds % eval_every == 0
    limit = factor * history.initial_error
    assert (history.objective_error[:-1] <= limit).all()
    assert history.objective_error[-1] > limit
    if factor < 1e6:  # no later than it must
        assert history.objective_error[-1] < 1e6 * history.initial_error


def test_a_run_that_ends_above_its_start_says_so():
    history = simulate(toy(), diverging(), 3)
    assert history.outcome == "worsened"
    assert history.summary().startswith("ended above where it began, after 3 rounds,")
    swept = gdsec_jax.sweep(toy(), lambda seed: diverging(), {"seed": [0, 1]}, 3)
    assert set(swept["outcome"].values) == {"worsened"}


def test_an_error_that_is_not_finite_is_divergence():
    def loss(params, own):
        return 0.5 * jnp.vdot(params - 1, params - 1) - own[0]

    optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(1e30))
    for shift in (0.0, 10.0):  # of which the initial error is positive, and negative
        problem = problems.from_loss(loss, np.full((2, 1), shift), jnp.zeros(1))
        with pytest.warns(RuntimeWarning, match="diverged: stopped after 1 rounds"):
            history = simulate(problem, optimizer, TOY_ROUNDS)
        assert not np.isfinite(history.objective_error[-1])


def test_dropped_workers_are_counted_and_told(x64):
    odd = np.array([False, True, False])
    points = {"at": np.array([[1.0], [2.0], [4.0]]), "odd": odd}

    def loss(params, own):  # finite, but with no gradient at zero for the odd worker
        away = jnp.where(own["odd"], params, 1.0)
        distance = 0.5 * jnp.sum((params - own["at"]) ** 2)
        return distance + jnp.sqrt(jnp.vdot(away, away))

    problem = problems.from_loss(loss, points, np.zeros(1))
    optimizer = optax.chain(gdsec_jax.gd(3, wire="rle"), optax.sgd(0.1))
    with pytest.warns(RuntimeWarning, match="1 uploads in 1 rounds were dropped"):
        history = simulate(problem, optimizer, 4)
    assert history.dropped.tolist() == [1, 0, 0, 0]
    assert history.participants.tolist() == [[True, False, True]] + 3 * [[True] * 3]
    assert history.entries.tolist() == [[1, 0, 1]] + 3 * [[1, 1, 1]]
    assert history.bits.tolist() == [[64, 0, 64]] + 3 * [[64, 64, 64]]


# Chunks and compilation


@pytest.mark.parametrize(
    ("seconds", "limit"), [(0.0, 2**22), (1e9, 2**22), (0.25, 3 * WORKERS)]
)
def test_chunks_change_nothing(seconds, limit, monkeypatch):
    expected = run_toy(eval_every=7)
    monkeypatch.setattr(_chunks, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(_chunks, "MOST_RECORDS", limit)
    assert_same_course(run_toy(eval_every=7), expected)


def test_the_loop_is_compiled_once(compiled, monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK_SECONDS", 0.0)  # many chunks
    problem, other = toy(0), toy(1)
    optimizer = chain(gdsec_jax.gdsec(WORKERS, xi=1.0), problem)
    compiled()
    simulate(problem, optimizer, TOY_ROUNDS)
    assert compiled().count("jit(chunk)") == 1
    simulate(other, optimizer, TOY_ROUNDS, stop=Stop(1e-6, 1e3))
    assert "jit(chunk)" not in compiled()


def test_other_rounds_and_limits_compile_nothing(compiled):
    run_toy()
    compiled()
    run_toy(TOY_ROUNDS + 1)
    run_toy(TOY_ROUNDS - 1)
    run_toy(5 * TOY_ROUNDS, stop=Stop(1e-3, 1e3))
    assert compiled() == []


def test_the_loss_is_traced_a_few_times_whatever_the_chunks(monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK_SECONDS", 0.0)
    traces = []

    def loss(params, points):
        traces.append(1)
        return 0.5 * jnp.sum((params - points) ** 2)

    problem = problems.from_loss(loss, np.float32([[1.0], [3.0]]), jnp.zeros(1))
    optimizer = optax.chain(gdsec_jax.gdsec(2, xi=0.1), optax.sgd(0.1))
    traces.clear()
    simulate(problem, optimizer, 80)
    first = len(traces)
    assert first <= 12
    traces.clear()
    simulate(problem, optimizer, 80)
    assert len(traces) < first / 2


def test_running_twice_gives_the_same_and_spends_nothing():
    before = np.array(toy().init_params)
    first, second = run_toy(), run_toy()
    assert_same_course(first, second)
    np.testing.assert_array_equal(toy().init_params, before)
    assert not np.array_equal(first.params, before)


# Exact bits without 64-bit integers on the device


def test_bits_beyond_32_bits_are_exact_without_x64():
    assert not jax.config.jax_enable_x64  # pyright: ignore
    length, width = 300, 2**24
    points = np.arange(1, 2 * length + 1, dtype=np.float32).reshape(2, length)
    problem = problems.from_loss(
        lambda p, d: 0.5 * jnp.sum((p - d) ** 2), points, jnp.zeros(length)
    )
    form = wire.Format("coo", width)

    def run(algorithm):
        return simulate(problem, optax.chain(algorithm, optax.sgd(0.1)), 10)

    plain = run(gdsec_jax.gd(2, wire=form))
    np.testing.assert_array_equal(plain.bits, length * width)
    np.testing.assert_array_equal(plain.broadcast_bits, length * width)
    assert plain.bits.dtype == plain.total_bits.dtype == np.int64
    assert plain.total_bits[-1] == 20 * length * width > 2**36

    sparse = run(gdsec_jax.gdsec(2, xi=5.0, wire=form))
    sent = sparse.entries
    assert ((sent > 0) & (sent < length)).any()
    expected = np.where(sent > 0, 9 + sent * (width + 9), 0)
    np.testing.assert_array_equal(sparse.bits, expected)


# The progress bar, and what is refused


def test_a_bar_is_shown_when_asked_for(capsys):
    run_toy()
    assert capsys.readouterr().err == ""
    run_toy(progress=True)
    shown = capsys.readouterr()
    assert "ridge" in shown.err
    assert f"{TOY_ROUNDS}/{TOY_ROUNDS}" in shown.err
    assert shown.out == ""


def at_zero():
    """A loss that is infinite at the initial params."""
    return problems.from_loss(
        lambda p, d: jnp.sum(d / p), np.ones((2, 1), np.float32), jnp.zeros(1)
    )


def some(key, round):
    return jax.random.bernoulli(key, 0.5, (WORKERS,))


REFUSED = [
    (
        lambda: simulate(at_zero(), optax.chain(gdsec_jax.gd(2), optax.sgd(0.1)), 10),
        "objective is inf at the initial params of custom, expected a finite number",
    ),
    (
        lambda: simulate(toy(), chain(gdsec_jax.gd(4), toy()), 10),
        "cannot take gradients of 5 workers: .*num_workers=4",
    ),
    *(
        (lambda own=own: simulate(own, toy_optimizer(), 3), "problem is .*, expected a")
        for own in (problems.ridge, lambda: 1, None, 3)
    ),
    (
        lambda: gdsec_jax.sweep(lambda: 1, lambda xi: toy_optimizer(), {"xi": [1]}, 3),
        "problem is 1, expected a Problem, as problems.ridge",
    ),
    (
        lambda: gdsec_jax.sweep(3, lambda xi: toy_optimizer(), {"xi": [1]}, 3),
        "problem is 3, expected a Problem, as problems.ridge",
    ),
    (
        lambda: simulate(toy(), gdsec_jax.gd, 10),
        "optimizer is <function gd.*, expected an optax chain",
    ),
    (
        lambda: simulate(toy(), optax.sgd(0.1), 10),
        "holds no algorithm of gdsec_jax, expected",
    ),
    (
        lambda: simulate(toy(), optax.apply_if_finite(toy_optimizer(), 5), 10),
        "cannot take gradients of 5 workers: .* wrappers such as .*apply_if_finite",
    ),
    *(
        (lambda x=x: Stop(divergence_factor=x), f"divergence_factor is {x}, expected a")
        for x in (0.0, -1.0, math.inf, math.nan)
    ),
    *(
        (lambda own=own: run_toy(**own), message)
        for own, message in (
            ({"uplink": Uplink(some)}, "key is None, expected an int or a random"),
            (
                {"uplink": Uplink(lambda key, round: jnp.ones(2, bool)), "key": 0},
                r"participation's mask is bool\[2\], expected bool\[5\]",
            ),
            (
                {"uplink": Uplink(lambda key, round: None), "key": 0},
                r"mask is None, expected bool\[5\]",
            ),
            (
                {"log": gdsec_jax.logs.csv("never.csv")},
                "expected a function, such as `with logs.c",
            ),
            ({"uplink": some}, "uplink is .*, expected an Uplink or"),
            ({"stop": 1e-3}, "stop is 0.001, expected a Stop or None."),
            (
                {"checkpoint": "folder"},
                r"is 'folder', expected gdsec_jax.Checkpoints\(path, every\) or None.",
            ),
            ({"observe": True}, "observe is True, expected a function"),
            *(
                ({"attributes": {"a": own}}, "attributes is .*, expected what JSON can")
                for own in (b"ab", 1j, np.bytes_(b"ab"), {1}, [np.complex64(1)])
            ),
            (
                {"observe": lambda now: now.params},
                "observe returns .*, expected a dict from names to arrays",
            ),
            (
                {"observe": lambda now: {"bits": now.params}},
                "the name 'bits', expected a word of letters, digits and _ that",
            ),
            (
                {"observe": lambda now: {"a/b": now.params}},
                "the name 'a/b', expected a word of letters, digits and _ that",
            ),
            (
                {"norms": True, "observe": gdsec_jax.norms},
                "norms is given beside observe, expected observe alone",
            ),
            *(
                ({name: value}, f"{name} is {value!r}, expected an integer")
                for name in ("num_rounds", "eval_every")
                for value in (0, -3, 2.5, math.nan, "5", None)
            ),
        )
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_a_wrapper_behind_the_algorithm_is_fine():
    optimizer = optax.chain(
        gdsec_jax.gdsec(WORKERS, xi=10.0, wire=wire.Format("rle", 32)),
        optax.apply_if_finite(optax.sgd(1 / toy().smoothness), 5),
    )
    history = simulate(toy(), optimizer, TOY_ROUNDS)
    np.testing.assert_array_equal(history.bits, run_toy().bits)


VALUE_STAGES = {
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=1.0),
    "plateau": lambda: optax.chain(
        optax.sgd(0.3), optax.contrib.reduce_on_plateau(patience=2, rtol=0.3)
    ),
    "lbfgs": lambda: optax.lbfgs(),
}


@pytest.mark.promotes  # reduce_on_plateau and lbfgs do
@pytest.mark.parametrize("stage", VALUE_STAGES)
@pytest.mark.parametrize("worker_batch", slow_but([None], [None, 2]))
def test_a_stage_is_told_the_value_that_it_asks_for(stage, worker_batch, x64):
    """The course is that of the stage alone, told of f by hand."""
    x, y = np.random.default_rng(0).standard_normal((2, 40, 4))
    problem = problems.ridge(x, y[:, 0], 4, regularization=0.1)
    alone = VALUE_STAGES[stage]()
    optimizer = optax.chain(gdsec_jax.gd(4), alone)
    gdsec_jax.check(optimizer, problem.init_params, 4, worker_batch)
    told = simulate(problem, optimizer, 12, worker_batch=worker_batch)

    def f(theta):
        residual = jnp.asarray(x) @ theta - y[:, 0]
        return (residual @ residual) / 80 + 0.05 * theta @ theta

    @jax.jit
    def one(theta, state):
        value, grad = jax.value_and_grad(f)(theta)
        step, state = alone.update(
            grad, state, theta, value=value, grad=grad, value_fn=f
        )
        return optax.apply_updates(theta, step), state

    theta = jnp.zeros(4)
    state, values = alone.init(theta), []
    for _ in range(12):
        theta, state = one(theta, state)
        values.append(float(f(theta)))
    np.testing.assert_allclose(told.params, theta, rtol=1e-8, atol=1e-12)
    errors = np.array(values) - float(problem.optimum)
    np.testing.assert_allclose(told.objective_error, errors, rtol=1e-6, atol=1e-14)
    assert errors[-1] < 0.5 * told.initial_error


# Participation, evaluations, both ways, and the log


def first_two(key, round):
    del key
    return jnp.arange(WORKERS) < 2


def test_the_absent_send_and_compute_nothing():
    problem = toy()
    history = run_toy(uplink=Uplink(first_two), key=0)
    expected = np.arange(WORKERS) < 2
    assert (history.participants == expected).all()
    assert not history.bits[:, 2:].any()
    each = problem.evaluations[:2].sum()
    assert (history.gradient_evaluations == each).all()
    whole = run_toy()
    assert (whole.gradient_evaluations == problem.evaluations.sum()).all()


def test_participation_draws_from_the_key_of_the_run():
    one, same, other = (run_toy(uplink=Uplink(some), key=key) for key in (1, 1, 2))
    assert_same_course(one, same)
    assert (one.participants != other.participants).any()
    assert 0 < one.participants.mean() < 1
    assert (one.participants[1:] != one.participants[:-1]).any()


def test_a_run_draws_apart_from_an_algorithm_with_the_same_key():
    key, clock = jax.random.key(3), gdsec_jax.clock(WORKERS, key=3)
    state, params, drawn = clock.init(jnp.zeros(1)), jnp.zeros(1), []

    def note(*keys):
        drawn.extend(bytes(np.asarray(jax.random.key_data(k))) for k in keys)

    for number in range(8):
        common, own, state = clock.begin(state, params)
        note(common["round_key"], *own["key"])
        for purpose in (_uplink.MINIBATCH, _uplink.PARTICIPATION):
            stream = _uplink.stream(key, purpose, number)
            note(stream, *(jax.random.fold_in(stream, m) for m in range(WORKERS)))
    assert len(set(drawn)) == len(drawn) == 8 * 3 * (1 + WORKERS)


def test_a_compressed_broadcast_is_counted():
    problem = toy()
    piece = worker.error_feedback(worker.top_k(1))
    optimizer = optax.chain(
        gdsec_jax.gd(WORKERS),
        optax.sgd(0.5 / problem.smoothness),
        gdsec_jax.broadcast(piece),
    )
    history = simulate(problem, optimizer, TOY_ROUNDS)
    size = problem.init_params.size
    width = 8 * problem.init_params.dtype.itemsize
    assert (history.broadcast_bits < width * size).all()
    assert (history.broadcast_bits >= width).all()
    assert (run_toy().broadcast_bits == width * size).all()


def test_the_log_is_told_each_round_once():
    rows = []
    history = run_toy(log=rows.append, eval_every=7)
    columns = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    assert columns["round"].tolist() == list(range(1, TOY_ROUNDS + 1))
    np.testing.assert_array_equal(columns["bits"], history.bits.sum(axis=1))
    np.testing.assert_array_equal(
        columns["gradient_evaluations"], history.gradient_evaluations
    )
    evaluated = columns["objective_error"][history.eval_rounds - 1]
    np.testing.assert_array_equal(evaluated, history.objective_error)
    assert np.isnan(columns["objective_error"]).sum() == TOY_ROUNDS - evaluated.size


# Workers in groups.


@pytest.mark.parametrize(
    ("kind", "worker_batch"),
    [
        ("minibatch", 2),
        pytest.param("ridge", 7, marks=pytest.mark.slow),
        pytest.param("gradient", 2, marks=pytest.mark.slow),
    ],
)
def test_workers_in_groups_run_the_same_course(kind, worker_batch, x64):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((35, 3)), rng.uniform(size=35)
    if kind == "gradient":
        problem = problems.nonlinear_least_squares(x, y, WORKERS)
    else:
        problem = problems.ridge(x, y, WORKERS)
    smoothness = problem.smoothness
    if kind == "minibatch":
        problem = problems.minibatch(problem, 3)
    optimizer = optax.chain(
        gdsec_jax.gdsec(WORKERS, 5.0, BETA, wire="rle"), optax.sgd(0.5 / smoothness)
    )
    course = functools.partial(simulate, problem, optimizer, 40, key=0)
    at_once, grouped = course(), course(worker_batch=worker_batch)
    np.testing.assert_array_equal(grouped.bits, at_once.bits)
    np.testing.assert_array_equal(grouped.participants, at_once.participants)
    np.testing.assert_allclose(
        grouped.objective_error, at_once.objective_error, rtol=1e-9, atol=1e-15
    )
    np.testing.assert_allclose(grouped.params, at_once.params, rtol=1e-10)


def test_what_groups_cannot_do():
    problem = problems.from_loss(
        lambda params, x: ((params["a"] - x) ** 2 + params["b"] ** 2).sum(),
        jnp.ones((WORKERS, 3)),
        {"a": jnp.zeros(3), "b": jnp.zeros(3)},
    )
    algorithms = {name: gdsec_jax.gd(WORKERS) for name in "ab"}
    parts = optax.partition(algorithms, {"a": "a", "b": "b"})
    optimizer = optax.chain(parts, optax.sgd(0.1))
    simulate(problem, optimizer, 2)
    with pytest.raises(ValueError, match=f"{WORKERS} workers, 2 at a time"):
        simulate(problem, optimizer, 2, worker_batch=2)
    optimizer = chain(gdsec_jax.gd(WORKERS), toy())
    with pytest.raises(ValueError, match="worker_batch is 0, expected"):
        simulate(toy(), optimizer, 2, worker_batch=0)
    with pytest.raises(ValueError, match="observe is norms, expected another function"):
        simulate(toy(), optimizer, 2, worker_batch=2, observe=gdsec_jax.norms)


# What a caller wants to see


def test_what_is_observed_is_the_round():
    """A function of the round sees its state before and after, and what moved."""

    def seen(now):
        sent = gdsec_jax.last_round(now.new_state)
        return {
            "step": jnp.linalg.norm(now.new_params - now.params - now.updates),
            "theta": now.params,
            "uploaded": sent.entries,
            "number": now.number,
        }

    history = run_toy(observe=seen)
    assert_same_course(history, run_toy())
    observed = history.observed
    np.testing.assert_array_equal(observed["number"], np.arange(TOY_ROUNDS))
    np.testing.assert_array_equal(observed["uploaded"], history.entries)
    np.testing.assert_array_equal(observed["theta"][0], toy().init_params)
    assert observed["theta"].shape == (TOY_ROUNDS, 4)
    np.testing.assert_allclose(observed["step"], 0, atol=1e-6)
    swept = gdsec_jax.sweep(
        toy(), lambda share: toy_optimizer(), {"share": [0.1, 0.2]}, TOY_ROUNDS,
        observe=seen,
    )  # fmt: skip
    assert swept["theta"].dims == ("share", "eval_round", "theta:0")
    np.testing.assert_allclose(swept["theta"][1], observed["theta"], 1e-4, 1e-4)


def test_what_has_a_new_spelling_goes_on_for_a_release(tmp_path):
    new = {"stop": Stop(1e-6, 50.0), "observe": gdsec_jax.norms}
    expected = run_toy(checkpoint=Checkpoints(tmp_path / "a", 50), **new)
    old = {"target_error": 1e-6, "divergence_factor": 50.0, "norms": True}
    words = (
        r"use stop=gdsec_jax.Stop\(target_error=..., divergence_factor=...\)",
        "use observe=gdsec_jax.norms",
        r"use checkpoint=gdsec_jax.Checkpoints\(path, every=...\)",
    )
    with (
        pytest.warns(DeprecationWarning, match=words[0]),
        pytest.warns(DeprecationWarning, match=words[1]),
        pytest.warns(DeprecationWarning, match=words[2]) as caught,
    ):
        same = run_toy(checkpoint=tmp_path / "b", checkpoint_every=50, **old)
    assert caught[0].filename == __file__
    assert_same_course(same, expected)
    assert set(same.observed) == set(expected.observed)
