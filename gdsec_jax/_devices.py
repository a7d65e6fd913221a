"""The devices that workers are spread over."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

DEVICE_AXIS = "worker_devices"  # of a mesh over which workers are spread
BY_DEVICE = PartitionSpec(DEVICE_AXIS)  # of an array whose first axis is of workers


def num_devices() -> int:
    """Of the axis `DEVICE_AXIS` of the mesh that `jax.set_mesh` has set, or 1."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get(DEVICE_AXIS) == AxisType.Explicit:
        raise ValueError(
            f"the mesh's axis {DEVICE_AXIS} is Explicit, expected Auto: "
            "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))."
        )
    return mesh.shape.get(DEVICE_AXIS, 1)


def mesh_of(mesh: Mesh, num_workers: int = 0) -> Mesh:
    """The mesh's devices along one axis, which is left to the compiler."""
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh is {mesh!r}, expected a jax.sharding.Mesh.")
    check_share(num_workers, mesh.size)
    return Mesh(mesh.devices.reshape(-1), (DEVICE_AXIS,))


def check_share(num_workers: int, devices: int) -> None:
    """Each of the devices can have the same number of workers."""
    if num_workers % devices:
        raise ValueError(
            f"mesh has {devices} devices, expected a divisor of num_workers, "
            f"{num_workers}."
        )


# Without its compiler here, a program for a TPU can still be exported, and be compiled
# elsewhere: it then goes the other way, which is as right there, and slower.
TPU_IS_KNOWN = importlib.util.find_spec("libtpu") is not None


def unless_on_tpu(*arguments: Any, tpu: Callable, default: Callable) -> Any:
    """What a function makes of arguments; where it runs on a TPU, another one.

    For what is faster so. What a TPU could not do otherwise asks
    `jax.lax.platform_dependent` itself, with or without the compiler.
    """
    if not TPU_IS_KNOWN:
        return default(*arguments)
    return jax.lax.platform_dependent(*arguments, tpu=tpu, default=default)
