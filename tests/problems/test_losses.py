"""Each loss against the oracle: gradients, objective, optimum and descent."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
import scipy.sparse
from inside import _constants

import gdsec_jax
from gdsec_jax import data, problems

NUM_SAMPLES, LENGTH, WORKERS = 43, 7, 4
SIZES = (20, 1, 15, 7)
LAM = 0.03


class Row(NamedTuple):
    """A problem: its factory, its oracle, its targets, and its loss's constants."""

    factory: Callable[..., problems.Problem]
    objective: Callable[..., oracle.Objective]
    gradient: Callable[..., oracle.Gradient]
    targets: str
    curvature: float  # c of L
    along: float  # c of L^i
    penalty: bool = True  # whether lambda is part of L
    options: tuple[tuple[str, Any], ...] = ()


def row_of(name: str, targets: str, curvature: float, along=None, **more) -> Row:
    objective = getattr(oracle, f"{name}_objective")
    gradient = more.pop("gradient", None) or getattr(oracle, f"{name}_gradient")
    factory = getattr(problems, name)
    along = curvature if along is None else along
    return Row(factory, objective, gradient, targets, curvature, along, **more)


def smooth_part(x, y, parts, lam):
    """The gradient of the lasso without its penalty."""
    return oracle.ridge_gradient(x, y, parts, 0.0)


L1 = {"penalty": False, "gradient": oracle.lasso_subgradient}
PROXIMAL = L1 | {"gradient": smooth_part, "options": (("proximal", True),)}
ROWS = {
    "ridge": row_of("ridge", "real", 1.0),
    "logistic": row_of("logistic", "sign", 0.25),
    "softmax": row_of("softmax", "label", 0.5, 0.25),
    "lasso": row_of("lasso", "real", 1.0, **L1),
    "lasso_proximal": row_of("lasso", "real", 1.0, **PROXIMAL),
    "nonlinear": row_of("nonlinear_least_squares", "unit", 0.07703),
}
SMOOTH = ["ridge", "logistic", "softmax"]


class Looked(NamedTuple):
    """What a problem says of parameters."""

    gradients: jax.Array
    objective: jax.Array
    error: jax.Array


@jax.jit
def look(problem: problems.Problem, theta) -> Looked:
    """All of it in one program: one a loss, a dtype and a form of the features."""
    return Looked(
        problem.gradients(theta), problem.objective(theta), problem.error(theta)
    )


rows = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
smooth_rows = pytest.mark.parametrize("row", [ROWS[r] for r in SMOOTH], ids=SMOOTH)


def make_targets(kind: str, x, rng) -> np.ndarray:
    margin = x @ rng.standard_normal(x.shape[1]) + rng.standard_normal(x.shape[0])
    if kind == "real":
        return margin
    if kind == "sign":
        return np.where(margin > 0, 1.0, -1.0)
    if kind == "unit":
        return rng.uniform(size=x.shape[0])
    labels = np.digitize(margin, [-1.0, 1.0])
    labels[:3] = [0, 1, 2]  # none may be missing
    return labels


def make_data(kind: str):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((NUM_SAMPLES, LENGTH)) * np.linspace(0.5, 2, LENGTH)
    return x, make_targets(kind, x, rng)


def make_sparse(kind: str):
    rng = np.random.default_rng(2)
    x = scipy.sparse.random_array(
        (60, 250),
        density=0.012,
        format="csr",
        rng=rng,
        data_sampler=rng.standard_normal,
    )
    return x, make_targets(kind, x, rng)


def make_parts(num_samples: int, sizes) -> list[np.ndarray]:
    order = np.random.default_rng(3).permutation(num_samples)
    return np.split(order, np.cumsum(sizes)[:-1])


PARTS = make_parts(NUM_SAMPLES, SIZES)


def some_params(problem: problems.Problem) -> np.ndarray:
    theta = np.random.default_rng(4).standard_normal(problem.init_params.shape)
    theta[2] = 0.0  # where the lasso's sign matters
    return theta


def assert_close(got, expected, tolerance=1e-12):
    """Equal, relative to the largest entry."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == np.float64
    assert got.shape == expected.shape
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def build(row: Row, x, y, parts, **options) -> problems.Problem:
    options = {"regularization": LAM} | dict(row.options) | options
    return row.factory(x, y, len(parts), split=parts, **options)


@functools.cache
def _built(row: Row, x64: bool) -> problems.Problem:
    return build(row, *make_data(row.targets), PARTS)


def built(row: Row) -> problems.Problem:
    """The row's problem of the common data, in the precision of the test."""
    return _built(row, jax.config.jax_enable_x64)


def expected_gradients(row: Row, x, y, parts, theta):
    gradient = row.gradient(x, y, parts, LAM)
    return np.stack([gradient(m, theta) for m in range(len(parts))])


# Gradients, objective and error


@rows
def test_all_is_as_the_oracle_says(row, x64):
    x, y = make_data(row.targets)
    problem = built(row)
    theta = some_params(problem)
    looked = look(problem, theta)
    gradients = expected_gradients(row, x, y, PARTS, theta)
    assert_close(looked.gradients, gradients)
    objective = row.objective(x, y, LAM)(theta)
    assert_close(looked.objective, objective)
    if row.targets == "unit":
        total = gradients.sum(0)
        assert float(looked.error) == pytest.approx(total @ total, rel=1e-12)
        assert problem.optimum is None
        assert problem.error_name == "squared gradient norm"
    else:
        error = objective - problem.optimum
        assert float(looked.error) == pytest.approx(error, rel=1e-12)
        assert problem.error_name == "objective error"


@rows
def test_sparse_features_stay_sparse_and_give_the_same(row, x64):
    x, y = make_sparse(row.targets)
    parts = make_parts(60, (30, 1, 20, 9))
    problem = build(row, x, y, parts)
    features = problem.worker_data.shards.features
    for segments in features:  # of X and of its transpose
        assert np.count_nonzero(segments.values) == x.nnz
    theta = some_params(problem)
    looked = look(problem, theta)
    dense = build(row, x.toarray(), y, parts)
    gradients = expected_gradients(row, x.toarray(), y, parts, theta)
    assert_close(looked.gradients, gradients)
    assert_close(looked.objective, row.objective(x.toarray(), y, LAM)(theta))
    assert isinstance(dense.worker_data.shards.features, jax.Array)
    assert problem.smoothness == pytest.approx(dense.smoothness, rel=1e-12)
    if dense.optimum is not None:
        assert problem.optimum == pytest.approx(dense.optimum, rel=1e-12)


@rows
def test_gradients_in_float32_are_close(row):
    problem = built(row)
    theta = some_params(problem).astype(np.float32)
    gradients = look(problem, theta).gradients
    assert gradients.dtype == jnp.float32
    data = make_data(row.targets)
    expected = expected_gradients(row, *data, PARTS, theta.astype(float))
    np.testing.assert_allclose(gradients, expected, rtol=0, atol=2e-6)


# Constants and optimum


@rows
def test_constants_are_the_formulas(row, x64):
    x, y = make_data(row.targets)
    lam = LAM * row.penalty
    dense = built(row)
    for problem in (dense, build(row, scipy.sparse.csr_array(x), y, PARTS)):
        # Sparse features that are not so sparse are stored dense.
        stored = (each.worker_data.shards.features for each in (problem, dense))
        np.testing.assert_array_equal(*stored)
        norms = [row.curvature * oracle.gram_norm(x[part]) for part in PARTS]
        each = np.array(norms) / NUM_SAMPLES + lam / WORKERS
        np.testing.assert_allclose(problem.worker_smoothness, each, rtol=1e-12)
        whole = row.curvature * oracle.gram_norm(x) / NUM_SAMPLES + lam
        assert problem.smoothness == pytest.approx(whole, rel=1e-12)
        columns = row.along * np.sum(x**2, axis=0) / NUM_SAMPLES + lam
        own = problem.coordinate_smoothness.T  # of softmax, a row for each class
        assert own.T.shape == problem.init_params.shape
        np.testing.assert_allclose(own, np.broadcast_to(columns, own.shape), 1e-12)


@smooth_rows
def test_gradient_vanishes_at_the_solution(row, x64):
    problem = built(row)
    gradient = np.asarray(look(problem, problem.solution).gradients)
    assert np.abs(gradient).max() > 1e-3  # each worker's own does not
    assert np.abs(gradient.sum(0)).max() < 1e-13


def nearly_equal_columns():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((60, 1)) + 0.01 * rng.standard_normal((60, 8))
    return x, x @ np.linspace(1, 2, 8) + 0.1 * rng.standard_normal(60)


def more_features_than_samples():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((50, 80)) + 0.5
    return x, x[:, :5].sum(1) + 0.1 * rng.standard_normal(50)


@pytest.mark.parametrize(
    ("xy", "lam", "proximal"),
    [
        (make_data("real"), 0.5, False),
        (make_data("real"), 0.5, True),
        (nearly_equal_columns(), 1e-4, False),
        *((more_features_than_samples(), lam, False) for lam in (0.003, 0.1, 0.5)),
    ],
)
def test_lasso_solution_meets_the_optimality_condition(xy, lam, proximal, x64):
    """A slope of at most lambda, and of lambda against the sign where it is not 0."""
    x, y = xy
    problem = problems.lasso(x, y, WORKERS, regularization=lam, proximal=proximal)
    theta = np.asarray(problem.solution)
    slope = x.T @ (x @ theta - y) / len(x)
    support = theta != 0
    assert 0 < support.sum() < len(theta)
    np.testing.assert_allclose(
        slope[support], -lam * np.sign(theta[support]), atol=1e-13
    )
    assert np.abs(slope[~support]).max() < lam
    objective = oracle.lasso_objective(x, y, lam)(theta)
    assert problem.optimum == pytest.approx(objective, rel=1e-13)


def test_lasso_with_a_large_penalty_is_zero(x64):
    x, y = make_data("real")
    lam = np.abs(x.T @ y).max() / NUM_SAMPLES * 1.01
    problem = problems.lasso(x, y, WORKERS, regularization=lam)
    np.testing.assert_array_equal(problem.solution, 0)
    assert problem.optimum == pytest.approx(y @ y / (2 * NUM_SAMPLES), rel=1e-14)


@pytest.mark.parametrize("row", list(ROWS.values())[:-1], ids=list(ROWS)[:-1])
def test_no_point_around_the_solution_is_lower(row, x64):
    problem = built(row)
    looked = look(problem, problem.solution)
    assert float(looked.objective) == pytest.approx(float(problem.optimum), rel=1e-14)
    assert abs(looked.error) < 1e-14
    objective = row.objective(*make_data(row.targets), LAM)
    rng, solution = np.random.default_rng(6), np.asarray(problem.solution)
    for size in np.logspace(-4, 1, 40):
        shift = size * rng.standard_normal(solution.shape)
        assert objective(solution + shift) - problem.optimum > 1e-12


@smooth_rows
def test_the_iterative_solvers_of_long_problems_agree(row, x64, monkeypatch):
    direct = built(row)
    monkeypatch.setattr(_constants, "DENSE_LIMIT", 3)
    iterative = build(row, *make_data(row.targets), PARTS)
    np.testing.assert_allclose(iterative.solution, direct.solution, rtol=0, atol=1e-11)
    assert iterative.optimum == pytest.approx(direct.optimum, rel=1e-14)
    assert iterative.smoothness == pytest.approx(direct.smoothness, rel=1e-11)


def test_without_penalty_the_solution_is_the_shortest_of_least_squares(x64):
    x, y = make_data("real")
    deficient = np.hstack([x, x[:, :2]])
    for factory, features in ((problems.ridge, deficient), (problems.lasso, x)):
        problem = factory(features, y, WORKERS, regularization=0.0)
        shortest = np.linalg.lstsq(features, y)[0]
        np.testing.assert_allclose(problem.solution, shortest, rtol=0, atol=1e-9)


def test_separable_logistic_regression_is_solved(x64):
    x = np.linspace(-1, 1, 20)[:, None] * np.ones(3)
    problem = problems.logistic(x, np.sign(x[:, 0]), 2, regularization=1e-6)
    gradients = np.asarray(look(problem, problem.solution).gradients)
    assert np.abs(gradients.sum(0)).max() < 1e-13
    assert np.abs(problem.solution).max() > 5


@pytest.mark.parametrize("form", ["gram", "sparse"])
def test_a_derivative_by_the_data_is_an_error_and_not_zero(form, x64):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    if form == "sparse":
        x = scipy.sparse.eye_array(12, 400)
    problem: Any = problems.ridge(x, y, 2)
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[0], problem.worker_data)
    assert (own.gram is None) == (form == "sparse")
    params = np.ones(x.shape[1])

    def of_targets(targets):
        shards = own.shards._replace(targets=targets)
        return problem.worker_loss(params, own._replace(shards=shards))

    message = "differentiated by a worker's data, expected by params alone"
    for by_the_data in (jax.grad(of_targets), jax.jit(jax.jacfwd(of_targets))):
        with pytest.raises(ValueError, match=message):
            by_the_data(own.shards.targets)

    # By the params all is as without, in loops that the data are handed to as well.
    @jax.jit
    @jax.value_and_grad
    def of_loop(at):
        add = lambda _, total: total + problem.objective(at * total)  # noqa: E731
        return jax.lax.fori_loop(0, 2, add, 1.0)

    direction = rng.standard_normal(params.size) / 10
    ahead, behind = (of_loop(params + h * direction)[0] for h in (1e-5, -1e-5))
    slope = of_loop(params)[1] @ direction
    assert float(slope) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)


# Descent


@pytest.mark.parametrize("name", [*SMOOTH, "nonlinear"])
def test_gradient_descent_with_the_inverse_smoothness_descends(name, x64):
    problem = built(ROWS[name])
    theta, seen = np.asarray(problem.init_params), []
    for _ in range(300):
        seen.append(looked := look(problem, theta))
        theta = theta - np.asarray(looked.gradients).sum(0) / problem.smoothness
    decrease = -np.diff([float(looked.objective) for looked in seen])
    assert decrease.min() > -1e-15
    assert decrease[:20].min() > 0
    assert seen[-1].error < 1e-3 * seen[0].error


def test_proximal_gdsec_solves_the_lasso(x64):
    x, y = make_data("real")
    problem = problems.lasso(x, y, WORKERS, regularization=0.3, proximal=True)
    step = 1 / problem.smoothness
    optimizer = optax.chain(
        gdsec_jax.gdsec(WORKERS, xi=5.0, beta=0.01),
        optax.sgd(step),
        problems.proximal_l1(step * problem.regularization),
    )
    history = gdsec_jax.simulate(problem, optimizer, 2000)
    assert history.initial_error > 0.1
    assert abs(history.objective_error[-1]) < 1e-13
    np.testing.assert_array_equal(history.params == 0, problem.solution == 0)


def test_subgradients_leave_a_floor_on_the_lasso(x64):
    x, y = make_data("real")
    problem = problems.lasso(x, y, WORKERS, regularization=0.3, split=PARTS)
    theta, errors = np.asarray(problem.init_params), []
    for _ in range(1000):
        looked = look(problem, theta)
        errors.append(float(looked.error))
        theta = theta - np.asarray(looked.gradients).sum(0) / problem.smoothness
    assert 1e-6 < min(errors[-100:]) < 0.1 * errors[0]


# Labels, splits and dtypes


LABELS = {
    "logistic": ((0, 1), (3, 7), (False, True), ("benign", "malign")),
    "softmax": ((10, 20, 30), (-0.5, 0.25, 4.0), ("a", "b", "c")),
}


@pytest.mark.parametrize("name", LABELS)
def test_any_labels_will_do(name):
    x, y = make_data(ROWS[name].targets)
    number = np.unique(y, return_inverse=True)[1]
    for labels in (np.unique(y), *LABELS[name]):
        problem = ROWS[name].factory(x, np.array(labels)[number], WORKERS, split=PARTS)
        expected = y[PARTS[0]]
        np.testing.assert_array_equal(problem.worker_data.shards.targets[0], expected)


def test_regularization_is_one_over_n_unless_given():
    x, y = make_data("real")
    assert problems.ridge(x, y, WORKERS).regularization == 1 / NUM_SAMPLES
    problem = problems.ridge(x, y, WORKERS, regularization=0.25)
    assert problem.regularization == 0.25
    np.testing.assert_array_equal(problem.worker_data.regularization, 0.25 / WORKERS)


def test_split_and_seed_choose_the_samples_of_each_worker():
    x, y = make_data("real")

    def targets(**options):
        return problems.ridge(x, y, 4, **options).worker_data.shards.targets

    contiguous = targets(split="contiguous")
    np.testing.assert_array_equal(contiguous[0], y[:11].astype(np.float32))
    assert not np.array_equal(targets(seed=0), targets(seed=1))
    parts = data.split(y, 4, "shuffled", seed=1)
    np.testing.assert_array_equal(targets(split=parts), targets(seed=1))


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        ("float64", None, "float64"),
        ("float32", None, "float32"),
        ("int64", None, "float64"),
        ("float64", "float32", "float32"),
        ("float32", np.dtype("float64"), "float64"),
        ("float64", jnp.float16, "float16"),
    ],
)
def test_dtype_follows_the_features_unless_given(given, dtype, expected, x64):
    x, y = make_data("real")
    problem = problems.ridge((4 * x).astype(given), y, 4, dtype=dtype)
    shards = problem.worker_data.shards
    arrays = (problem.init_params, problem.solution, shards.features)
    assert {str(array.dtype) for array in arrays} == {expected}
    wide = np.promote_types(expected, "float32")  # 16 bits have no place for 1/N
    assert shards.weight.dtype == shards.targets.dtype == wide
    gradients = jax.eval_shape(problems.Problem.gradients, problem, problem.init_params)
    assert gradients.dtype == expected


def test_float32_without_x64():  # the constants do not suffer from it: see above
    problem = problems.softmax(*make_data("label"), 4, dtype="float64")
    assert problem.init_params.dtype == jnp.float32
    assert problem.worker_data.shards.targets.dtype == jnp.int32


# What is refused


def replaced(array, index, value):
    array = array.copy()
    array[index] = value
    return array


X, Y = make_data("real")
REFUSED = {
    r"features holds nan at \[5, 3\], expected finite numbers\.": {
        "features": replaced(X, (5, 3), np.nan)
    },
    r"features holds -inf at \[0, 6\]": {"features": replaced(X, (0, 6), -np.inf)},
    r"features holds nan at \[5, 4\]": {
        "features": scipy.sparse.csr_array(replaced(X, (5, 4), np.nan))
    },
    r"targets holds nan at \[9\], expected fin": {"targets": replaced(Y, 9, np.nan)},
    r"targets holds inf at \[0\]": {"targets": replaced(Y, 0, np.inf)},
    r"shape \(43,\), expected \[N, D\]": {"features": X[:, 0]},
    r"shape \(43, 0\), expected \[N, D\]": {"features": X[:, :0]},
    r"shape \(0, 7\), expected \[N, D\]": {"features": X[:0]},
    r"shape \(42,\), expected \(43,\): one for each row": {"targets": Y[:-1]},
    r"targets has shape \(43, 1\), expected \(43,\)": {"targets": Y[:, None]},
    r"regularization is -0\.5, expected a number ": {"regularization": -0.5},
    "regularization is nan, expected a number": {"regularization": np.nan},
    "regularization is inf, expected a number": {"regularization": np.inf},
    "num_workers is 0, expected an integer at least 1": {"num_workers": 0},
    "num_workers is 2.0, expected an integer": {"num_workers": 2.0},
    "num_workers is 44, expected at most": {"num_workers": 44},
    "how is 'random', expected one of shuffled": {"split": "random"},
    "split has 1 parts, expected num_workers=4": {"split": [np.arange(43)]},
    "exactly once; make it with data.split": {"split": np.array_split(range(42), 4)},
    "each of the 43 samples exactly": {"split": np.array_split([0, *range(43)], 4)},
    "for each worker, from 0 to 42": {"split": np.array_split(range(-1, 42), 4)},
    "split is .*integer": {"split": np.array_split(np.arange(43.0), 4)},
    "dtype is 'int32', expected a floating-point dtype": {"dtype": "int32"},
    "features has dtype <U1, expected real": {"features": np.full((43, 1), "a")},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_a_sentence(sentence):
    arguments = {"features": X, "targets": Y, "num_workers": 4} | REFUSED[sentence]
    with pytest.raises(ValueError, match=sentence):
        problems.ridge(**arguments)


@rows
def test_every_loss_checks_its_input(row):
    x, y = make_data(row.targets)
    with pytest.raises(ValueError, match=r"features holds nan at \[1, 1\]"):
        row.factory(replaced(x, (1, 1), np.nan), y, 4, **dict(row.options))
    with pytest.raises(ValueError, match="num_workers is 0, expected an integer"):
        row.factory(x, y, 0, **dict(row.options))


@pytest.mark.parametrize("empty", [[], np.array([], int)], ids=["list", "array"])
def test_a_worker_may_be_without_a_sample(empty):
    parts = [np.arange(NUM_SAMPLES), empty]
    problem = problems.ridge(X, Y, 2, split=parts, regularization=LAM)
    gradients = np.asarray(look(problem, problem.init_params).gradients)
    assert np.abs(gradients[0]).min() > 0
    np.testing.assert_array_equal(gradients[1], 0)
    assert problem.worker_smoothness[1] == pytest.approx(LAM / 2)


ONES, SIGMOID = np.ones(43), problems.nonlinear_least_squares


@pytest.mark.parametrize(
    ("factory", "targets", "sentence"),
    [
        (problems.logistic, ONES, r"regression must have two values, got 1\."),
        (problems.logistic, np.arange(43) % 3, r"must have two values, got 3\."),
        (problems.softmax, ONES, "must have two labels or more, got 1"),
        (SIGMOID, -ONES / 4, r"targets is -0.25, expected .* in \[0, 1\]"),
        (SIGMOID, 1.5 * ONES, "targets is 1.5, expected a number"),
    ],
)
def test_targets_that_do_not_fit_the_loss(factory, targets, sentence):
    with pytest.raises(ValueError, match=sentence):
        factory(X, targets, 4)
