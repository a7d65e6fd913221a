"""Epsilon by dp-accounting, against formulas of our own and published numbers."""

import importlib.util
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy

import gdsec_jax
from gdsec_jax import History, data, privacy, problems, worker

needs_accountant = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None,
    reason="dp-accounting, of the extra privacy, is not installed",
)


def divergence(order, multiplier, rate):
    """Rényi's, of a whole order, of the sampled Gaussian: Mironov et al., 2019."""
    if rate == 1:
        return order / (2 * multiplier**2)
    k = np.arange(order + 1)
    terms = (
        scipy.special.gammaln(order + 1)
        - scipy.special.gammaln(k + 1)
        - scipy.special.gammaln(order - k + 1)
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + (k * k - k) / (2 * multiplier**2)
    )
    return scipy.special.logsumexp(terms) / (order - 1)


def by_formula(multiplier, rounds, delta, rate, classic=False):
    """Over whole orders; `classic` with the conversion of the first papers."""
    found = []
    for order in range(2, 257):
        spent = rounds * divergence(order, multiplier, rate)
        if classic:
            found.append(spent + math.log(1 / delta) / (order - 1))
        else:  # Canonne, Kamath, Steinke, 2020, proposition 12
            found.append(
                spent
                + math.log1p(-1 / order)
                - (math.log(delta) + math.log(order)) / (order - 1)
            )
    return min(found)


@needs_accountant
@pytest.mark.parametrize(
    ("multiplier", "rounds", "delta", "rate"),
    [(1.1, 1000, 1e-5, 0.01), (4.0, 500, 1e-4, 0.1), (8.0, 300, 1e-5, 1.0)],
)
def test_epsilon_is_that_of_the_formula(multiplier, rounds, delta, rate):
    given = {"delta": delta, "sampling_rate": rate}
    ours = privacy.epsilon(multiplier, rounds, **given)
    formula = by_formula(multiplier, rounds, delta, rate)
    assert 0.98 * formula < ours <= formula * 1.02
    tight = privacy.epsilon(multiplier, rounds, accountant="loss", **given)
    assert 0.75 * ours < tight <= ours


@needs_accountant
@pytest.mark.parametrize(
    ("published", "multiplier", "rounds", "rate"),
    [
        # Opacus, compute_dp_sgd_privacy; Bu et al., Deep Learning with Gaussian
        # Differential Privacy, 2020, figure 4: 60 and 20 epochs of MNIST.
        (2.95, 1.12, 14062, 256 / 60000),
        (1.34, 1.3, 4687, 256 / 60000),
        (1.26, 4.0, 10000, 0.01),  # Abadi et al., 2016, section 3.1
    ],
)
def test_published_examples(published, multiplier, rounds, rate):
    classic = by_formula(multiplier, rounds, 1e-5, rate, classic=True)
    # Of whole orders alone; some of theirs are fewer, or finer.
    assert classic == pytest.approx(published, rel=0.01)
    # Later conversions are tighter, and hold as well.
    ours = privacy.epsilon(multiplier, rounds, delta=1e-5, sampling_rate=rate)
    assert 0.7 * published < ours <= published


@needs_accountant
@pytest.mark.parametrize(("multiplier", "rate"), [(2.0, 0.1), (4.0, 0.5)])
def test_batches_of_a_fixed_size_are_below_the_general_bound(multiplier, rate):
    """Wang, Balle, Kasiviswanathan, 2019, theorem 9; theirs of Gaussians is tighter."""
    rounds, delta, found = 50, 1e-5, []
    gaussian = lambda order: order / (2 * multiplier**2)  # noqa: E731
    for order in range(2, 65):
        j = np.arange(3, order + 1)
        log_binomial = scipy.special.gammaln(order + 1) - (
            scipy.special.gammaln(j + 1) + scipy.special.gammaln(order - j + 1)
        )
        terms = j * math.log(rate) + log_binomial + math.log(2)
        terms = terms + (j - 1) * gaussian(j)
        second = min(4 * math.expm1(gaussian(2)), 2 * math.exp(gaussian(2)))
        second = math.log(rate**2 * math.comb(order, 2) * second)
        spent = scipy.special.logsumexp([0.0, second, *terms]) / (order - 1)
        found.append(
            rounds * spent
            + math.log1p(-1 / order)
            - (math.log(delta) + math.log(order)) / (order - 1)
        )
    given = {"delta": delta, "sampling_rate": rate, "sampling": "fixed"}
    ours = privacy.epsilon(multiplier, rounds, **given)
    assert 0.5 * min(found) < ours <= 1.00001 * min(found)
    whole = privacy.epsilon(multiplier, rounds, delta=delta)
    assert privacy.epsilon(multiplier, rounds, **given | {"sampling_rate": 1.0}) == (
        pytest.approx(whole, rel=0.02)
    )
    sigma = privacy.noise_multiplier(8.0, rounds, **given)
    assert 7.9 < privacy.epsilon(sigma, rounds, **given) <= 8.0


@needs_accountant
def test_a_run_of_batches_of_a_fixed_size_is_accounted_as_such():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    drawn = problems.minibatch(problems.ridge(x, y, 4), 5, replacement=False)
    problem = problems.private(drawn, 1.0, delta=1e-3)
    noise = worker.gaussian_noise(3.0, problem.private.sensitivity)
    method = gdsec_jax.gdsec(4, 1.0, noise=noise, key=1)
    optimizer = optax.chain(method, optax.sgd(0.05))
    history = gdsec_jax.simulate(problem, optimizer, 6, key=0)
    expected = privacy.epsilon(
        3.0, np.arange(1, 7), delta=1e-3, sampling_rate=0.5, sampling="fixed"
    )
    np.testing.assert_allclose(history.epsilon, expected, rtol=1e-5)
    assert history.attributes["private"]["sampling"] == "fixed"


@needs_accountant
def test_one_round_of_all_samples_is_the_analytic_gaussian_mechanism():
    """Balle and Wang, 2018, theorem 8; of K rounds with the multiplier / sqrt(K)."""
    for multiplier, rounds in ((1.0, 1), (3.0, 9), (20.0, 50)):
        sigma = multiplier / math.sqrt(rounds)

        def delta_of(epsilon, sigma=sigma):
            phi = scipy.stats.norm.cdf
            first, second = (
                0.5 / sigma - epsilon * sigma,
                -0.5 / sigma - epsilon * sigma,
            )
            return phi(first) - math.exp(epsilon) * phi(second)

        exact = scipy.optimize.brentq(lambda e: delta_of(e) - 1e-5, 0, 50)
        tight = privacy.epsilon(multiplier, rounds, delta=1e-5, accountant="loss")
        assert tight == pytest.approx(exact, rel=2e-3)
        assert privacy.epsilon(multiplier, rounds, delta=1e-5) >= exact


@needs_accountant
def test_the_multiplier_for_an_epsilon_is_its_inverse():
    for target in (0.5, 1.0, 8.0):
        given = {"delta": 1e-5, "sampling_rate": 0.2}
        sigma = privacy.noise_multiplier(target, 200, **given)
        assert privacy.epsilon(sigma, 200, **given) <= target
        assert privacy.epsilon(sigma * 0.998, 200, **given) > target
    with pytest.raises(ValueError, match="epsilon is 1e-09, expected at least"):
        privacy.noise_multiplier(1e-9, 10**6, delta=1e-5)


@needs_accountant
def test_arrays_of_rounds():
    found = privacy.epsilon(2.0, np.arange(5), delta=1e-5, sampling_rate=0.1)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
    assert privacy.epsilon(0.0, 3, delta=1e-5) == np.inf


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"delta": 0.0}, "delta is 0.0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"sampling_rate": 0.0}, "sampling_rate is 0.0"),
        ({"sampling_rate": "poisson"}, "sampling_rate is 'poisson'"),
        ({"multiplier": -1.0}, "multiplier"),
        ({"rounds": -1}, "rounds is -1"),
        ({"rounds": 1.5}, "rounds is 1.5"),
        ({"accountant": "moments"}, "accountant is 'moments'"),
        ({"sampling": "shuffled"}, "sampling is 'shuffled'"),
        (
            {"sampling": "fixed", "accountant": "loss"},
            "accountant is 'loss' for batches of a fixed size",
        ),
    ],
)
def test_what_no_accountant_takes(given, words):
    whole = {"multiplier": 1.0, "rounds": 1, "delta": 1e-5} | given
    with pytest.raises(ValueError, match=words):
        privacy.epsilon(**whole)


def run(method="gdsec", rounds=12, multiplier=3.0, rate=0.5, uplink=None, **options):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    problem = problems.poisson(problems.ridge(x, y, 4), rate)
    problem = problems.private(problem, 1.0, delta=1e-3)
    noise = worker.gaussian_noise(multiplier, problem.private.sensitivity, **options)
    arguments = {"xi": 1.0} if method == "gdsec" else {}
    algorithm = getattr(gdsec_jax, method)(4, noise=noise, key=1, **arguments)
    optimizer = optax.chain(algorithm, optax.sgd(0.05))
    return gdsec_jax.simulate(problem, optimizer, rounds, key=0, uplink=uplink)


@needs_accountant
def test_a_run_says_what_it_has_given_away(tmp_path):
    history = run()
    given = {"delta": 1e-3, "sampling_rate": 0.5}
    expected = privacy.epsilon(3.0, np.arange(1, 13), **given)
    np.testing.assert_allclose(history.epsilon, expected, rtol=1e-5)
    assert f"epsilon {expected[-1]:.3g} at delta 0.001" in history.summary()
    assert history.attributes["private"]["sampling_rate"] == 0.5
    history.save(tmp_path / "run.nc")
    again = History.load(tmp_path / "run.nc")
    assert (again.epsilon == history.epsilon).all()
    assert again.summary() == history.summary()


@needs_accountant
def test_who_takes_part_oftenest_counts():
    rule = gdsec_jax.participation.round_robin(4, 0.5)
    history = run(uplink=gdsec_jax.Uplink(participation=rule))
    most = np.cumsum(history.participants, axis=0).max(axis=1)
    expected = privacy.epsilon(3.0, most, delta=1e-3, sampling_rate=0.5)
    np.testing.assert_allclose(history.epsilon, expected, rtol=1e-5)
    assert most[-1] == 6


@needs_accountant
def test_central_noise_is_as_much_as_take_part():
    whole = run("gd", trust="central").epsilon
    local = run("gd").epsilon
    np.testing.assert_allclose(whole, local, rtol=1e-6)
    rule = gdsec_jax.participation.round_robin(4, 0.5)
    half = run("gd", trust="central", uplink=gdsec_jax.Uplink(participation=rule))
    most = np.cumsum(half.participants, axis=0).max(axis=1)
    given = {"delta": 1e-3, "sampling_rate": 0.5}
    expected = [privacy.epsilon(3.0 / math.sqrt(2), k, **given) for k in most]
    np.testing.assert_allclose(half.epsilon, expected, rtol=1e-4)


def one_then_nobody_then_all(key, number):
    del key
    return jnp.select([number < 2, number == 2], [jnp.arange(4) < 1, False], True)


@needs_accountant
def test_central_noise_that_was_too_little_once_stays_so():
    rule = gdsec_jax.Uplink(participation=one_then_nobody_then_all)
    found = run("gd", 6, trust="central", uplink=rule).epsilon
    given = {"delta": 1e-3, "sampling_rate": 0.5}
    expected = privacy.epsilon(3.0 / 2, [1, 2, 2, 3, 4, 5], **given)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@needs_accountant
def test_a_first_round_that_nobody_hears_gives_nothing_away():
    rule = gdsec_jax.Uplink(participation=lambda key, number: number + jnp.zeros(4) > 0)
    assert run("gd", 2, trust="central", uplink=rule).epsilon[0] == 0


def test_what_is_sent_beside_noise_without_any_is_refused():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    plain = problems.from_loss(
        lambda p, s: (s.weight * (s.features @ p["a"] + p["b"] - s.targets) ** 2).sum(),
        data.stack(*map(np.float32, (x, y)), data.split(y, 4)),
        {"a": jnp.zeros(3), "b": jnp.zeros(())},
    )
    problem = problems.private(plain, 1.0, delta=1e-3)
    noise = worker.gaussian_noise(1.0, problem.private.sensitivity)
    each = {"one": gdsec_jax.gd(4, noise=noise, key=0), "other": gdsec_jax.gd(4)}
    algorithm = optax.partition(each, {"a": "one", "b": "other"})
    with pytest.raises(ValueError, match="has 2 algorithms and one adds noise"):
        gdsec_jax.simulate(problem, optax.chain(algorithm, optax.sgd(0.1)), 2)


@needs_accountant
def test_a_sweep_over_noise_says_it_of_each_setting():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    problem = problems.private(problems.ridge(x, y, 4), 1.0, delta=1e-3)

    def make(multiplier):
        noise = worker.gaussian_noise(multiplier, problem.private.sensitivity)
        return optax.chain(gdsec_jax.gdsec(4, 1.0, noise=noise, key=0), optax.sgd(0.1))

    swept = gdsec_jax.sweep(problem, make, {"multiplier": [5.0, 10.0]}, 8, eval_every=4)
    for n, sigma in enumerate((5.0, 10.0)):
        expected = privacy.epsilon(sigma, [4, 8], delta=1e-3)
        np.testing.assert_allclose(swept["epsilon"].values[n], expected, rtol=1e-5)


def test_noise_in_two_places_has_no_epsilon():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    problem = problems.private(problems.ridge(x, y, 4), 1.0, delta=1e-3)
    noise = worker.gaussian_noise(1.0, problem.private.sensitivity)
    one = gdsec_jax.gd(4, noise=noise, key=0)
    labels = {"all": one, "none": gdsec_jax.gd(4, noise=noise, key=1)}
    optimizer = optax.partition(labels, "all")
    tree = {"a": np.zeros(3), "b": np.zeros(3)}
    optimizer = optax.partition(labels, {"a": "all", "b": "none"})
    state = optimizer.init(tree)
    from inside import _spent

    sent = gdsec_jax.last_round(state)
    with pytest.raises(ValueError, match="adds noise in 2 places"):
        _spent.spent(_spent.nothing(state), state, sent)
