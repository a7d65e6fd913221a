"""Whether a function works on every component by itself, read from its jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from gdsec_jax import _checks

_ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
    convert_element_type copy copy_p cos cosh div eq erf erf_inv erfc exp exp2 expm1
    floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
    nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt
    square stop_gradient sub tan tanh xor""".split()  # noqa: SIM905
)
_REDUCTIONS = frozenset(
    f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or", "xor")
)
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "remat2")


class Kind(NamedTuple):
    """What is known of an array.

    `axis` is that of the components, None where it depends on none; along `constant`
    axes its entries are the same.
    """

    axis: int | None
    constant: frozenset[int]


class _MixesError(Exception):
    """Components meet, or cannot be told apart."""


def component_axes(
    function: Callable,
    axes: Sequence[int | None],
    arguments: Sequence[Any],
    longer: Sequence[Any],
) -> list[Kind] | None:
    """The kinds of a function's outputs, or None if it may mix components.

    It errs on the safe side: None where it does not know. What a function draws or
    counts along the components, a constant with an entry for each of them, or any
    primitive that is not known here, is such a case, and so is a number that depends on
    how many components there are. A function with kinds gives, for a part of the
    components, the same part of its outputs.

    Args:
      function: of arrays, to a list of arrays.
      axes: for each argument the axis of its components, or None.
      arguments: shapes and dtypes.
      longer: the same, of more components.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    numbers = _numbers(closed), _numbers(jax.make_jaxpr(function)(*longer))
    if len(numbers[0]) != len(numbers[1]) or not all(map(_same, *numbers)):
        return None
    kinds = [
        _kind(aval.shape, axis)
        for axis, aval in zip(axes, closed.in_avals, strict=True)
    ]
    try:
        return _of_jaxpr(closed, kinds)
    except _MixesError:
        return None


def _numbers(closed) -> list[Any]:
    """All that stands in a jaxpr as a number."""
    jaxpr, found = closed.jaxpr, list(closed.consts)
    for eqn in jaxpr.eqns:
        found += [atom.val for atom in eqn.invars if isinstance(atom, core.Literal)]
        if eqn.primitive.name in _CALLS:
            found += _numbers(_called(eqn))
    return found


def _same(a, b) -> bool:
    if _checks.is_traced(a) or _checks.is_traced(b):
        return a is b
    return np.shape(a) == np.shape(b) and np.array_equal(a, b, equal_nan=True)


def _called(eqn):
    """The jaxpr that an equation calls."""
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    closed = isinstance(inner, core.ClosedJaxpr)
    return inner if closed else core.ClosedJaxpr(inner, ())


def _kind(shape: tuple[int, ...], axis: int | None = None, constant=()) -> Kind:
    ones = {place for place, size in enumerate(shape) if size == 1}
    return Kind(axis, frozenset((ones | set(constant)) - {axis}))


def _of_jaxpr(closed, kinds: list[Kind]) -> list[Kind]:
    jaxpr = closed.jaxpr
    known = {var: _kind(var.aval.shape) for var in jaxpr.constvars}
    known |= dict(zip(jaxpr.invars, kinds, strict=True))

    def of(atom):
        return _kind(()) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        results = _of_equation(eqn, [of(atom) for atom in eqn.invars])
        known |= dict(zip(eqn.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _of_equation(eqn, kinds: list[Kind]) -> list[Kind]:
    name = eqn.primitive.name
    shapes = [tuple(atom.aval.shape) for atom in eqn.invars]
    results = [tuple(var.aval.shape) for var in eqn.outvars]
    if name in _CALLS:
        return _of_jaxpr(_called(eqn), kinds)
    if name in _ELEMENTWISE:
        return [_elementwise(kinds, shapes, results[0])]
    if name == "broadcast_in_dim":
        return [_broadcast(kinds[0], shapes[0], results[0], eqn.params)]
    if all(kind.axis is None for kind in kinds):
        return [_kind(shape) for shape in results]
    if name in _REDUCTIONS:
        return [_without(kinds[0], eqn.params["axes"], results[0])]
    if name == "squeeze":
        return [_without(kinds[0], eqn.params["dimensions"], results[0])]
    if name == "dot_general":
        return [_product(kinds, shapes, results[0], eqn.params)]
    if name == "reshape":
        return [_reshape(kinds[0], shapes[0], results[0])]
    raise _MixesError


def _elementwise(kinds, shapes, result) -> Kind:
    arrays = [kind for kind, shape in zip(kinds, shapes, strict=True) if shape]
    axes = {kind.axis for kind in arrays} - {None}
    if len(axes) > 1:
        raise _MixesError
    axis = axes.pop() if axes else None
    for kind in arrays:
        if axis is not None and kind.axis is None and axis not in kind.constant:
            raise _MixesError  # another number for each component, from elsewhere
    everywhere = set(range(len(result)))
    constant = everywhere.intersection(*(kind.constant for kind in arrays))
    return _kind(result, axis, constant)


def _broadcast(kind, shape, result, params) -> Kind:
    places = params["broadcast_dimensions"]
    axis = None
    if kind.axis is not None:
        axis = places[kind.axis]
    varies = {place for own, place in enumerate(places) if own not in kind.constant}
    return _kind(result, axis, set(range(len(result))) - varies)


def _without(kind, gone, result) -> Kind:
    if kind.axis in gone:
        raise _MixesError
    kept = [place for place in range(len(result) + len(gone)) if place not in gone]
    return _moved(kind, {old: new for new, old in enumerate(kept)}, result)


def _moved(kind, places: dict[int, int], result) -> Kind:
    """The kind where axes have gone to other places, or nowhere."""
    constant = {places[axis] for axis in kind.constant if axis in places}
    return _kind(result, places[kind.axis], constant)


def _product(kinds, shapes, result, params) -> Kind:
    contracted, batch = params["dimension_numbers"]
    sides = [side for side in (0, 1) if kinds[side].axis is not None]
    if len(sides) > 1 or batch[0]:
        raise _MixesError
    (side,) = sides
    axis = kinds[side].axis
    if axis in contracted[side]:
        raise _MixesError
    free = [
        (s, place)
        for s in (0, 1)
        for place in range(len(shapes[s]))
        if place not in contracted[s]
    ]
    return _kind(result, free.index((side, axis)))


def _reshape(kind, shape, result) -> Kind:
    # Axes of one entry may come and go.
    def long(shape):
        return [(place, size) for place, size in enumerate(shape) if size != 1]

    old, new = long(shape), long(result)
    if [size for _, size in old] != [size for _, size in new]:
        raise _MixesError
    places = {place: to for (place, _), (to, _) in zip(old, new, strict=True)}
    if kind.axis not in places:
        raise _MixesError
    return _moved(kind, places, result)
