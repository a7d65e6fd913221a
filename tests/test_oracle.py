"""Checks of the oracle itself, by hand-computed cases and by identities."""

import numpy as np
import oracle
import pytest

WORKERS = 3
SAMPLES = 40
LENGTH = 6
LAM = 0.05


def make_parts() -> list[np.ndarray]:
    """Return shuffled, uneven index sets, one a worker."""
    order = np.random.default_rng(1).permutation(SAMPLES)
    return np.split(order, [8, 25])


def make_problem(name: str):
    """Return (objective maker, gradient maker, features, targets, theta)."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(SAMPLES, LENGTH))
    theta = rng.normal(size=LENGTH)
    signs = np.where(rng.random(SAMPLES) < 0.5, -1.0, 1.0)
    if name == "ridge":
        makers = oracle.ridge_objective, oracle.ridge_gradient
        return (*makers, features, rng.normal(size=SAMPLES), theta)
    if name == "logistic":
        makers = oracle.logistic_objective, oracle.logistic_gradient
        return (*makers, features, signs, theta)
    if name == "softmax":
        makers = oracle.softmax_objective, oracle.softmax_gradient
        labels = rng.integers(0, 4, size=SAMPLES)
        return (*makers, features, labels, rng.normal(size=(LENGTH, 4)))
    if name == "lasso":
        makers = oracle.lasso_objective, oracle.lasso_subgradient
        return (*makers, features, rng.normal(size=SAMPLES), theta)
    makers = (
        oracle.nonlinear_least_squares_objective,
        oracle.nonlinear_least_squares_gradient,
    )
    return (*makers, features, rng.random(SAMPLES), theta)


PROBLEMS = ["ridge", "logistic", "softmax", "lasso", "nonlinear_least_squares"]


def finite_differences(objective, theta: np.ndarray, step: float = 1e-5):
    """Return the central differences of an objective, entry by entry."""
    out = np.zeros_like(theta)
    for index in np.ndindex(theta.shape):
        shift = np.zeros_like(theta)
        shift[index] = step
        change = objective(theta + shift) - objective(theta - shift)
        out[index] = change / (2 * step)
    return out


def make_ridge(lam: float = LAM):
    """Return a ridge gradient, its start and its step 1/L."""
    _, make_gradient, features, targets, _ = make_problem("ridge")
    gradient = make_gradient(features, targets, make_parts(), lam)
    alpha = 1.0 / (oracle.gram_norm(features) / SAMPLES + lam)
    return gradient, np.zeros(LENGTH), alpha


# Problems


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_sum_to_the_gradient_of_the_objective(name):
    make_objective, make_gradient, features, targets, theta = make_problem(name)
    gradient = make_gradient(features, targets, make_parts(), LAM)
    total = sum(gradient(m, theta) for m in range(WORKERS))
    expected = finite_differences(make_objective(features, targets, LAM), theta)
    np.testing.assert_allclose(total, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_worker_has_the_gradient_of_its_own_f_m(name):
    """f_m is |S_m|/N times the objective on S_m with lam N / (M |S_m|)."""
    make_objective, make_gradient, features, targets, theta = make_problem(name)
    parts = make_parts()
    gradient = make_gradient(features, targets, parts, LAM)
    for m, part in enumerate(parts):
        share = len(part) / SAMPLES
        local = make_objective(features[part], targets[part], LAM / WORKERS / share)
        expected = share * finite_differences(local, theta)
        np.testing.assert_allclose(gradient(m, theta), expected, rtol=1e-7, atol=1e-8)


def test_the_lasso_takes_zero_for_the_sign_of_zero():
    _, make_gradient, features, targets, _ = make_problem("lasso")
    parts = make_parts()
    with_penalty = make_gradient(features, targets, parts, LAM)
    without = make_gradient(features, targets, parts, 0.0)
    zero = np.zeros(LENGTH)
    np.testing.assert_array_equal(with_penalty(0, zero), without(0, zero))


@pytest.mark.parametrize("name", ["logistic", "softmax", "nonlinear_least_squares"])
def test_large_scores_do_not_overflow(name):
    make_objective, make_gradient, features, targets, theta = make_problem(name)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        value = make_objective(features, targets, LAM)(1e4 * theta)
        slope = make_gradient(features, targets, make_parts(), LAM)(0, 1e4 * theta)
    assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_gram_norm_is_the_squared_spectral_norm():
    features = make_problem("ridge")[2]
    expected = np.linalg.norm(features, 2) ** 2
    assert oracle.gram_norm(features) == pytest.approx(expected, rel=1e-12)
    assert oracle.gram_norm(np.diag([3.0, -5.0])) == pytest.approx(25.0)


# Methods


def test_gradient_descent_reaches_the_ridge_closed_form():
    _, _, features, targets, _ = make_problem("ridge")
    gradient, start, alpha = make_ridge()
    out = oracle.gd(gradient, start, alpha, 400, WORKERS)
    gram = features.T @ features / SAMPLES + LAM * np.eye(LENGTH)
    expected = np.linalg.solve(gram, features.T @ targets / SAMPLES)
    np.testing.assert_allclose(out.thetas[-1], expected, rtol=0, atol=1e-12)
    assert np.all(out.entries == LENGTH)
    assert not out.server_memory.any() and not out.worker_memory.any()
    assert not out.errors.any()


@pytest.mark.parametrize("method", [oracle.gdsec, oracle.gdsoec])
@pytest.mark.parametrize("beta", [0.0, 0.01, 0.5, 1.0])
def test_without_censoring_the_iterates_are_gradient_descents(method, beta):
    gradient, start, alpha = make_ridge()
    dense = oracle.gd(gradient, start, alpha, 60, WORKERS)
    out = method(gradient, start, alpha, 60, WORKERS, 0.0, beta)
    np.testing.assert_allclose(out.thetas, dense.thetas, rtol=0, atol=1e-14)
    assert not out.errors.any()


@pytest.mark.parametrize("beta", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("xi", [0.3, 2.0, np.linspace(0.0, 3.0, LENGTH)])
def test_conservation_law(xi, beta):
    """The sum of all (h + messages), plus the last e_m, is the sum of gradients."""
    gradient, start, alpha = make_ridge()
    rounds = 50
    out = oracle.gdsec(gradient, start, alpha, rounds, WORKERS, xi, beta)
    stepped = out.server_memory[:-1].sum(axis=0) + out.messages.sum(axis=(0, 1))
    gradients = np.zeros(LENGTH)
    for k in range(rounds):
        for m in range(WORKERS):
            gradients += gradient(m, out.thetas[k])
    expected = gradients - out.errors[-1].sum(axis=0)
    np.testing.assert_allclose(stepped, expected, rtol=0, atol=1e-11)
    assert out.errors.any(), "nothing was censored: the check would be empty"


@pytest.mark.parametrize("method", [oracle.gdsec, oracle.gdsoec])
def test_server_memory_is_the_sum_of_the_worker_memories(method):
    gradient, start, alpha = make_ridge()
    out = method(gradient, start, alpha, 50, WORKERS, 0.5, 0.1)
    total = out.worker_memory.sum(axis=1)
    np.testing.assert_allclose(out.server_memory, total, rtol=0, atol=1e-13)
    assert out.server_memory.any()


def test_gdsoec_keeps_no_errors_and_still_censors():
    gradient, start, alpha = make_ridge()
    out = oracle.gdsoec(gradient, start, alpha, 50, WORKERS, 2.0, 0.01)
    assert not out.errors.any()
    assert np.any(out.entries[1:] < LENGTH)
    np.testing.assert_array_equal(out.entries, np.sum(out.messages != 0, axis=2))


def test_an_array_xi_censors_each_coordinate_by_its_own_threshold():
    gradient, start, alpha = make_ridge()
    xi = np.zeros(LENGTH)
    xi[2] = 1e9
    out = oracle.gdsec(gradient, start, alpha, 2, WORKERS, xi, 0.1)
    assert np.all(out.messages[0] != 0), "the threshold of round 1 is zero"
    assert not out.messages[1, :, 2].any()
    assert np.all(np.delete(out.messages[1], 2, axis=1) != 0)
    uniform = oracle.gdsec(gradient, start, alpha, 9, WORKERS, 0.7, 0.1)
    spread = np.full(LENGTH, 0.7)
    again = oracle.gdsec(gradient, start, alpha, 9, WORKERS, spread, 0.1)
    np.testing.assert_array_equal(uniform.thetas, again.thetas)


def one_then_half(m: int, theta: np.ndarray) -> np.ndarray:
    """Return 1 at theta = 0 and 1/2 elsewhere, for one worker."""
    return np.where(theta == 0, 1.0, 0.5)


def test_a_hand_computed_run_with_equality_censored():
    """Round 2 has |delta| = 1/2 = xi |theta change|; then theta stands still."""
    out = oracle.gdsec(one_then_half, np.zeros(1), 1.0, 3, 1, 0.5, 0.0)
    np.testing.assert_array_equal(out.messages[:, 0, 0], [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(out.errors[:, 0, 0], [0.0, 0.0, 0.5, 0.0])
    np.testing.assert_array_equal(out.thetas[:, 0], [0.0, -1.0, -1.0, -2.0])
    np.testing.assert_array_equal(out.entries[:, 0], [1, 0, 1])
    without = oracle.gdsoec(one_then_half, np.zeros(1), 1.0, 3, 1, 0.5, 0.0)
    np.testing.assert_array_equal(without.messages[:, 0, 0], [1.0, 0.0, 0.5])


def two_workers(m: int, theta: np.ndarray) -> np.ndarray:
    """Return the gradients of (1/2) theta^2 - 2 theta and of 4 theta."""
    return theta - 2.0 if m == 0 else np.full_like(theta, 4.0)


def test_a_hand_computed_run_of_two_workers_with_memory():
    """With alpha = 1/2, xi = 3 and beta = 1/2.

    Round 1: messages -2 and 4, theta 0 -> -1, h_m = -1 and 2, h = 1.
    Round 2: threshold (3/2)|-1| = 1.5; delta_0 = -3 + 1 = -2 and delta_1 = 4 - 2 = 2
    are sent; theta -> -1 - (1 + 0)/2 = -1.5, h_m = -2 and 3, h = 1.
    Round 3: threshold 0.75; delta_0 = -3.5 + 2 = -1.5, delta_1 = 1 are sent;
    theta -> -1.5 - (1 - 0.5)/2 = -1.75, h_m = -2.75 and 3.5, h = 0.75.
    Round 4: threshold 0.375; delta_0 = -3.75 + 2.75 = -1 and delta_1 = 0.5 are sent;
    theta -> -1.75 - (0.75 - 0.5)/2 = -1.875.
    """
    out = oracle.gdsec(two_workers, np.zeros(1), 0.5, 4, 2, 3.0, 0.5)
    np.testing.assert_array_equal(out.thetas[:, 0], [0.0, -1.0, -1.5, -1.75, -1.875])
    expected = [[-2.0, 4.0], [-2.0, 2.0], [-1.5, 1.0], [-1.0, 0.5]]
    np.testing.assert_array_equal(out.messages[:, :, 0], expected)
    np.testing.assert_array_equal(out.server_memory[:4, 0], [0.0, 1.0, 1.0, 0.75])
    memories = [[0.0, 0.0], [-1.0, 2.0], [-2.0, 3.0], [-2.75, 3.5]]
    np.testing.assert_array_equal(out.worker_memory[:4, :, 0], memories)


def test_the_threshold_is_divided_by_the_number_of_workers():
    """As above with xi = 4: round 2's threshold is 2, so both are censored."""
    out = oracle.gdsec(two_workers, np.zeros(1), 0.5, 2, 2, 4.0, 0.5)
    np.testing.assert_array_equal(out.messages[:, :, 0], [[-2.0, 4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(out.errors[2, :, 0], [-2.0, 2.0])
    np.testing.assert_array_equal(out.thetas[:, 0], [0.0, -1.0, -1.5])
    just_below = oracle.gdsec(two_workers, np.zeros(1), 0.5, 2, 2, 3.999, 0.5)
    np.testing.assert_array_equal(just_below.messages[1, :, 0], [-2.0, 2.0])


def test_softmax_parameters_keep_their_shape():
    _, make_gradient, features, targets, theta = make_problem("softmax")
    gradient = make_gradient(features, targets, make_parts(), LAM)
    dense = oracle.gd(gradient, 0 * theta, 0.5, 5, WORKERS)
    out = oracle.gdsec(gradient, 0 * theta, 0.5, 5, WORKERS, 0.0, 0.1)
    assert out.messages.shape == (5, WORKERS, *theta.shape)
    np.testing.assert_allclose(out.thetas, dense.thetas, rtol=0, atol=1e-14)


# Bits


@pytest.mark.parametrize(
    ("number", "codeword"),
    [(1, "1"), (2, "010"), (3, "011"), (4, "00100"), (8, "0001000")],
)
def test_elias_gamma_codewords(number, codeword):
    assert oracle.elias_gamma(number) == codeword


@pytest.mark.parametrize(
    ("message", "codewords"),
    [
        # n = 2: gamma(3); two zeros: gamma(3); one zero: gamma(2)
        ([0, 0, 5, 0, 7], ["011", "011", "v" * 4, "010", "v" * 4]),
        # n = 1: gamma(2); seven zeros: gamma(8)
        ([0, 0, 0, 0, 0, 0, 0, 1], ["010", "0001000", "v" * 4]),
        # n = 3: gamma(4); no zeros before any: gamma(1) three times
        ([1, 2, 3], ["00100", "1", "v" * 4, "1", "v" * 4, "1", "v" * 4]),
        # n = 1: gamma(2); no zeros before; the zeros at the end cost nothing
        ([9, 0, 0, 0], ["010", "1", "v" * 4]),
    ],
)
def test_rle_by_hand(message, codewords):
    message = np.array(message, dtype=np.float64)
    assert oracle.rle_string(message, 4) == "".join(codewords)
    assert oracle.rle_bits(message, 4) == sum(map(len, codewords))


def test_one_top_1_message_by_the_rules_of_different_papers():
    message = np.zeros(300)
    message[299] = 1.0
    assert oracle.values_only_bits(message, 32) == 32
    assert oracle.coo_bare_bits(message, 32) == 41
    assert oracle.coo64_bits(message) == 64
    assert oracle.bitmap_bits(message, 32) == 332
    assert oracle.coo_bits(message, 32) == 9 + 41
    assert oracle.dense_bits(message, 32) == 9600
    assert oracle.rle_bits(message, 32) == 3 + 17 + 32  # gamma(2), gamma(300)


@pytest.mark.parametrize(
    ("length", "count_bits", "index_bits"),
    [(1, 1, 0), (2, 2, 1), (3, 2, 2), (4, 3, 2), (5, 3, 3), (8, 4, 3), (9, 4, 4)],
)
def test_widths_of_the_coo_fields(length, count_bits, index_bits):
    message = np.ones(length)
    expected = count_bits + length * (index_bits + 32)
    assert oracle.coo_bits(message, 32) == expected


FORMATS = [
    oracle.rle_bits,
    oracle.coo_bits,
    oracle.bitmap_bits,
    oracle.dense_bits,
    oracle.coo_bare_bits,
    oracle.values_only_bits,
]


@pytest.mark.parametrize("bits", FORMATS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zeros_and_subnormals(bits, dtype):
    limits = np.finfo(dtype)
    silent = np.array([0.0, -0.0, limits.smallest_subnormal], dtype=dtype)
    assert bits(silent, 32) == 0
    assert type(bits(silent, 32)) is int
    mixed = np.array([0.0, -0.0, limits.smallest_subnormal, -limits.tiny], dtype=dtype)
    clean = np.array([0.0, 0.0, 0.0, 1.0], dtype=dtype)
    assert bits(mixed, 32) == bits(clean, 32) > 0
    assert type(bits(mixed, 32)) is int


@pytest.mark.parametrize("bits", FORMATS)
def test_a_nan_is_an_entry(bits):
    assert bits(np.array([0.0, np.nan]), 32) == bits(np.array([0.0, 1.0]), 32)


def test_a_message_must_be_one_vector():
    with pytest.raises(ValueError, match="one dimension"):
        oracle.rle_bits(np.ones((2, 2)), 32)
