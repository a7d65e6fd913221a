"""The losses of the field: each a problem with its optimum and its constants.

Beside lasso stands the proximal step that its penalty asks for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy

from gdsec_jax import _checks, _trees
from gdsec_jax.problems._lasso import solve_lasso
from gdsec_jax.problems._linear import half_square, linear_loss, linear_problem, samples
from gdsec_jax.problems._optima import Classes, Optimum, Squares, minimise
from gdsec_jax.problems._problem import Problem

# c of L = c lambda_max(X^T X) / N + lambda, the largest second derivative of the loss;
# the last, of (y - sigma(z))^2 / 2, over z and y in [0, 1].
CURVATURES = {
    "ridge": 1.0,
    "logistic": 0.25,
    "softmax": 0.5,
    "lasso": 1.0,
    "nonlinear_least_squares": 0.07703,
}


def _logistic(z, y):
    return jnp.logaddexp(0.0, -y * z)


def _softmax(z, y):
    # By differences of scores, and as log(1 + ...): no digits of a small loss are lost.
    own = jnp.take_along_axis(z, y[:, None], axis=1)
    classes = jnp.arange(z.shape[1], dtype=y.dtype)[None]
    others = jnp.where(classes == y[:, None], -jnp.inf, z - own)
    return jnp.logaddexp(0.0, jax.nn.logsumexp(others, axis=1))


def _sigmoid_squares(z, y):
    return optax.l2_loss(jax.nn.sigmoid(z), y)


def _absolute(params):
    # |theta|_1 with the subgradient sign(theta), 0 at 0; that of jnp.abs is 1 there.
    return _trees.dot(jax.lax.stop_gradient(jnp.sign(params)), params)


# Made once: the compiled loop knows them by identity.
_ridge_loss = linear_loss(optax.l2_loss, half_square, "square")
_logistic_loss = linear_loss(_logistic, half_square, "logistic")
_softmax_loss = linear_loss(_softmax, half_square)
_sigmoid_loss = linear_loss(_sigmoid_squares, half_square, "sigmoid_square")
_lasso_loss = linear_loss(optax.l2_loss, _absolute, "square")
_squares_loss = linear_loss(optax.l2_loss, None, "square")


def ridge(
    features,
    targets,
    num_workers: int,
    *,
    regularization: float | None = None,
    split="shuffled",
    seed: int = 0,
    dtype=None,
) -> Problem:
    r"""Ridge regression.

    .. math:: f_m(\theta) = \frac1{2N} \sum_{n \in S_m} (x_n \cdot \theta - y_n)^2
       + \frac{\lambda}{2M} |\theta|^2

    :math:`L = \lambda_{\max}(X^T X)/N + \lambda`. The optimum is that of the features
    as the device has them, rounded to `dtype`, with a bound on its error, the duality
    gap, in `optimum_gap`. Where a worker has more than D samples, which are dense, full
    gradients are computed from its [D, D] matrix :math:`X_m^T X_m`, unless rounding it
    would be seen.

    Args:
      features: [N, D], an array, or a scipy.sparse matrix, which stays sparse on the
        device if it has more than 10,000 columns or is filled to less than 2 %.
      targets: [N].
      num_workers: M.
      regularization: :math:`\lambda`, by default 1/N.
      split: how the samples are split: a word that `data.split` knows, or its result.
      seed: of the shuffled split.
      dtype: of parameters, gradients and the features on the device; by default that
        of the features, float32 unless x64 is enabled. Objectives and errors are in
        float32 at least.

    Returns:
      A `Problem` that starts from zero.

    Raises:
      ValueError: shapes do not fit, a number is not finite, lambda is negative, or the
        split does not name each sample once.

    Warns:
      RuntimeWarning: the optimum may lie more than 1e-12 above the least value, or more
        than that share of it: `Problem.note`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import problems
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2, regularization=0.25)
      >>> problem.smoothness, problem.solution
      (0.5, Array([0. , 0.5, 1. , 1.5], dtype=float32))
    """
    data = samples(features, targets, num_workers, regularization, split, seed, dtype)
    x, y = data.features, data.numbers
    return linear_problem(
        "ridge",
        data._replace(targets=y),
        worker_loss=_ridge_loss,
        compiled=True,
        curvature=CURVATURES["ridge"],
        init_shape=x.shape[1:],
        found=minimise(x, Squares(y), data.regularization),
        quadratic=True,
    )


def logistic(
    features,
    targets,
    num_workers: int,
    *,
    regularization: float | None = None,
    split="shuffled",
    seed: int = 0,
    dtype=None,
) -> Problem:
    r"""Logistic regression; the two labels, whatever they are, become -1 and +1.

    .. math:: f_m(\theta) = \frac1N \sum_{n \in S_m} \log(1 + e^{-y_n x_n \cdot \theta})
       + \frac{\lambda}{2M} |\theta|^2

    :math:`L = \lambda_{\max}(X^T X)/4N + \lambda`. The optimum is found by Newton's
    method. With lambda = 0 there may be none, where a plane separates the labels or
    some of them: then the optimum is the infimum, 0 if it separates all, the solution
    is None, and the warning says so.

    Args:
      targets: [N], of two different values; the lower becomes -1.

    Further Args, Returns, Raises, Warns: as in `ridge`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import problems
      >>> problem = problems.logistic(np.eye(4), np.array([0, 1, 0, 1]), 2)
      >>> problem.smoothness
      0.3125
    """
    data = samples(features, targets, num_workers, regularization, split, seed, dtype)
    labels = np.unique(data.targets)
    if labels.size != 2:
        raise ValueError(
            f"targets of logistic regression must have two values, got {labels.size}."
        )
    x, y = data.features, np.where(data.targets == labels[1], 1.0, -1.0)
    # Scores (0, z); the solution's first column is 0.
    loss = Classes((y > 0).astype(int), np.array([[0.0, 1.0]]))
    found = minimise(x, loss, data.regularization)
    if found.solution is not None:
        found = found._replace(solution=found.solution[:, 1])
    return linear_problem(
        "logistic",
        data._replace(targets=y),
        worker_loss=_logistic_loss,
        compiled=True,
        curvature=CURVATURES["logistic"],
        init_shape=x.shape[1:],
        found=found,
    )


def softmax(
    features,
    targets,
    num_workers: int,
    *,
    regularization: float | None = None,
    split="shuffled",
    seed: int = 0,
    dtype=None,
) -> Problem:
    r"""Softmax regression, parameters [D, C] for C classes.

    .. math:: f_m(\theta) = \frac1N \sum_{n \in S_m} \left(
       \log \sum_c e^{x_n \cdot \theta_c} - x_n \cdot \theta_{y_n} \right)
       + \frac{\lambda}{2M} |\theta|^2

    :math:`L = \lambda_{\max}(X^T X)/2N + \lambda`; along a coordinate the second
    derivative is at most a quarter. The optimum, or infimum, is as in `logistic`.

    Args:
      targets: [N], two labels or more, of any kind; sorted, they become 0 … C-1.

    Further Args, Returns, Raises, Warns: as in `ridge`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import problems
      >>> problem = problems.softmax(np.eye(4), np.array([3, 1, 2, 1]), 2)
      >>> problem.init_params.shape, problem.smoothness
      ((4, 3), 0.375)
    """
    data = samples(features, targets, num_workers, regularization, split, seed, dtype)
    labels, y = np.unique(data.targets, return_inverse=True)
    if labels.size < 2:
        raise ValueError(f"targets must have two labels or more, got {labels.size}.")
    loss = Classes(y, scipy.linalg.helmert(labels.size))
    return linear_problem(
        "softmax",
        data._replace(targets=y),
        worker_loss=_softmax_loss,
        curvature=CURVATURES["softmax"],
        coordinate_curvature=0.25,
        init_shape=(data.features.shape[1], labels.size),
        found=minimise(data.features, loss, data.regularization),
    )


def lasso(
    features,
    targets,
    num_workers: int,
    *,
    regularization: float | None = None,
    proximal: bool = False,
    split="shuffled",
    seed: int = 0,
    dtype=None,
) -> Problem:
    r"""Lasso: least squares with an l1 penalty, by subgradients or by proximal steps.

    .. math:: f_m(\theta) = \frac1{2N} \sum_{n \in S_m} (x_n \cdot \theta - y_n)^2
       + \frac{\lambda}{M} |\theta|_1

    :math:`L = \lambda_{\max}(X^T X)/N` is that of the smooth part. To the optimum
    exact steps lead from where scikit-learn's coordinate descent ends.

    Args:
      proximal: False: the workers' gradients include the penalty's subgradient, with
        sign(0) = 0; at a fixed step the error then has a floor. True: they leave it
        out, and `proximal_l1` behind the step takes care of it.

    Further Args, Returns, Raises, Warns: as in `ridge`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import problems
      >>> x, y = np.eye(4), np.array([3.0, 0.5, -2.0, 0.0])
      >>> problems.lasso(x, y, 2, regularization=0.25).solution
      Array([ 2.,  0., -1.,  0.], dtype=float32)
    """
    _checks.of_kind("proximal", proximal, bool, "True or False")
    data = samples(features, targets, num_workers, regularization, split, seed, dtype)
    x, y = data.features, data.numbers
    return linear_problem(
        "lasso",
        data._replace(targets=y),
        worker_loss=_squares_loss if proximal else _lasso_loss,
        compiled=True,
        worker_objective=_lasso_loss,
        curvature=CURVATURES["lasso"],
        smooth_penalty=False,
        init_shape=x.shape[1:],
        found=solve_lasso(x, y, data.regularization),
    )


def proximal_l1(strength) -> optax.GradientTransformationExtraArgs:
    r"""Shrink the parameters after the step, :math:`\theta \leftarrow S_t(\theta + u)`.

    .. math:: S_t(x) = \operatorname{sign}(x) \max(|x| - t, 0)

    Args:
      strength: t, the learning rate times lambda; may be traced.

    Returns:
      A transformation to stand last in a chain. Its update needs the parameters.

    Raises:
      ValueError: strength is negative, or update was called without params.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gdsec_jax import problems
      >>> optimizer = optax.chain(optax.sgd(1.0), problems.proximal_l1(0.5))
      >>> params = jnp.array([1.0, 1.0])
      >>> grads = jnp.array([-1.0, 0.75])
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([1.5, 0. ], dtype=float32)

    References:
      Beck and Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm, 2009,
      https://doi.org/10.1137/080716542
    """
    _checks.in_range("strength", strength, 0.0, _checks.LARGEST)

    def shrink(update, param):
        x = param + update
        t = jnp.asarray(strength, x.dtype)
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0) - param

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("proximal_l1 needs params: update(grads, state, params).")
        return jax.tree.map(shrink, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def nonlinear_least_squares(
    features,
    targets,
    num_workers: int,
    *,
    regularization: float | None = None,
    split="shuffled",
    seed: int = 0,
    dtype=None,
) -> Problem:
    r"""Non-linear least squares through a sigmoid: smooth, not convex.

    .. math:: f_m(\theta) = \frac1{2N} \sum_{n \in S_m}
       (y_n - \sigma(x_n \cdot \theta))^2 + \frac{\lambda}{2M} |\theta|^2

    :math:`L = 0.07703 \lambda_{\max}(X^T X)/N + \lambda`. The error is the squared norm
    of the gradient of f.

    Args:
      targets: [N], in [0, 1].

    Further Args, Returns, Raises, Warns: as in `ridge`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import problems
      >>> problem = problems.nonlinear_least_squares(np.eye(2), np.array([0, 1]), 2)
      >>> problem.error_name
      'squared gradient norm'
    """
    data = samples(features, targets, num_workers, regularization, split, seed, dtype)
    _checks.in_range("targets", data.targets, 0.0, 1.0)
    return linear_problem(
        "nonlinear_least_squares",
        data._replace(targets=data.numbers),
        worker_loss=_sigmoid_loss,
        compiled=True,
        curvature=CURVATURES["nonlinear_least_squares"],
        init_shape=data.features.shape[1:],
        found=Optimum(),
        measure="gradient",
    )
