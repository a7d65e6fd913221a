"""Methods that compress the gradient and keep what they leave in an error memory."""

from typing import Unpack

from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._options import Aggregator, MemoryOptions, algorithm
from gdsec_jax.federation import federate
from gdsec_jax.worker import Scope


@algorithm(MemoryOptions)
def top_j(
    num_workers: int,
    k: float,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""Top-j: the k largest entries of gradient and error memory.

    .. math::
       v_m = \nabla f_m(\theta^k) + e_m, \quad u_m = \text{top}_k(v_m), \quad
       e_m \leftarrow v_m - u_m, \quad \theta^{k+1} = \theta^k - \alpha \sum_m u_m

    With k = D it is gradient descent. At a fixed step it reaches a neighbourhood of the
    solution, the smaller the smaller the step.

    Returns:
      :math:`\sum_m u_m`. The step 1/L is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.top_j(5, k=10), optax.sgd(0.1))

    References:
      Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018,
      https://arxiv.org/abs/1809.07599
    """
    return with_error_feedback(pieces.top_k(k, scope=scope), num_workers, **options)


@algorithm(MemoryOptions)
def sign_ef(
    num_workers: int, *, scope: Scope = "message", **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""EF-sign: signs and the mean magnitude of gradient and error memory.

    .. math::
       v_m = \nabla f_m(\theta^k) + e_m, \quad
       u_m = (\|v_m\|_1 / D) \, \text{sign}(v_m), \quad e_m \leftarrow v_m - u_m, \quad
       \theta^{k+1} = \theta^k - \alpha \sum_m u_m

    At a fixed step it reaches a neighbourhood of the solution.

    Returns:
      :math:`\sum_m u_m`. The step 1/L is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.sign_ef(5), optax.sgd(0.1))

    References:
      Karimireddy, Rebjock, Stich, Jaggi, Error Feedback Fixes SignSGD, 2019,
      https://arxiv.org/abs/1901.09847
    """
    return with_error_feedback(pieces.sign(scope=scope), num_workers, **options)


@algorithm(MemoryOptions)
def low_rank(
    num_workers: int, rank: int = 1, *, key=0, **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""Low rank with error feedback, each worker by factors of its own.

    .. math::
       V_m = \nabla f_m(\theta^k) + E_m, \quad P_m = \text{orth}(V_m Q_m), \quad
       Q_m \leftarrow V_m^T P_m, \quad U_m = P_m Q_m^T, \quad E_m \leftarrow V_m - U_m

    for each leaf that is a matrix; vectors travel whole. See `power_sgd` for common
    factors. At a fixed step it reaches a neighbourhood of the solution.

    Returns:
      :math:`\sum_m U_m`. The step 1/L is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.low_rank(5, rank=2), optax.sgd(0.1))

    References:
      Vogels, Karimireddy, Jaggi, PowerSGD, 2019, https://arxiv.org/abs/1905.13727
    """
    return _by_factors(pieces.low_rank(rank, key=key), num_workers, key, **options)


@algorithm(MemoryOptions)
def power_sgd(
    num_workers: int, rank: int = 1, *, key=0, **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""PowerSGD with error feedback: low rank, with one left factor for all workers.

    .. math::
       V_m &= \nabla f_m(\theta^k) + E_m, \quad
         P = \text{orth}\big(\sum_m V_m Q\big), \quad Q_m = V_m^T P, \\
       U_m &= P Q_m^T, \quad E_m \leftarrow V_m - U_m, \quad Q \leftarrow \sum_m Q_m

    for each leaf that is a matrix; vectors travel whole. A worker uploads
    :math:`V_m Q` and :math:`Q_m`; P comes back from the server in between, which
    `History.broadcast_bits` does not count. What the workers' gradients disagree on
    cancels in the sum, so that the error vanishes with the gradient of f: on full
    gradients it converges.

    Returns:
      :math:`\sum_m U_m`. The step 1/L is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.power_sgd(5, rank=2), optax.sgd(0.1))

    References:
      Vogels, Karimireddy, Jaggi, PowerSGD, 2019, https://arxiv.org/abs/1905.13727
    """
    return _by_factors(pieces.power_sgd(rank, key=key), num_workers, key, **options)


def with_error_feedback(
    compressor, num_workers: int, *, decay=1.0, state_dtype=None, **options
):
    """What the methods of this module are made of."""
    piece = pieces.error_feedback(compressor, decay=decay, state_dtype=state_dtype)
    return federate(piece, num_workers, **options)


def _by_factors(compressor, num_workers: int, key, **options):
    """The key is that of the first factors, and of noise if there is some."""
    if options.get("noise") is not None:
        options["key"] = key
    return with_error_feedback(compressor, num_workers, **options)
