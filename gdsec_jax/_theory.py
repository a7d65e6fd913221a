"""The step size and parameters that each method's paper recommends for a problem."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gdsec_jax import _checks, worker
from gdsec_jax.algorithms import METHODS
from gdsec_jax.problems import Problem


class Theory(NamedTuple):
    """What is recommended for a method on a problem."""

    learning_rate: float  # alpha or gamma, of the step behind the algorithm
    parameters: dict[str, Any]  # further arguments of the algorithm
    heuristic: bool  # no theorem that we know gives this step
    source: str  # where it comes from


class _Constants(NamedTuple):
    """A problem's; L_max and L~ are of f = (1/M) sum of M f_m, as papers write it."""

    smoothness: float  # L
    largest: float  # L_max = M max L_m
    mean_square: float  # L~ = sqrt(M sum L_m^2)
    workers: np.ndarray  # L_m; NaN where they are not known
    num_workers: int  # M
    params: Any  # for their shapes


def theory(method: str, problem: Problem, **parameters: Any) -> Theory:
    r"""The step size that the method's paper recommends, and further parameters.

    With :math:`L_{max} = M \max L_m` and :math:`\tilde L^2 = M \sum L_m^2`:

    ==============================  ====================================================
    gd                              1/L
    iag                             1/(M L), heuristic
    qgd, natural, terngrad, rand_k  1/(L + 2 omega L_max/M)
    ef21                            1/(L + L~ sqrt(b/t))
    clag                            1/(L + L~ sqrt(B/A))
    diana                           1/(L_max (1 + 6 omega/M))
    marina                          1/(L + L~ sqrt((1 - p) omega/(p M)))
    ef21_sgdm                       eta times EF21's, heuristic
    all others                      1/L, heuristic
    ==============================  ====================================================

    f is the sum of the f_m, without weights. The theorems are about full gradients of
    smooth f_m, which must be convex but for gd, ef21, clag and marina. For minibatches
    and for problems known not to be convex the same steps are marked as heuristic. This
    function does not see whether a loss of one's own is convex, nor that a lasso is not
    smooth.

    Args:
      method: its name, of `gdsec_jax.METHODS`.
      problem: with its smoothness constants.
      parameters: arguments of the algorithm, of which the step depends on k, levels,
        compressor, probability, eta, zeta and scope.

    Returns:
      A `Theory`. Its `parameters` are arguments of the algorithm: beta of DIANA, the
      probability of MARINA, the probabilities of NoUnif-IAG, the learning rate of LAG.

    Raises:
      ValueError: the method is unknown, the problem's constants are, a parameter is
        missing, out of range or none of the method's; reduction or weights ask for
        another f.

    Examples:
      >>> import numpy as np
      >>> import gdsec_jax
      >>> from gdsec_jax import problems
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), num_workers=2)
      >>> ours = gdsec_jax.theory("ef21", problem, k=4)  # everything: gradient descent
      >>> bool(np.isclose(ours.learning_rate, 1 / problem.smoothness))
      True
      >>> ours.heuristic
      False
    """
    _checks.one_of("method", method, tuple(METHODS))
    accepted = inspect.signature(METHODS[method].factory).parameters
    for name in parameters:
        if name not in accepted:
            raise ValueError(f"{method} has no parameter {name}.")
    if parameters.get("reduction", "sum") != "sum":
        raise ValueError(
            f"reduction is {parameters['reduction']!r}, expected 'sum': for a mean the "
            "step is M times the sum's."
        )
    if parameters.get("weights") is not None:
        raise ValueError(
            "weights is given, expected None: build them into the problem."
        )
    smoothness = problem.smoothness
    if smoothness is None or not float(smoothness) > 0:
        raise ValueError(
            f"the smoothness of {problem.name} is {smoothness}, expected a number "
            "above 0: give it, or set the learning rate."
        )
    try:
        step = _STEPS.get(method, _gradient_descent)
        recommended = step(_constants(problem), parameters)
    except KeyError as error:
        raise ValueError(
            f"{method} needs the parameter {error.args[0]} for its step."
        ) from error
    if method in ("lag", "laq"):
        own = {"learning_rate": recommended.learning_rate}
        recommended = recommended._replace(parameters=own | recommended.parameters)
    if method == "gd":
        source = METHODS[method].paper
        recommended = recommended._replace(heuristic=False, source=source)
    smooth = problem.measure == "objective" or method in _WITHOUT_CONVEXITY
    if problem.draw is not None or not smooth:
        return recommended._replace(heuristic=True)
    return recommended


def _constants(problem: Problem) -> _Constants:
    num_workers = problem.num_workers
    workers = np.full(num_workers, np.nan)
    if problem.worker_smoothness is not None:
        workers = np.asarray(problem.worker_smoothness, np.float64)
    return _Constants(
        smoothness=float(problem.smoothness),
        largest=float(num_workers * workers.max()),
        mean_square=math.sqrt(num_workers * float((workers**2).sum())),
        workers=workers,
        num_workers=num_workers,
        params=problem.init_params,
    )


def _gradient_descent(constants: _Constants, parameters) -> Theory:
    del parameters
    return Theory(1 / constants.smoothness, {}, True, "gradient descent's step")


def _iag(constants: _Constants, parameters) -> Theory:
    del parameters
    known = _known(constants)
    return Theory(
        1 / (known.num_workers * known.smoothness),
        {"probabilities": known.workers / known.workers.sum()},
        True,
        "customary in comparisons",
    )


def _memoryless(compressor: Callable) -> Callable:
    def step(constants: _Constants, parameters) -> Theory:
        known = _known(constants)
        omega = worker.variance_of(compressor(parameters), known.params)
        noise = 2 * omega * known.largest / known.num_workers
        source = "https://arxiv.org/abs/1905.11261"
        return Theory(1 / (known.smoothness + noise), {}, False, source)

    return step


def _rand_k(constants: _Constants, parameters) -> Theory:
    if parameters.get("error_feedback"):
        return _gradient_descent(constants, parameters)
    return _memoryless(lambda p: worker.random_k(p["k"], **_scope(p)))(
        constants, parameters
    )


def _ef21(constants: _Constants, parameters, zeta: float = 0.0) -> Theory:
    known = _known(constants)
    left = 1 - _kept(known.params, parameters)
    t = 1 - math.sqrt(left)
    ratio = math.sqrt(max(left / t, zeta) / t)
    step = 1 / (known.smoothness + known.mean_square * ratio)
    return Theory(step, {}, False, METHODS["ef21"].paper)


def _clag(constants: _Constants, parameters) -> Theory:
    zeta = float(parameters.get("zeta", 1.0))
    _checks.number_in_range("zeta", zeta, 0.0, _checks.LARGEST)
    return _ef21(constants, parameters, zeta)._replace(source=METHODS["clag"].paper)


def _ef21_sgdm(constants: _Constants, parameters) -> Theory:
    eta = float(parameters.get("eta", 0.1))
    _checks.number_in_range("eta", eta, 0.0, 1.0)
    step = eta * _ef21(constants, parameters).learning_rate
    return Theory(step, {}, True, "EF21's step, times eta")


def _diana(constants: _Constants, parameters) -> Theory:
    known = _known(constants)
    omega = worker.variance_of(parameters["compressor"], known.params)
    step = 1 / (known.largest * (1 + 6 * omega / known.num_workers))
    return Theory(step, {"beta": 1 / (1 + omega)}, False, METHODS["diana"].paper)


def _marina(constants: _Constants, parameters) -> Theory:
    known = _known(constants)
    omega = worker.variance_of(parameters["compressor"], known.params)
    p = parameters.get("probability")
    p = 1 / (1 + omega) if p is None else float(p)
    _checks.number_in_range("probability", p, 1e-9, 1.0)
    noise = known.mean_square * math.sqrt((1 - p) * omega / (p * known.num_workers))
    step = 1 / (known.smoothness + noise)
    return Theory(step, {"probability": p}, False, METHODS["marina"].paper)


def _known(constants: _Constants) -> _Constants:
    """The constants, if the workers' are known too."""
    if not np.isfinite(constants.workers).all():
        raise ValueError(
            "the problem's worker_smoothness is not known, which this method's step "
            "needs: set the learning rate."
        )
    return constants


def _scope(parameters) -> dict[str, Any]:
    return {"scope": parameters.get("scope", "message")}


def _kept(params, parameters) -> float:
    """The least part of a vector's squared norm that the k largest entries have."""
    piece = worker.random_k(parameters["k"], **_scope(parameters))
    return 1 / (1 + worker.variance_of(piece, params))  # omega = D/k - 1


_WITHOUT_CONVEXITY = ("gd", "ef21", "clag", "marina")
_STEPS: dict[str, Callable[[_Constants, Any], Theory]] = {
    "iag": _iag,
    "qgd": _memoryless(lambda p: worker.qsgd(p.get("levels", 15), **_scope(p))),
    "natural": _memoryless(lambda p: worker.natural()),
    "terngrad": _memoryless(lambda p: worker.terngrad(**_scope(p))),
    "rand_k": _rand_k,
    "ef21": _ef21,
    "clag": _clag,
    "ef21_sgdm": _ef21_sgdm,
    "diana": _diana,
    "marina": _marina,
}
