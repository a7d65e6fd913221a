"""Methods whose compression error vanishes: EF21, DIANA, MARINA and their kin.

Their constants are those of f = (1/M) sum of M f_m: L_max = M max L_m, and
L~^2 = M sum L_m^2, with L_m of f_m as everywhere in this package.
"""

from typing import Unpack

from gdsec_jax import _checks
from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._options import (
    Aggregator,
    MemoryOptions,
    algorithm,
    difference_memory,
)
from gdsec_jax.worker import Scope


@algorithm(MemoryOptions)
def ef21(
    num_workers: int,
    k: float,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""EF21: the k largest entries of what the server does not know yet.

    .. math::
       u_m = \text{top}_k(\nabla f_m(\theta^k) - h_m), \quad h_m \leftarrow h_m + u_m,
       \quad \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    A worker's first message is its whole gradient. No error memory: h_m takes its
    place. With k = D it is gradient descent. On smooth strongly convex f it converges
    linearly.

    Returns:
      :math:`\sum_m h_m`. The step is :math:`1/(L + \tilde L \sqrt{b/t})` with
      :math:`t = 1 - \sqrt{1 - k/D}` and :math:`b = (1 - k/D)/t`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.ef21(5, k=10), optax.sgd(0.1))

    References:
      Richtárik, Sokolov, Fatkhullin, EF21, 2021, https://arxiv.org/abs/2106.05203
    """
    compressor = pieces.first_whole(pieces.top_k(k, scope=scope))
    return difference_memory(compressor, num_workers, **options)


@algorithm(MemoryOptions)
def ef21_sgdm(
    num_workers: int,
    k: float,
    eta=0.1,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""EF21-SGDM: EF21 on each worker's momentum, for stochastic gradients.

    .. math::
       v_m &\leftarrow (1 - \eta) v_m + \eta \nabla f_m(\theta^k), \quad
         v_m^1 = \nabla f_m(\theta^1) \\
       u_m &= \text{top}_k(v_m - h_m), \quad h_m \leftarrow h_m + u_m, \quad
         \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    With eta = 1 it is `ef21`. On full gradients and smooth strongly convex f it
    converges linearly.

    Args:
      eta: :math:`\eta` in [0, 1]; may be traced.

    Returns:
      :math:`\sum_m h_m`. The step, :math:`\eta` times EF21's, is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.ef21_sgdm(5, k=10), optax.sgd(0.01))

    References:
      Fatkhullin, Tyurin, Richtárik, Momentum Provably Improves Error Feedback!, 2023,
      https://arxiv.org/abs/2305.15155; the recursion is that of a later paper's public
      code.
    """
    compressor = pieces.first_whole(pieces.top_k(k, scope=scope))
    average = pieces.momentum(eta, state_dtype=options.get("state_dtype"))
    return difference_memory(compressor, num_workers, before=average, **options)


@algorithm(MemoryOptions)
def diana(
    num_workers: int,
    compressor: pieces.Piece,
    beta=None,
    *,
    key=0,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""DIANA: an unbiased compressor of the gradient's difference from its memory.

    .. math::
       u_m = C(\nabla f_m(\theta^k) - h_m), \quad
       \theta^{k+1} = \theta^k - \gamma \sum_m (h_m + u_m), \quad
       h_m \leftarrow h_m + \beta u_m

    Without compression (`worker.whole()`) it is gradient descent. On smooth strongly
    convex f it converges linearly.

    Args:
      beta: :math:`\beta` in [0, 1]; by default :math:`1/(1 + \omega)`.

    Returns:
      :math:`\sum_m (h_m + u_m)`. The step is :math:`1/(L_{max} (1 + 6 \omega / M))`.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.diana(5, worker.random_k(0.1), key=1)
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.01))

    References:
      Mishchenko, Gorbunov, Takáč, Richtárik, Distributed Learning with Compressed
      Gradient Differences, 2019, https://arxiv.org/abs/1901.09269
    """
    pieces.check_unbiased(compressor)
    if beta is not None:
        _checks.number_in_range("beta", beta, 0.0, 1.0)

    def beta_of(params):
        return 1 / (1 + pieces.variance_of(compressor, params))

    weight = beta_of if beta is None else beta
    return difference_memory(compressor, num_workers, weight, key=key, **options)


@algorithm(MemoryOptions)
def marina(
    num_workers: int,
    compressor: pieces.Piece,
    probability=None,
    *,
    key=0,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""MARINA: an unbiased compressor of the change of the gradient.

    .. math::
       u_m &= \nabla f_m(\theta^k) - h_m \text{ with probability } p, \text{ else }
         C(\nabla f_m(\theta^k) - \nabla f_m(\theta^{k-1})) \\
       h_m &\leftarrow h_m + u_m, \quad \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    One coin a round for all workers; the first round is full, and full rounds cost
    dense vectors. With p = 1 it is gradient descent. On smooth strongly convex f it
    converges linearly.

    Args:
      probability: p in (0, 1]; may be traced; by default :math:`1/(1 + \omega)`.

    Returns:
      :math:`\sum_m h_m`. The step is
      :math:`1/(L + \tilde L \sqrt{(1 - p) \omega / (p M)})`.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.marina(5, worker.random_k(0.1), key=1)
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.01))

    References:
      Gorbunov, Burlachenko, Li, Richtárik, MARINA, 2021,
      https://arxiv.org/abs/2102.07845
    """
    change = pieces.gradient_change(
        compressor, probability, state_dtype=options.get("state_dtype")
    )
    return difference_memory(change, num_workers, key=key, **options)


@algorithm(MemoryOptions)
def clag(
    num_workers: int,
    k: float,
    zeta=1.0,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""CLAG: EF21 that skips when its gradient changed more than is left to send.

    .. math::
       v_m &= \nabla f_m(\theta^k) - h_m, \quad u_m = \text{top}_k(v_m) \text{ if }
         \|v_m\|^2 > \zeta \|\nabla f_m(\theta^k) - \nabla f_m(\theta^{k-1})\|^2,
         \text{ else } 0 \\
       h_m &\leftarrow h_m + u_m, \quad \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    A worker's first message is its whole gradient. With zeta = 0 it is `ef21`. On
    smooth strongly convex f it converges linearly.

    Args:
      zeta: :math:`\zeta \ge 0`; may be traced.

    Returns:
      :math:`\sum_m h_m`. The step is :math:`1/(L + \tilde L \sqrt{B/A})` with
      :math:`A = 1 - \sqrt{1 - k/D}` and :math:`B = \max((1 - k/D)/A, \zeta)`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.clag(5, k=10), optax.sgd(0.1))

    References:
      Richtárik, Sokolov, Gasanov, Fatkhullin, Li, Gorbunov, 3PC: Three Point
      Compressors, 2022, https://arxiv.org/abs/2202.00998; the recursion is that of its
      public code.
    """
    compressor = pieces.clag(
        pieces.first_whole(pieces.top_k(k, scope=scope)),
        zeta,
        state_dtype=options.get("state_dtype"),
    )
    return difference_memory(compressor, num_workers, **options)
