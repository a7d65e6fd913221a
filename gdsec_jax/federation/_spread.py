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
    within: tuple[str, ...] = ()  # over which lie the devices of one worker

    @property
    def shards(self) -> int:
        """Into how many parts the workers fall."""
        return _size(self.axes)

    def shards_of(self, mesh: Any) -> int:
        """The same, seen from outside."""
        if mesh is None:
            return self.shards
        return math.prod(mesh.shape[axis] for axis in self.axes)

    def mine(self, tree: Any) -> Any:
        """Of leaves [M, ...] those of this shard's workers, [m, ...]."""
        if not self.axes:
            return tree

        def one(x):
            own = x.shape[0] // self.shards
            begin = jax.lax.axis_index(self.axes) * own
            return jax.lax.dynamic_slice_in_dim(x, begin, own)

        return jax.tree.map(one, tree)

    def own(self, tree: Any) -> Any:
        """What differs by shard, also where it does not yet: with that as its type."""

        def one(x):
            for axis in self.axes:
                if _varies(jax.lax.axis_index(axis), axis) and not _varies(x, axis):
                    x = jax.lax.pcast(x, axis, to="varying")
            return x

        return jax.tree.map(one, tree) if self.axes else tree

    def everyones(self, tree: Any) -> Any:
        """Of leaves [m, ...] those of all workers, [M, ...], the same everywhere."""
        if not self.axes:
            return tree
        return jax.tree.map(lambda x: _gather(x, self.axes), tree)

    def summed(self, tree: Any) -> Any:
        """The sum over the shards."""
        return jax.lax.psum(tree, self.axes) if self.axes else tree

    def gathered(self, packed: jax.Array) -> jax.Array:
        """`everyones`, of vectors [m, W]: each device of a worker sends a part."""
        return self._by_parts(packed, lambda part: _gather(part, self.axes))

    def summed_by_all(self, vector: jax.Array) -> jax.Array:
        """`summed`, of a vector of which each device of a worker adds up a part."""
        return self._by_parts(vector, lambda part: jax.lax.psum(part, self.axes))

    def over_hosts(self, gradients: Any, mean: bool) -> Any:
        """The gradients of one worker, [1, *param], of those that its devices have."""
        if self.within:
            reduce = jax.lax.pmean if mean else jax.lax.psum
            gradients = reduce(gradients, self.within)
        return jax.tree.map(lambda x: jnp.asarray(x)[None], gradients)

    def _by_parts(self, x: jax.Array, collective: Callable) -> jax.Array:
        """A collective along the axes, with the last axis of x cut over `within`."""
        if not self.within:
            return collective(x)
        parts, length = _size(self.within), x.shape[-1]
        each = -(-length // parts)
        pad = [(0, 0)] * (x.ndim - 1) + [(0, parts * each - length)]
        begin = jax.lax.axis_index(self.within) * each
        own = jax.lax.dynamic_slice_in_dim(jnp.pad(x, pad), begin, each, axis=-1)
        whole = _gather(collective(own), self.within, axis=x.ndim - 1)
        return whole[..., :length]


def _size(axes: tuple[str, ...]) -> int:
    return math.prod(jax.lax.axis_size(axis) for axis in axes)


def _gather(x: jax.Array, axes: tuple[str, ...], axis: int = 0) -> jax.Array:
    return jax.lax.all_gather(x, axes, axis=axis, tiled=True, to="invarying")


def lies_on(axis: Axis | None, within: Axis | None) -> Spread:
    """The axes that are named."""
    spread = Spread(names_of(axis), names_of(within, "within"))
    if spread.within and not spread.axes:
        raise ValueError(
            f"within is {within!r} and axis is None, expected the axis that the "
            "workers lie on, too."
        )
    if set(spread.axes) & set(spread.within):
        raise ValueError(
            f"within is {within!r} and axis is {axis!r}, expected different axes."
        )
    return spread


def names_of(axis: Axis | None, name: str = "axis") -> tuple[str, ...]:
    """The axis, or axes, as a tuple."""
    if axis is None:
        return ()
    names = (axis,) if isinstance(axis, str) else axis
    if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"{name} is {axis!r}, expected the name of a mesh axis, a tuple of names, "
            "or None."
        )
    return names


def bound(spread: Spread) -> bool:
    """Whether this is inside a `shard_map` of these axes."""
    axes, known = spread.axes + spread.within, 0
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


def place_of(spread: Spread, gradients: Any, num_workers: int) -> tuple[Spread, Any]:
    """Where the workers lie: as is said, or as the gradients' sharding says.

    With the mesh, or None inside a `shard_map` of it, and where there is none.
    """
    if bound(spread):
        _check_own(spread, gradients, num_workers)
        return spread, None
    leaves = [leaf for leaf in jax.tree.leaves(gradients) if jnp.ndim(leaf)]
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves]
    mesh = next((x for x in meshes if not x.empty), jax.sharding.get_abstract_mesh())
    if not spread.axes:
        spread = Spread(_read(leaves))
    if spread.axes and mesh.axis_names == (DEVICE_AXIS,):  # that of `simulate`
        spread = Spread((DEVICE_AXIS,))
    axes = spread.axes
    if mesh.empty or not axes:
        return Spread(), None
    for axis in axes + spread.within:
        if axis not in mesh.shape:
            raise ValueError(
                f"axis is {axis!r}, expected one of the mesh's: "
                f"{', '.join(map(repr, mesh.axis_names))}."
            )
    shards = spread.shards_of(mesh)
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if shards == 1 and not any(kinds[axis] == AxisType.Explicit for axis in axes):
        return Spread(), None
    if num_workers % shards:
        raise ValueError(
            f"num_workers is {num_workers}, expected a multiple of {shards}, the "
            f"devices on the mesh's axis {_named(axes)}."
        )
    return spread, mesh


def _read(leaves) -> tuple[str, ...]:
    """The axes that the first axis of the gradients is sharded over."""
    found = {}
    for leaf in leaves:
        specs = [jax.typeof(leaf).sharding.spec]  # as its type says: of Explicit axes
        known = None if _checks.is_traced(leaf) else getattr(leaf, "sharding", None)
        if isinstance(known, NamedSharding):  # as it lies: of Auto axes, too
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


def _check_own(spread: Spread, gradients: Any, num_workers: int) -> None:
    """Gradients inside a `shard_map`: of this device, and of no other."""
    if num_workers != spread.shards:
        raise ValueError(
            f"num_workers is {num_workers}, expected {spread.shards}, one for each "
            f"place on the mesh's axis {_named(spread.axes)}, inside a shard_map of it."
        )
    for axis in spread.axes + spread.within:
        if not _varies(jax.lax.axis_index(axis), axis):
            return  # the shard_map does not check, and nothing is known
        if any(not _varies(leaf, axis) for leaf in jax.tree.leaves(gradients)):
            raise ValueError(
                f"the gradients are the same on all devices of {axis!r}, expected each "
                "one's own: jax.grad has added them up, for it was taken at parameters "
                f"that all have in common; take it at jax.lax.pcast(params, {axis!r}, "
                "to='varying')."
            )


def _varies(x: Any, axis: str) -> bool:
    """Whether a value is known to differ over an axis."""
    aval = jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)
    varying = getattr(aval, "vma", frozenset()) if kind is None else kind.varying
    return axis in varying


def parted(tree: Any) -> tuple[Any, Any]:
    """The arrays of a tree, and the rest of it, which no device holds; None between.

    Numbers of Python's stay what they are: a stage may decide by them.
    """
    kinds = (jax.Array, np.ndarray, np.generic)
    arrays = jax.tree.map(lambda x: x if isinstance(x, kinds) else None, tree)
    return arrays, jax.tree.map(lambda x: None if isinstance(x, kinds) else x, tree)


def over_mesh(mesh, spread: Spread, run: Callable, specs: Any, values: Any) -> Any:
    """A direction and a state, by a function that every shard runs.

    Args:
      mesh, spread: where the workers lie.
      run: from values, as a shard has them, to a direction, the same on all, and a
        state.
      specs: of `values`, tree prefixes; the first is the state's.
      values: the state, the gradients, the parameters or None, and whatever else there
        is.
    """
    axes = spread.axes + spread.within
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    others = tuple(
        n for n, kind in kinds.items() if kind == AxisType.Explicit and n not in axes
    )
    explicit = any(kinds[axis] == AxisType.Explicit for axis in axes)
    before = jax.tree.map(jax.typeof, values)
    if explicit:
        values = _laid_out(values, specs, axes, mesh)

    def local(*values):
        if not others:
            return run(*values)
        # What lies on further axes is the compiler's to cut; the direction lies there
        # as the parameters do, and the state as it did.
        state, _, params, *_ = values
        like = state.clock.previous_params if params is None else params
        out = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (like, state))
        return jax.sharding.auto_axes(run, axes=others, out_sharding=out)(*values)

    on_shards = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs,
        out_specs=(PartitionSpec(), specs[0]),
        axis_names=set(axes),
        check_vma=False,  # that what is gathered is the same everywhere
    )
    try:
        made: Any = on_shards(*values)
    except NotImplementedError as error:
        if not explicit:
            raise
        # What JAX lacks under such axes: a function that closes over a traced array.
        raise ValueError(
            f"{_named(axes)} is an Explicit axis, under which JAX cannot do a part of "
            "this: a number of the method, xi say, may be traced or lie on the mesh. "
            "Expected plain numbers, or an Auto axis, axis_types=(AxisType.Auto,), or "
            "shard_map."
        ) from error
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
