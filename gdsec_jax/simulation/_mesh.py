"""Arrays of a run spread over the devices of a mesh: workers, or settings of a sweep.

What is written for all workers stays as it is: it is the compiler that cuts it into the
devices' parts and adds the collectives, from where the arrays lie.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdsec_jax import _checks
from gdsec_jax._devices import DEVICE_AXIS
from gdsec_jax.federation import FederationState
from gdsec_jax.federation._counts import RoundCounts
from gdsec_jax.problems import Problem


def over(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """An array's axis is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, DEVICE_AXIS))


def everywhere(mesh: Mesh) -> NamedSharding:
    """All of an array is on each device."""
    return NamedSharding(mesh, PartitionSpec())


def by_worker(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Shardings of subtrees of a state, or records: of each worker's where it lies."""

    def one(node):
        if isinstance(node, FederationState):
            own: Any = {n: by_worker(x, mesh, axis) for n, x in node._asdict().items()}
            return FederationState(**own | {"workers": over(mesh, axis)})
        return over(mesh, axis) if isinstance(node, RoundCounts) else everywhere(mesh)

    kinds = (FederationState, RoundCounts)
    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, kinds))


def spread(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """The tree, an axis of every array over all devices, compiled or not."""
    if mesh is None:
        return tree
    traced = _checks.is_traced(tree)
    put = jax.lax.with_sharding_constraint if traced else jax.device_put
    return put(tree, over(mesh, axis))


def constrain(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """The tree, laid out `by_worker` inside a compiled function; as it is without."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, by_worker(tree, mesh, axis))


def place_problem(problem: Problem, mesh: Mesh | None) -> Problem:
    """A problem whose workers' data lie on their devices, and the rest on all."""
    if mesh is None:
        return problem
    shared = jax.tree.map(lambda _: everywhere(mesh), problem)
    return jax.device_put(problem, dataclasses.replace(shared, worker_data=over(mesh)))


def agreed(number: int, mesh: Mesh | None) -> int:
    """The first process's number, for all: what they decide by the clock differs."""
    if mesh is None or jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    parts = np.array(divmod(number, 2**30), np.int32)  # without x64 there is no int64
    high, low = np.asarray(multihost_utils.broadcast_one_to_all(parts))
    return int(high) * 2**30 + int(low)


def on_host(tree: Any, mesh: Mesh | None) -> Any:
    """The tree where every process can read it."""
    return tree if mesh is None else _copy(tree, mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _copy(tree, mesh: Mesh):
    return jax.lax.with_sharding_constraint(tree, everywhere(mesh))
