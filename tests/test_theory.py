"""The steps that papers recommend, from constants computed by NumPy."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS

import gdsec_jax
from gdsec_jax import problems, simulate, theory, worker

M, D, SAMPLES = 5, 7, 60
PARTS = np.split(np.random.default_rng(1).permutation(SAMPLES), [5, 15, 30, 48])
ARGUMENTS = {method.name: method.arguments for method in METHODS}
COMPRESSED = ("locodl", "dasha_pp", "adiana")
ARGUMENTS |= {name: {"compressor": worker.random_k(3)} for name in COMPRESSED}
ARGUMENTS |= {"scaffnew": {}, "tamuna": {}, "marina_p": {}}
PROVEN = {
    *("gd", "qgd", "natural", "terngrad", "rand_k"),
    *("ef21", "clag", "diana", "marina", "ef_bv", "threepc", "dasha"),
    *("scaffnew", "tamuna", "locodl", "dasha_pp", "marina_p", "adiana"),
    "ef21_p",
}
SAFE = {"gdsec": (1 / 8, 1 / 4), "gdsoec": (1 / 3, 1 / 2), "cgd": (1 / 3, 1 / 2)}


rng = np.random.default_rng(0)
X = rng.standard_normal((SAMPLES, D)) * np.linspace(0.3, 2.0, SAMPLES)[:, None]
Y = rng.standard_normal(SAMPLES)


def largest(rows):
    return np.linalg.eigvalsh(rows.T @ rows)[-1] / SAMPLES


# Of ridge regression with lambda = 1 / N: L, L_m, L_max and L~.
L = largest(X) + 1 / SAMPLES
WORKERS = np.array([largest(X[part]) + 1 / SAMPLES / M for part in PARTS])
L_MAX, L_TILDE = M * WORKERS.max(), math.sqrt(M * (WORKERS**2).sum())


@pytest.fixture(scope="module")
def problem():
    return problems.ridge(X, Y, M, split=PARTS)


def recommended(problem, method, **parameters):
    ours = theory(method, problem, **parameters)
    assert ours.learning_rate > 0 and isinstance(ours.learning_rate, float)
    proven = method in PROVEN
    if method in SAFE:
        proven = parameters.get("xi", 0.0) < SAFE[method][1] * L
    assert ours.heuristic != proven
    assert ours.source
    return ours


def memoryless(omega):
    return 1 / (L + 2 * omega * L_MAX / M)


def ef21(kept):
    t = 1 - math.sqrt(1 - kept)
    return 1 / (L + L_TILDE * math.sqrt((1 - kept) / t / t))


def three_points(a, b):
    return 1 / (L + L_TILDE * math.sqrt(b / a))


def ef_bv(nu, beta, eta, omega, joint):
    r = (1 - beta + beta * eta) ** 2 + beta**2 * omega
    average = (1 - nu + nu * eta) ** 2 + nu**2 * joint / M
    s = math.sqrt((1 + r) / (2 * r)) - 1
    return 1 / (L + L_TILDE * math.sqrt(average / r) / s)


def dasha(omega, joint):
    return 1 / (L + 4 * L_TILDE * math.sqrt(joint * (2 * omega + 1) / M))


def dasha_pp(omega, joint, p, left):
    noise = (48 * joint * (2 * omega + 1) + 16 * left) / M / p**2
    return 1 / (L + L_TILDE * math.sqrt(noise))


def adiana(omega, p):
    return min(1 / 2, M / (64 * omega * (2 * p * (omega + 1) + 1) ** 2)) / L_MAX


FIRST = np.abs(X.T @ Y) / SAMPLES  # of the gradient at 0
PERM_K, LEFT = worker.perm_k(M), 1 - 3 / 7  # omega = 4, joint 5; of top-3


def test_the_constants_are_those_of_the_problem(problem):
    assert problem.smoothness == pytest.approx(L, rel=1e-5)
    np.testing.assert_allclose(problem.worker_smoothness, WORKERS, rtol=1e-5)
    assert len(set(WORKERS.round(3))) == M and L_MAX > 1.2 * L_TILDE > 1.2 * L


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        ("gd", {}, 1 / L),
        ("lag", {"zeta": 0.5}, 1 / L),
        ("iag", {}, 1 / (M * L)),
        ("ef21_p", {"k": 3}, 3 / 7 / 8 / L),
        ("sign_majority", {}, FIRST.sum() / 7 / L / 100),
        ("demo", {}, FIRST.sum() / 7 / L / 100),
        ("ef21_muon", {"k": 3}, np.linalg.norm(FIRST) / L / 100),
        ("one_bit_adam", {"warmup": 9, "eps": 0.25}, 0.25 / L),
        ("one_bit_adam", {"warmup": 9}, FIRST.mean() / 10 / L),
        ("qgd", {"levels": 2}, memoryless(min(7 / 4, math.sqrt(7) / 2))),
        ("qgd", {"levels": 4}, memoryless(7 / 16)),
        ("qgd", {}, memoryless(7 / 225)),
        ("natural", {}, memoryless(1 / 8)),
        ("terngrad", {}, memoryless(math.sqrt(7) - 1)),
        ("rand_k", {"k": 2}, memoryless(7 / 2 - 1)),
        ("rand_k", {"k": 0.5}, memoryless(7 / 4 - 1)),
        ("rand_k", {"k": 7}, 1 / L),
        ("ef21", {"k": 3}, ef21(3 / 7)),
        ("ef21", {"k": 0.1}, ef21(1 / 7)),
        ("ef21", {"k": 7}, 1 / L),
        ("ef21", {"k": 100}, 1 / L),
        ("ef21_sgdm", {"k": 3, "eta": 0.25}, 0.25 * ef21(3 / 7)),
        ("ef21_sgdm", {"k": 3}, 0.1 * ef21(3 / 7)),
        ("clag", {"k": 3, "zeta": 0.0}, ef21(3 / 7)),
        ("diana", {"compressor": worker.random_k(2)}, 1 / (L_MAX * (1 + 6 * 2.5 / M))),
        ("diana", {"compressor": worker.whole()}, 1 / L_MAX),
        ("marina", {"compressor": worker.whole()}, 1 / L),
        (
            "marina",
            {"compressor": worker.random_k(2)},
            1 / (L + L_TILDE * math.sqrt((1 - 2 / 7) * 2.5 / (2 / 7 * M))),
        ),
        (
            "marina",
            {"compressor": worker.natural(), "probability": 0.3},
            1 / (L + L_TILDE * math.sqrt(0.7 / 8 / (0.3 * M))),
        ),
        ("marina", {"compressor": worker.random_k(2), "probability": 1.0}, 1 / L),
        ("marina", {"compressor": PERM_K}, 1 / (L + L_TILDE * math.sqrt(4 * 5 / M))),
        ("diana", {"compressor": PERM_K}, 1 / (L_MAX * (1 + 6 * 5 / M))),
        (
            "ef_bv",
            {"compressor": worker.random_k(2)},
            ef_bv(1 / (1 + 2.5 / M), 1 / 3.5, 0.0, 2.5, 2.5),
        ),
        ("ef_bv", {"compressor": PERM_K}, ef_bv(1 / 2, 1 / 5, 0.0, 4.0, 5.0)),
        ("ef_bv", {"compressor": worker.top_k(3)}, ef_bv(1, 1, LEFT**0.5, 0, 0)),
        (
            "ef_bv",
            {"compressor": worker.sign(), "nu": 0.5, "beta": 0.25},
            ef_bv(0.5, 0.25, (6 / 7) ** 0.5, 0.0, 0.0),
        ),
        ("ef_bv", {"compressor": worker.whole()}, 1 / L),
        (
            "ef_bv",
            {"compressor": worker.whole(), "nu": 0.5},
            1 / (L + L_TILDE * math.sqrt(0.5)),
        ),
        ("threepc", {"k": 3, "variant": "v1"}, three_points(1, LEFT)),
        ("threepc", {"k": 3}, three_points(3 / 7, LEFT * (7 / 3 - 1))),
        (
            "threepc",
            {"k": 3, "variant": "v2", "second_k": 2},
            three_points(3 / 7, LEFT * 2.5),
        ),
        (
            "threepc",
            {"k": 3, "variant": "v4", "second_k": 2},
            ef21(1 - LEFT * 5 / 7),
        ),
        (
            "threepc",
            {"k": 3, "variant": "v5", "probability": 0.3},
            three_points(1 - 0.7**0.5, 0.7 * LEFT / (1 - 0.7**0.5)),
        ),
        ("threepc", {"k": 7, "variant": "v5"}, 1 / L),
        ("dasha", {"compressor": worker.random_k(2)}, dasha(2.5, 2.5)),
        ("dasha", {"compressor": PERM_K}, dasha(4, 5)),
        ("econtrol", {"k": 3}, 0.2 / L),
        ("scaffnew", {}, 1.0),
        ("tamuna", {}, 1.0),
        ("locodl", {"compressor": worker.random_k(2)}, 1.0),
        ("dasha_pp", {"compressor": worker.random_k(2)}, dasha_pp(2.5, 2.5, 1, 0)),
        (
            "dasha_pp",
            {"compressor": PERM_K, "cohort": 2},
            dasha_pp(4, 5, 2 / 5, 1 - 2 / 20 / (2 / 5)),
        ),
        ("marina_p", {}, 1 / (L + L_MAX * math.sqrt((4 / 5) * 4 / (1 / 5)))),
        (
            "marina_p",
            {"probability": 0.5, "compressor": worker.random_k(2)},
            1 / (L + L_MAX * math.sqrt(2.5)),
        ),
        ("marina_p", {"probability": 1.0}, 1 / L),
        ("adiana", {"compressor": worker.random_k(2)}, adiana(2.5, 1 / 7)),
        (
            "adiana",
            {"compressor": worker.random_k(6), "probability": 1.0},
            adiana(7 / 6 - 1, 1.0),
        ),
        ("adiana", {"compressor": worker.whole()}, 1 / 2 / L_MAX),
    ],
)
def test_steps(problem, method, parameters, expected):
    ours = recommended(problem, method, **parameters)
    assert ours.learning_rate == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 6, 7])
@pytest.mark.parametrize("zeta", [0.0, 0.5, 1.0, 30.0])
def test_clag(problem, k, zeta):
    a = 1 - math.sqrt(1 - k / D)
    b = max((1 - k / D) / a, zeta)
    expected = 1 / (L + L_TILDE * math.sqrt(b / a))
    ours = recommended(problem, "clag", k=k, zeta=zeta)
    assert ours.learning_rate == pytest.approx(expected, rel=1e-5)
    if zeta == 1.0:  # the default of the method
        assert recommended(problem, "clag", k=k) == ours


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_constants_of_3pc_v5_are_the_best_of_their_kind(share):
    """E|x - h+|^2 <= (1 - p)((1 + s)|h - y|^2 + (1 + 1/s)(1 - alpha)|x - y|^2)."""
    s = np.geomspace(1e-3, 1e3, 200_001)
    a, b = 1 - (1 - share) * (1 + s), (1 - share) * (1 + 1 / s) * LEFT
    own = 1 - math.sqrt(1 - share)
    best = (b[a > 0] / a[a > 0]).min()
    assert (1 - share) * LEFT / own**2 == pytest.approx(best, rel=1e-6)


def test_dasha_with_another_momentum_is_heuristic(problem):
    compressor = worker.random_k(2)
    own = theory("dasha", problem, compressor=compressor)
    assert own.parameters == {"momentum": pytest.approx(1 / 6)} and not own.heuristic
    other = theory("dasha", problem, compressor=compressor, momentum=0.5)
    assert other.heuristic and other.parameters == {"momentum": 0.5}


def test_error_feedback_makes_rand_k_heuristic(problem):
    ours = theory("rand_k", problem, k=2, error_feedback=True)
    assert ours.heuristic and ours.learning_rate == pytest.approx(1 / L, rel=1e-5)


def test_parameters(problem):
    assert theory("gd", problem).parameters == {}
    assert theory("ef21", problem, k=2).parameters == {}
    compressor = worker.random_k(2)
    assert theory("diana", problem, compressor=compressor).parameters == {
        "beta": pytest.approx(2 / 7)
    }
    assert theory("marina", problem, compressor=compressor).parameters == {
        "probability": pytest.approx(2 / 7)
    }
    largest, mu = M * float(problem.worker_smoothness.max()), 1 / SAMPLES
    for name, given, expected in (
        ("tamuna", {"owners": 3}, math.sqrt(5 / 3 * mu / largest)),
        (
            "locodl",
            {"compressor": compressor},
            math.sqrt(3.5 * (1 + 2.5 / M) * mu / 2 / largest),
        ),
    ):
        own = theory(name, problem, **given).parameters
        assert own["local_learning_rate"] == pytest.approx(1 / largest)
        assert own["probability"] == pytest.approx(expected)
        assert own.get("strong_convexity", mu) == pytest.approx(mu)
    own = theory("dasha_pp", problem, compressor=compressor, cohort=2).parameters
    assert own == {"momentum": pytest.approx(0.4 / 6)}
    own = theory("adiana", problem, compressor=compressor)
    assert own.parameters["learning_rate"] == own.learning_rate
    chances = theory("iag", problem).parameters["probabilities"]
    np.testing.assert_allclose(chances, WORKERS / WORKERS.sum(), rtol=1e-5)
    gdsec_jax.iag(M, probabilities=chances)
    for method in ("lag", "laq"):
        ours = theory(method, problem)
        assert ours.parameters == {"learning_rate": ours.learning_rate}


@pytest.mark.parametrize("method", SAFE)
def test_a_xi_that_is_safe_whatever_else(problem, method):
    ours, (share, bound) = theory(method, problem), SAFE[method]
    assert not ours.heuristic and ours.learning_rate == pytest.approx(1 / L, rel=1e-5)
    assert ours.parameters == {"xi": pytest.approx(share * L, rel=1e-5)}
    for xi, heuristic in ((0.99 * bound * L, False), (1.01 * bound * L, True)):
        given = theory(method, problem, xi=xi)
        assert given.heuristic is heuristic and given.parameters == {}
    x = np.random.default_rng(0).standard_normal((12, 3))
    bumpy = problems.nonlinear_least_squares(x, np.full(12, 0.5), 3)
    assert not theory(method, bumpy).heuristic
    assert theory(method, problems.minibatch(problem, 2)).heuristic


def small(method, rng):
    """Random smooth f_m whose sum has L = 1: their gradients, f, and its minimum."""
    m, d = rng.integers(1, 6), rng.integers(1, 8)
    if method == "quadratic":
        roots = rng.normal(size=(m, 3, d))
        hessians = np.einsum("mki,mkj->mij", roots, roots)
        hessians /= np.linalg.eigvalsh(hessians.sum(0))[-1]
        return m, d, lambda t: hessians @ t, lambda t: t @ hessians.sum(0) @ t / 2
    rows = rng.normal(size=(m, d))  # 1 - cos of each: not convex
    rows /= np.linalg.norm(rows, 2)
    where = rng.normal(size=m)
    return (
        *(m, d, lambda t: np.sin(rows @ t - where)[:, None] * rows),
        lambda t: (1 - np.cos(rows @ t - where)).sum(),
    )


def worst(choices, after, f):
    return max(choices, key=lambda chosen: f(after(chosen)[0]))


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("kind", ["quadratic", "waves"])
@pytest.mark.parametrize("bold", [False, True], ids=["recommended", "near the bound"])
def test_the_bounds_of_the_page_hold(corrected, kind, bold):
    """Whoever censors what it may: all, some of it, or what does the most harm."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        m, d, gradients, f = small(kind, rng)
        x, beta = rng.uniform(0.02, 1.98), rng.uniform()
        if not corrected:
            x = min(x, 1 / x)
        q = (0.98 * (2 - x) / 4) if bold else (2 - x) / (4 + 4 * x)
        q = q if corrected else (0.49 if bold else 1 / 3)
        theta, h, e = rng.normal(size=d), np.zeros((m, d)), np.zeros((m, d))
        before, first, squares, lengths = theta, f(theta), 0.0, 0.0
        for _ in range(40):
            step, v = np.abs(theta - before), gradients(theta) - h + e
            squares += (gradients(theta).sum(0) ** 2).sum()
            may = np.abs(v) <= q / x / m * step

            def after(censored, v=v, h=h, theta=theta, x=x):
                sent = np.where(censored, 0.0, v)
                return theta - x * (h + sent).sum(0), sent

            choices = [may & (rng.random(v.shape) < p) for p in (0.0, 0.5, 0.5)]
            choices += [may, may & (v > 0), may & (v < 0)]
            new, sent = after(worst(choices if seed % 2 else choices[1:4:2], after, f))
            unsent = (v - sent).sum(0)
            assert np.all(np.abs(unsent) <= q / x * step + 1e-12)
            h, e = h + beta * sent, (v - sent) * corrected
            before, theta = theta, new
            lengths += ((theta - before) ** 2).sum()
            if corrected:
                assert lengths <= (x / (1 - 2 * q)) ** 2 * squares * (1 + 1e-9)
                shown, lost = f(theta - x * unsent), x / 2 + x * q / (1 - 2 * q)
                assert shown <= first - x * (1 - lost) * squares + 1e-12
            else:
                assert lengths <= (x / (1 - q)) ** 2 * squares * (1 + 1e-9)
                left = 1 - (q / (1 - q)) ** 2
                assert f(theta) <= first - x / 2 * left * squares + 1e-12


def test_ef21_p_contracts_as_its_docstring_says():
    """Of quadratics and top-k; the step is where the bound is used up."""
    rng = np.random.default_rng(3)
    for k in (1, 3, 6) * 5:
        q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
        curvatures = np.concatenate([[1.0, 0.05], rng.uniform(0.05, 1.0, 4)])
        hessian, alpha = q * curvatures @ q.T, k / 6
        gamma, w = alpha / 8, rng.standard_normal(6)  # L = 1, mu = 0.05, solution 0
        x = w + rng.standard_normal(6) * rng.choice([0, 1, 10])
        for _ in range(20):
            before = x @ x + 12 * gamma / alpha * (w - x) @ (w - x)
            x = x - gamma * hessian @ w
            change = x - w
            kept = np.argsort(-np.abs(change))[:k]
            w[kept] = x[kept]
            after = x @ x + 12 * gamma / alpha * (w - x) @ (w - x)
            assert after <= (1 - gamma * 0.05 / 2) * before


def test_leaves_have_scopes(problem):
    tree = dataclasses.replace(
        problem, init_params={"a": jnp.zeros(4), "b": jnp.zeros((3, 4))}
    )
    for scope, d in (("message", 16), ("leaf", 12)):
        ours = theory("qgd", tree, levels=3, scope=scope)
        omega = min(d / 9, math.sqrt(d) / 3)
        assert ours.learning_rate == pytest.approx(memoryless(omega), rel=1e-5)
        ours = theory("terngrad", tree, scope=scope)
        expected = memoryless(math.sqrt(d) - 1)
        assert ours.learning_rate == pytest.approx(expected, rel=1e-5)
        ours = theory("ef21", tree, k=2, scope=scope)
        assert ours.learning_rate == pytest.approx(ef21(2 / d), rel=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_an_answer(problem, method):
    ours = recommended(problem, method.name, **method.arguments)
    assert 0 < ours.learning_rate <= 1.00001 / L
    others = {"iag", "ef21_sgdm", "econtrol", "sign_majority", "demo", "ef21_muon"}
    if method.name not in PROVEN | others:
        assert ours.learning_rate == pytest.approx(1 / L, rel=1e-5)
    getattr(gdsec_jax, method.name)(M, **(method.arguments | ours.parameters))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROVEN | set(SAFE)))
def test_proven_steps_do_not_diverge(problem, name):
    ours = theory(name, problem, **({} if name in SAFE else ARGUMENTS[name]))
    algorithm = getattr(gdsec_jax, name)(M, **(ARGUMENTS[name] | ours.parameters))
    optimizer = optax.chain(algorithm, optax.sgd(ours.learning_rate))
    history = simulate(problem, optimizer, 3000, eval_every=100)
    assert history.objective_error[-1] < 0.5 * history.initial_error


def test_bad_input(problem):
    with pytest.raises(ValueError, match="problem is <function ridge.*expected a Pro"):
        gdsec_jax.theory("gd", problems.ridge)
    with pytest.raises(
        ValueError, match="method is 'newton', expected one of gd, gdsec"
    ):
        theory("newton", problem)
    for value in (None, 0.0, float("nan"), -1.0):
        unknown = dataclasses.replace(problem, smoothness=value)
        message = rf"smoothness of {problem.name} is {value}, expected a number above 0"
        with pytest.raises(ValueError, match=message):
            theory("gd", unknown)
    of_compressors = ("diana", "marina", "ef_bv", "dasha", *COMPRESSED)
    of_k = ("ef21", "ef21_sgdm", "clag", "rand_k", "threepc", "ef21_p")
    for method in of_k + of_compressors:
        name = "compressor" if method in of_compressors else "k"
        message = f"{method} needs the parameter {name} for its step"
        with pytest.raises(ValueError, match=message):
            theory(method, problem)
    unknown = dataclasses.replace(problem, worker_smoothness=None)
    assert theory("gdsec", unknown).learning_rate == pytest.approx(1 / L, rel=1e-5)
    for method in (*sorted(PROVEN - {"gd", "ef21_p"}), "iag", "ef21_sgdm"):
        with pytest.raises(ValueError, match="worker_smoothness is not known, which"):
            theory(method, unknown, **ARGUMENTS[method])
    with pytest.raises(ValueError, match="expected a worker.Piece that declares its"):
        theory("diana", problem, compressor=worker.top_k(1))
    with pytest.raises(ValueError, match="k is 0, expected an int of at least 1"):
        theory("ef21", problem, k=0)


MARINA = {"compressor": worker.random_k(3), "probability": 0.0}


def test_theory_refuses_what_is_none_of_the_methods(problem):
    for name, given, message in (
        ("qgd", {"level": 4}, "qgd has no parameter level"),
        ("gd", {"reduction": "mean"}, "reduction is 'mean', expected 'sum'"),
        ("gd", {"weights": [1.0]}, "weights is given, expected None"),
        ("clag", {"k": 3, "zeta": -1.0}, "zeta is -1, expected a number at least 0"),
        ("ef21_sgdm", {"k": 3, "eta": 5.0}, "eta is 5, expected a number in"),
        (
            "ef_bv",
            {"compressor": worker.random_k(1), "beta": 1.0},
            "beta is 1.0, for which the memories are not sure to approach",
        ),
        ("ef_bv", {"compressor": worker.grid(2)}, "its variance or its contraction"),
        ("threepc", {"k": 3, "variant": "v3"}, "variant is 'v3', expected one of v1"),
        ("marina", MARINA, "probability is 0, expected a number in"),
    ):
        with pytest.raises(ValueError, match=message):
            theory(name, problem, **given)


def test_steps_are_heuristic_where_the_theorems_do_not_hold(problem):
    stochastic = problems.minibatch(problem, 2)
    assert gdsec_jax.theory("gd", stochastic).heuristic
    x = np.random.default_rng(0).standard_normal((12, 3))
    bumpy = problems.nonlinear_least_squares(x, np.full(12, 0.5), 3)
    assert gdsec_jax.theory("qgd", bumpy).heuristic
    assert not gdsec_jax.theory("ef21", bumpy, k=1).heuristic
