"""The step of each method, from the constants of a problem."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import optax

from gdsec_jax import _checks, worker
from gdsec_jax._theory._directions import (
    along_orthogonal,
    along_signs,
    first_gradient,
)
from gdsec_jax.algorithms import METHODS
from gdsec_jax.algorithms._after_ef21 import ef_bv_constants, ef_bv_weights
from gdsec_jax.algorithms._own_points import adiana_probability
from gdsec_jax.problems import Problem
from gdsec_jax.worker._three_points import Variant


class Theory(NamedTuple):
    """What is recommended for a method on a problem."""

    learning_rate: float  # alpha or gamma, of the step behind the algorithm
    parameters: dict[str, Any]  # further arguments of the algorithm
    heuristic: bool  # no theorem that we know gives this step
    source: str  # where it comes from


def _workers(problem: Problem) -> np.ndarray:
    """L_m, if they are known."""
    known = problem.worker_smoothness
    if known is None or not np.isfinite(known).all():
        raise ValueError(
            "the problem's worker_smoothness is not known, which this method's step "
            "needs: set the learning rate."
        )
    return np.asarray(known, np.float64)


# Of f = (1/M) sum of M f_m, as papers write it.


def _largest(problem: Problem) -> float:
    """L_max."""
    return float(problem.num_workers * _workers(problem).max())


def _mean_square(problem: Problem) -> float:
    """L~."""
    return math.sqrt(problem.num_workers * float((_workers(problem) ** 2).sum()))


def gradient_descent(problem: Problem, parameters) -> Theory:
    del parameters
    return Theory(1 / float(problem.smoothness), {}, True, "gradient descent's step")


def _censored(recommended: float, bound: float) -> Callable:
    """A step 1/L, safe with xi below `bound` L."""

    def step(problem: Problem, parameters) -> Theory:
        smoothness = float(problem.smoothness)
        xi = parameters.get("xi")
        known = isinstance(xi, int | float) and 0 <= xi < bound * smoothness
        own = {"xi": recommended * smoothness} if xi is None else {}
        return Theory(1 / smoothness, own, not (known or own), "docs/theory.md")

    return step


def _iag(problem: Problem, parameters) -> Theory:
    del parameters
    workers = _workers(problem)
    chances = {"probabilities": workers / workers.sum()}
    step = 1 / (problem.num_workers * float(problem.smoothness))
    return Theory(step, chances, True, "customary in comparisons")


def _memoryless(problem: Problem, compressor) -> Theory:
    omega = worker.variance_of(compressor, problem.init_params)
    noise = 2 * omega * _largest(problem) / problem.num_workers
    step = 1 / (float(problem.smoothness) + noise)
    return Theory(step, {}, False, "https://arxiv.org/abs/1905.11261")


def _rand_k(problem: Problem, parameters) -> Theory:
    if parameters.get("error_feedback"):
        return gradient_descent(problem, parameters)
    piece = worker.random_k(parameters["k"], **_scope(parameters))
    if parameters.get("common"):  # E|S g|^2 = (1 + omega) |g|^2 of the sum g itself
        omega = worker.variance_of(piece, problem.init_params)
        step = 1 / (float(problem.smoothness) * (1 + omega))
        return Theory(step, {}, False, METHODS["rand_k"].paper)
    return _memoryless(problem, piece)


def _ef21(problem: Problem, parameters, zeta: float = 0.0) -> Theory:
    mean_square = _mean_square(problem)
    piece = worker.random_k(parameters["k"], **_scope(parameters))
    # The least part of a vector's squared norm that the k largest entries have.
    kept = 1 / (1 + worker.variance_of(piece, problem.init_params))  # omega = D/k - 1
    left = 1 - kept
    t = 1 - math.sqrt(left)
    ratio = math.sqrt(max(left / t, zeta) / t)
    step = 1 / (float(problem.smoothness) + mean_square * ratio)
    return Theory(step, {}, False, METHODS["ef21"].paper)


def _clag(problem: Problem, parameters) -> Theory:
    zeta = float(parameters.get("zeta", 1.0))
    _checks.number_in_range("zeta", zeta, 0.0, _checks.LARGEST)
    return _ef21(problem, parameters, zeta)._replace(source=METHODS["clag"].paper)


def _ef21_sgdm(problem: Problem, parameters) -> Theory:
    eta = float(parameters.get("eta", 0.1))
    _checks.number_in_range("eta", eta, 0.0, 1.0)
    step = eta * _ef21(problem, parameters).learning_rate
    return Theory(step, {}, True, "EF21's step, times eta")


def _diana(problem: Problem, parameters) -> Theory:
    largest = _largest(problem)
    omega = worker.variance_of(parameters["compressor"], problem.init_params)
    joint = worker.joint_variance_of(parameters["compressor"], problem.init_params)
    step = 1 / (largest * (1 + 6 * joint / problem.num_workers))
    return Theory(step, {"beta": 1 / (1 + omega)}, False, METHODS["diana"].paper)


def _marina(problem: Problem, parameters) -> Theory:
    mean_square = _mean_square(problem)
    omega = worker.variance_of(parameters["compressor"], problem.init_params)
    p = parameters.get("probability")
    p = 1 / (1 + omega) if p is None else float(p)
    _checks.number_in_range("probability", p, 1e-9, 1.0)
    joint = worker.joint_variance_of(parameters["compressor"], problem.init_params)
    noise = mean_square * math.sqrt((1 - p) * joint / (p * problem.num_workers))
    step = 1 / (float(problem.smoothness) + noise)
    return Theory(step, {"probability": p}, False, METHODS["marina"].paper)


def _scaffold(problem: Problem, parameters) -> Theory:
    steps = _checks.integer("steps", parameters["steps"], 1)
    local = 1 / (_largest(problem) * steps)
    own = {"local_learning_rate": local}
    return Theory(1.0, own, True, "1/L_max, shared among the steps")


def _trained(problem: Problem, parameters) -> Theory:
    if parameters.get("inner") is optax.sgd:
        return _scaffold(problem, parameters)
    source = "the paper's of DiLoCo, of AdamW and language models; others inside differ"
    return Theory(1.0, {"local_learning_rate": 4e-4}, True, source)


def _sparse_loco(problem: Problem, parameters) -> Theory:
    """That of `_trained`, SGD's divided by what an entry's wait gathers."""
    known = _trained(problem, parameters)
    if parameters.get("inner") is not optax.sgd:
        return known
    chunk = _checks.integer("chunk", parameters.get("chunk", 4096), 1)
    longest = max(np.size(x) for x in jax.tree.leaves(problem.init_params))
    length, decay = min(chunk, longest), float(parameters.get("decay", 0.95))
    rounds = length / _checks.number_of(parameters.get("k", 64), length)
    gathered = rounds if decay == 1 else (1 - decay**rounds) / (1 - decay)
    local = known.parameters["local_learning_rate"] / max(gathered, 1.0)
    source = f"{known.source}, and by the rounds that an entry waits"
    return known._replace(parameters={"local_learning_rate": local}, source=source)


def _scaffnew(problem: Problem, parameters) -> Theory:
    largest, p = _largest(problem), parameters.get("probability")
    own = {"local_learning_rate": 1 / largest}
    if p is None:
        mu = _convexity(problem, "scaffnew's probability, sqrt(mu / L_max),")
        own["probability"] = math.sqrt(mu / largest)
    return Theory(1.0, own, False, METHODS["scaffnew"].paper)


def _convexity(problem: Problem, what: str, remedy: str = "the probability") -> float:
    """mu, which `what` needs."""
    mu = problem.strong_convexity
    if not mu:
        raise ValueError(
            f"{problem.name} is not known to be strongly convex, which {what} needs: "
            f"set {remedy}, {_HINT[remedy]}."
        )
    return float(mu)


_HINT = {
    "the probability": "1/T for T local steps on average",
    "the strong_convexity": "or add a regularization",
}


def _tamuna(problem: Problem, parameters) -> Theory:
    largest, p = _largest(problem), parameters.get("probability")
    own = {"local_learning_rate": 1 / largest}
    if p is None:
        mu = _convexity(problem, "tamuna's probability")
        share = problem.num_workers / _checks.integer(
            "owners", parameters.get("owners", 2), 2
        )
        own["probability"] = min(1.0, math.sqrt(share * mu / largest))
    return Theory(1.0, own, False, METHODS["tamuna"].paper)


def _locodl(problem: Problem, parameters) -> Theory:
    largest, p = _largest(problem), parameters.get("probability")
    mu = parameters.get("strong_convexity")
    if mu is None:
        mu = _convexity(problem, "locodl", "the strong_convexity")
    mu = float(_checks.positive("strong_convexity", mu))
    own = {"local_learning_rate": 1 / largest, "strong_convexity": mu}
    if p is None:
        omega, joint = _variances(problem, parameters)
        noise = (1 + omega) * (1 + joint / problem.num_workers)
        own["probability"] = min(1.0, math.sqrt(noise * mu / (2 * largest)))
    return Theory(1.0, own, False, METHODS["locodl"].paper)


def _variances(problem: Problem, parameters) -> tuple[float, float]:
    """omega of the compressor, and its joint one."""
    compressor, params = parameters["compressor"], problem.init_params
    omega = worker.variance_of(compressor, params)
    return omega, worker.joint_variance_of(compressor, params)


def _dasha_pp(problem: Problem, parameters) -> Theory:
    M = problem.num_workers
    omega, joint = _variances(problem, parameters)
    cohort = parameters.get("cohort")
    cohort = M if cohort is None else _checks.integer("cohort", cohort, 1, M)
    p, both = cohort / M, cohort * (cohort - 1) / max(M * (M - 1), 1)
    left = 0.0 if cohort == M else 1 - both / p
    own = p / (2 * omega + 1)
    a = parameters.get("momentum")
    a = own if a is None else float(a)
    noise = math.sqrt((48 * joint * (2 * omega + 1) + 16 * left) / M) / p
    step = 1 / (float(problem.smoothness) + _mean_square(problem) * noise)
    return Theory(step, {"momentum": a}, a != own, METHODS["dasha_pp"].paper)


def _marina_p(problem: Problem, parameters) -> Theory:
    compressor = parameters.get("compressor")
    if compressor is None:
        compressor = worker.perm_k(problem.num_workers)
    omega = worker.variance_of(compressor, problem.init_params)
    p = parameters.get("probability")
    p = 1 / (1 + omega) if p is None else float(p)
    _checks.number_in_range("probability", p, 1e-9, 1.0)
    noise = _largest(problem) * math.sqrt((1 - p) * omega / p)
    step = 1 / (float(problem.smoothness) + noise)
    return Theory(step, {"probability": p}, False, "derived in its docstring")


def _adiana(problem: Problem, parameters) -> Theory:
    largest, M = _largest(problem), problem.num_workers
    omega, joint = _variances(problem, parameters)
    p = parameters.get("probability")
    p = adiana_probability(omega, M) if p is None else float(p)
    mu = parameters.get("strong_convexity")
    if mu is None:
        mu = _convexity(problem, "adiana", "the strong_convexity")
    mu = float(_checks.positive("strong_convexity", mu))
    step = 1 / (2 * largest)
    if joint:
        step = min(step, M / (64 * joint * (2 * p * (omega + 1) + 1) ** 2 * largest))
    own = {"strong_convexity": mu, "probability": p}
    return Theory(step, own, False, METHODS["adiana"].paper)


def _ef_bv(problem: Problem, parameters) -> Theory:
    mean_square, params = _mean_square(problem), problem.init_params
    compressor = parameters["compressor"]
    eta, omega, joint = ef_bv_constants(compressor, params)
    theirs = ef_bv_weights(compressor, params, problem.num_workers)
    own = dict(zip(("nu", "beta"), theirs, strict=True))
    given = {x: float(parameters[x]) for x in own if parameters.get(x) is not None}
    for name, value in given.items():
        _checks.number_in_range(name, value, 1e-9, 1.0)
    nu, beta = (own | given).values()
    r = (1 - beta + beta * eta) ** 2 + beta**2 * omega
    r_av = (1 - nu + nu * eta) ** 2 + nu**2 * joint / problem.num_workers
    if r >= 1:
        raise ValueError(
            f"beta is {beta}, for which the memories are not sure to approach the "
            f"gradients, expected {own['beta']:.4g}, the paper's."
        )
    noise = 0.0
    if r > 0:
        noise = math.sqrt(r_av / r) / (math.sqrt((1 + r) / (2 * r)) - 1)
    elif r_av > 0:  # the limit, with sqrt(r) s to 1/sqrt(2)
        noise = math.sqrt(2 * r_av)
    step = 1 / (float(problem.smoothness) + mean_square * noise)
    return Theory(step, own | given, False, METHODS["ef_bv"].paper)


def _threepc(problem: Problem, parameters) -> Theory:
    variant = parameters.get("variant", "v2")
    _checks.one_of("variant", variant, get_args(Variant))
    k, params = parameters["k"], problem.init_params
    second = parameters.get("second_k")
    second = k if second is None else second

    def kept(k):
        return worker.contraction_of(worker.top_k(k, **_scope(parameters)), params)

    left, p = 1 - kept(k), float(parameters.get("probability", 0.1))
    _checks.number_in_range("probability", p, 1e-9, 1.0)
    match variant:
        case "v1":
            a, b = 1.0, left
        case "v2":
            a, b = 1 - left, left * (1 / kept(second) - 1)
        case "v4":
            left *= 1 - kept(second)
            a = 1 - math.sqrt(left)
            b = left / a
        case _:
            a = 1 - math.sqrt(1 - p)
            b = (1 - p) * left / a
    step = 1 / (float(problem.smoothness) + _mean_square(problem) * math.sqrt(b / a))
    return Theory(step, {}, False, METHODS["threepc"].paper)


def _econtrol(problem: Problem, parameters) -> Theory:
    del parameters
    return Theory(0.2 / float(problem.smoothness), {}, True, "a fifth of 1/L")


def _dasha(problem: Problem, parameters) -> Theory:
    mean_square, params = _mean_square(problem), problem.init_params
    omega = worker.variance_of(parameters["compressor"], params)
    joint = worker.joint_variance_of(parameters["compressor"], params)
    own = 1 / (2 * omega + 1)
    a = parameters.get("momentum")
    a = own if a is None else float(a)
    noise = 4 * math.sqrt(joint * (2 * omega + 1) / problem.num_workers)
    step = 1 / (float(problem.smoothness) + mean_square * noise)
    return Theory(step, {"momentum": a}, a != own, METHODS["dasha"].paper)


def _hundredth(problem: Problem, best: float) -> Theory:
    """Of the best step for the first direction alone, which `best` is for L = 1."""
    step = best / (100 * float(problem.smoothness))
    return Theory(step, {}, True, "a hundredth of the best first step")


def _signs(problem: Problem, parameters) -> Theory:
    del parameters
    return _hundredth(problem, along_signs(first_gradient(problem)))


def _ef21_muon(problem: Problem, parameters) -> Theory:
    del parameters
    return _hundredth(problem, along_orthogonal(first_gradient(problem)))


def _one_bit_adam(problem: Problem, parameters) -> Theory:
    eps, own = parameters.get("eps"), {}
    if eps is None:
        own["eps"] = eps = along_signs(first_gradient(problem)) / 10
    step = float(_checks.positive("eps", eps)) / float(problem.smoothness)
    return Theory(step, own, True, "eps times gradient descent's step")


def _ef21_p(problem: Problem, parameters) -> Theory:
    piece = worker.top_k(parameters["k"], **_scope(parameters))
    alpha = worker.contraction_of(piece, problem.init_params)
    step = alpha / (8 * float(problem.smoothness))
    return Theory(step, {}, False, "derived in its docstring")


def _scope(parameters) -> dict[str, Any]:
    return {"scope": parameters.get("scope", "message")}


STEPS: dict[str, Callable[[Problem, Any], Theory]] = {
    "gdsec": _censored(1 / 8, 1 / 4),
    "gdsoec": _censored(1 / 3, 1 / 2),
    "cgd": _censored(1 / 3, 1 / 2),
    "iag": _iag,
    "qgd": lambda problem, p: _memoryless(
        problem, worker.qsgd(p.get("levels", 15), **_scope(p))
    ),
    "natural": lambda problem, p: _memoryless(problem, worker.natural()),
    "terngrad": lambda problem, p: _memoryless(problem, worker.terngrad(**_scope(p))),
    "rand_k": _rand_k,
    "ef21": _ef21,
    "clag": _clag,
    "ef21_sgdm": _ef21_sgdm,
    "diana": _diana,
    "marina": _marina,
    "scaffold": _scaffold,
    "scaffnew": _scaffnew,
    "ef_bv": _ef_bv,
    "threepc": _threepc,
    "econtrol": _econtrol,
    "dasha": _dasha,
    "tamuna": _tamuna,
    "locodl": _locodl,
    "dasha_pp": _dasha_pp,
    "marina_p": _marina_p,
    "adiana": _adiana,
    "sign_majority": _signs,
    "demo": _signs,
    "ef21_p": _ef21_p,
    "ef21_muon": _ef21_muon,
    "one_bit_adam": _one_bit_adam,
    "diloco": _trained,
    "streaming_diloco": _trained,
    "sparse_loco": _sparse_loco,
}
