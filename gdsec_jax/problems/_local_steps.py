"""Local steps: each worker takes several between two rounds, and sends their sum."""

import dataclasses
from typing import Any

from gdsec_jax import _checks
from gdsec_jax.problems._problem import Problem


def local_steps(problem: Problem, num_steps: int, learning_rate: Any) -> Problem:
    r"""The same problem with several gradient steps of each worker a round, as FedAvg.

    From the common parameters, :math:`\theta_m^0 = \theta^k`, worker m takes T steps on
    its share of the mean, :math:`\tilde f_m = M f_m`, and sends their sum for its
    gradient:

    .. math:: \theta_m^{t+1} = \theta_m^t - \gamma M \nabla f_m(\theta_m^t), \quad
       g_m = \sum_{t<T} \nabla f_m(\theta_m^t)
           = \frac{\theta^k - \theta_m^T}{\gamma M}

    A server's step :math:`\gamma` on the sum of the g_m makes
    :math:`\theta^{k+1} = \frac1M \sum_m \theta_m^T`, federated averaging; any other
    algorithm and any other step stand in its place as well. With T = 1 the g_m are the
    gradients themselves. With `minibatch`, before or after, each step has a draw of its
    own. The error is that of f, without local steps.

    The workers drift towards their own optima: where these differ and T > 1, gradient
    descent by g_m converges to a point beside the solution, the farther the larger
    :math:`\gamma T`.

    Args:
      problem: any; local steps that it has are replaced.
      num_steps: T.
      learning_rate: :math:`\gamma`; may be traced. Up to 1/(M L_m), L_m the problem's
        `worker_smoothness`, no step raises f_m.

    Returns:
      A `Problem`.

    Raises:
      ValueError: num_steps is no positive int, learning_rate is not finite or not
        above 0.

    Examples:
      >>> import numpy as np, optax
      >>> from gdsec_jax import gdsec, problems, simulate
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> ridge = problems.ridge(x, x @ np.ones(3), num_workers=4)
      >>> step = 0.2 / ridge.smoothness
      >>> optimizer = optax.chain(gdsec(4, xi=1.0), optax.sgd(step))
      >>> one = simulate(ridge, optimizer, 5)
      >>> five = simulate(problems.local_steps(ridge, 5, step), optimizer, 5)
      >>> bool(five.objective_error[-1] < 0.1 * one.objective_error[-1])
      True

    References:
      McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data, 2017, https://arxiv.org/abs/1602.05629
    """
    num_steps = _checks.integer("num_steps", num_steps, 1)
    if not _checks.is_traced(learning_rate):
        learning_rate = _checks.positive("learning_rate", learning_rate)
    return dataclasses.replace(
        problem, num_local_steps=num_steps, local_learning_rate=learning_rate
    )
