"""Gaussian noise that makes a gradient private, and what says how much of it."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.worker._piece import Noise, Piece
from gdsec_jax.worker._vectors import needed

Trust = Literal["local", "central"]
# Other pieces draw with the worker's key, too.
_STREAM = 2**31 - 6


@_trees.state
class GaussianNoiseState(NamedTuple):
    """State of `gaussian_noise`: what a worker has given away so far."""

    deviation: jax.Array  # float []: of the noise that a guarantee counts on
    central: jax.Array  # bool []: whether that is what all workers add together
    rounds: jax.Array  # int32 []: in which this worker has noised a gradient


def gaussian_noise(multiplier, sensitivity, *, trust: Trust = "local") -> Piece:
    r"""Add Gaussian noise to the gradient, a worker's own in every round.

    .. math:: C(g)_i = g_i + z_i, \quad z_i \sim N(0, s^2), \quad s = \sigma S

    It stands first in a pipeline, so that all behind it, censoring, quantising and
    memories, is made of a private gradient and gives away no more: `federate` refuses
    it elsewhere. Noise is drawn in float32 at least. Its state counts the rounds in
    which the worker has noised a gradient, which `privacy.epsilon` makes an epsilon of.

    Whom it protects from depends on `trust`:

    "local": each worker trusts nobody. Every message is private, whoever reads it.

    "central": the workers add up to the noise that a trusted server would,
    :math:`s / \sqrt M` each. Their sum alone is private, so whoever adds them up must
    be trusted or see the sum alone, as by secure aggregation; all M take part in every
    round, and nothing is compressed behind it: what a compressor drops of the others'
    noise protects nobody.

    Args:
      multiplier: :math:`\sigma \ge 0`; may be traced. 0 adds nothing.
      sensitivity: S, by how much a sample may change a worker's gradient at most, in
        the Euclidean norm: `Problem.private.sensitivity`. Above 0; may be traced.
      trust: "local" or "central".

    Its update needs `key`, and where the trust is central `num_workers`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import gdsec_jax
      >>> from gdsec_jax import worker
      >>> noise = worker.gaussian_noise(multiplier=1.0, sensitivity=0.1)
      >>> algorithm = gdsec_jax.gdsec(3, xi=1.0, noise=noise, key=0)
      >>> params, grads = jnp.zeros(2), jnp.ones((3, 2))
      >>> total, _ = algorithm.update(grads, algorithm.init(params), params)
      >>> bool(jnp.all(total != 3.0)), bool(jnp.all(jnp.abs(total - 3.0) < 1.0))
      (True, True)

    References:
      Abadi et al., Deep Learning with Differential Privacy, 2016,
      https://arxiv.org/abs/1607.00133; Kairouz, Liu, Steinke, The Distributed Discrete
      Gaussian Mechanism for Federated Learning with Secure Aggregation, 2021,
      https://arxiv.org/abs/2102.06387 (what quantised central noise asks for)
    """
    _checks.number_in_range("multiplier", multiplier, 0.0, _checks.LARGEST)
    _checks.number_in_range("sensitivity", sensitivity, 0.0, _checks.LARGEST)
    if not _checks.is_traced(sensitivity):
        _checks.positive("sensitivity", sensitivity)
    _checks.one_of("trust", trust, get_args(Trust))
    deviation = multiplier * sensitivity
    silent = _is_zero(deviation)

    def init(params):
        del params
        return GaussianNoiseState(
            deviation=jnp.asarray(deviation, jnp.float32),
            central=jnp.asarray(trust == "central"),
            rounds=jnp.zeros((), jnp.int32),
        )

    def update(updates, state, params=None, **extra_args):
        del params
        after = state._replace(rounds=state.rounds + 1)
        if silent:
            return updates, after
        key = needed(extra_args, "key", "gaussian_noise")
        share = 1.0
        if trust == "central":
            share = needed(extra_args, "num_workers", "gaussian_noise") ** -0.5
        return _noised(updates, deviation * share, key), after

    noise = Noise(trust, deviation)
    return Piece(init, update, component_wise=silent, noise=noise)


def adds_nothing(piece: Piece) -> bool:
    """Whether the noise that it begins with is surely none."""
    return piece.noise is None or _is_zero(piece.noise.deviation)


def still_counted(before: Any, after: Any) -> Any:
    """A worker's state that is taken back, but for what it counts of its noise."""

    def is_noise(node):
        return isinstance(node, GaussianNoiseState)

    def one(old, new):
        return new if is_noise(new) else old

    return jax.tree.map(one, before, after, is_leaf=is_noise)


def _is_zero(deviation: Any) -> bool:
    return not _checks.is_traced(deviation) and float(deviation) == 0.0


def _noised(tree: Any, deviation: Any, key: jax.Array) -> Any:
    """Each leaf with noise of its own, in its dtype."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), max(len(leaves), 1))

    def one(leaf, key):
        dtype = _trees.widest(leaf.dtype, jnp.float32)
        drawn = jax.random.normal(key, leaf.shape, dtype)
        noised = leaf.astype(dtype) + jnp.asarray(deviation, dtype) * drawn
        return noised.astype(leaf.dtype)

    made = [one(leaf, key) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, made)
