"""The mesh in effect, if workers are spread over its devices."""

import jax
from jax.sharding import PartitionSpec

DEVICE_AXIS = "worker_devices"  # of a mesh over which workers are spread
BY_DEVICE = PartitionSpec(DEVICE_AXIS)  # of an array whose first axis is of workers


def num_devices() -> int:
    """Over which workers are spread: of the axis `DEVICE_AXIS` of the mesh that
    `jax.set_mesh` has set, or 1."""
    return jax.sharding.get_abstract_mesh().shape.get(DEVICE_AXIS, 1)
