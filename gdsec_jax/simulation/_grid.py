"""The settings of a sweep: axes of values, and their product."""

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.simulation import _records
from gdsec_jax.uplink import Uplink

Setting = dict[str, Any]
SEED = "seed"  # traced though it is an integer: it makes a key
_RESULTS = ("eval_round", "objective_error", "initial_error", "outcome", "rounds")
_MOST_SETTINGS = 2**20  # they are listed before the first is run


@dataclasses.dataclass(frozen=True, eq=False)
class Static:
    """Values of a grid that are static though they are floats: k as a fraction, say.

    A loop is compiled for each of them, and what they are given to can look at them.

    Attributes:
      values: a sequence.

    Examples:
      >>> import gdsec_jax
      >>> grid = {"xi": [0.1, 1.0], "share": gdsec_jax.Static([0.1, 0.5])}
    """

    values: Any


class Axis(NamedTuple):
    """One dimension of a grid: of a parameter, or of several that change together."""

    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]  # a value of each name
    static: bool = False  # whatever the values are

    @property
    def dimension(self) -> str:
        return "_".join(self.names)

    @property
    def columns(self) -> dict[str, tuple[Any, ...]]:
        """The values of each name."""
        return dict(zip(self.names, zip(*self.rows, strict=True), strict=True))

    def has_labels(self) -> bool:
        """Whether its values stand in the result, rather than their positions."""
        return all(map(_are_labels, self.columns.values()))

    def coordinates(self) -> dict[str, tuple[str, np.ndarray]]:
        """A labelled array of each name's values; of what is no label, the position."""
        return {
            name: (self.dimension, np.array(x if _are_labels(x) else range(len(x))))
            for name, x in self.columns.items()
        }


class Listed(NamedTuple):
    """Settings in the order of the axes that label them."""

    axes: tuple[Axis, ...]
    settings: list[Setting]
    static: Collection[str]  # names of what is not traced: `Static`, or no floats


def listed(grid: Mapping[str | tuple[str, ...], Any]) -> Listed:
    """The settings of a grid, once it is checked: all combinations of its values."""
    axes = axes_of(grid)
    static = {
        name
        for axis in axes
        for name, column in axis.columns.items()
        if axis.static or (name != SEED and not all(map(_floats, column)))
    }
    return Listed(axes, list(settings_of(axes)), static)


class Group(NamedTuple):
    """Settings that one compiled loop can run: equal but for what is traced."""

    static: Setting
    traced: list[Setting]
    positions: list[int]  # among all settings


def axes_of(grid: Mapping[str | tuple[str, ...], Any]) -> tuple[Axis, ...]:
    """The axes of a grid, once it is checked."""
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(
            f"grid is {grid!r}, expected a dict from a parameter's name to its values."
        )
    axes = tuple(_axis(key, values) for key, values in grid.items())
    names = [name for axis in axes for name in axis.names]
    names += [axis.dimension for axis in axes if len(axis.names) > 1]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"grid names {name!r} twice, expected it once.")
        if name in _RESULTS or name.startswith(_records.TOTAL):
            raise ValueError(
                f"grid names {name!r}, expected no name of what a sweep returns."
            )
    number, most = math.prod(len(axis.rows) for axis in axes), _MOST_SETTINGS
    if number > most:
        sizes = ", ".join(f"{len(axis.rows)} of {axis.dimension}" for axis in axes)
        raise ValueError(
            f"grid has {number:,} settings, {sizes}, expected at most {most:,}."
        )
    return axes


def settings_of(axes: Sequence[Axis]) -> Iterator[Setting]:
    """The product of the axes, the last one fastest."""
    names = [name for axis in axes for name in axis.names]
    for rows in itertools.product(*(axis.rows for axis in axes)):
        yield dict(zip(names, itertools.chain(*rows), strict=True))


def groups_of(listed: Listed, make_problem: Callable | None = None) -> list[Group]:
    """The settings by their static parameters, in the order of their first.

    What a function makes the problem of is static, too.
    """
    static = set(listed.static)
    if make_problem is not None:
        static |= {n for n in listed.settings[0] if takes(make_problem, n)}
    groups: dict[Any, Group] = {}
    for position, setting in enumerate(listed.settings):
        fixed = {name: value for name, value in setting.items() if name in static}
        traced = {n: v for n, v in setting.items() if n not in static}
        shapes = jax.tree.map(np.shape, traced)  # of one loop's arguments: they stack
        group = groups.setdefault(identity((fixed, shapes)), Group(fixed, [], []))
        group.traced.append(traced)
        group.positions.append(position)
    return list(groups.values())


def identity(tree: Any) -> Any:
    """What two trees have in common if they are the same; hashable.

    Unlike == it tells 1 from 1.0 and True: k entries from a fraction of them.
    """
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(map(_leaf_identity, leaves))


def stack(settings: Sequence[Setting], dtype) -> dict[str, Any]:
    """The values of each traced parameter, [S, ...], in the parameters' dtype."""

    def one(*values):
        return traced(np.stack(values), dtype)  # by NumPy, which compiles nothing

    names = settings[0]
    return {n: jax.tree.map(one, *(setting[n] for setting in settings)) for n in names}


def traced(value: Any, dtype) -> jax.Array:
    """A parameter's value as a loop is handed it: whole numbers as they are."""
    value = np.asarray(value)
    return jnp.asarray(value, None if value.dtype.kind in "iu" else dtype)


def takes(function: Callable, name: str) -> bool:
    """Whether a function has a parameter of this name, or takes any."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or p.kind == p.VAR_KEYWORD for p in parameters)


def those_it_takes(function: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the given arguments those that a function has a parameter for."""
    return {name: x for name, x in given.items() if takes(function, name)}


@dataclasses.dataclass(frozen=True)
class Maker:
    """A function with its static arguments; equal for equal ones: compiled once."""

    function: Callable
    identity: Any  # of the arguments
    static: Setting = dataclasses.field(compare=False)

    @classmethod
    def of(cls, function: Callable, static: Setting) -> "Maker":
        return cls(function, identity(static), static)

    def __call__(self, *, values: Mapping[str, Any]):
        given = self.static | dict(values)
        return self.function(**those_it_takes(self.function, given))


@dataclasses.dataclass(frozen=True)
class UplinkOf:
    """From a setting's values to its uplink; equal for equal functions."""

    uplink: Uplink | Callable[..., Uplink]

    def takes(self, name: str) -> bool:
        """Whether a function of it is handed the grid's parameter of this name."""
        names = ("participation", "grant", "channel")
        parts = [self.uplink, *(getattr(self.uplink, n, None) for n in names)]
        return any(takes(part, name) for part in parts if callable(part))

    def __call__(self, **values) -> Uplink:
        """Every function is handed the values that it names."""
        uplink = self.uplink
        if callable(uplink):
            uplink = uplink(**those_it_takes(uplink, values))
        if not isinstance(uplink, Uplink):
            raise ValueError(
                f"uplink is {uplink!r}, expected an Uplink, or a function of the "
                "grid's parameters that makes one."
            )

        def bound(function):
            named = function and those_it_takes(function, values)
            return functools.partial(function, **named) if named else function

        rule, grant, channel = uplink.participation, uplink.grant, uplink.channel
        if callable(channel):
            channel = channel(**those_it_takes(channel, values))
        return Uplink(bound(rule), uplink.absent, bound(grant), channel)


def _axis(key, values) -> Axis:
    if isinstance(values, Static):
        return _axis(key, values.values)._replace(static=True)
    names = key if isinstance(key, tuple) else (key,)
    where = f"grid[{key!r}]"
    if not all(isinstance(name, str) and name for name in names) or not names:
        raise ValueError(f"grid has the key {key!r}, expected a name or several.")
    one = not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0
    if one or isinstance(values, str | bytes | Mapping):
        raise ValueError(f"{where} is {values!r}, expected a sequence of values.")
    rows: list[Any] = [(x,) if isinstance(key, str) else _plain(x) for x in values]
    if not rows:
        raise ValueError(f"{where} is empty, expected at least one value.")
    for row in rows:
        several = isinstance(row, list | tuple) or np.ndim(row) > 0
        if not several or len(row) != len(names):
            raise ValueError(f"{where} holds {row!r}, expected {len(names)} values.")
    return Axis(names, tuple(tuple(map(_plain, row)) for row in rows))


def _plain(value):
    """NumPy's and jax's numbers as Python's, which label the result."""
    if not isinstance(value, np.generic | np.ndarray | jax.Array) or value.ndim:
        return value
    random_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return value if random_key else value.item()


def _floats(value) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(
        isinstance(leaf, float)
        or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating))
        for leaf in leaves
    )


def _are_labels(column: Sequence[Any]) -> bool:
    return any(all(isinstance(x, kind) for x in column) for kind in (str, int | float))


def _leaf_identity(leaf: Any):
    if not isinstance(leaf, np.ndarray | jax.Array):
        return type(leaf), leaf
    return type(leaf), str(leaf.dtype), leaf.shape, _trees.bytes_of(leaf)
