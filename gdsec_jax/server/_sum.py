"""The sum of messages over workers and devices, by moving only what was sent."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gdsec_jax import _trees
from gdsec_jax._devices import BY_DEVICE, DEVICE_AXIS, num_devices


def sparse_sum(messages: Any, capacity: int) -> Any:
    """The sum over the first axis, by way of index and value buffers.

    The non-zeros of each worker are packed into buffers of `capacity` entries. With a
    mesh in effect these are gathered from all devices, instead of a sum of all entries,
    and every device adds up what all have sent; in float32 at least.
    """
    leaves, structure = jax.tree.flatten(messages)
    if not leaves:
        return messages
    dtype = _trees.norm_dtype(messages)
    flat = [leaf.reshape(leaf.shape[0], -1).astype(dtype) for leaf in leaves]
    ends = [sum(x.shape[1] for x in flat[:i]) for i in range(1, len(flat))]
    length = sum(x.shape[1] for x in flat)
    spread = num_devices() > 1

    def pack(message):
        (index,) = jnp.nonzero(message, size=min(capacity, length), fill_value=length)
        return index.astype(jnp.int32), message.at[index].get(mode="fill", fill_value=0)

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
    pieces = jnp.split(total(jnp.concatenate(flat, axis=1)), ends)
    summed = [x.reshape(leaf.shape[1:]) for x, leaf in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(structure, summed)
