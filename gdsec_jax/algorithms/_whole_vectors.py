"""Methods whose messages are whole vectors: gradient descent, and those that skip."""

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks
from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._options import (
    Aggregator,
    MemoryOptions,
    Options,
    algorithm,
    difference_memory,
    share,
)
from gdsec_jax.federation import federate
from gdsec_jax.server._server import as_server
from gdsec_jax.worker import Scope


@algorithm(Options)
def gd(num_workers: int, **options: Unpack[Options]) -> Aggregator:
    r"""Gradient descent: every worker sends its whole gradient.

    .. math:: \theta^{k+1} = \theta^k - \alpha \sum_m \nabla f_m(\theta^k)

    The baseline of every percentage. Its messages are whole vectors, which cost D
    values in any format.

    Returns:
      The gradient of f. The step behind it, :math:`\alpha = 1/L`, is optax.sgd's.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gd(num_workers=2), optax.sgd(0.5))
      >>> params = jnp.zeros(2)
      >>> grads = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> optimizer.update(grads, optimizer.init(params), params)[0]
      Array([-2., -3.], dtype=float32)

    References:
      Cauchy, Méthode générale pour la résolution des systèmes d'équations simultanées,
      1847
    """
    return federate(pieces.whole(), num_workers, **options)


@algorithm(MemoryOptions)
def cgd(num_workers: int, xi, **options: Unpack[MemoryOptions]) -> Aggregator:
    r"""CGD, censored gradient descent: a worker sends its whole difference, or nothing.

    .. math::
       \Delta_m &= \nabla f_m(\theta^k) - h_m, \quad \hat\Delta_m = 0 \text{ if }
         \|\Delta_m\|_2 \le (\xi / M) \|\theta^k - \theta^{k-1}\|_2,
         \text{ else } \Delta_m \\
       h_m &\leftarrow h_m + \hat\Delta_m, \quad
       \theta^{k+1} = \theta^k - \alpha \sum_m h_m

    With xi = 0 it is gradient descent. On smooth strongly convex f it converges
    linearly while xi is small enough, with the step 1/L surely below L/2
    (docs/theory.md).

    Args:
      xi: :math:`\xi \ge 0`, in the units of L: a number or a schedule of the round; may
        be traced.

    Returns:
      :math:`\sum_m h_m`. The step 1/L is a heuristic for xi beyond L/2.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.cgd(5, xi=0.1), optax.sgd(0.1))

    References:
      The name is used for several rules; this one is GD-SEC's, on whole vectors: Chen,
      Blum, Takáč, Sadler, 2022, https://doi.org/10.1109/JSTSP.2022.3162989
    """
    if not callable(xi):
        _checks.number_in_range("xi", xi, 0.0, _checks.LARGEST)
    xi = share(xi, num_workers, options)
    return difference_memory(pieces.censor_whole(xi), num_workers, **options)


@algorithm(MemoryOptions)
def lag(
    num_workers: int, learning_rate, zeta=0.1, **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""LAG-WK, lazily aggregated gradients, by the workers' rule.

    .. math::
       \Delta_m &= \nabla f_m(\theta^k) - h_m, \quad \hat\Delta_m = 0 \text{ if }
         \|\Delta_m\|^2 \le \frac{\zeta}{\alpha^2 M^2} \sum_{d=1}^{10}
         \|\theta^{k+1-d} - \theta^{k-d}\|^2, \text{ else } \Delta_m \\
       h_m &\leftarrow h_m + \hat\Delta_m, \quad
       \theta^{k+1} = \theta^k - \alpha \sum_m h_m

    With zeta = 0 it is gradient descent. On smooth strongly convex f it converges
    linearly while zeta and the step are small enough.

    Args:
      learning_rate: :math:`\alpha`, the step behind this method: a number above 0
        or a schedule of the round; may be traced.
      zeta: :math:`\zeta \ge 0`; may be traced.

    Returns:
      :math:`\sum_m h_m`. The step 1/L is customary, a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.lag(5, learning_rate=0.1), optax.sgd(0.1))

    References:
      Chen, Giannakis, Sun, Yin, LAG: Lazily Aggregated Gradient for
      Communication-Efficient Distributed Learning, 2018,
      https://arxiv.org/abs/1805.09965
    """
    zeta = _squared_share(zeta, num_workers, options)
    piece = pieces.lag(learning_rate=learning_rate, zeta=zeta)
    return difference_memory(piece, num_workers, **options)


@algorithm(MemoryOptions)
def laq(
    num_workers: int,
    learning_rate,
    bits: int = 4,
    zeta=0.08,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""LAQ, lazily aggregated quantised gradients.

    .. math::
       v_m &= \nabla f_m(\theta^k) - h_m, \quad
         \varepsilon_m = v_m - Q(v_m), \quad \hat\Delta_m = 0 \text{ if } \\
       \|Q(v_m)\|^2 &\le \frac{\zeta}{\alpha^2 M^2} \sum_{d=1}^{10}
         \|\theta^{k+1-d} - \theta^{k-d}\|^2
         + 3 (\|\varepsilon_m\|^2 + \|\hat\varepsilon_m\|^2),
         \text{ else } Q(v_m) \\
       h_m &\leftarrow h_m + \hat\Delta_m, \quad
       \theta^{k+1} = \theta^k - \alpha \sum_m h_m

    with Q of `worker.grid`, and :math:`\hat\varepsilon_m` the error of the last upload,
    which counts as 0 after an excessive gradient, see `worker.laq`. The first round
    uploads, and so does every one after 100 that did not. On smooth strongly convex f
    it converges linearly.

    Args:
      learning_rate, zeta: as in `lag`.
      bits: b, of the quantiser, from 1 to 30.

    Returns:
      :math:`\sum_m h_m`. The step 1/L is a heuristic: the paper's bound has constants
      that are not computed.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.laq(5, learning_rate=0.1), optax.sgd(0.1))

    References:
      Sun, Chen, Giannakis, Yang, Communication-Efficient Distributed Learning via
      Lazily Aggregated Quantized Gradients, 2019, https://arxiv.org/abs/1909.07588
    """
    zeta = _squared_share(zeta, num_workers, options)
    piece = pieces.laq(learning_rate=learning_rate, bits=bits, zeta=zeta, scope=scope)
    return difference_memory(piece, num_workers, **options)


@algorithm(MemoryOptions)
def iag(
    num_workers: int, probabilities=None, *, key=0, **options: Unpack[MemoryOptions]
) -> Aggregator:
    r"""NoUnif-IAG, incremental aggregated gradients: one worker a round, drawn.

    .. math:: h_m \leftarrow \nabla f_m(\theta^k) \text{ for the } m \text{ drawn},
       \quad \theta^{k+1} = \theta^k - \alpha \sum_m h_m

    All h_m are 0 at first. The others do not take part in the round. On smooth strongly
    convex f it converges linearly.

    Args:
      probabilities: [M], of each worker, at least 0 with a sum of 1; by default all
        the same. The method's name asks for :math:`L_m / \sum L_m`, a
        problem's `worker_smoothness`.

    Returns:
      :math:`\sum_m h_m`. The step 1/(M L) is used with it.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.iag(2, probabilities=[0.25, 0.75])
      >>> optimizer = optax.chain(algorithm, optax.sgd(0.1))

    References:
      Chen, Giannakis, Sun, Yin, 2018, https://arxiv.org/abs/1805.09965, where it is the
      baseline "num-IAG"; Blatt, Hero, Gauchman, A Convergent Incremental Gradient
      Method with a Constant Step Size, 2007
    """
    _checks.number_of_workers(num_workers)
    chances = _probabilities(probabilities, num_workers)

    def one_worker(round_key, round):
        del round
        drawn = jax.random.choice(round_key, num_workers, p=chances)
        return jnp.arange(num_workers) == drawn

    server = as_server(options.get("server"))
    if server.asks is not None:
        raise ValueError(
            f"server.asks is {server.asks!r}, expected None: iag asks by itself."
        )
    options["server"] = server._replace(asks=one_worker)
    return difference_memory(pieces.whole(), num_workers, key=key, **options)


def _squared_share(zeta, num_workers: int, options: MemoryOptions):
    _checks.number_in_range("zeta", zeta, 0.0, _checks.LARGEST)
    return share(zeta, num_workers, options, power=2)


def _probabilities(probabilities, num_workers: int):
    # Of NumPy, which lie on no mesh.
    if probabilities is None:
        return np.full(num_workers, 1 / num_workers)
    if not _checks.is_traced(probabilities):
        probabilities = np.asarray(probabilities)
        values = np.asarray(probabilities, np.float64)
        if (
            values.shape != (num_workers,)
            or not (values >= 0).all()
            or not np.isclose(values.sum(), 1, rtol=1e-5)
        ):
            raise ValueError(
                f"probabilities is {probabilities}, expected {num_workers} numbers of "
                "at least 0 with a sum of 1."
            )
    return probabilities
