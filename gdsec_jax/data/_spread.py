"""Workers' data on the devices of a mesh, each process loading its own alone."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gdsec_jax._devices import BY_DEVICE, mesh_of


def spread(
    load: Callable[[int], Any], num_workers: int, mesh: jax.sharding.Mesh
) -> Any:
    """Arrays of all workers' data, of which each process loads what its devices hold.

    Args:
      load: from a worker's number to its data, a tree of arrays: the same shapes and
        dtypes for all workers; pad what is shorter.
      num_workers: M, a multiple of the mesh's devices.
      mesh: over which workers are spread, as by `simulate(mesh=)`.

    Returns:
      The tree with leaves [M, ...], `worker_data` for `problems.from_loss`.

    Raises:
      ValueError: mesh is no mesh; M is no such multiple; a worker's data has another
        shape or dtype than the first one's of this process.

    Examples:
      >>> import jax, numpy as np
      >>> from gdsec_jax import data
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("workers",))
      >>> def load(m):  # a file of its own, say
      ...     return {"x": np.full(3, float(m)), "y": np.float64(m)}
      >>> data.spread(load, 2, mesh)["y"].tolist()
      [0.0, 1.0]
    """
    sharding = jax.sharding.NamedSharding(mesh_of(mesh, num_workers), BY_DEVICE)
    places = sharding.addressable_devices_indices_map((num_workers,))
    parts, like = [], None
    for device, (index,) in places.items():  # pyright: ignore
        rows = []
        for m in range(num_workers)[index]:
            leaves, structure = jax.tree.flatten(load(m))
            leaves = [np.asarray(leaf) for leaf in leaves]
            own = structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
            like = like or (m, own)
            if own != like[1]:
                raise ValueError(
                    f"worker {m}'s data is {own[1]} in {own[0]}, expected that of "
                    f"worker {like[0]}: {like[1][1]} in {like[1][0]}."
                )
            rows.append(leaves)
        # One device's workers at a time: all of them at once may be too many.
        stacked = [np.stack(column) for column in zip(*rows, strict=True)]
        parts.append([jax.device_put(leaf, device) for leaf in stacked])
    assert like is not None  # each process has a device
    arrays = [
        jax.make_array_from_single_device_arrays(
            (num_workers, *own[0].shape[1:]), sharding, list(own)
        )
        for own in zip(*parts, strict=True)
    ]
    return jax.tree.unflatten(like[1][0], arrays)
