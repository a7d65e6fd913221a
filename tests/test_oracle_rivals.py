"""Checks of the oracle of the rivals, by hand and by identities of the field."""

import math

import numpy as np
import oracle
import oracle_rivals as rivals
import pytest

WORKERS = 3
SAMPLES = 60
SHAPE = (4, 2)
LENGTH = 8
LAM = 0.1
FALSE_ALARM = 1e-9  # of one unbiasedness test on a correct compressor


def make_ridge(num_workers: int = WORKERS):
    """Return a well-conditioned ridge: gradient, start, step 1/L and optimum."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(SAMPLES, LENGTH))
    targets = features @ rng.normal(size=LENGTH) + rng.normal(size=SAMPLES)
    parts = np.array_split(rng.permutation(SAMPLES), num_workers)
    gradient = oracle.ridge_gradient(features, targets, parts, LAM)
    alpha = 1.0 / (oracle.gram_norm(features) / SAMPLES + LAM)
    gram = features.T @ features / SAMPLES + LAM * np.eye(LENGTH)
    optimum = np.linalg.solve(gram, features.T @ targets / SAMPLES)
    return gradient, np.zeros(LENGTH), alpha, optimum


def uniforms(rounds: int, num_workers: int = WORKERS) -> np.ndarray:
    return np.random.default_rng(11).random((rounds, num_workers, LENGTH))


def masks(rounds: int, k: int, num_workers: int = WORKERS) -> np.ndarray:
    order = np.argsort(uniforms(rounds, num_workers), axis=2)
    return order < k


def initial(rank: int) -> np.ndarray:
    return np.random.default_rng(12).normal(size=(SHAPE[1], rank))


def identity(k: int, m: int, v: np.ndarray) -> np.ndarray:
    return v


def sums_of_gradients(gradient, thetas: np.ndarray) -> np.ndarray:
    """Return sum_{j <= k} grad f_m(theta^j), [rounds, M, D]."""
    rounds = len(thetas) - 1
    gradients = [
        [gradient(m, thetas[k]) for m in range(WORKERS)] for k in range(rounds)
    ]
    return np.cumsum(gradients, axis=0)


def sums_before(messages: np.ndarray) -> np.ndarray:
    """Return sum_{j < k} messages[j]."""
    return np.cumsum(messages, axis=0) - messages


# Compressors


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0.0, 0.0),
        (1.0, 1.0),
        (1.0 + 2.0**-24, 1.0 + 2.0**-23),
        (1.0 + 2.0**-23, 1.0 + 2.0**-23),
        (1.0 + 2.0**-30, 1.0 + 2.0**-23),
        (1.0 - 2.0**-30, 1.0),
        (1e-300, 2.0**-126),
        (2.0**-126, 2.0**-126),
    ],
)
def test_up32_by_hand(x, expected):
    assert rivals.up32(x) == expected


def test_up32_is_the_least_float32_above():
    for x in np.random.default_rng(0).lognormal(sigma=10.0, size=200):
        scale = rivals.up32(x)
        assert scale == np.float32(scale) and scale >= x
        assert float(np.nextafter(np.float32(scale), np.float32(0))) < x


def test_qsgd_by_hand():
    """|v| = 5 and s = 5: the step is 1; with s = 2 it is 5/2 and x = 1.2, 0, 1.6."""
    v = np.array([3.0, 0.0, -4.0])
    message, scale = rivals.compress_qsgd(v, 5, np.zeros(3))
    assert scale == 1.0
    np.testing.assert_array_equal(message, v)
    message, scale = rivals.compress_qsgd(v, 2, np.array([0.19, 0.0, 0.61]))
    assert scale == 2.5
    np.testing.assert_array_equal(message, [5.0, 0.0, -2.5])
    message, _ = rivals.compress_qsgd(v, 2, np.array([0.21, 0.0, 0.59]))
    np.testing.assert_array_equal(message, [2.5, 0.0, -5.0])


def test_the_levels_are_clipped():
    rounded = rivals._round_to_levels(np.array([-4.5]), 1.0, 4, np.zeros(1))
    np.testing.assert_array_equal(rounded, [-4.0])


def test_terngrad_by_hand():
    message, scale = rivals.compress_terngrad(
        np.array([1.0, -4.0, 2.0, -1.0]), np.array([0.3, 0.99, 0.49, 0.2])
    )
    assert scale == 4.0
    np.testing.assert_array_equal(message, [0.0, -4.0, 4.0, -4.0])


def test_natural_by_hand():
    tiny = 2.0**-126
    v = np.array([3.0, -3.0, 4.0, 0.75, 0.0, tiny / 4, -tiny / 4, -1.5 * tiny])
    u = np.array([0.49, 0.5, 0.0, 0.6, 0.0, 0.24, 0.25, 0.49])
    expected = [4.0, -2.0, 4.0, 0.5, 0.0, tiny, 0.0, -2 * tiny]
    message = rivals.compress_natural(v, u)
    np.testing.assert_array_equal(message, expected)
    assert not np.signbit(message[6])


def test_sign_by_hand():
    message, scale = rivals.compress_sign(np.array([0.0, -3.0, 1.0, -0.0]))
    assert scale == 1.0
    np.testing.assert_array_equal(message, [1.0, -1.0, 1.0, 1.0])
    assert rivals.compress_sign(np.array([0.3]))[1] == float(np.float32(0.3))


def test_grid_by_hand():
    """With b = 2 and |v|_inf = 3 the grid is -3, -1, 1, 3, and halves go up."""
    v = np.array([3.0, 0.0, 1.9, 2.0, -2.0, -2.1, -3.0])
    message, scale = rivals.compress_grid(v, 2)
    assert scale == 1.0
    np.testing.assert_array_equal(message, [3, 1, 1, 3, -1, -3, -3])


def test_grid_is_as_near_as_its_step():
    v = np.random.default_rng(3).normal(size=50)
    for bits in (1, 2, 4, 8):
        message, scale = rivals.compress_grid(v, bits)
        assert np.all(np.abs(v - message) <= scale * (1 + 1e-12))
        assert len(np.unique(message)) <= 2**bits


def test_top_k_by_hand():
    v = np.array([[1.0, -2.0], [2.0, 0.5]])
    np.testing.assert_array_equal(rivals.compress_top_k(v, 1), [[0, -2], [0, 0]])
    np.testing.assert_array_equal(rivals.compress_top_k(v, 2), [[0, -2], [2, 0]])
    np.testing.assert_array_equal(rivals.compress_top_k(v, 4), v)
    ties = np.tile([1.0, -2.0], 500)
    expected = np.where(np.arange(1000) < 600, np.minimum(ties, 0.0), 0.0)
    np.testing.assert_array_equal(rivals.compress_top_k(ties, 300), expected)


def test_rand_k_by_hand():
    v = np.array([1.0, -2.0, 3.0, 4.0])
    mask = np.array([False, True, True, False])
    scaled = rivals.compress_rand_k(v, 2, mask)
    np.testing.assert_array_equal(scaled, [0, -4, 6, 0])
    plain = rivals.compress_rand_k(v, 2, mask, unbiased=False)
    np.testing.assert_array_equal(plain, [0, -2, 3, 0])


def test_zero_is_compressed_to_zero():
    zero, u = np.zeros(3), np.zeros(3)
    for message, scale in (
        rivals.compress_qsgd(zero, 4, u),
        rivals.compress_terngrad(zero, u),
        rivals.compress_grid(zero, 4),
        rivals.compress_sign(zero),
    ):
        assert not message.any() and scale == 0.0
    assert not rivals.compress_natural(zero, u).any()


def test_subnormals_and_negative_zeros_are_flushed():
    v = np.array([-0.0, 5e-324, -1e-310, 1.0])
    for message in (
        rivals.compress_top_k(v, 4),
        rivals.compress_rand_k(v, 4, np.ones(4, dtype=bool)),
    ):
        np.testing.assert_array_equal(message, [0, 0, 0, 1])
        assert not np.signbit(message).any()


V = np.array([0.9, -0.3, 0.05, 0.0, 1.7, -1.1])

# compressor(v, u) and the width of the interval an entry is rounded within
UNBIASED = {
    "qsgd": (
        lambda v, u: rivals.compress_qsgd(v, 2, u)[0],
        np.full(6, np.linalg.norm(V) / 2),
    ),
    "terngrad": (
        lambda v, u: rivals.compress_terngrad(v, u)[0],
        np.full(6, 1.7),
    ),
    "natural": (rivals.compress_natural, np.array([0.5, 0.25, 2.0**-5, 0, 1, 1])),
    "rand_k": (
        lambda v, u: rivals.compress_rand_k(v, 2, np.argsort(u) < 2),
        3 * np.abs(V),
    ),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_compressors(name):
    """By Hoeffding, P(|mean - v_i| >= t) <= 2 exp(-2 n t^2 / width_i^2).

    The tolerance t makes this FALSE_ALARM / D for each entry, so a correct compressor
    fails with at most that probability.  The tolerance is under 4 % of the width.
    """
    compress, width = UNBIASED[name]
    draws = 8000
    rng = np.random.default_rng(21)
    mean = np.mean([compress(V, rng.random(6)) for _ in range(draws)], axis=0)
    t = width * math.sqrt(math.log(2 * 6 / FALSE_ALARM) / (2 * draws))
    assert np.all(t <= 0.04 * width)
    assert np.all(np.abs(mean - V) <= t * (1 + 1e-6))


@pytest.mark.parametrize(
    ("name", "omega"),
    [
        ("qsgd", min(6 / 2**2, math.sqrt(6) / 2)),
        ("terngrad", math.sqrt(6) - 1),
        ("natural", 1 / 8),
    ],
)
def test_variance_is_at_most_omega(name, omega):
    """E|C(v) - v|^2 <= omega |v|^2, the mean over a fine grid of u.

    An entry has two values and a share of the grid that is right to 1/n, so the grid's
    mean is off by at most the sum of the squared widths over n.
    """
    compress, width = UNBIASED[name]
    points = 2000
    grid = (np.arange(points) + 0.5) / points
    errors = [np.sum((compress(V, np.full(6, u)) - V) ** 2) for u in grid]
    slack = np.sum(width**2) / points
    assert 0 < np.mean(errors) <= omega * np.sum(V**2) + slack


# Methods: each has gradient descent as a limit

ROUNDS = 40

EXACT_LIMITS = {
    "cgd": lambda *a: rivals.cgd(*a, xi=0.0),
    "lag": lambda *a: rivals.lag(*a, zeta=0.0),
    "top_j": lambda *a: rivals.top_j(*a, k=LENGTH),
    "rand_k": lambda *a: rivals.rand_k(*a, LENGTH, masks(ROUNDS, LENGTH), False),
    "rand_k_ef": lambda *a: rivals.rand_k(*a, LENGTH, masks(ROUNDS, LENGTH), True),
    "ef21": lambda *a: rivals.ef21(*a, k=LENGTH),
    "ef21_sgdm": lambda *a: rivals.ef21_sgdm(*a, k=LENGTH, eta=1.0),
    "diana": lambda *a: rivals.diana(*a, identity, 0.0),
    "diana_omega": lambda *a: rivals.diana(*a, identity, 3.0),
    "marina": lambda *a: rivals.marina(*a, identity, 1.0, np.ones(ROUNDS, bool)),
    "marina_differences": lambda *a: rivals.marina(
        *a, identity, 0.5, np.zeros(ROUNDS, bool)
    ),
    "clag": lambda *a: rivals.clag(*a, k=LENGTH, zeta=0.0),
    "low_rank": lambda *a: rivals.low_rank(*a, 2, initial(2), SHAPE),
    "power_sgd": lambda *a: rivals.power_sgd(*a, 2, initial(2), SHAPE),
}


@pytest.mark.parametrize("name", EXACT_LIMITS)
def test_the_limit_is_gradient_descent(name):
    gradient, start, alpha, _ = make_ridge()
    arguments = gradient, start, alpha, ROUNDS, WORKERS
    out = EXACT_LIMITS[name](*arguments)
    dense = oracle.gd(*arguments)
    np.testing.assert_allclose(out.thetas, dense.thetas, rtol=0, atol=1e-13)
    assert out.scales.shape == (ROUNDS, WORKERS, 0)
    if name in ("cgd", "lag", "marina"):
        assert out.whole.all()


NEAR_LIMITS = {
    "laq": lambda *a: rivals.laq(*a, bits=30, zeta=0.0),
    "qgd": lambda *a: rivals.qgd(*a, 10**8, uniforms(ROUNDS)),
    "qsgdsec": lambda *a: rivals.qsgdsec(*a, 0.0, 0.1, 10**8, uniforms(ROUNDS)),
}


@pytest.mark.parametrize("name", NEAR_LIMITS)
def test_a_fine_quantiser_is_near_gradient_descent(name):
    gradient, start, alpha, _ = make_ridge()
    arguments = gradient, start, alpha, ROUNDS, WORKERS
    out = NEAR_LIMITS[name](*arguments)
    dense = oracle.gd(*arguments)
    np.testing.assert_allclose(out.thetas, dense.thetas, rtol=0, atol=1e-6)
    assert np.any(out.thetas != dense.thetas)
    assert out.scales.shape == (ROUNDS, WORKERS, 1)
    assert not out.whole.any()


def test_qsgdsec_with_a_fine_quantiser_is_near_gdsec():
    gradient, start, alpha, _ = make_ridge()
    arguments = gradient, start, alpha, ROUNDS, WORKERS
    out = rivals.qsgdsec(*arguments, 2.0, 0.1, 10**9, uniforms(ROUNDS))
    censored = oracle.gdsec(*arguments, 2.0, 0.1)
    np.testing.assert_allclose(out.thetas, censored.thetas, rtol=0, atol=1e-6)
    sent = np.sum(out.messages != 0, axis=2)
    np.testing.assert_array_equal(sent, censored.entries)
    assert np.any(sent < LENGTH)


# Methods: linear ones reach the optimum

LONG = 1500
U_LONG = uniforms(LONG)


def qsgd_messages(levels: int, u: np.ndarray):
    return lambda k, m, v: rivals.compress_qsgd(v, levels, u[k, m])[0]


def rand_k_messages(k: int, which: np.ndarray):
    return lambda r, m, v: rivals.compress_rand_k(v, k, which[r, m])


def coins(rounds: int, p: float) -> np.ndarray:
    return np.random.default_rng(31).random(rounds) < p


LINEAR = {
    "cgd": (1.0, lambda *a: rivals.cgd(*a, xi=0.5)),
    "lag": (1.0, rivals.lag),
    "laq": (1.0, rivals.laq),
    "iag": (
        0.3,
        lambda *a: rivals.iag(*a, np.random.default_rng(1).integers(0, 3, LONG)),
    ),
    "ef21": (0.3, lambda *a: rivals.ef21(*a, k=2)),
    "ef21_sgdm": (0.3, lambda *a: rivals.ef21_sgdm(*a, k=2, eta=0.5)),
    "diana": (
        0.3,
        lambda *a: rivals.diana(
            *a, qsgd_messages(4, U_LONG), min(8 / 16, math.sqrt(8) / 4)
        ),
    ),
    "diana_natural": (
        0.3,
        lambda *a: rivals.diana(
            *a, lambda k, m, v: rivals.compress_natural(v, U_LONG[k, m]), 1 / 8
        ),
    ),
    "marina": (
        0.3,
        lambda *a: rivals.marina(
            *a, rand_k_messages(4, masks(LONG, 4)), 0.5, coins(LONG, 0.5)
        ),
    ),
    "clag": (0.3, lambda *a: rivals.clag(*a, k=2, zeta=1.0)),
    "qsgdsec": (
        0.5,
        lambda *a: rivals.qsgdsec(*a, 0.1, 0.2, 8, U_LONG),
    ),
    "power_sgd": (0.5, lambda *a: rivals.power_sgd(*a, 1, initial(1), SHAPE)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_methods_reach_the_optimum(name):
    gradient, start, alpha, optimum = make_ridge()
    share, method = LINEAR[name]
    out = method(gradient, start, share * alpha, LONG, WORKERS)
    np.testing.assert_allclose(out.thetas[-1], optimum, rtol=0, atol=1e-10)
    sent = np.sum(out.messages != 0)
    if name not in ("diana", "diana_natural", "laq", "qsgdsec", "power_sgd"):
        assert sent < 0.8 * out.messages.size, "no message was saved"


ONE_WORKER_LINEAR = {
    "top_j": lambda *a: rivals.top_j(*a, k=2),
    "rand_k": lambda *a: rivals.rand_k(*a, 2, masks(LONG, 2, 1), True),
    "low_rank": lambda *a: rivals.low_rank(*a, 1, initial(1), SHAPE),
}


@pytest.mark.parametrize("name", ONE_WORKER_LINEAR)
def test_error_feedback_of_one_worker_reaches_the_optimum(name):
    gradient, start, alpha, optimum = make_ridge(1)
    out = ONE_WORKER_LINEAR[name](gradient, start, 0.2 * alpha, LONG, 1)
    np.testing.assert_allclose(out.thetas[-1], optimum, rtol=0, atol=1e-10)


NEIGHBOURHOOD = {
    "rand_k": lambda *a: rivals.rand_k(*a, 4, masks(300, 4), False),
    "sign_ef": rivals.sign_ef,
    "natural": lambda *a: rivals.natural(*a, uniforms(300)),
    "terngrad": lambda *a: rivals.terngrad(*a, uniforms(300)),
    "qgd": lambda *a: rivals.qgd(*a, 4, uniforms(300)),
}


@pytest.mark.parametrize("name", NEIGHBOURHOOD)
def test_the_others_reach_a_neighbourhood(name):
    gradient, start, alpha, optimum = make_ridge()
    out = NEIGHBOURHOOD[name](gradient, start, 0.1 * alpha, 300, WORKERS)
    error = np.linalg.norm(out.thetas[-1] - optimum)
    assert 1e-10 < error < 0.15 * np.linalg.norm(start - optimum)


# Methods: identities


ERROR_FEEDBACK = {
    "top_j": (
        lambda *a: rivals.top_j(*a, k=2),
        lambda k, m, v: rivals.compress_top_k(v, 2),
    ),
    "rand_k": (
        lambda *a: rivals.rand_k(*a, 2, masks(ROUNDS, 2), True),
        lambda k, m, v: np.where(masks(ROUNDS, 2)[k, m], v, 0.0),
    ),
    "sign_ef": (rivals.sign_ef, lambda k, m, v: rivals.compress_sign(v)[0]),
}


@pytest.mark.parametrize("name", ERROR_FEEDBACK)
def test_error_feedback_conserves(name):
    """All messages and the last e_m add up to all gradients of the worker.

    So e_m before a round is sum g - sum msg, and the message is C(g + e_m).
    """
    gradient, start, alpha, _ = make_ridge()
    method, compress = ERROR_FEEDBACK[name]
    out = method(gradient, start, 0.3 * alpha, ROUNDS, WORKERS)
    v = sums_of_gradients(gradient, out.thetas) - sums_before(out.messages)
    for k in range(ROUNDS):
        for m in range(WORKERS):
            expected = compress(k, m, v[k, m])
            np.testing.assert_allclose(out.messages[k, m], expected, rtol=0, atol=1e-6)
    moved = start - 0.3 * alpha * out.messages.sum(axis=(0, 1))
    np.testing.assert_allclose(out.thetas[-1], moved, rtol=0, atol=1e-12)


def test_low_rank_conserves():
    """The message is the projection of V = sum g - sum msg on a space of rank r.

    So it has that rank and is orthogonal, column by column, to what is left in E.
    """
    gradient, start, alpha, _ = make_ridge()
    out = rivals.low_rank(
        gradient, start, 0.3 * alpha, ROUNDS, WORKERS, 1, initial(1), SHAPE
    )
    v = sums_of_gradients(gradient, out.thetas) - sums_before(out.messages)
    for k in range(ROUNDS):
        for m in range(WORKERS):
            message = out.messages[k, m].reshape(SHAPE)
            error = v[k, m].reshape(SHAPE) - message
            assert np.linalg.svd(message)[1][1] <= 1e-12
            np.testing.assert_allclose(message.T @ error, 0.0, rtol=0, atol=1e-12)
            assert np.linalg.norm(message) > 0


def test_from_the_singular_vector_the_message_is_the_best_of_its_rank():
    """With Q = the first right singular vector, msg = sigma_1 u_1 v_1^T."""
    matrix = np.random.default_rng(2).normal(size=SHAPE)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    out = rivals.low_rank(
        lambda m, theta: matrix, np.zeros(SHAPE), 1.0, 1, 1, 1, right[:1].T, SHAPE
    )
    best = values[0] * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(out.messages[0, 0], best, rtol=0, atol=1e-13)


def test_the_factor_is_warm_started():
    """Round 2 of a rank-one run by hand, where the gradient is diag(2, 1) throughout.

    Q = (1, 1): P = (2, 1)/sqrt 5, Q <- V^T P = (4, 1)/sqrt 5, msg = P Q^T =
    [[8, 2], [4, 1]]/5, E = [[2, -2], [-4, 4]]/5.  Then V = [[12, -2], [-4, 9]]/5,
    V Q ~ (46, -7), and msg = P P^T V with P = (46, -7)/sqrt 2165.
    """
    g = np.diag([2.0, 1.0])
    out = rivals.low_rank(
        lambda m, theta: g, np.zeros((2, 2)), 1.0, 2, 1, 1, np.ones((2, 1)), (2, 2)
    )
    first = np.array([[8.0, 2.0], [4.0, 1.0]]) / 5
    np.testing.assert_allclose(out.messages[0, 0], first, rtol=0, atol=1e-14)
    p = np.array([46.0, -7.0]) / math.sqrt(2165)
    second = np.outer(p, p) @ np.array([[12.0, -2.0], [-4.0, 9.0]]) / 5
    np.testing.assert_allclose(out.messages[1, 0], second, rtol=0, atol=1e-14)


def test_power_sgd_of_one_worker_is_low_rank():
    gradient, start, alpha, _ = make_ridge(1)
    arguments = gradient, start, 0.3 * alpha, ROUNDS, 1, 1, initial(1), SHAPE
    shared, alone = rivals.power_sgd(*arguments), rivals.low_rank(*arguments)
    np.testing.assert_allclose(shared.thetas, alone.thetas, rtol=0, atol=1e-13)
    np.testing.assert_allclose(shared.messages, alone.messages, rtol=0, atol=1e-12)


def test_power_sgd_moves_as_one_worker_with_all_the_data():
    """sum msg_m = P P^T sum V_m, so the iterates know only the sum of the V_m."""
    gradient, start, alpha, _ = make_ridge()

    def total(m: int, theta: np.ndarray) -> np.ndarray:
        return sum(gradient(worker, theta) for worker in range(WORKERS))

    rest = 1, initial(1), SHAPE
    many = rivals.power_sgd(gradient, start, 0.3 * alpha, ROUNDS, WORKERS, *rest)
    one = rivals.low_rank(total, start, 0.3 * alpha, ROUNDS, 1, *rest)
    np.testing.assert_allclose(many.thetas, one.thetas, rtol=0, atol=1e-12)
    apart = rivals.low_rank(gradient, start, 0.3 * alpha, ROUNDS, WORKERS, *rest)
    assert np.max(np.abs(apart.thetas - one.thetas)) > 1e-3


def test_a_matrix_theta_is_its_vector():
    gradient, start, alpha, _ = make_ridge()

    def of_matrix(m: int, theta: np.ndarray) -> np.ndarray:
        return gradient(m, theta.ravel()).reshape(SHAPE)

    u, which = uniforms(9), masks(9, 3)
    for method in (
        lambda *a: rivals.low_rank(*a, 1, initial(1), SHAPE),
        lambda *a: rivals.power_sgd(*a, 1, initial(1), SHAPE),
        lambda *a: rivals.top_j(*a, 3),
        lambda *a: rivals.rand_k(*a, 3, which, False),
        lambda *a: rivals.natural(*a, u),
        lambda *a: rivals.terngrad(*a, u),
        lambda *a: rivals.qsgdsec(*a, 0.5, 0.1, 4, u),
        lambda *a: rivals.diana(*a, qsgd_messages(4, u), 0.5),
        rivals.lag,
        rivals.laq,
        rivals.sign_ef,
    ):
        flat = method(gradient, start, 0.3 * alpha, 9, WORKERS)
        matrix = method(of_matrix, start.reshape(SHAPE), 0.3 * alpha, 9, WORKERS)
        assert matrix.messages.shape == (9, WORKERS, *SHAPE)
        np.testing.assert_array_equal(matrix.thetas.reshape(10, -1), flat.thetas)
        np.testing.assert_array_equal(
            matrix.messages.reshape(flat.messages.shape), flat.messages
        )
        np.testing.assert_array_equal(matrix.scales, flat.scales)


def test_initial_factors_of_the_wrong_shape_are_refused():
    gradient, start, alpha, _ = make_ridge()
    with pytest.raises(ValueError, match="initial"):
        rivals.low_rank(gradient, start, alpha, 1, WORKERS, 1, np.ones((4, 1)), SHAPE)


SERVER_KNOWS_THE_SUM = {
    "cgd": lambda *a: rivals.cgd(*a, xi=0.5),
    "lag": rivals.lag,
    "laq": rivals.laq,
    "ef21": lambda *a: rivals.ef21(*a, k=2),
    "clag": lambda *a: rivals.clag(*a, k=2, zeta=1.0),
    "diana": lambda *a: rivals.diana(*a, qsgd_messages(4, uniforms(ROUNDS)), 0.0),
    "marina": lambda *a: rivals.marina(
        *a, rand_k_messages(4, masks(ROUNDS, 4)), 0.5, coins(ROUNDS, 0.5)
    ),
}


@pytest.mark.parametrize("name", SERVER_KNOWS_THE_SUM)
def test_with_difference_1_the_server_steps_with_all_messages_so_far(name):
    gradient, start, alpha, _ = make_ridge()
    alpha *= 0.3
    out = SERVER_KNOWS_THE_SUM[name](gradient, start, alpha, ROUNDS, WORKERS)
    steps = -np.diff(out.thetas, axis=0) / alpha
    expected = np.cumsum(out.messages.sum(axis=1), axis=0)
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-11)


def test_qsgdsec_conserves():
    """sum msg + e = sum (g - h), h = beta times the messages before; msg = C(that)."""
    gradient, start, alpha, _ = make_ridge()
    beta, xi, levels, u = 0.2, 1.0, 8, uniforms(ROUNDS)
    out = rivals.qsgdsec(gradient, start, alpha, ROUNDS, WORKERS, xi, beta, levels, u)
    before = sums_before(out.messages)
    delta = sums_of_gradients(gradient, out.thetas)
    delta -= np.cumsum(beta * before, axis=0) + before
    censored = 0
    for k in range(1, ROUNDS):
        threshold = xi / WORKERS * np.abs(out.thetas[k] - out.thetas[k - 1])
        for m in range(WORKERS):
            v = np.where(np.abs(delta[k, m]) <= threshold, 0.0, delta[k, m])
            censored += np.sum(v == 0)
            expected, scale = rivals.compress_qsgd(v, levels, u[k, m])
            np.testing.assert_allclose(out.messages[k, m], expected, rtol=0, atol=1e-6)
            assert out.scales[k, m, 0] == pytest.approx(scale, rel=1e-6)
    assert censored > 0
    steps = -np.diff(out.thetas, axis=0) / alpha
    expected = (beta * before + out.messages).sum(axis=1)
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-11)


def test_relations_between_the_methods():
    """EF21-SGDM with eta = 1 and CLAG with zeta = 0 are EF21; QGD with s = 1 in the
    maximum norm is TernGrad; DIANA with infinite omega has no memory."""
    gradient, start, alpha, _ = make_ridge()
    arguments = gradient, start, 0.3 * alpha, ROUNDS, WORKERS
    ef21 = rivals.ef21(*arguments, k=2)
    momentum = rivals.ef21_sgdm(*arguments, k=2, eta=1.0)
    lazy = rivals.clag(*arguments, k=2, zeta=0.0)
    for other in (momentum, lazy):
        np.testing.assert_array_equal(other.thetas, ef21.thetas)
        np.testing.assert_array_equal(other.whole, ef21.whole)
    u = uniforms(ROUNDS)
    without = rivals.diana(*arguments, qsgd_messages(4, u), np.inf)
    np.testing.assert_array_equal(without.thetas, rivals.qgd(*arguments, 4, u).thetas)
    one_by_one = rivals.rand_k(*arguments, 3, masks(ROUNDS, 3), False)
    again = rivals.diana(*arguments, rand_k_messages(3, masks(ROUNDS, 3)), np.inf)
    np.testing.assert_array_equal(one_by_one.thetas, again.thetas)


def test_the_constants_of_lag_and_laq():
    gradient, start, alpha, _ = make_ridge()
    arguments = gradient, start, alpha, ROUNDS, WORKERS
    for usual, spelt_out, other in (
        (
            rivals.lag(*arguments),
            rivals.lag(*arguments, zeta=0.1),
            rivals.lag(*arguments, zeta=0.4),
        ),
        (
            rivals.laq(*arguments),
            rivals.laq(*arguments, bits=4, zeta=0.08),
            rivals.laq(*arguments, bits=4, zeta=0.4),
        ),
    ):
        np.testing.assert_array_equal(usual.thetas, spelt_out.thetas)
        assert np.any(usual.thetas != other.thetas)


def test_who_sends_whole_vectors():
    gradient, start, alpha, _ = make_ridge()
    arguments = gradient, start, 0.3 * alpha, ROUNDS, WORKERS
    first = np.zeros((ROUNDS, WORKERS), dtype=bool)
    first[0] = True
    for out in (
        rivals.ef21(*arguments, k=2),
        rivals.ef21_sgdm(*arguments, k=2, eta=0.5),
        rivals.clag(*arguments, k=2, zeta=1.0),
    ):
        np.testing.assert_array_equal(out.whole, first)
        assert np.all(np.sum(out.messages[1:] != 0, axis=2) <= 2)
    flips = coins(ROUNDS, 0.3)
    flips[0] = False
    out = rivals.marina(*arguments, rand_k_messages(2, masks(ROUNDS, 2)), 0.3, flips)
    full = np.array(flips)
    full[0] = True
    np.testing.assert_array_equal(out.whole, np.tile(full[:, None], (1, WORKERS)))
    order = np.arange(ROUNDS) % 2
    out = rivals.iag(*arguments, order)
    np.testing.assert_array_equal(out.whole, order[:, None] == np.arange(WORKERS))
    for out in (rivals.cgd(*arguments, xi=0.5), rivals.lag(*arguments)):
        np.testing.assert_array_equal(out.whole, out.messages.any(axis=2))
        assert not out.whole.all()
    for out in (rivals.laq(*arguments), rivals.sign_ef(*arguments)):
        assert not out.whole.any()


def test_marina_after_a_full_round_steps_with_the_gradient():
    gradient, start, alpha, _ = make_ridge()
    flips = coins(ROUNDS, 0.3)
    which = masks(ROUNDS, 2)
    out = rivals.marina(
        gradient,
        start,
        0.3 * alpha,
        ROUNDS,
        WORKERS,
        rand_k_messages(2, which),
        0.3,
        flips,
    )
    steps = -np.diff(out.thetas, axis=0) / (0.3 * alpha)
    for k in range(1, ROUNDS):
        now = [gradient(m, out.thetas[k]) for m in range(WORKERS)]
        before = [gradient(m, out.thetas[k - 1]) for m in range(WORKERS)]
        if flips[k]:
            np.testing.assert_allclose(steps[k], sum(now), rtol=0, atol=1e-11)
            continue
        for m in range(WORKERS):
            expected = np.where(which[k, m], 4.0 * (now[m] - before[m]), 0.0)
            np.testing.assert_allclose(out.messages[k, m], expected, atol=1e-12)


# Methods: hand-computed runs


def test_censored_descent_by_hand():
    """Two workers send 1/2, theta moves by 1; then v = -1/4 against xi/2."""

    def halving(m: int, theta: np.ndarray) -> np.ndarray:
        return np.where(theta == 0, 0.5, 0.25)

    equal = rivals.cgd(halving, np.zeros(1), 1.0, 2, 2, 0.5)
    np.testing.assert_array_equal(equal.messages[1], 0.0)
    np.testing.assert_array_equal(equal.thetas[:, 0], [0.0, -1.0, -2.0])
    below = rivals.cgd(halving, np.zeros(1), 1.0, 2, 2, 0.49)
    np.testing.assert_array_equal(below.messages[1], -0.25)
    np.testing.assert_array_equal(below.thetas[:, 0], [0.0, -1.0, -1.5])


def test_lag_by_hand():
    """v = -1/2 in round 2, and the right side is zeta |g|^2 = zeta; M = 1."""

    def one_then_half(m: int, theta: np.ndarray) -> np.ndarray:
        return np.where(theta == 0, 1.0, 0.5)

    for alpha in (1.0, 0.25):
        equal = rivals.lag(one_then_half, np.zeros(1), alpha, 2, 1, zeta=0.25)
        np.testing.assert_array_equal(equal.messages[:, 0, 0], [1.0, 0.0])
        below = rivals.lag(one_then_half, np.zeros(1), alpha, 2, 1, zeta=0.2499)
        np.testing.assert_array_equal(below.messages[:, 0, 0], [1.0, -0.5])


@pytest.mark.parametrize(("jump", "sends"), [(1.55, False), (1.6, True)])
def test_lag_looks_back_ten_rounds(jump, sends):
    """theta moves by 1 a round; the right side is 10 zeta = 2.5 = 1.581^2."""

    def late_jump(m: int, theta: np.ndarray) -> np.ndarray:
        return np.where(theta > -15, 1.0, 1.0 + jump)

    out = rivals.lag(late_jump, np.zeros(1), 1.0, 16, 1, zeta=0.25)
    assert not out.messages[1:15].any()
    assert out.messages[15].any() == sends


def test_lag_divides_by_the_square_of_the_workers():
    """Two workers send 1/2 each, theta moves by 1, the right side is zeta/4."""

    def half_then_quarter(m: int, theta: np.ndarray) -> np.ndarray:
        return np.where(theta == 0, 0.5, 0.25)

    equal = rivals.lag(half_then_quarter, np.zeros(1), 1.0, 2, 2, zeta=0.25)
    assert not equal.messages[1].any()
    below = rivals.lag(half_then_quarter, np.zeros(1), 1.0, 2, 2, zeta=0.2499)
    np.testing.assert_array_equal(below.messages[1], -0.25)


def test_laq_by_hand():
    """One bit, gradient (1, 1/2): msg (1, 1), eps = eps_hat = (0, -1/2).

    Then v = (0, -1/2), msg = (1/2, -1/2), eps = (-1/2, 0): |msg|^2 = 1/2 is at most
    3 (1/4 + 1/4), so it is skipped a hundred times in a row and then uploaded.  Now
    h = (3/2, 1/2), v = (-1/2, 0) and the upload's eps = (-1/2, 0): skipped again.
    """

    def constant(m: int, theta: np.ndarray) -> np.ndarray:
        return np.array([1.0, 0.5])

    out = rivals.laq(constant, np.zeros(2), 1.0, 203, 1, bits=1, zeta=0.0)
    np.testing.assert_array_equal(out.messages[0, 0], [1.0, 1.0])
    assert not out.messages[1:101].any() and not out.scales[1:101].any()
    np.testing.assert_array_equal(out.messages[101, 0], [0.5, -0.5])
    assert not out.messages[102:202].any()
    assert out.messages[202].any()
    np.testing.assert_array_equal(out.scales[[0, 101, 202], 0, 0], [1.0, 0.5, 0.5])


def test_laq_weighs_both_errors_by_three():
    """Two bits and zeta = 0; the grid is R times -1, -1/3, 1/3, 1, halves going up.

    Round 1: g = (1, 0.7), msg = (1, 1), eps_hat = (0, -0.3).  Round 2: g = (1 + b, 1),
    v = (b, 0), msg = (b, +-b/3), eps = (0, -+b/3) (the sign depends on how msg was
    rounded): a skip iff (10/9) b^2 <= 3 (b^2/9 + 0.09), that is b <= 0.589.
    """
    for b, skipped in ((0.58, True), (0.6, False)):

        def two_gradients(m: int, theta: np.ndarray, b: float = b) -> np.ndarray:
            return np.array([1 + b, 1.0]) if theta.any() else np.array([1.0, 0.7])

        out = rivals.laq(two_gradients, np.zeros(2), 1.0, 2, 1, bits=2, zeta=0.0)
        np.testing.assert_allclose(out.messages[0, 0], [1.0, 1.0], rtol=1e-6)
        expected = [0.0, 0.0] if skipped else [b, b / 3]
        np.testing.assert_allclose(np.abs(out.messages[1, 0]), expected, rtol=1e-6)


def test_incremental_aggregation_by_hand():
    """f_m = (theta - m)^2 / 2, alpha = 1/2: worker 1 first, then 0, then 1."""

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        return theta - m

    out = rivals.iag(gradient, np.zeros(1), 0.5, 3, 2, np.array([1, 0, 1]))
    # h_1 = -1; theta 1/2, h_0 = 1/2, sum -1/2; theta 3/4, h_1 = -1/4, sum 1/4
    np.testing.assert_array_equal(out.thetas[:, 0], [0.0, 0.5, 0.75, 0.625])
    np.testing.assert_array_equal(
        out.messages[:, :, 0], [[0.0, -1.0], [0.5, 0.0], [0.0, 0.75]]
    )


def test_clag_by_hand():
    """One worker; after round 1 (h = g) the gradient moves by d: v = d and g - p = d.

    With zeta = 1 that is not above, so it waits; in round 3 v = 2 d, above d.
    """

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        return np.array([1.0, 1.0]) - np.round(theta[0]) * np.array([0.0, 0.25])

    out = rivals.clag(gradient, np.zeros(2), 1.0, 3, 1, k=1, zeta=1.0)
    np.testing.assert_array_equal(out.messages[0, 0], [1.0, 1.0])
    np.testing.assert_array_equal(out.messages[1, 0], [0.0, 0.0])
    np.testing.assert_array_equal(out.messages[2, 0], [0.0, 0.5])
    eager = rivals.clag(gradient, np.zeros(2), 1.0, 2, 1, k=1, zeta=0.99)
    np.testing.assert_array_equal(eager.messages[1, 0], [0.0, 0.25])


def test_momentum_by_hand():
    """g = 1, then 3: v = 1, then (3/4) 1 + (1/4) 3 = 3/2."""

    def gradient(m: int, theta: np.ndarray) -> np.ndarray:
        return np.where(theta == 0, 1.0, 3.0)

    out = rivals.ef21_sgdm(gradient, np.zeros(1), 1.0, 2, 1, k=1, eta=0.25)
    np.testing.assert_array_equal(out.messages[:, 0, 0], [1.0, 0.5])
    np.testing.assert_array_equal(out.thetas[:, 0], [0.0, -1.0, -2.5])


def test_diana_by_hand():
    """omega = 1 and C(v) = 2 v then 0: h = msg/2 = g, and the steps are 2 g, g."""

    def compress(k: int, m: int, v: np.ndarray) -> np.ndarray:
        return 2.0 * v if k == 0 else 0.0 * v

    out = rivals.diana(
        lambda m, theta: np.ones(1), np.zeros(1), 1.0, 2, 1, compress, 1.0
    )
    np.testing.assert_array_equal(out.thetas[:, 0], [0.0, -2.0, -3.0])


def test_marina_refuses_a_probability_of_zero():
    with pytest.raises(ValueError, match="probability"):
        rivals.marina(identity, np.zeros(1), 1.0, 1, 1, identity, 0.0, np.ones(1, bool))


def test_a_silent_worker_is_not_whole():
    out = rivals.lag(lambda m, theta: np.zeros(2), np.zeros(2), 1.0, 2, 1)
    assert not out.whole.any()
    out = rivals.ef21(lambda m, theta: np.zeros(2), np.zeros(2), 1.0, 2, 1, k=1)
    assert not out.whole.any()


# Bits


@pytest.mark.parametrize(
    ("number", "b", "codeword"),
    [
        (0, 0, "0"),
        (3, 0, "1110"),
        (0, 2, "000"),
        (3, 2, "011"),
        (4, 2, "1000"),
        (9, 2, "11001"),
        (9, 5, "001001"),
    ],
)
def test_rice_codewords(number, b, codeword):
    assert rivals.rice(number, b) == codeword


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ([0, 0, 0], 0),
        # gamma(2) = 3 bits, b in 5, run 0 with b = 0 in 1, the value in 4
        ([7, 0, 0], 3 + 5 + 1 + 4),
        # gamma(3) = 3; runs 0 and 2: b = 0 costs 1 + 3, b = 1 costs 2 + 3
        ([7, 0, 0, 7], 3 + 5 + 4 + 8),
        # gamma(2) = 3; run 9: b = 0, 1, 2, 3, 4 cost 10, 6, 5, 5, 5
        ([0] * 9 + [7], 3 + 5 + 5 + 4),
        # gamma(4) = 5; runs 3, 3, 3: b = 0, 1, 2 cost 12, 9, 9
        ([0, 0, 0, 7] * 3, 5 + 5 + 9 + 12),
    ],
)
def test_golomb_by_hand(message, expected):
    assert rivals.golomb_bits(np.array(message, dtype=np.float64), 4) == expected


def test_golomb_takes_the_cheapest_parameter():
    message = np.zeros(1000)
    message[np.random.default_rng(0).choice(1000, 7, replace=False)] = 1.0
    costs = [len(rivals.golomb_string(message, 32, b)) for b in range(32)]
    assert rivals.golomb_bits(message, 32) == min(costs) < costs[0]
    assert costs[31] == 7 + 5 + 7 * (1 + 31 + 32)  # gamma(8) = 7 bits


@pytest.mark.parametrize(
    ("sent", "length", "index_bits"),
    [
        (1, 1, 0),
        (1, 2, 1),
        (1, 300, 9),
        (2, 4, 3),  # C = 6
        (1, 8, 3),
        (8, 8, 0),
        (3, 10, 7),  # C = 120
        (2, 17, 8),  # C = 136
    ],
)
def test_entropy_by_hand(sent, length, index_bits):
    message = np.zeros(length)
    message[:sent] = 1.0
    assert rivals.entropy_bits(message, 32) == index_bits + 32 * sent


def test_entropy_is_exact_for_long_messages():
    """C(2^20, 1) = 2^20 needs 20 bits and C(2^20 + 1, 1) needs 21."""
    message = np.zeros(2**20 + 1)
    message[5] = 1.0
    assert rivals.entropy_bits(message[:-1], 32) == 20 + 32
    assert rivals.entropy_bits(message, 32) == 21 + 32


@pytest.mark.parametrize("bits", [rivals.golomb_bits, rivals.entropy_bits])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zeros_and_subnormals(bits, dtype):
    limits = np.finfo(dtype)
    silent = np.array([0.0, -0.0, limits.smallest_subnormal], dtype=dtype)
    assert bits(silent, 32) == 0
    mixed = np.array([0.0, -0.0, limits.smallest_subnormal, -limits.tiny], dtype=dtype)
    clean = np.array([0.0, 0.0, 0.0, 1.0], dtype=dtype)
    assert bits(mixed, 32) == bits(clean, 32) > 0
    assert type(bits(mixed, 32)) is int


def test_quantised_messages_by_hand():
    """D = 8, n = 1 at the front: gamma(2) + gamma(1) + v as run lengths."""
    message = np.zeros(8)
    message[0] = -2.0
    assert rivals.quantised_bits(message, "rle", 1 + 3, 1) == 3 + 1 + 4 + 32  # s = 7
    assert rivals.quantised_bits(message, "bitmap", 1, 1) == 8 + 1 + 32  # terngrad
    assert rivals.quantised_bits(message, "coo", 9, 0) == 4 + 3 + 9  # natural
    assert rivals.quantised_bits(message, "dense", 4, 1) == 32 + 4 * 8  # laq
    assert rivals.quantised_bits(message, oracle.dense_bits, 1, 1) == 32 + 8  # sign
    assert rivals.quantised_bits(message, "rle", 4, 3) == 3 + 1 + 4 + 96
    for form in rivals.FORMS:
        assert rivals.quantised_bits(np.zeros(8), form, 4, 1) == 0
