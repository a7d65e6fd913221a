"""Methods that take losses: SCAFFOLD and Scaffnew in NumPy, and what all share.

The loops of the others are in test_own_points.py and test_pseudo_gradients.py.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console
from cases import slow_but

import gdsec_jax
from gdsec_jax import WorkerLosses, problems, worker
from gdsec_jax.study import config, experiment

M, D = 4, 6
MAKE = {
    "scaffold": {"local_learning_rate": 0.02, "steps": 5},
    "scaffnew": {"local_learning_rate": 0.05, "probability": 0.25},
    "tamuna": {"local_learning_rate": 0.05, "probability": 0.4, "cohort": 3},
    "locodl": {
        "compressor": worker.random_k(3),
        "local_learning_rate": 0.05,
        "probability": 0.4,
        "strong_convexity": 0.1,
    },
    "dasha_pp": {"compressor": worker.random_k(3), "cohort": 3},
    "marina_p": {"probability": 0.4},
    "adiana": {
        "compressor": worker.random_k(3),
        "learning_rate": 0.05,
        "strong_convexity": 0.1,
    },
    "diloco": {"local_learning_rate": 0.02, "steps": 3},
    "streaming_diloco": {"local_learning_rate": 0.02, "steps": 4, "fragments": 2},
    "sparse_loco": {"local_learning_rate": 0.02, "steps": 3, "k": 2, "chunk": 3},
}
EXACT = ("scaffold", "scaffnew", "tamuna", "locodl", "dasha_pp", "marina_p", "adiana")
# Their step behind is 1.
TRAIN = (*EXACT[:4], "diloco", "streaming_diloco", "sparse_loco")
SWEPT = {"dasha_pp": "momentum", "marina_p": "probability"}
SWEPT |= {"adiana": "strong_convexity"}
names = pytest.mark.parametrize("name", MAKE)
# What all share is dear to run for each: of the others with the slow tests.
some = pytest.mark.parametrize("name", slow_but(("scaffold", "tamuna"), MAKE))


def test_they_are_all_that_train():
    assert set(MAKE) == {name for name, x in gdsec_jax.METHODS.items() if x.trains}


def make(name, **options):
    return getattr(gdsec_jax, name)(M, **MAKE[name], **options)


def outer(name):
    return optax.sgd(1.0 if name in TRAIN else 0.05)


def ridge(seed=0, **options):
    """Workers with optima of their own; (problem, gradient of M f_m at a point)."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((40, D)), rng.standard_normal(40)
    y[:10] += 5
    problem = problems.ridge(x, y, M, split="contiguous", regularization=0.1, **options)
    parts = np.array_split(np.arange(40), M)

    def gradient(m, at):
        own = parts[m]
        return M * (x[own].T @ (x[own] @ at - y[own]) / 40 + 0.1 / M * at)

    return problem, gradient


def course(problem, optimizer, rounds, active=None, key=0):
    """The last theta, and the run."""
    rule = None if active is None else lambda key, k: jnp.asarray(active)[k]
    uplink = gdsec_jax.Uplink(rule)
    run = gdsec_jax.simulate(problem, optimizer, rounds, key=key, uplink=uplink)
    return run.params, run


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_scaffold_is_its_formulas(part):
    problem, gradient = ridge()
    eta, K, rounds = 0.02, 5, 25
    active = np.random.default_rng(3).random((rounds, M)) < part
    active[:, 1] |= ~active.any(1)  # somebody is there
    theta, own, c = np.zeros(D), np.zeros((M, D)), np.zeros(D)
    for k in range(rounds):
        here = np.flatnonzero(active[k])
        changes, moves = [], []
        for m in here:
            at = theta.copy()
            for _ in range(K):
                at -= eta * (gradient(m, at) - own[m] + c)
            new = own[m] - c + (theta - at) / (K * eta)
            changes.append(new - own[m])
            moves.append(theta - at)
            own[m] = new
        theta = theta - np.mean(moves, 0)
        c = c + len(here) / M * np.mean(changes, 0)
        np.testing.assert_allclose(c, own.mean(0), atol=1e-12)
    optimizer = optax.chain(gdsec_jax.scaffold(M, eta, K), optax.sgd(1.0))
    params, run = course(problem, optimizer, rounds, active)
    np.testing.assert_allclose(params, theta, rtol=1e-11)
    np.testing.assert_array_equal(run.participants, active)
    np.testing.assert_array_equal(run.gradient_evaluations, 10 * K * active.sum(1))
    assert (run.entries == D * active).all()


@pytest.mark.usefixtures("x64")
def test_scaffnew_is_its_formulas():
    problem, gradient = ridge()
    gamma, p, rounds = 0.05, 0.25, 25
    optimizer = optax.chain(gdsec_jax.scaffnew(M, gamma, p, key=5), optax.sgd(1.0))
    params, run = course(problem, optimizer, rounds)
    steps = run.gradient_evaluations // 40  # of all samples
    theta, h = np.zeros(D), np.zeros((M, D))
    for number in steps:
        ends = np.tile(theta, (M, 1))
        for m in range(M):
            for _ in range(number):
                ends[m] -= gamma * (gradient(m, ends[m]) - h[m])
        theta = ends.mean(0)
        h += p / gamma * (theta - ends)
        np.testing.assert_allclose(h.sum(0), 0, atol=1e-10)
    np.testing.assert_allclose(params, theta, rtol=1e-11)
    many = np.concatenate(
        [
            course(problem, optax.chain(gdsec_jax.scaffnew(M, gamma, p, key=k),
                   optax.sgd(1.0)), 200)[1].gradient_evaluations // 40
            for k in range(3)
        ]
    )  # fmt: skip
    # Of 600 draws with mean 4 and standard deviation sqrt(12): 5 standard errors.
    assert many.min() == 1 and abs(many.mean() - 4) < 5 * np.sqrt(12 / 600)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", EXACT)
def test_it_converges_at_the_steps_of_theory(name):
    """To 1e-10 of the first error, where local steps alone end beside the solution."""
    problem, _ = ridge()
    given = {x: v for x, v in MAKE[name].items() if x in ("steps", "compressor")}
    given |= {"cohort": 3} if name in ("tamuna", "dasha_pp") else {}
    known = gdsec_jax.theory(name, problem, **given)
    algorithm = getattr(gdsec_jax, name)(M, **given, **known.parameters)
    optimizer = optax.chain(algorithm, optax.sgd(known.learning_rate))
    target = 1e-10 * float(problem.error(problem.init_params))
    stop = gdsec_jax.Stop(target)
    run = gdsec_jax.simulate(problem, optimizer, 40_000, stop=stop, eval_every=10)
    assert run.outcome == "target"
    if name not in ("scaffold", "scaffnew"):
        return
    rate = known.parameters["local_learning_rate"]
    alone = optax.chain(
        gdsec_jax.local(M, optax.sgd(rate), 10),
        gdsec_jax.gd(M, reduction="mean"), optax.sgd(1.0),
    )  # fmt: skip
    beside = gdsec_jax.simulate(problem, alone, 4000)
    assert beside.objective_error[-1] > 1e4 * target


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_scaffnew_takes_about_the_root_of_gds_rounds():
    """Of a condition number in the thousands."""
    x = np.random.default_rng(0).standard_normal((60, 20)) * np.logspace(0, -1.5, 20)
    problem = problems.ridge(x, x.sum(1), M, regularization=1e-3)
    stop = gdsec_jax.Stop(1e-6 * float(problem.error(problem.init_params)))

    def rounds(name, **own):
        step = gdsec_jax.theory(name, problem).learning_rate
        algorithm = getattr(gdsec_jax, name)(M, **own)
        optimizer = optax.chain(algorithm, optax.sgd(step))
        return gdsec_jax.simulate(problem, optimizer, 50_000, stop=stop).num_rounds

    known = gdsec_jax.theory("scaffnew", problem)
    kappa = known.parameters["probability"] ** -2
    few, many = rounds("scaffnew", **known.parameters), rounds("gd")
    assert kappa > 1000 and few < 0.2 * many


@pytest.mark.has_nans
@pytest.mark.parametrize("name", slow_but(EXACT, MAKE))
def test_a_worker_that_is_not_finite_is_left_out(name):
    """And its memory stays as it was."""

    def loss(params, data, key):
        del key
        return 0.5 * jnp.sum((params - data) ** 2) * jnp.where(data[0] > 9, jnp.nan, 1)

    data = jnp.ones((M, D)).at[2].set(10.0)
    algorithm, params = make(name), jnp.zeros(D)
    state = algorithm.init(params)
    direction, new = algorithm.update(WorkerLosses(loss, data), state, params)
    said = gdsec_jax.last_round(new)
    assert jnp.isfinite(direction).all()
    here = [True, True, False, True]
    if "cohort" in MAKE[name]:  # without one of them, perhaps
        losses = WorkerLosses(loss, jnp.ones((M, D)))
        other = gdsec_jax.last_round(algorithm.update(losses, state, params)[1])
        here = (other.participants & jnp.array(here)).tolist()
    assert said.participants.tolist() == here
    for memory in set(getattr(new, "_fields", ())) & {"own", "points", "known"}:
        kept, before = getattr(new, memory), getattr(state, memory)
        assert jnp.isfinite(kept).all()
        if (name, memory) != ("locodl", "own"):  # which adds up to the server's
            np.testing.assert_array_equal(kept[2], before[2])


@some
def test_dtypes_and_a_tree(name):
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.zeros((), jnp.bfloat16)}

    def loss(params, data, key):
        del key
        return jnp.sum((params["w"] - data) ** 2) + params["b"] ** 2

    algorithm = make(name)
    state = algorithm.init(params)
    losses = WorkerLosses(loss, jnp.zeros((M, 2, 3), jnp.bfloat16))
    direction, new = algorithm.update(losses, state, params)
    assert {x.dtype for x in jax.tree.leaves(direction)} == {jnp.dtype("bfloat16")}
    own = getattr(new, "own", ())
    assert {x.dtype for x in jax.tree.leaves(own)} <= {jnp.dtype("float32")}
    kinds = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    assert kinds == [(x.shape, x.dtype) for x in jax.tree.leaves(new)]


@some
def test_a_sweep_runs_its_numbers_side_by_side(name):
    problem, _ = ridge()
    number = SWEPT.get(name, "local_learning_rate")

    def optimizer(**value):
        algorithm = getattr(gdsec_jax, name)(M, **MAKE[name] | value)
        return optax.chain(algorithm, outer(name))

    values = [0.01, 0.5 if number == "probability" else 0.02]
    swept = gdsec_jax.sweep(problem, optimizer, {number: values}, 6)
    alone = gdsec_jax.simulate(problem, optimizer(**{number: values[1]}), 6)
    found = swept.sel({number: values[1]})
    np.testing.assert_allclose(found.objective_error, alone.objective_error, rtol=1e-4)
    evaluations = found.total_gradient_evaluations[-1]
    assert int(evaluations) == alone.gradient_evaluations.sum()
    first = swept.sel({number: values[0]}).objective_error
    assert not np.array_equal(first, found.objective_error)


@some
def test_a_run_that_was_killed_goes_on(name, tmp_path):
    problem, _ = ridge()
    optimizer = optax.chain(make(name), outer(name))
    whole = gdsec_jax.simulate(problem, optimizer, 12)
    saves = gdsec_jax.Checkpoints(tmp_path / "saves", 5)
    gdsec_jax.simulate(problem, optimizer, 10, checkpoint=saves)
    again = gdsec_jax.simulate(problem, optimizer, 12, checkpoint=saves)
    np.testing.assert_array_equal(again.params, whole.params)
    np.testing.assert_array_equal(
        again.gradient_evaluations, whole.gradient_evaluations
    )


@pytest.mark.slow
def test_a_config_has_their_steps_by_theory(tmp_path):
    methods = {
        "SCAFFOLD": {"name": "scaffold", "steps": 10},
        "Scaffnew": {"name": "scaffnew", "seed": 3},
        "slow": {"name": "scaffnew", "learning_rate": 1.0, "probability": 0.5},
        "given": {"name": "scaffold", "steps": 2, "local_learning_rate": 1e-3},
    }
    on = {"data": "digits", "num_workers": 4, "regularization": 0.1}
    values = {"num_rounds": 5, "methods": methods, "problem": on}
    loaded = config.validate(values, "test")
    quiet = rich.console.Console(quiet=True)
    runs = experiment.compare(loaded, tmp_path, quiet)
    for history in runs.histories.values():
        assert history.outcome == "completed"
        assert history.objective_error[-1] < history.initial_error
    known = gdsec_jax.theory("scaffold", runs.problem, steps=10).parameters
    method = config.resolved(loaded.methods["SCAFFOLD"], runs.problem)
    assert method.local_learning_rate == known["local_learning_rate"]
    slow = config.resolved(loaded.methods["slow"], runs.problem)
    assert slow.probability == 0.5 and slow.local_learning_rate > 0
    assert loaded.methods["Scaffnew"].draws() and not loaded.methods["given"].draws()


@pytest.mark.slow
def test_configs_of_the_others_have_their_steps_by_theory(tmp_path):
    compressed = {"compressor": "random_k", "k": 0.1}
    methods = {
        "TAMUNA": {"name": "tamuna", "owners": 3, "cohort": 3, "seed": 1},
        "LoCoDL": {"name": "locodl", **compressed},
        "DASHA-PP": {"name": "dasha_pp", "cohort": 2, **compressed},
        "MARINA-P": {"name": "marina_p"},
        "ADIANA": {"name": "adiana", **compressed},
    }
    on = {"data": "digits", "num_workers": 4, "regularization": 0.1}
    values = {"num_rounds": 20, "methods": methods, "problem": on}
    loaded = config.validate(values, "test")
    quiet = rich.console.Console(quiet=True)
    runs = experiment.compare(loaded, tmp_path, quiet)
    for label, history in runs.histories.items():
        assert history.outcome == "completed", label
        assert history.objective_error[-1] < history.initial_error, label
    resolved = config.resolved(loaded.methods["ADIANA"], runs.problem)
    assert resolved.strong_convexity == pytest.approx(0.1)


def test_a_slow_worker_takes_its_time_for_every_step():
    problem, _ = ridge()
    channel = gdsec_jax.channel.Channel(compute_s=0.5)
    optimizer = optax.chain(make("scaffnew"), optax.sgd(1.0))
    uplink = gdsec_jax.Uplink(channel=channel)
    run = gdsec_jax.simulate(problem, optimizer, 6, uplink=uplink, key=0)
    steps = run.gradient_evaluations / 40
    assert len(set(steps)) > 1
    np.testing.assert_allclose(run.time_s, 0.5 * steps, atol=0.01)


@names
def test_what_is_wrong_is_said(name):
    wrong = {"local_learning_rate": 0.0, "steps": 0, "probability": 1.5}
    wrong |= {"cohort": 9, "strong_convexity": 0.0, "learning_rate": 0.0}
    wrong |= {"fragments": 0, "k": 0, "chunk": 0}
    for field in set(MAKE[name]) - {"compressor"}:
        with pytest.raises(ValueError, match=f"^{field} is {wrong[field]}"):
            getattr(gdsec_jax, name)(M, **MAKE[name] | {field: wrong[field]})
    algorithm, params = make(name), jnp.zeros(D)
    state = algorithm.init(params)
    with pytest.raises(ValueError, match="expected gdsec_jax.WorkerLosses"):
        algorithm.update(jnp.zeros((M, D)), state, params)
    assert "reduction" not in inspect.signature(getattr(gdsec_jax, name)).parameters
    if name == "scaffnew":
        losses = WorkerLosses(lambda p, d, k: jnp.sum(p - d), jnp.zeros((M, D)))
        with pytest.raises(ValueError, match="^active is given, expected none"):
            algorithm.update(losses, state, params, active=jnp.ones(M, bool))
        problem, _ = ridge()
        lasso = problems.lasso(np.eye(8), np.ones(8), M, regularization=0.1)
        with pytest.raises(ValueError, match="convex.*set the probability, 1/T for T"):
            gdsec_jax.theory(name, lasso)
        assert gdsec_jax.theory(name, lasso, probability=0.5).learning_rate == 1.0
        p = gdsec_jax.theory(name, problem).parameters["probability"]
        largest = M * problem.worker_smoothness.max()
        np.testing.assert_allclose(p, np.sqrt(0.1 / largest))
