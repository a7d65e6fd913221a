"""The server's side as the user sees it: JAX and Flower are imported when used."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gdsec_jax.flower._need import flwr

if TYPE_CHECKING:
    import optax


def Compressed(
    algorithm: Any,
    optimizer: "optax.GradientTransformation",
    params: Any,
    *,
    error: Callable[[Any], Any] | None = None,
    error_name: str = "error",
    folder: str | os.PathLike | None = None,
    patience: float = 60.0,
) -> Any:
    r"""A Flower Strategy that adds up a method's messages, and steps.

    .. math:: \theta^{k+1} = \theta^k + \text{optimizer}\Big(\text{server}
       \Big(\sum_m u_m\Big)\Big)

    It keeps every worker's h_m, of its messages alone: M times the parameters, for a
    method with such a memory. What is lost on the way is as in `federate`: a message
    that does not arrive acts on its worker as if all had been censored, and a worker
    that is not there holds.

    Args:
      algorithm: a method of this package, or `federate` of a pipeline of your own, for
        M workers.
      optimizer: any of optax, behind it. With a `gdsec_jax.broadcast` at its end the
        server sends its step compressed.
      params: :math:`\theta^1`.
      error: from parameters to a number, recorded after every round.
      error_name: what that is called.
      folder: where the server's state is written after every round, before the next
        instructions go out; a server that is started again with it goes on from there.
      patience: seconds to wait, before a round, for as many nodes as workers; the log
        says for whom.

    Returns:
      A `flwr.serverapp.strategy.Strategy`. Its `run(grid, rounds, timeout)` is `start`
      with these parameters, and returns a `History`, as `simulate` does; `.params` are
      the last ones, `.history` what was recorded so far. `start` refuses initial_arrays
      that are others.

    Raises:
      ModuleNotFoundError: Flower is not installed.
      ValueError: the algorithm's halves cannot be apart: its workers train in a way of
        its own, or sum over each other within a round, or its server's rule is no sum,
        out of which a message could be taken back; folder has a state that is damaged,
        or of another method, optimizer or number of workers.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import flower
      >>> strategy = flower.Compressed(  # doctest: +SKIP
      ...     gdsec_jax.gdsec(3, xi=4.0, wire="rle"), optax.sgd(0.1), jnp.zeros(2))
      >>> strategy.params  # doctest: +SKIP
      Array([0., 0.], dtype=float32)
    """
    from gdsec_jax.flower._strategy import strategy_of

    flwr()
    return strategy_of(
        algorithm, optimizer, params, error, error_name, folder, patience
    )
