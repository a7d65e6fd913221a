"""The methods of the field, each a composition of a worker's pieces, ready for a chain.

Each is an `optax.experimental.aggregating.Aggregator`: it stands first in an optax
chain, takes gradients with a leading axis of workers, and returns the direction that
plain gradient descent would get from the server. These options are common to all:

reduction
    "sum": f is the sum of the workers' f_m. "mean": it is their mean; xi and beta mean
    the same in both, so that both give the same iterates.
weights
    [M], the weight of each f_m in f; see `federate`.
wire
    The bit format that `last_round` reports; see `gdsec_jax.wire`.
state_dtype
    dtype of the memories; by default the parameter's, but at least float32.
server
    Where the server's h comes from: "workers", the sum of the h_m, which a simulation
    sees (`worker_memories`), or "running", a sum of its own (`server_memory`). The same
    but for rounding, which lets a running sum drift.
on_nonfinite, on_standstill
    See `federate`.
"""

from typing import Literal

import jax
import optax
from optax.experimental import aggregating

from gdsec_jax import _checks
from gdsec_jax.federation import OnNonfinite, OnStandstill, Reduction, federate
from gdsec_jax.server import server_memory, worker_memories
from gdsec_jax.wire import Format, as_format
from gdsec_jax.worker import censor, error_feedback, gradient_difference

Server = Literal["workers", "running"]


def gd(
    num_workers: int,
    *,
    reduction: Reduction = "sum",
    weights=None,
    wire: str | Format = "coo",
    on_nonfinite: OnNonfinite = "drop",
) -> aggregating.Aggregator:
    r"""Gradient descent: every worker sends its whole gradient.

    .. math:: \theta^{k+1} = \theta^k - \alpha \sum_m \nabla f_m(\theta^k)

    The baseline of every percentage. Its messages are whole vectors, which cost D
    values in any format; of `wire` only the width of a value matters.

    Args:
      num_workers: M.
      reduction, weights, wire, on_nonfinite: see the module.

    Returns:
      An Aggregator, from gradients [M, *param] to the gradient of f, [*param]. The step
      behind it, :math:`\alpha = 1/L`, is optax.sgd's.

    Raises:
      ValueError: see `federate`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gd(num_workers=2), optax.sgd(0.5))
      >>> params = jnp.zeros(2)
      >>> grads = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> optimizer.update(grads, optimizer.init(params), params)[0]
      Array([-2., -3.], dtype=float32)
    """
    return federate(
        optax.identity(),
        num_workers,
        reduction=reduction,
        weights=weights,
        wire=as_format(wire)._replace(name="dense"),
        on_nonfinite=on_nonfinite,
    )


def gdsec(
    num_workers: int,
    xi,
    beta=0.01,
    *,
    reduction: Reduction = "sum",
    weights=None,
    wire: str | Format = "coo",
    state_dtype=None,
    server: Server = "workers",
    on_nonfinite: OnNonfinite = "drop",
    on_standstill: OnStandstill = "send",
) -> aggregating.Aggregator:
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
    converges at gradient descent's linear rate while xi is small enough; beyond that it
    diverges, the earlier the larger beta is.

    Args:
      num_workers: M.
      xi: :math:`\xi_i \ge 0`, in the units of L: a scalar, a prefix of the parameters'
        tree whose leaves broadcast against theirs, or a schedule of the round; may be
        traced. A coordinate choice is xi / L^i, with L^i the problem's
        `coordinate_smoothness`.
      beta: :math:`\beta` in [0, 1]; may be traced. Small smooths the memory of the
        gradient, 0 drops it.
      reduction, weights, wire, state_dtype, server, on_nonfinite, on_standstill: see
        the module.

    Returns:
      An Aggregator, from gradients [M, *param] to the direction
      :math:`h + \sum_m \hat\Delta_m`, [*param]. Its update needs the parameters.

    Raises:
      ValueError: xi is negative or does not fit the parameters; beta lies outside
        [0, 1]; and as `federate`.

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
      Differences, IEEE JSTSP 16(3), 2022, https://doi.org/10.1109/JSTSP.2022.3162989
    """
    compressor = error_feedback(
        censor(_share(xi, num_workers, reduction)), state_dtype=state_dtype
    )
    return _with_difference_memory(
        compressor,
        num_workers,
        beta,
        state_dtype,
        server,
        reduction=reduction,
        weights=weights,
        wire=wire,
        on_nonfinite=on_nonfinite,
        on_standstill=on_standstill,
    )


def gdsoec(
    num_workers: int,
    xi,
    beta=0.01,
    *,
    reduction: Reduction = "sum",
    weights=None,
    wire: str | Format = "coo",
    state_dtype=None,
    server: Server = "workers",
    on_nonfinite: OnNonfinite = "drop",
    on_standstill: OnStandstill = "send",
) -> aggregating.Aggregator:
    r"""GD-SOEC: GD-SEC without error correction, the ablation of its paper.

    `gdsec` with :math:`e_m` held at 0: what is censored is forgotten, and only the
    difference :math:`\nabla f_m - h_m` brings it back.

    Args:
      num_workers: M.
      xi: as in `gdsec`; it stalls or diverges at values that GD-SEC bears.
      beta: as in `gdsec`.
      reduction, weights, wire, state_dtype, server, on_nonfinite, on_standstill: see
        the module.

    Returns:
      An Aggregator, as `gdsec`.

    Raises:
      ValueError: as `gdsec`.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.gdsoec(5, xi=4.0), optax.sgd(0.1))

    References:
      Chen, Blum, Takáč, Sadler, 2022, https://doi.org/10.1109/JSTSP.2022.3162989
    """
    compressor = censor(_share(xi, num_workers, reduction))
    return _with_difference_memory(
        compressor,
        num_workers,
        beta,
        state_dtype,
        server,
        reduction=reduction,
        weights=weights,
        wire=wire,
        on_nonfinite=on_nonfinite,
        on_standstill=on_standstill,
    )


def _with_difference_memory(
    compressor, num_workers, beta, state_dtype, server, *, reduction, **options
):
    """Both sides of a gradient-difference memory, the workers' and the server's."""
    _checks.one_of("server", server, ("workers", "running"))
    running = server_memory(beta, state_dtype=state_dtype)
    return federate(
        gradient_difference(compressor, beta, state_dtype=state_dtype),
        num_workers,
        server=running if server == "running" else worker_memories(reduction),
        reduction=reduction,
        **options,
    )


def _share(xi, num_workers: int, reduction: Reduction):
    """A worker's xi: an M-th each if f is the sum of the f_m, all of it for a mean."""
    _checks.number_of_workers(num_workers)
    _checks.in_range("xi", xi, 0.0, _checks.LARGEST)
    if callable(xi):
        return lambda round: _share(xi(round), num_workers, reduction)
    return xi if reduction == "mean" else jax.tree.map(lambda x: x / num_workers, xi)
