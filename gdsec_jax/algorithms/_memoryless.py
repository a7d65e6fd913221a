"""Methods that compress the gradient without bias and remember nothing.

At a fixed step they reach a neighbourhood of the solution: the noise of the compressor
vanishes with the workers' own gradients, which do not vanish where the sum does. With
an omega of the compressor and L_max = M max L_m their step is 1/(L + 2 omega L_max/M):
for f = sum of f_m and g the sum of the messages,

E|g|^2 <= |grad f|^2 + omega sum |grad f_m|^2
       <= 2 (L + 2 omega L_max / M) (f - f*) + 2 omega sum |grad f_m(theta*)|^2

by smoothness and convexity of every f_m, which is what stochastic gradient descent
needs of its noise (Gorbunov, Hanzely, Richtárik, A Unified Theory of SGD, 2020,
https://arxiv.org/abs/1905.11261).
"""

from typing import Unpack

from jax.typing import DTypeLike

from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._options import Aggregator, MemoryOptions, Options, algorithm
from gdsec_jax.federation import federate
from gdsec_jax.worker import Scope


@algorithm(Options)
def qgd(
    num_workers: int,
    levels: int = 15,
    *,
    scope: Scope = "message",
    key=0,
    **options: Unpack[Options],
) -> Aggregator:
    r"""QGD, or QSGD on minibatches: gradients rounded at random to s levels.

    .. math:: \theta^{k+1} = \theta^k - \alpha \sum_m Q(\nabla f_m(\theta^k)), \quad
       Q(v)_i = \text{sign}(v_i) \frac{\|v\|_2}{s}
       \Big\lfloor \frac{s |v_i|}{\|v\|_2} + u_i \Big\rfloor

    No memory: at a fixed step it reaches a neighbourhood of the solution. With very
    many levels it is gradient descent.

    Args:
      levels: s, at least 1; 2^b - 1 makes the most of b + 1 bits a value.

    Returns:
      The sum of the messages. The step is :math:`1/(L + 2 \omega L_{max}/M)` with
      :math:`\omega = \min(D/s^2, \sqrt D/s)`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.qgd(5, levels=4, key=1), optax.sgd(0.1))

    References:
      Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD, 2017,
      https://arxiv.org/abs/1610.02132
    """
    piece = pieces.qsgd(levels, scope=scope)
    return federate(piece, num_workers, key=key, **options)


@algorithm(Options)
def natural(num_workers: int, *, key=0, **options: Unpack[Options]) -> Aggregator:
    r"""Natural compression: gradients rounded at random to powers of two.

    .. math:: \theta^{k+1} = \theta^k - \alpha \sum_m C(\nabla f_m(\theta^k)), \quad
       C(v)_i = \text{sign}(v_i) 2^{\lfloor \log_2 |v_i| \rfloor + b_i}

    with b_i 0 or 1 at random, unbiased. No memory: at a fixed step it reaches a
    neighbourhood of the solution.

    Returns:
      The sum of the messages. The step is :math:`1/(L + 2 \omega L_{max}/M)` with
      :math:`\omega = 1/8`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.natural(5, key=1), optax.sgd(0.1))

    References:
      Horváth, Ho, Horváth, Sahu, Canini, Richtárik, Natural Compression for Distributed
      Deep Learning, 2019, https://arxiv.org/abs/1905.10988
    """
    return federate(pieces.natural(), num_workers, key=key, **options)


@algorithm(Options)
def terngrad(
    num_workers: int, *, scope: Scope = "message", key=0, **options: Unpack[Options]
) -> Aggregator:
    r"""TernGrad: gradients rounded at random to -c, 0 or c.

    .. math:: \theta^{k+1} = \theta^k - \alpha \sum_m C(\nabla f_m(\theta^k)), \quad
       C(v)_i = \text{sign}(v_i) \, \|v\|_\infty b_i, \quad
       b_i \sim \text{Bernoulli}(|v_i| / \|v\|_\infty)

    No memory: at a fixed step it reaches a neighbourhood of the solution. The paper's
    clipping is a piece in front: `federate(optax.chain(optax.clip(c),
    worker.terngrad()), ...)`.

    Returns:
      The sum of the messages. The step is :math:`1/(L + 2 \omega L_{max}/M)` with
      :math:`\omega = \sqrt D - 1`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.terngrad(5, key=1), optax.sgd(0.1))

    References:
      Wen, Xu, Yan, Wu, Wang, Chen, Li, TernGrad, 2017, https://arxiv.org/abs/1705.07878
    """
    return federate(pieces.terngrad(scope=scope), num_workers, key=key, **options)


@algorithm(MemoryOptions)
def rand_k(
    num_workers: int,
    k: float,
    *,
    error_feedback: bool = False,
    common: bool = False,
    scope: Scope = "message",
    key=0,
    state_dtype: DTypeLike | None = None,
    **options: Unpack[Options],
) -> Aggregator:
    r"""Rand-k: k entries drawn at random, scaled to be unbiased, or with a memory.

    .. math:: \theta^{k+1} = \theta^k - \alpha \sum_m (D/k) \, S_m \nabla f_m(\theta^k)

    with S_m the choice of k entries. With `error_feedback` instead

    .. math:: v_m = \nabla f_m(\theta^k) + e_m, \quad u_m = S_m v_m, \quad
       e_m \leftarrow v_m - u_m, \quad \theta^{k+1} = \theta^k - \alpha \sum_m u_m

    At a fixed step both reach a neighbourhood of the solution. With k = D they are
    gradient descent.

    Args:
      error_feedback: whether an error memory takes the place of the scaling.
      common: whether all workers draw the same entries, so that k values travel without
        their places. The sum is (D/k) S of the gradient of f then, whose noise vanishes
        at the solution, which it reaches; the step is :math:`1/(L (1 + \omega))`.
      state_dtype: dtype of the error memory, if there is one.

    Returns:
      The sum of the messages. The step is :math:`1/(L + 2 \omega L_{max}/M)` with
      :math:`\omega = D/k - 1`; with error feedback 1/L is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.rand_k(5, k=0.1, key=1), optax.sgd(0.01))

    References:
      Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018,
      https://arxiv.org/abs/1809.07599
    """
    piece = pieces.random_k(k, scaled=not error_feedback, scope=scope, common=common)
    if error_feedback:
        piece = pieces.error_feedback(piece, state_dtype=state_dtype)
    return federate(piece, num_workers, key=key, **options)
