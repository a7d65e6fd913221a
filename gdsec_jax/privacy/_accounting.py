"""An epsilon for rounds of noise, by dp-accounting, and the noise for an epsilon."""

import fractions
import functools
import importlib.util
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from gdsec_jax import _checks

Accountant = Literal["renyi", "loss"]
Sampling = Literal["poisson", "fixed"]
# Rényi's: below 2 the series of a sampled Gaussian converges slowly, or not.
_ORDERS = (*np.arange(2, 12, 0.25), *range(12, 64), *range(64, 513, 16))
_FEW_ORDERS = (*np.arange(2, 8, 0.25), *range(8, 65))  # of fixed sizes: they take long
_SMALLEST, _LARGEST = 1e-2, 1e5  # multipliers that are looked for
_EXACT = 1e-3  # of a multiplier that is found, relative


def epsilon(
    multiplier: Any,
    rounds: Any,
    *,
    delta: float,
    sampling_rate: float = 1.0,
    sampling: Sampling = "poisson",
    accountant: Accountant = "renyi",
) -> Any:
    r"""What so many rounds of Gaussian noise give away of a sample, at most.

    A worker that in each of K rounds adds noise of :math:`\sigma` times the sensitivity
    to a sum, in which each of its samples is with probability q, independently of all
    others, is :math:`(\epsilon, \delta)` differentially private: for all data D and D'
    that differ by one sample, and all sets S of messages,

    .. math:: P[\text{messages}(D) \in S] \le
       e^\epsilon P[\text{messages}(D') \in S] + \delta

    Both ways, adding a sample and removing one. All that is computed of the messages
    afterwards is as private. Of batches of a fixed size D and D' are as many, and one
    sample of D' is another one. The bound is dp-accounting's, of the extra "privacy".

    Args:
      multiplier: :math:`\sigma \ge 0`; 0 guarantees nothing.
      rounds: K, an int of at least 0, or an array of them.
      delta: in (0, 1).
      sampling_rate: q in (0, 1], with which a sample is in a round; 1 for all samples
        in every round.
      sampling: "poisson", each sample by itself; "fixed", batches of a fixed size that
        are drawn anew in each round, without replacement: q is its share of the data.
        Of no other is anything known here.
      accountant: "renyi" by Rényi divergences, which is fast and what `simulate` says;
        "loss" by the distribution of the privacy loss, which is tighter.

    Returns:
      :math:`\epsilon`, a float, or of an array float64 of its shape.

    Raises:
      ValueError: an argument is out of range.
      ImportError: dp-accounting is missing.

    Examples:
      >>> import pytest
      >>> _ = pytest.importorskip("dp_accounting")
      >>> from gdsec_jax import privacy
      >>> round(privacy.epsilon(1.1, 1000, delta=1e-5, sampling_rate=0.01), 2)
      1.71
      >>> privacy.epsilon(1.0, [0, 1], delta=1e-5).round(2).tolist()
      [0.0, 4.73]

    References:
      Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian
      Mechanism, 2019, https://arxiv.org/abs/1908.10530; Doroshenko et al., Connect the
      Dots, 2022, https://arxiv.org/abs/2207.04380
    """
    multiplier = _nonnegative("multiplier", multiplier)
    delta, rate = _chances(delta, sampling_rate)
    _checks.one_of("accountant", accountant, get_args(Accountant))
    _checks.one_of("sampling", sampling, get_args(Sampling))
    if accountant == "loss" and sampling == "fixed":
        raise ValueError(
            "accountant is 'loss' for batches of a fixed size, expected 'renyi'."
        )
    counts = np.asarray(rounds)
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(
            f"rounds is {_checks.shown(rounds)}, expected whole numbers of at least 0."
        )
    different, places = np.unique(counts, return_inverse=True)
    found = [
        _one(multiplier, int(k), delta, rate, sampling, accountant) for k in different
    ]
    values = np.asarray(found, float)[places].reshape(counts.shape)
    return float(values) if counts.ndim == 0 else values


def noise_multiplier(
    epsilon: float,
    rounds: int,
    *,
    delta: float,
    sampling_rate: float = 1.0,
    sampling: Sampling = "poisson",
) -> float:
    r"""The least noise with which so many rounds give away no more than epsilon.

    The inverse of `epsilon`, by Rényi divergences, rounded up to three digits.

    Args:
      epsilon: above 0.
      rounds: K, at least 1.
      delta, sampling_rate, sampling: as in `epsilon`.

    Returns:
      :math:`\sigma`, of `worker.gaussian_noise`.

    Raises:
      ValueError: an argument is out of range, or no multiplier from 0.01 to 100,000
        will do.
      ImportError: dp-accounting is missing.

    Examples:
      >>> import pytest
      >>> _ = pytest.importorskip("dp_accounting")
      >>> from gdsec_jax import privacy
      >>> given = {"delta": 1e-5, "sampling_rate": 0.1}
      >>> sigma = privacy.noise_multiplier(8.0, 500, **given)
      >>> 7.9 < privacy.epsilon(sigma, 500, **given) <= 8.0
      True
    """
    target = _checks.positive("epsilon", epsilon)
    rounds = _checks.integer("rounds", rounds, 1)
    delta, rate = _chances(delta, sampling_rate)
    _checks.one_of("sampling", sampling, get_args(Sampling))

    def spent(multiplier: float) -> float:
        return _one(multiplier, rounds, delta, rate, sampling)

    low, high = np.log(_SMALLEST), np.log(_LARGEST)
    if spent(_LARGEST) > target:
        raise ValueError(
            f"epsilon is {target:g}, expected at least {spent(_LARGEST):.3g}, which "
            f"{rounds} rounds give away with a multiplier of {_LARGEST:g}."
        )
    while high - low > _EXACT / 2:
        middle = (low + high) / 2
        low, high = (middle, high) if spent(np.exp(middle)) > target else (low, middle)
    return float(np.exp(high))


def known() -> bool:
    """Whether there is an accountant to ask."""
    return importlib.util.find_spec("dp_accounting") is not None


def spent_of(multipliers: np.ndarray, rounds: np.ndarray, private: Any) -> np.ndarray:
    """The epsilon of each pair of a multiplier and a count, arrays of one shape.

    Of a problem that is `private`.
    """
    delta, rate, sampling = private.delta, private.sampling_rate, private.sampling
    pairs = np.stack([np.ravel(multipliers), np.ravel(rounds)], axis=1)
    different, places = np.unique(pairs, axis=0, return_inverse=True)
    found = [_one(float(x), int(k), delta, rate, sampling) for x, k in different]
    return np.asarray(found, float)[places].reshape(np.shape(rounds))


@functools.lru_cache(maxsize=2**16)
def _one(
    multiplier: float,
    rounds: int,
    delta: float,
    rate: float,
    sampling: Sampling,
    accountant: Accountant = "renyi",
) -> float:
    if rounds == 0 or multiplier == np.inf:
        return 0.0
    if multiplier == 0:
        return np.inf
    if accountant == "renyi":
        renyi = _imported().rdp.rdp_privacy_accountant

        orders, divergences = _divergences(multiplier, rate, sampling)
        return float(renyi.compute_epsilon(orders, rounds * divergences, delta)[0])
    pld = _imported().pld.PLDAccountant()
    pld.compose(_event(multiplier, rate), rounds)
    return float(pld.get_epsilon(delta))


@functools.lru_cache(maxsize=256)
def _divergences(
    multiplier: float, rate: float, sampling: Sampling
) -> tuple[np.ndarray, np.ndarray]:
    """Rényi's orders, and the divergences of one round at them."""
    events = _imported()
    if sampling == "poisson":
        accountant = events.rdp.RdpAccountant(_ORDERS)
        accountant.compose(_event(multiplier, rate))
    else:
        relation = events.NeighboringRelation.REPLACE_ONE
        accountant = events.rdp.RdpAccountant(_FEW_ORDERS, relation)
        share = fractions.Fraction(rate).limit_denominator(2**31)
        accountant.compose(
            events.SampledWithoutReplacementDpEvent(
                share.denominator,
                share.numerator,
                events.GaussianDpEvent(multiplier),
            )
        )
    return accountant.orders, accountant.rdp


def _event(multiplier: float, rate: float) -> Any:
    """A round, as dp-accounting knows it."""
    events = _imported()
    noise = events.GaussianDpEvent(multiplier)
    return noise if rate == 1 else events.PoissonSampledDpEvent(rate, noise)


def _imported() -> Any:
    try:
        import dp_accounting  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "dp-accounting is missing, expected for an epsilon: "
            "pip install 'gdsec-jax[privacy]'."
        ) from error
    return dp_accounting


def _nonnegative(name: str, value: Any) -> float:
    _checks.number_in_range(name, value, 0.0, _checks.LARGEST)
    return float(value)


def _chances(delta: Any, rate: Any) -> tuple[float, float]:
    for name, value, largest in (
        ("delta", delta, False),
        ("sampling_rate", rate, True),
    ):
        number = isinstance(value, Real) and not isinstance(value, bool)
        known = float(value) if number else 0.0
        if not (0 < known < 1 or (largest and known == 1)):
            to = "(0, 1]" if largest else "(0, 1)"
            raise ValueError(
                f"{name} is {_checks.shown(value)}, expected a number in {to}."
            )
    return float(delta), float(rate)
