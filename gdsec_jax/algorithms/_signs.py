"""Methods of whose direction the signs alone are left: the step says how far to go."""

from typing import Unpack

import optax

from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._error_feedback import with_error_feedback
from gdsec_jax.algorithms._options import Aggregator, MemoryOptions, Options, algorithm
from gdsec_jax.federation import federate
from gdsec_jax.server import Server
from gdsec_jax.server._server import as_server, behind
from gdsec_jax.worker._piece import as_piece, declare, no_state


@algorithm(Options)
def sign_majority(num_workers: int, **options: Unpack[Options]) -> Aggregator:
    r"""signSGD with majority vote: every worker sends its signs, the server their sign.

    .. math::
       u_m = \text{sign}(\nabla f_m(\theta^k)), \quad
       \theta^{k+1} = \theta^k - \alpha \, \text{sign}\Big(\sum_m u_m\Big)

    One bit an entry, and no scale: for a worker sign(0) = 1, unless there is no
    gradient at all, and 0 for a tie. `History.broadcast_bits` does not count the signs
    that go down. At a fixed step it reaches a neighbourhood, as wide as the step, of
    where the majority leads; where the workers' gradients differ that is not the
    solution, with a step that decays as well. Weights do not change a vote.

    Returns:
      :math:`\text{sign}(\sum_m u_m)`, whatever the reduction. The step, a hundredth of
      what is best for the first round alone, :math:`\|\nabla f\|_1 / (L D)`, is a
      heuristic.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> algorithm = gdsec_jax.sign_majority(3)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1e-3))
      >>> params = jnp.zeros(2)
      >>> grads = jnp.array([[1.0, -3.0], [2.0, 3.0], [-9.0, 4.0]])
      >>> direction, state = algorithm.update(grads, algorithm.init(params), params)
      >>> direction, gdsec_jax.last_round(state).bits
      (Array([1., 1.], dtype=float32), array([2, 2, 2]))

    References:
      Bernstein, Zhao, Azizzadenesheli, Anandkumar, signSGD with Majority Vote, 2018,
      https://arxiv.org/abs/1810.05291. The formulas are stated from memory of it.
    """
    options["server"] = _signs_behind(options.get("server"))
    return federate(pieces.sign(scaled=False), num_workers, **options)


@algorithm(MemoryOptions)
def demo(
    num_workers: int,
    k: float = 32,
    chunk: int = 4096,
    decay=0.999,
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""DeMo: top-k of the momentum's cosine transform, and the signs of the sum.

    .. math::
       e_m \leftarrow \beta e_m + \nabla f_m(\theta^k), \quad
       u_m = T^{-1} \text{top}_k(T e_m) \text{ of each chunk}, \quad
       e_m \leftarrow e_m - u_m, \quad
       \theta^{k+1} = \theta^k - \alpha \, \text{sign}\Big(\sum_m u_m\Big)

    with T the orthonormal cosine transform. At a fixed step it reaches a neighbourhood
    as wide as the step; with a step that decays a smaller one, but what a worker
    forgets, a part of :math:`1 - \beta` a round, never arrives. Weight decay is a
    stage behind it, `optax.add_decayed_weights`.

    Args:
      k: coefficients of each chunk, an int of at least 1, or a fraction of a chunk.
      chunk: neighbours in a leaf that are transformed together.
      decay: :math:`\beta` in [0, 1]; may be traced.

    Returns:
      :math:`\text{sign}(\sum_m u_m)`, whatever the reduction. The step, a hundredth of
      what is best for the first round alone, :math:`\|\nabla f\|_1 / (L D)`, is a
      heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.demo(5)
      >>> optimizer = optax.chain(
      ...     algorithm, optax.add_decayed_weights(0.1), optax.sgd(1e-3))

    References:
      Peng, Quesnelle, Kingma, DeMo, 2024, https://arxiv.org/abs/2411.19870. Its public
      code cuts matrices into squares, averages each coefficient over those that sent
      it, and multiplies gradients by the step before they are summed up: with a step
      that decays, older ones count for more.
    """
    compressor = pieces.chunk_top_k(k, chunk=chunk, dct=True)
    options["server"] = _signs_behind(options.get("server"))
    return with_error_feedback(compressor, num_workers, decay=decay, **options)


def _signs_behind(server: Server | None) -> Server:
    """A server that hands on the signs of what it made."""
    server = as_server(server)
    return server._replace(step=behind(as_piece(server.step), _SIGNS))


# With a state of no library's type, which goes wherever states go.
_SIGNS = declare(
    optax.GradientTransformation(no_state, optax.scale_by_sign().update),
    component_wise=True,
    sums_over_workers=False,
)
