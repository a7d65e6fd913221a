"""The step size and parameters that each method's paper recommends for a problem."""

import inspect
from typing import Any

from gdsec_jax import _checks
from gdsec_jax._theory._steps import STEPS, Theory, gradient_descent
from gdsec_jax.algorithms import METHODS
from gdsec_jax.problems import Problem
from gdsec_jax.problems._problem import check_problem


def theory(method: str, problem: Problem, **parameters: Any) -> Theory:
    r"""The step size that the method's paper recommends, and further parameters.

    With :math:`L_{max} = M \max L_m` and :math:`\tilde L^2 = M \sum L_m^2`:

    ==============================  ====================================================
    gd                              1/L
    iag                             1/(M L), heuristic
    qgd, natural, terngrad, rand_k  1/(L + 2 omega L_max/M)
    rand_k, common draws            1/(L (1 + omega))
    ef21                            1/(L + L~ sqrt(b/t))
    clag                            1/(L + L~ sqrt(B/A))
    diana                           1/(L_max (1 + 6 omega/M))
    marina                          1/(L + L~ sqrt((1 - p) omega/(p M)))
    ef_bv                           1/(L + L~ sqrt(r_av/r)/s)
    threepc                         1/(L + L~ sqrt(B/A))
    dasha                           1/(L + 4 L~ sqrt(omega (2 omega + 1)/M))
    econtrol                        1/(5 L), heuristic
    ef21_sgdm                       eta times EF21's, heuristic
    gdsec, gdsoec, cgd              1/L, with xi = L/8, L/3, L/3
    scaffold                        1, local steps 1/(K L_max), heuristic
    scaffnew                        1, local steps 1/L_max, p = sqrt(mu/L_max)
    tamuna                          1, local steps 1/L_max, p = sqrt(M/s mu/L_max)
    locodl                          1, local steps 1/L_max, p as in its docstring
    diloco, streaming_diloco,       1, local steps of AdamW 4e-4, heuristic; of SGD as
    sparse_loco                     in scaffold, by the G of sparse_loco
    dasha_pp, adiana                as in their docstrings
    marina_p                        1/(L + L_max sqrt((1 - p) omega/p))
    ef21_p                          alpha/(8 L), alpha = k/D
    sign_majority, demo, ef21_muon  of the first direction, heuristic
    one_bit_adam                    eps/L, heuristic
    all others                      1/L, heuristic
    ==============================  ====================================================

    with the joint variance of `worker.perm_k` for the omega over M. f is the sum of the
    f_m, without weights. The theorems are about full gradients of smooth f_m, convex
    but for gd, ef21, clag, marina, ef_bv, threepc and dasha, and for those with a xi,
    of which docs/theory.md has the proofs; they stay below L/4, L/2 and L/2. Such a xi
    is safe, whatever M and beta are, and saves little: `adaptive_xi` looks for a larger
    one. For minibatches and for
    problems known not to be convex the same steps are marked as heuristic. Whether a
    loss of one's own is convex is not seen, nor that a lasso is not smooth.

    Args:
      method: its name, of `gdsec_jax.METHODS`.
      problem: with its smoothness constants.
      parameters: arguments of the algorithm, of which the step depends on k, levels,
        compressor, probability, steps, inner, chunk, decay, eta, zeta, nu, beta,
        variant, second_k, momentum, owners, cohort, strong_convexity, eps and scope. A
        xi that is given is judged.

    Returns:
      A `Theory`. Its `parameters` are arguments of the algorithm: beta of DIANA, the
      probability of MARINA and of those that meet by a coin, the local learning rate of
      those that train, the strong convexity, the probabilities of NoUnif-IAG, the
      learning rate of LAG, eps of 1-bit Adam, xi of the methods that censor by it,
      where none is given.

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
    check_problem(problem)
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
        recommended = STEPS.get(method, gradient_descent)(problem, parameters)
    except KeyError as error:
        raise ValueError(
            f"{method} needs the parameter {error.args[0]} for its step."
        ) from error
    if method in ("lag", "laq", "adiana"):
        own = {"learning_rate": recommended.learning_rate}
        recommended = recommended._replace(parameters=own | recommended.parameters)
    if method == "gd":
        source = METHODS[method].paper
        recommended = recommended._replace(heuristic=False, source=source)
    smooth = problem.measure == "objective" or method in _WITHOUT_CONVEXITY
    if problem.draw is not None or not smooth:
        return recommended._replace(heuristic=True)
    return recommended


_WITHOUT_CONVEXITY = ("gd", "ef21", "clag", "marina", "gdsec", "gdsoec", "cgd")
_WITHOUT_CONVEXITY += ("ef_bv", "threepc", "dasha", "dasha_pp", "marina_p")
