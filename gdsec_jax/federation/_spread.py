"""Workers that lie on the devices of a mesh: which axes, and what each shard has."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gdsec_jax import _checks
from gdsec_jax._devices import DEVICE_AXIS

Axis = str | tuple[str, ...]


class Spread(NamedTuple):
    """Seen from inside a `shard_map`: the axes that the workers lie on.

    Without axes all workers are here, and nothing changes hands.
    """

    axes: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Into how many parts the workers fall."""
        return math.prod(jax.lax.axis_size(axis) for axis in self.axes)

    def mine(self, tree: Any) -> Any:
        """Of leaves [M, ...] those of this shard's workers, [m, ...]."""
        if not self.axes:
            return tree

        def one(x):
            own = x.shape[0] // self.shards
            begin = jax.lax.axis_index(self.axes) * own
            return jax.lax.dynamic_slice_in_dim(x, begin, own)

        return jax.tree.map(one, tree)

    def everyones(self, tree: Any) -> Any:
        """Of leaves [m, ...] those of all workers, [M, ...], the same everywhere."""
        if not self.axes:
            return tree

        def one(x):
            # As words: on CPUs what has fewer bits than a float32 travels as one.
            return jax.lax.all_gather(x, self.axes, tiled=True, to="invarying")

        return jax.tree.map(one, tree)

    def summed(self, tree: Any) -> Any:
        """The sum over the shards."""
        return jax.lax.psum(tree, self.axes) if self.axes else tree


class Place(NamedTuple):
    """Where the workers of an update lie."""

    axes: tuple[str, ...] = ()
    mesh: Any = None  # None: inside a `shard_map` of these axes already


def names_of(axis: Axis | None) -> tuple[str, ...]:
    """The axis, or axes, as a tuple."""
    if axis is None:
        return ()
    names = (axis,) if isinstance(axis, str) else axis
    if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"axis is {axis!r}, expected the name of a mesh axis, a tuple of names, or "
            "None."
        )
    return names


def bound(axes: tuple[str, ...]) -> bool:
    """Whether this is inside a `shard_map` of these axes."""
    if not axes:
        return False
    known = 0
    for axis in axes:
        try:
            jax.lax.axis_size(axis)
        except NameError:
            continue
        known += 1
    if 0 < known < len(axes):
        raise ValueError(
            f"axis is {axes}, of which {known} are mapped here, expected all or none."
        )
    return known > 0


def own_of(axes: tuple[str, ...], tree: Any) -> Any:
    """What begins the same on all shards, and will differ: with that as its type."""

    def one(x):
        for axis in axes:
            if _varies(jax.lax.axis_index(axis), (axis,)) and not _varies(x, (axis,)):
                x = jax.lax.pcast(x, axis, to="varying")
        return x

    return jax.tree.map(one, tree)


def place_of(axes: tuple[str, ...], gradients: Any, num_workers: int) -> Place:
    """Where the workers lie: as is said, or as the gradients' sharding says."""
    if bound(axes):
        _check_own(axes, gradients, num_workers)
        return Place(axes)
    leaves = jax.tree.leaves(gradients)
    shardings = [jax.typeof(leaf).sharding for leaf in leaves if jnp.ndim(leaf)]
    meshes = [x.mesh for x in shardings if not x.mesh.empty]
    mesh = meshes[0] if meshes else jax.sharding.get_abstract_mesh()
    axes = axes or _read(leaves, shardings)
    if mesh.empty or not axes:
        return Place()
    for axis in axes:
        if axis not in mesh.shape:
            raise ValueError(
                f"axis is {axis!r}, expected one of the mesh's: "
                f"{', '.join(map(repr, mesh.axis_names))}."
            )
    shards = math.prod(mesh.shape[axis] for axis in axes)
    if shards == 1:
        return Place()
    if num_workers % shards:
        raise ValueError(
            f"num_workers is {num_workers}, expected a multiple of {shards}, the "
            f"devices on the mesh's axis {_named(axes)}."
        )
    return Place(axes, mesh)


def _read(leaves, shardings) -> tuple[str, ...]:
    """The axes that the first axis of the gradients is sharded over."""
    found = {}
    for leaf, sharding in zip(leaves, shardings, strict=False):
        known = getattr(leaf, "sharding", None)
        specs = [sharding.spec]
        if not _checks.is_traced(leaf) and isinstance(known, NamedSharding):
            specs.append(known.spec)
        for spec in specs:
            first = spec[0] if len(spec) else None
            if isinstance(first, str):
                first = (first,)
            if first and DEVICE_AXIS not in first:
                found[tuple(first)] = None
    if len(found) > 1:
        raise ValueError(
            "the gradients' workers are sharded over "
            f"{' and '.join(_named(axes) for axes in found)}, expected one axis for "
            "all: name it, axis=…"
        )
    return next(iter(found), ())


def _named(axes: tuple[str, ...]) -> str:
    return " and ".join(map(repr, axes))


def _check_own(axes: tuple[str, ...], gradients: Any, num_workers: int) -> None:
    """Gradients inside a `shard_map`: of this shard's worker, and of no other."""
    shards = Spread(axes).shards
    if num_workers != shards:
        raise ValueError(
            f"num_workers is {num_workers}, expected {shards}, one for each device on "
            f"the mesh's axis {_named(axes)}, inside a shard_map of it."
        )
    if not _varies(jax.lax.axis_index(axes), axes):
        return  # the shard_map does not check, and nothing is known
    for leaf in jax.tree.leaves(gradients):
        if not _varies(leaf, axes):
            raise ValueError(
                f"the gradients are the same on all devices of {_named(axes)}, expected "
                "each one's own: jax.grad has added them up, for it was taken at "
                "parameters that all have in common; take it at "
                f"jax.lax.pcast(params, {axes[0]!r}, to='varying')."
            )


def _varies(x: Any, axes: tuple[str, ...]) -> bool:
    """Whether a value is known to differ over some of these axes."""
    aval = jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)
    varying = getattr(aval, "vma", frozenset()) if kind is None else kind.varying
    return any(axis in varying for axis in axes)


def parted(tree: Any) -> tuple[list, Any]:
    """The arrays and numbers of a tree, and the rest of it, which no device holds."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = (jax.Array, np.ndarray, np.generic, int, float)
    arrays = [isinstance(x, kinds) for x in leaves]
    rest = [None if a else x for x, a in zip(leaves, arrays, strict=True)]
    return [x for x, a in zip(leaves, arrays, strict=True) if a], (structure, arrays, rest)


def joined(arrays: list, others: Any) -> Any:
    """The tree that was parted."""
    structure, kinds, rest = others
    found = iter(arrays)
    leaves = [next(found) if a else x for x, a in zip(rest, kinds, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def own(tree: Any) -> Any:
    """Leaves [*param] of this shard's only worker as [1, *param]."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def over_mesh(place: Place, run: Callable, specs: Any, values: Any) -> Any:
    """A function of (direction, state) on every shard, of values that lie anywhere.

    Args:
      place: with a mesh.
      run: from values, each as a shard has it, to a direction and a state.
      specs: of `values`, a tree prefix with "workers" or "all" as leaves; the state's
        are those of the results, and the direction is for all.
      values: state, and whatever else there is.
    """
    mesh, axes = place.mesh, place.axes
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    others = tuple(
        n for n, kind in kinds.items() if kind == AxisType.Explicit and n not in axes
    )
    by = {"workers": PartitionSpec(axes), "all": PartitionSpec()}
    specs = jax.tree.map(by.get, specs)
    explicit = any(kinds[axis] == AxisType.Explicit for axis in axes)
    before = jax.tree.map(jax.typeof, values)
    if explicit:
        values = _laid_out(values, specs, axes, mesh)

    def local(*values):
        if not others:
            return run(*values)
        # What lies on further axes is the compiler's to cut.
        like = jax.eval_shape(run, *values)
        given = {}
        for leaf in jax.tree.leaves(values):
            given.setdefault((leaf.shape, leaf.dtype), jax.typeof(leaf).sharding.spec)
        out = jax.tree.map(
            lambda x: given.get((x.shape, x.dtype), PartitionSpec(*(None,) * x.ndim)),
            like,
        )
        return jax.sharding.auto_axes(run, axes=others, out_sharding=out)(*values)

    made = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs,
        out_specs=(PartitionSpec(), specs[0]),
        axis_names=set(axes),
        check_vma=False,  # that what is gathered is the same everywhere
    )(*values)
    if not explicit:
        return made
    # As it lay before: a loop carries no other type.


    def back(x, was):
        known = not was.sharding.mesh.empty
        return jax.sharding.reshard(x, was.sharding) if known else x

    state = jax.tree.map(back, made[1], before[0])
    return made[0], state


def _laid_out(values, specs, axes, mesh):
    """Explicit arrays where a `shard_map` of these axes wants them."""

    def one(spec, tree):
        def leaf(x):
            old = [*jax.typeof(x).sharding.spec]
            old += [None] * (jnp.ndim(x) - len(old))

            def without(entry):
                names = entry if isinstance(entry, tuple) else (entry,)
                kept = tuple(n for n in names if n is not None and n not in axes)
                return kept or None

            new = [without(entry) for entry in old]
            if len(spec):
                new[0] = spec[0]
            return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*new)))

        return jax.tree.map(leaf, tree)

    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    return jax.tree.map(one, specs, values, is_leaf=is_spec)
