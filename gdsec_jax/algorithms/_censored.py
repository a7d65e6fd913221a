"""Methods that censor single entries: GD-SEC, its ablation, and with quantisation."""

import functools
from typing import Any, Unpack

from gdsec_jax import _checks
from gdsec_jax.algorithms._options import (
    Aggregator,
    MemoryOptions,
    algorithm,
    difference_memory,
    share,
    short,
)
from gdsec_jax.federation._controller import Controller
from gdsec_jax.worker import Piece, Scope, censor, chain, error_feedback, qsgd
from gdsec_jax.worker._piece import Censored, no_state


@algorithm(MemoryOptions)
def gdsec(
    num_workers: int, xi, beta=0.01, *, floor=None, **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""GD-SEC: send what changed enough of the gradient, remember the rest.

    .. math::
       \Delta_m &= \nabla f_m(\theta^k) - h_m + e_m \\
       \hat\Delta_{m,i} &= 0 \text{ if } |\Delta_{m,i}| \le
         (\xi_i / M) |\theta^k_i - \theta^{k-1}_i|, \text{ else } \Delta_{m,i} \\
       h_m &\leftarrow h_m + \beta \hat\Delta_m, \quad
       e_m \leftarrow \Delta_m - \hat\Delta_m \\
       \theta^{k+1} &= \theta^k - \alpha (h + \sum_m \hat\Delta_m), \quad
       h \leftarrow h + \beta \sum_m \hat\Delta_m

    With xi = 0 the iterates are gradient descent's. On smooth strongly convex f it
    converges linearly while xi is small enough, with the step 1/L surely below L/4
    (docs/theory.md); where it diverges, `adaptive_xi` says about, and why.

    Args:
      xi: :math:`\xi_i \ge 0`, in the units of L: a scalar, a prefix of the parameters'
        tree whose leaves broadcast against theirs, or a schedule of the round; may be
        traced. A coordinate choice is xi / L^i, with L^i the problem's
        `coordinate_smoothness`. Or a `Controller`: `adaptive_xi()`, where nothing is
        known beforehand.
      beta: :math:`\beta` in [0, 1]; may be traced. Small smooths the memory of the
        gradient, 0 drops it.
      floor: z, of noised gradients: a threshold is at least z standard deviations of
        the `noise`, which would be sent again and again as the steps shrink below it;
        may be traced. None: no floor. With error correction what stays below waits, and
        noise alone crosses it about every :math:`z^2` rounds.

    Returns:
      :math:`h + \sum_m \hat\Delta_m`. The step 1/L is gradient descent's, a heuristic
      for xi beyond L/4.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gdsec(2, xi=4.0), optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> state = optimizer.init(params)
      >>> for _ in range(2):  # equal gradients: the second round has nothing new to say
      ...     grads = jnp.array([[1.0, 0.0], [1.0, 2.0]])
      ...     updates, state = optimizer.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> gdsec_jax.last_round(state).entries
      Array([1, 2], dtype=int32)

    References:
      Chen, Blum, Takáč, Sadler, Distributed Learning With Sparsified Gradient
      Differences, IEEE JSTSP 16(3), 2022, https://doi.org/10.1109/JSTSP.2022.3162989.
      Stated by its abstract and public descriptions of it.
    """
    return _censored(num_workers, xi, beta, floor=floor, **options)


@algorithm(MemoryOptions)
def gdsoec(
    num_workers: int, xi, beta=0.01, *, floor=None, **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""GD-SOEC: GD-SEC without error correction, the ablation of its paper.

    `gdsec` with :math:`e_m` held at 0: what is censored is forgotten, and only the
    difference :math:`\nabla f_m - h_m` brings it back.

    Args:
      xi: as in `gdsec`; it stalls or diverges at values that GD-SEC bears.
        `adaptive_xi` needs a budget.
      beta, floor: as in `gdsec`.

    Returns:
      :math:`h + \sum_m \hat\Delta_m`. The step 1/L is a heuristic for xi beyond L/2.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.gdsoec(5, xi=4.0), optax.sgd(0.1))

    References:
      Chen, Blum, Takáč, Sadler, 2022, https://doi.org/10.1109/JSTSP.2022.3162989, by
      descriptions of it, as `gdsec`
    """
    options |= {"error_correction": False, "floor": floor}  # pyright: ignore
    return _censored(num_workers, xi, beta, **options)


@algorithm(MemoryOptions)
def qsgdsec(
    num_workers: int,
    xi,
    beta=0.01,
    levels: int = 127,
    *,
    floor=None,
    scope: Scope = "message",
    key=0,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""QSGD-SEC: GD-SEC whose surviving entries are quantised.

    .. math::
       \Delta_m &= \nabla f_m(\theta^k) - h_m + e_m, \quad
       \hat\Delta_m = Q(\text{censor}(\Delta_m)) \\
       h_m &\leftarrow h_m + \beta \hat\Delta_m, \quad
       e_m \leftarrow \Delta_m - \hat\Delta_m

    with the censoring of `gdsec` and Q of `worker.qsgd`; the quantisation error goes
    into the error memory with the rest. With very many levels it is `gdsec`. With
    beta > 0 the quantisation error vanishes with the message, and on full gradients it
    converges; with beta = 0 it stalls near the solution.

    Args:
      xi, beta, floor: as in `gdsec`.
      levels: s, of the quantiser, at least 1; 2^b - 1 makes the most of b + 1 bits.

    Returns:
      :math:`h + \sum_m \hat\Delta_m`. The step 1/L is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.qsgdsec(5, xi=4.0), optax.sgd(0.1))

    References:
      Chen, Blum, Takáč, Sadler, 2022, https://doi.org/10.1109/JSTSP.2022.3162989, by
      descriptions of it, as `gdsec`; Alistarh et al., QSGD, 2017,
      https://arxiv.org/abs/1610.02132
    """
    quantiser = qsgd(levels, scope=scope)
    options |= {"key": key, "floor": floor}  # pyright: ignore
    return _censored(num_workers, xi, beta, quantiser, **options)


def _censor(xi, num_workers: int, options: dict[str, Any], floor: Any):
    """Censoring by a worker's part of xi, or of what its controller chose: xi/M each.

    In the mean convention it is all of xi. The floor is in the noise's deviations.
    """
    _checks.in_range("xi", xi, 0.0, _checks.LARGEST)
    part = functools.partial(share, num_workers=num_workers, options=options)
    least = _above_noise(floor, options.get("noise"))

    def update(updates, state, params=None, *, xi=None, **extra_args):
        piece = censor(part(xi), floor=least)
        return piece.update(updates, state, params, **extra_args)

    if isinstance(xi, Controller):
        chosen = None
        if censor(0.0, floor=least).censored is not None:
            chosen = Censored(lambda extra_args: part(extra_args["xi"]))
        piece = Piece(no_state, update, component_wise=True, censored=chosen)
    else:
        piece = censor(part(xi), floor=least)
    return short(piece, options.get("server"))


def _above_noise(floor: Any, noise: Any) -> Any:
    """A threshold of so many standard deviations of the noise."""
    if floor is None:
        return None
    _checks.number_in_range("floor", floor, 0.0, _checks.LARGEST)
    known = getattr(noise, "noise", None)
    if known is None:
        raise ValueError(
            f"floor is {_checks.shown(floor)} and noise is {_checks.shown(noise)}, "
            "expected worker.gaussian_noise(...): a floor is in its deviations."
        )
    return floor * known.deviation


def _censored(
    num_workers: int,
    xi,
    beta,
    *behind: Piece,
    error_correction=True,
    floor: Any = None,
    **options,
) -> Aggregator:
    """Censoring and what is behind it, in memories; its controller is told of them."""
    compressor = _censor(xi, num_workers, options, floor)
    for piece in behind:
        compressor = chain(compressor, piece)
    if error_correction:
        dtype = options.get("state_dtype")
        compressor = error_feedback(compressor, state_dtype=dtype)
    _checks.number_in_range("beta", beta, 0.0, 1.0)
    if isinstance(xi, Controller):
        method = {"beta": beta, "error_correction": error_correction}
        told = Controller(xi.init, functools.partial(xi.update, **method))
        options["controller"] = told
    return difference_memory(
        compressor, num_workers, beta, acknowledged=error_correction, **options
    )
