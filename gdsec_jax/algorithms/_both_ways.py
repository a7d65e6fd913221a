"""Methods whose server compresses, too: `last_broadcast` says what goes down."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax import worker as pieces
from gdsec_jax.algorithms._options import (
    Aggregator,
    MemoryOptions,
    Options,
    algorithm,
    share,
)
from gdsec_jax.algorithms._variance_reduced import ef21_sgdm
from gdsec_jax.algorithms._whole_vectors import gd
from gdsec_jax.federation import federate
from gdsec_jax.federation._broadcast import broadcast
from gdsec_jax.worker import Piece, Scope


@algorithm(Options)
def ef21_p(
    num_workers: int,
    k: float,
    *,
    scope: Scope = "message",
    **options: Unpack[Options],
) -> Aggregator:
    r"""EF21-P: the server sends the largest entries of what the workers lack.

    The server has x, all workers :math:`\theta^k`, at which they take gradients:

    .. math::
       x \leftarrow x - \gamma \sum_m \nabla f_m(\theta^k), \quad
       \theta^{k+1} = \theta^k + \text{top}_k(x - \theta^k)

    The way up is not compressed. With k = D it is gradient descent. On smooth strongly
    convex f it converges linearly. What is kept is
    :math:`e = (\theta^k - x) / \gamma`, the error memory of a `broadcast` in front of
    the step: of a step that changes, what was left out is taken with the new one. With
    another C, or something else on the way up, it is that piece, behind the step.

    Returns:
      :math:`\text{top}_k(e + \sum_m \nabla f_m(\theta^k))`. The step is
      :math:`\gamma = \alpha / (8 L)` with :math:`\alpha = k / D`, derived here: of
      :math:`\|x - \theta^*\|^2 + 12 \gamma L / \alpha \|\theta^k - x\|^2`, of which a
      round takes a part of :math:`\gamma \mu / 2`; the paper's is half of it.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.ef21_p(2, k=1), optax.sgd(1.0))
      >>> params, grads = jnp.zeros(2), jnp.array([[1.0, 2.0], [1.0, 1.0]])
      >>> step, state = optimizer.update(grads, optimizer.init(params), params)
      >>> step, gdsec_jax.last_broadcast(state).entries.item()
      (Array([-0., -3.], dtype=float32), 1)

    References:
      Gruntkowska, Tyurin, Richtárik, EF21-P and Friends, 2022,
      https://arxiv.org/abs/2209.15218. The formulas are stated from memory of it.
    """
    down = pieces.error_feedback(pieces.top_k(k, scope=scope))
    return _then(gd(num_workers, **options), _sent(down, options))


@algorithm(MemoryOptions)
def ef21_muon(
    num_workers: int,
    k: float,
    eta=0.1,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""EF21-Muon: EF21-SGDM up, an orthogonal matrix as the step, EF21-P down.

    .. math::
       v_m &\leftarrow (1 - \eta) v_m + \eta \nabla f_m(\theta^k), \quad
         h_m \leftarrow h_m + \text{top}_k(v_m - h_m) \\
       X &\leftarrow X - t \, U V^T \text{ with } U \Sigma V^T = \sum_m h_m, \quad
         \theta^{k+1} = \theta^k + \text{top}_k(X - \theta^k)

    for each leaf; v begins as the first gradient, which travels whole. Of a matrix
    :math:`U V^T` is optax's, by five Newton-Schulz steps: singular values between about
    0.7 and 1.2 of those above a fiftieth of the matrix's norm, smaller ones of the
    others; a leaf of more axes is a matrix whose columns are its last; one of less is a
    single column, divided by its norm. A step is as long as t,
    however small the gradient: at a fixed one it reaches a neighbourhood as wide.
    Of a step that changes, what was left out is taken with the new one.

    Args:
      k: of both ways: how many, an int of at least 1, or a fraction of D in (0, 1].
      eta: :math:`\eta` in [0, 1]; may be traced.

    Returns:
      :math:`\text{top}_k(e + U V^T)`, with :math:`e = (\theta^k - X) / t`. The step, a
      hundredth of what is best for the first round alone, :math:`\|\nabla f\|_* / (L
      r)` with the nuclear norm and the rank r, is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> optimizer = optax.chain(gdsec_jax.ef21_muon(5, k=0.1), optax.sgd(0.02))

    References:
      Gruntkowska, Gaponov, Tovmasyan, Richtárik, Error Feedback for Muon and Friends,
      2025, https://arxiv.org/abs/2510.00643. The formulas are stated from memory of it.
    """
    down = pieces.error_feedback(
        pieces.top_k(k, scope=scope), state_dtype=options.get("state_dtype")
    )
    up = ef21_sgdm(num_workers, k, eta, scope=scope, **options)
    return _then(up, orthogonal(), _sent(down, options))


def orthogonal() -> Piece:
    """Of every leaf, as a matrix, U V^T."""
    muon = optax.contrib.scale_by_muon(beta=0.0, nesterov=False)

    def one(x):
        if x.ndim < 2:
            norm = _trees.norm(x, x.dtype)
            return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)
        matrix = x.reshape(-1, x.shape[-1])
        with jax.numpy_dtype_promotion("standard"):  # which optax relies on
            made: Any = muon.update(matrix, muon.init(matrix))[0]
        return made.reshape(x.shape)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return jax.tree.map(one, updates), state

    return Piece(lambda params: (), update)


@_trees.state
class OneBitAdamState(NamedTuple):
    """State of `one_bit_adam`."""

    federation: Any  # of what goes up, and of what goes down
    first: Any  # m, which all know: leaves [*param]
    second: Any  # v, frozen after the warm-up: leaves [*param]


@algorithm(MemoryOptions)
def one_bit_adam(
    num_workers: int,
    warmup: int,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    *,
    scope: Scope = "message",
    **options: Unpack[MemoryOptions],
) -> Aggregator:
    r"""1-bit Adam: Adam at first; then its second moment is frozen, and signs travel.

    In the first rounds, the warm-up, gradients go up and their sum comes down whole:

    .. math::
       g = \sum_m \nabla f_m(\theta^k), \quad m \leftarrow \beta_1 m + (1 - \beta_1) g,
       \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2

    then C sends signs and their mean magnitude, both ways with an error memory:

    .. math::
       v_m &= \tfrac1M \beta_1 m + (1 - \beta_1) \nabla f_m(\theta^k) + e_m, \quad
         u_m = C(v_m), \quad e_m \leftarrow v_m - u_m \\
       s &= e + \sum_m u_m, \quad m \leftarrow C(s), \quad e \leftarrow s - m

    and at all times :math:`\theta^{k+1} = \theta^k - \alpha \, m / (\sqrt v +
    \epsilon)`. Where v is 0, as there never was a gradient, entries stay where they
    are. One bit an entry and a scale go either way; `last_round` and `last_broadcast`
    count them, and the whole vectors of the warm-up. At a fixed step it reaches a
    neighbourhood of the solution. Where only some workers take part,
    `reduction="senders"` is meant: in a sum each of the others keeps its M-th of
    :math:`\beta_1 m` to itself, and m is shorter after the warm-up.

    Args:
      warmup: how many rounds, at least 1; in the paper a fifth of all or so. Rounds
        in which nobody is heard count; if all of them are such, v stays 0.
      b1, b2: :math:`\beta_1` and :math:`\beta_2` in [0, 1); may be traced.
      eps: :math:`\epsilon > 0`; may be traced. Errors of signs are divided by it where
        gradients were small, so that it may have to be far larger than Adam's.
      state_dtype: dtype of the workers' error memories; all others are float32 at
        least.

    Returns:
      :math:`m / (\sqrt v + \epsilon)`. The step :math:`\epsilon / L`, at which no entry
      is moved further than by gradient descent along m, with an eps of
      :math:`\|\nabla f(\theta^1)\|_1 / (10 D)`, is a heuristic.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.one_bit_adam(5, warmup=100)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1e-3))

    References:
      Tang et al., 1-bit Adam, 2021, https://arxiv.org/abs/2102.02888. As in its public
      code nothing corrects Adam's start, and there is no step but this one; that code
      has a mask of the caller's where v is 0, and, from memory, a scale for each array,
      the root of the mean square.
    """
    _checks.integer("warmup", warmup, 1, 2**31 - 1)
    for name, value in (("b1", b1), ("b2", b2)):
        _checks.number_in_range(name, value, 0.0, 1.0)
        if not _checks.is_traced(value) and float(value) == 1:
            raise ValueError(f"{name} is {value}, expected less than 1: nothing moves.")
    _checks.positive("eps", eps)
    state_dtype = options.pop("state_dtype", None)

    def compressor(state_dtype=None):
        signs = pieces.error_feedback(pieces.sign(scope=scope), state_dtype=state_dtype)
        return pieces.first_whole(signs, rounds=warmup)

    mixed = _with_common(b1, share(b1, num_workers, options), warmup)
    common: Any = options
    piece = pieces.chain(mixed, compressor(state_dtype))
    up = federate(piece, num_workers, **common)
    summed = _then(up, _sent(compressor(), options))

    def init(params):
        first, second = (_trees.zero_memory(params) for _ in range(2))
        return OneBitAdamState(summed.init(params), first, second)

    def update(updates, state, params=None, **extra_args):
        early = state.federation[0].clock.number < warmup
        heard, federation = summed.update(
            updates, state.federation, params, average=state.first, **extra_args
        )
        s = _trees.cast_like(heard, state.first)
        first = optax.tree.where(early, _moved(state.first, b1, s), s)
        squares = _moved(state.second, b2, jax.tree.map(_square, s))
        second = optax.tree.where(early, squares, state.second)

        def one(m, v):
            return jnp.where(v > 0, m / (jnp.sqrt(v) + jnp.asarray(eps, v.dtype)), 0)

        direction = _trees.cast_like(jax.tree.map(one, first, second), heard)
        return direction, OneBitAdamState(federation, first, second)

    return Aggregator(init, update)


def _with_common(b1, part, warmup: int) -> Piece:
    """After the warm-up, a worker's part of the momentum that all would have."""

    def update(updates, state, params=None, *, average, round=0, **extra_args):
        del params, extra_args
        g = _trees.cast_like(updates, average)

        def one(m, g):
            return jnp.asarray(part, m.dtype) * m + jnp.asarray(1 - b1, m.dtype) * g

        mixed = jax.tree.map(one, average, g)
        return optax.tree.where(round < warmup, g, mixed), state

    return Piece(lambda params: (), update)


def _square(x):
    """At most the largest number."""
    return jnp.minimum(jnp.square(x), jnp.finfo(x.dtype).max)


def _moved(average, decay, towards):
    """decay average + (1 - decay) towards."""
    return _trees.add_scaled(average, 1 - decay, _trees.sub(towards, average))


def _then(algorithm: Aggregator, *stages: optax.GradientTransformation) -> Aggregator:
    """An algorithm with stages behind it, as one."""
    return Aggregator(*optax.chain(algorithm, *stages))


def _sent(compressor: Piece, options: Any) -> optax.GradientTransformation:
    """What goes down, counted in the format of what goes up."""
    return broadcast(compressor, wire=options.get("wire", "coo"))
