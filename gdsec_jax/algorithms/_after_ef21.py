"""Methods that join EF21 and DIANA, or mend them: EF-BV, 3PC, EControl, DASHA.

Their constants are those of f = (1/M) sum of M f_m: L~^2 = M sum L_m^2, with L_m of f_m
as everywhere in this package. Of a compressor, omega and alpha are its `variance` and
`contraction`.
"""

import math
from typing import Any, Unpack

from gdsec_jax import _checks
from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._options import (
    Aggregator,
    MemoryOptions,
    algorithm,
    difference_memory,
)
from gdsec_jax.worker import Scope
from gdsec_jax.worker._three_points import Variant


@algorithm(MemoryOptions)
def ef_bv(
    num_workers: int,
    compressor: pieces.Piece,
    nu=None,
    beta=None,
    *,
    key=0,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""EF-BV: DIANA and EF21 in one, for compressors with a bias, a variance, or both.

    .. math::
       u_m = C(\nabla f_m(\theta^k) - h_m), \quad
       \theta^{k+1} = \theta^k - \gamma \sum_m (h_m + \nu u_m), \quad
       h_m \leftarrow h_m + \beta u_m

    With :math:`\nu = 1` it is `diana`, with :math:`\nu = \beta = 1` `ef21` without a
    whole first message. On smooth strongly convex f it converges linearly. With
    :math:`\eta = \sqrt{1 - \alpha}` where C contracts, and :math:`\omega = 0`, or
    :math:`\eta = 0` where it is unbiased, the paper's parameters are

    .. math:: \beta = \min\Big(\frac{1 - \eta}{(1 - \eta)^2 + \omega}, 1\Big), \quad
       \nu = \min\Big(\frac{1 - \eta}{(1 - \eta)^2 + \bar\omega / M}, 1\Big)

    Args:
      compressor: C, unbiased, or one that contracts, such as `worker.top_k`: a
        `worker.Piece` that declares its variance or its contraction. Any other if nu
        and beta are given.
      nu: :math:`\nu` in [0, 1]; may be traced. By default the paper's.
      beta: :math:`\beta` in [0, 1], the paper's lambda; may be traced. By default the
        paper's.

    Returns:
      :math:`\sum_m (h_m + \nu u_m)`. The step is
      :math:`1/(L + \tilde L \sqrt{\bar r / r} / s)` with
      :math:`r = (1 - \beta + \beta \eta)^2 + \beta^2 \omega`,
      :math:`\bar r = (1 - \nu + \nu \eta)^2 + \nu^2 \bar\omega / M` and
      :math:`s = \sqrt{(1 + r) / (2 r)} - 1`.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.ef_bv(5, worker.random_k(0.1), key=1)
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.01))

    References:
      Condat, Yi, Richtárik, EF-BV, 2022, https://arxiv.org/abs/2205.04180. Recursion,
      parameters and step are those of its public code, which starts from memories that
      are the whole gradients; here they are 0.
    """
    for name, value in (("nu", nu), ("beta", beta)):
        if value is not None:
            _checks.number_in_range(name, value, 0.0, 1.0)
    if nu is None or beta is None:
        _known(compressor)

    def weights(params):
        return ef_bv_weights(compressor, params, num_workers)

    return difference_memory(
        compressor,
        num_workers,
        (lambda params: weights(params)[1]) if beta is None else beta,
        weight=(lambda params: weights(params)[0]) if nu is None else nu,
        key=key,
        **options,
    )


def ef_bv_weights(compressor, params: Any, num_workers: int) -> tuple[float, float]:
    """The paper's nu and beta of EF-BV."""
    eta, omega, joint = ef_bv_constants(compressor, params)
    kept = 1 - eta
    return tuple(
        min(kept / (kept**2 + noise), 1.0) for noise in (joint / num_workers, omega)
    )  # pyright: ignore


def ef_bv_constants(compressor, params: Any) -> tuple[float, float, float]:
    """eta, omega and its joint one, of a compressor that is known to be of use."""
    _known(compressor)
    if compressor.variance is not None:
        omega = pieces.variance_of(compressor, params)
        return 0.0, omega, pieces.joint_variance_of(compressor, params)
    return math.sqrt(1 - pieces.contraction_of(compressor, params)), 0.0, 0.0


def _known(compressor) -> None:
    facts = (getattr(compressor, x, None) for x in ("variance", "contraction"))
    if all(fact is None for fact in facts):
        raise ValueError(
            f"compressor is {_checks.shown(compressor)}, expected a worker.Piece that "
            "declares its variance or its contraction, or nu and beta."
        )


@algorithm(MemoryOptions)
def threepc(
    num_workers: int,
    k: float,
    variant: Variant = "v2",
    second_k: float | None = None,
    *,
    probability=0.1,
    scope: Scope = "message",
    key=0,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""3PC: EF21 whose compressor sees the last gradient, too, in four variants.

    .. math:: h_m \leftarrow \text{3PC}(\nabla f_m(\theta^k)), \quad
       \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    With x the gradient, y the last one, and C = :math:`\text{top}_k`,

    ====  ============================  ===========================================
    v1    y + C(x - y)                  costs a whole vector: for comparison only
    v2    b + C(x - b)                  b = h + Q(x - y), Q = rand-k of second_k
    v4    b + C(x - b)                  b = h + C'(x - h), C' = top-k of second_k
    v5    x, or h + C(x - y)            x with probability p, one coin for all
    ====  ============================  ===========================================

    A worker's first message is its whole gradient. v4 with these is `ef21` with
    k + second_k entries. With k = D it is gradient descent. On smooth strongly convex f
    it converges linearly. `worker.three_point` takes other compressors.

    Args:
      variant: "v1", "v2", "v4" or "v5".
      second_k: entries of the second compressor of v2 and v4, an int or a fraction; k
        by default.
      probability: p of v5, in (0, 1]; may be traced.

    Returns:
      :math:`\sum_m h_m`. The step is :math:`1/(L + \tilde L \sqrt{B/A})`, with
      :math:`\alpha = k/D`:

      ====  ==============================  ===============================
      v1    A = 1                           :math:`B = 1 - \alpha`
      v2    :math:`A = \alpha`              :math:`B = (1 - \alpha) \omega`
      v4    :math:`A = 1 - \sqrt{1 - a}`    :math:`B = (1 - a)/A`
      v5    :math:`A = 1 - \sqrt{1 - p}`    :math:`B = (1 - p)(1 - \alpha)/A`
      ====  ==============================  ===============================

      with :math:`\omega` = D/second_k - 1 and
      :math:`1 - a = (1 - \alpha)(1 - \text{second\_k} / D)`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.threepc(5, k=10), optax.sgd(0.1))

    References:
      Richtárik, Sokolov, Gasanov, Fatkhullin, Li, Gorbunov, 3PC: Three Point
      Compressors, 2022, https://arxiv.org/abs/2202.00998. Recursions and steps are
      those of its public code.
    """
    second = k if second_k is None else second_k
    make = {"v2": pieces.random_k, "v4": pieces.top_k}.get(variant)
    piece = pieces.three_point(
        variant,
        pieces.top_k(k, scope=scope),
        make(second, scope=scope) if make else None,
        probability=probability,
        state_dtype=options.get("state_dtype"),
    )
    return difference_memory(piece, num_workers, key=key, **options)


@algorithm(MemoryOptions)
def econtrol(
    num_workers: int,
    k: float,
    eta=0.1,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""EControl: EF21 with a damped error memory, for stochastic gradients, too.

    .. math::
       u_m &= \text{top}_k(\nabla f_m(\theta^k) - h_m + \eta e_m) \\
       e_m &\leftarrow e_m + \nabla f_m(\theta^k) - h_m - u_m, \quad
       h_m \leftarrow h_m + u_m, \quad \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    With eta = 0 it is `ef21` without a whole first message. With k = D it is gradient
    descent. On smooth strongly convex f it converges linearly while eta is small
    enough: with eta = 1, and top-k of a tenth of the entries, it diverges at any step
    that we have tried.

    Args:
      eta: :math:`\eta` in [0, 1]; may be traced.

    Returns:
      :math:`\sum_m h_m`. The step, a fifth of gradient descent's, is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.econtrol(5, k=10), optax.sgd(0.02))

    References:
      Gao, Islamov, Stich, EControl, 2023, https://arxiv.org/abs/2311.05645. The
      recursion is that of a later paper's public code, in which :math:`h_m` is the
      whole gradient at first; here it is 0.
    """
    compressor = pieces.error_feedback(
        pieces.top_k(k, scope=scope),
        damping=eta,
        state_dtype=options.get("state_dtype"),
    )
    return difference_memory(compressor, num_workers, **options)


@algorithm(MemoryOptions)
def dasha(
    num_workers: int,
    compressor: pieces.Piece,
    momentum=None,
    *,
    key=0,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""DASHA: MARINA without whole rounds, by a momentum towards the gradient.

    .. math::
       u_m &= C\big(\nabla f_m(\theta^k) - \nabla f_m(\theta^{k-1})
         - a (h_m - \nabla f_m(\theta^{k-1}))\big) \\
       h_m &\leftarrow h_m + u_m, \quad \theta^{k+1} = \theta^k - \gamma \sum_m h_m

    In the first round, as in the public code, the last gradient is that of now, so that
    :math:`u_m = C(a \nabla f_m)`. Without compression (`worker.whole()`) a is 1, and it
    is gradient descent. On smooth strongly convex f it converges linearly.

    Args:
      momentum: a in (0, 1]; may be traced; by default :math:`1/(2 \omega + 1)`.

    Returns:
      :math:`\sum_m h_m`. The step is
      :math:`1/(L + 4 \tilde L \sqrt{\bar\omega (2 \omega + 1) / M})`, stated from
      memory of the paper; its public code has
      :math:`\sqrt{\omega (4 \omega + 1) / M}`, 2.8 to 4 times less.

    Examples:
      >>> import gdsec_jax, optax
      >>> from gdsec_jax import worker
      >>> algorithm = gdsec_jax.dasha(5, worker.random_k(0.1), key=1)
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.01))

    References:
      Tyurin, Richtárik, DASHA, 2022, https://openreview.net/forum?id=VA1YpcNr7ul; the
      recursion is that of its public code.
    """
    piece = pieces.dasha(compressor, momentum, state_dtype=options.get("state_dtype"))
    return difference_memory(piece, num_workers, key=key, **options)
