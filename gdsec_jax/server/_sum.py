"""Sums over workers: that moves only what was sent, and that a few cannot bend."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gdsec_jax import _checks, _trees
from gdsec_jax._devices import BY_DEVICE, DEVICE_AXIS, num_devices, unless_on_tpu
from gdsec_jax._masks import where_set
from gdsec_jax.worker._vectors import tree_of, vectors


def sparse_sum(messages: Any, capacity: int) -> Any:
    """The sum over the first axis, by way of index and value buffers.

    The non-zeros of each worker are packed into buffers of `capacity` entries. With a
    mesh in effect these are gathered from all devices, instead of a sum of all entries,
    and every device adds up what all have sent; in float32 at least.
    """
    if not jax.tree.leaves(messages):
        return messages
    dtype, spread = _trees.norm_dtype(messages), num_devices() > 1
    length = sum(x[0].size for x in jax.tree.leaves(messages))

    def pack(message):
        index = where_set(message != 0, min(capacity, length))
        return index, message.at[index].get(mode="fill", fill_value=0)

    def total(message):
        index, values = jax.vmap(pack)(message)
        if spread:
            gather = jax.lax.all_gather
            index, values = (gather(x, DEVICE_AXIS) for x in (index, values))
        zeros = jnp.zeros(length, dtype)
        return zeros.at[index.ravel()].add(values.ravel(), mode="drop")

    if spread:
        total = jax.shard_map(
            total,
            in_specs=BY_DEVICE,
            out_specs=PartitionSpec(),
            axis_names={DEVICE_AXIS},
            check_vma=False,  # that what is gathered is the same everywhere
        )
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), messages)

    def packed(messages):
        flat = jax.vmap(lambda message: vectors(message, "message")[0])(messages)
        return tree_of([total(flat)], one, "message")

    if spread:
        return packed(messages)

    def whole(messages):  # a TPU adds all entries up sooner than it finds the non-zeros
        sums = _trees.over_workers(messages)
        return jax.tree.map(lambda x: x.astype(_trees.norm_dtype(messages)), sums)

    return unless_on_tpu(messages, tpu=whole, default=packed)


def median(summands: Any) -> Any:
    r"""M times the median over the workers, entry by entry.

    .. math:: M \, \text{median}_m (h_m + u_m)_i

    A rule for `server.robust`. Entries of fewer than half of the workers cannot move
    it beyond those of the others. It is not the mean: where the workers' gradients
    differ it leads elsewhere, and nothing is conserved. Of a worker that is absent, or
    lost, h_m stands in; a method without such a memory has 0 in its place, and with
    half of the workers absent the median is 0.

    Args:
      summands: leaves [M, *param].

    Returns:
      Leaves [*param].

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> server = gdsec_jax.server.robust(gdsec_jax.robust.median)
      >>> algorithm = gdsec_jax.gdsec(3, xi=0.0, server=server)
      >>> params, grads = jnp.zeros(1), jnp.array([[1.0], [2.0], [1e9]])
      >>> algorithm.update(grads, algorithm.init(params), params)[0]
      Array([6.], dtype=float32)

    References:
      Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning, 2018,
      https://arxiv.org/abs/1803.01498
    """
    return jax.tree.map(lambda x: x.shape[0] * jnp.median(x, axis=0), summands)


def trimmed_mean(share: float):
    r"""M times the mean over the workers, entry by entry, without the extreme ones.

    .. math:: \frac{M}{M - 2 b} \sum_{m = b + 1}^{M - b} (h + u)_{(m), i}, \quad
       b = \lfloor \text{share} \cdot M \rfloor

    with the workers' entries in ascending order. As `median` otherwise, which is its
    limit for a share of a half.

    Args:
      share: of the workers that are left out on each side, in [0, 1/2).

    Returns:
      A rule for `server.robust`, from leaves [M, *param] to leaves [*param].

    Raises:
      ValueError: share lies outside [0, 1/2).

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> rule = gdsec_jax.robust.trimmed_mean(0.25)
      >>> rule(jnp.array([[1.0], [2.0], [4.0], [1e9]]))
      Array([12.], dtype=float32)

    References:
      Yin, Chen, Ramchandran, Bartlett, 2018, https://arxiv.org/abs/1803.01498
    """
    _checks.number_in_range("share", share, 0.0, 0.5)
    if share == 0.5:
        raise ValueError("share is 0.5, expected less than 0.5: use robust.median.")

    def one(x):
        num_workers = x.shape[0]
        trimmed = math.floor(share * num_workers + 1e-9)  # 0.29 * 100 is 28.99…
        kept = jnp.sort(x, axis=0)[trimmed : num_workers - trimmed]
        return num_workers * kept.mean(axis=0)

    return lambda summands: jax.tree.map(one, summands)


def clipped_to_median(summands: Any) -> Any:
    r"""The sum over the workers, none of them longer than the median of their norms.

    .. math:: \sum_m \min\Big(1, \frac{\text{median}_j \|u_j\|}{\|u_m\|}\Big) u_m

    A rule for `server.robust`. The norm is that of a worker's whole message. Workers
    that are silent, or absent, do not count for the median.

    Args:
      summands: leaves [M, *param].

    Returns:
      Leaves [*param].

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> gdsec_jax.robust.clipped_to_median(jnp.array([[1.0], [-2.0], [40.0], [0.0]]))
      Array([1.], dtype=float32)

    References:
      Sarfi, Thérien, Lidin, Belilovsky, SparseLoCo, 2025,
      https://arxiv.org/abs/2508.15706, whose public code clips each array by itself,
      and takes the lower of two medians.
    """
    dtype = _trees.norm_dtype(summands)
    norms = jax.vmap(lambda own: _trees.norm(own, dtype))(summands)
    limit = jnp.nanmedian(jnp.where(norms > 0, norms, jnp.nan))
    factor = jnp.where(norms > limit, limit / norms, 1)
    shortened = jax.tree.map(
        lambda x: _trees.along(factor.astype(x.dtype), x) * x, summands
    )
    return _trees.over_workers(shortened)


def over_senders(summands: Any) -> Any:
    r"""M times the mean of each entry over the workers that sent it.

    .. math:: \frac{M}{|\{m : u_{m, i} \ne 0\}|} \sum_m u_{m, i}

    A rule for `server.robust`, of messages alone, of methods without the memories h_m.
    Where few send an entry it is longer than the sum, up to M times, and so are the
    steps. Nothing is conserved. It is what the public codes of DeMo and SparseLoCo do;
    their papers' formulas have the mean over all workers.

    Args:
      summands: leaves [M, *param].

    Returns:
      Leaves [*param].

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> messages = jnp.array([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
      >>> gdsec_jax.robust.over_senders(messages)
      Array([4., 0., 4.], dtype=float32)
    """

    def one(x, total):
        senders = jnp.maximum((x != 0).sum(axis=0), 1)
        return (x.shape[0] / senders).astype(total.dtype) * total

    return jax.tree.map(one, summands, _trees.over_workers(summands))


def majority(summands: Any) -> Any:
    r"""The sign that more of the workers have, entry by entry; 0 for a tie.

    .. math:: \text{sign}\Big(\sum_m \text{sign}(u_{m, i})\Big)

    A rule for `server.robust`, at the scale of a sign, whatever the messages' is; with
    a mean over the workers as `reduction` at 1/M of it.
    Nothing is conserved, and where the workers' gradients differ it leads elsewhere
    than their sum; at a fixed step it goes to and fro around where it leads.

    Args:
      summands: leaves [M, *param].

    Returns:
      Leaves [*param].

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> votes = jnp.array([[1.0, -3.0], [2.0, 3.0], [-9.0, 0.0]])
      >>> gdsec_jax.robust.majority(votes)
      Array([1., 0.], dtype=float32)

    References:
      Bernstein, Zhao, Azizzadenesheli, Anandkumar, signSGD with Majority Vote, 2018,
      https://arxiv.org/abs/1810.05291
    """
    votes = _trees.over_workers(jax.tree.map(jnp.sign, summands))
    return jax.tree.map(jnp.sign, votes)
