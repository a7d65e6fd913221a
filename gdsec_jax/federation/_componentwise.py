"""Whether a function works on every component by itself, read from its jaxpr."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
_LAYOUT = ("broadcast_in_dim", "reshape", "squeeze")  # where entries stand


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
    programs: Sequence[core.ClosedJaxpr],
    axes: Sequence[int | None],
    alike: Sequence[core.ClosedJaxpr] = (),
) -> list[Kind] | None:
    """The kinds of a function's outputs, or None if it may mix components.

    It errs on the safe side: None where it does not know. What a function draws or
    counts along the components, a constant with an entry for each of them, or any
    primitive that is not known here, is such a case, and so is whatever depends on how
    many components there are. A function with kinds gives, for a part of the
    components, the same part of its outputs.

    Args:
      programs: the function's jaxprs, for each of the numbers of components that it
        shall work on.
      axes: for each argument the axis of its components, or None.
      alike: its jaxprs for arrays of other ranks and sizes, which must compute the
        same, up to shapes.
    """
    first = programs[0]
    if any(x.jaxpr.effects or not _same_work(first, x) for x in (*programs, *alike)):
        return None
    kinds = [
        _kind(aval.shape, axis) for axis, aval in zip(axes, first.in_avals, strict=True)
    ]
    try:
        return _of_jaxpr(list(programs), kinds)
    except _MixesError:
        return None


class _Step(NamedTuple):
    """An equation that computes."""

    name: str
    operands: list[Any]  # numbers of arguments and results, or a `_Number`
    params: dict[str, Any]
    dtypes: list[Any]


class _Number(NamedTuple):
    """What stands in a jaxpr as a number."""

    value: Any


def _same_work(a, b) -> bool:
    """Whether two jaxprs compute the same, up to shapes."""
    all_steps, all_results = [], []
    for closed in (a, b):
        steps: list[_Step] = []
        results = _work(closed, [("argument", i) for i in range(_arity(closed))], steps)
        all_steps.append(steps)
        all_results.append(_Step("", results, {}, []))
    first, second = ([*x, y] for x, y in zip(all_steps, all_results, strict=True))
    return len(first) == len(second) and all(map(_same_step, first, second))


def _arity(closed) -> int:
    return len(closed.jaxpr.invars)


def _work(closed, operands: list[Any], steps: list[_Step]) -> list[Any]:
    """Append the steps of a jaxpr and of all that it calls; return its results."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, map(_Number, closed.consts), strict=True))
    known |= dict(zip(jaxpr.invars, operands, strict=True))

    def of(atom):
        return _Number(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        name, own = eqn.primitive.name, [of(atom) for atom in eqn.invars]
        if name in _CALLS:
            results = _work(_called(eqn), own, steps)
        elif name in _LAYOUT:
            results = own[:1]
        else:
            results = [(len(steps), i) for i in range(len(eqn.outvars))]
            dtypes = [var.aval.dtype for var in eqn.outvars]
            steps.append(_Step(name, own, _beside_places(eqn), dtypes))
        known |= dict(zip(eqn.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _beside_places(eqn) -> dict[str, Any]:
    """What an equation does, but for the places of the axes that it does it to."""
    name, params, shapes = eqn.primitive.name, dict(eqn.params), _shapes(eqn.invars)
    if name in _ELEMENTWISE:
        return params
    if name in _REDUCTIONS:
        gone = [shapes[0][axis] for axis in params.pop("axes")]
    elif name == "dot_general":
        contracted, _ = params.pop("dimension_numbers")
        gone = [shapes[0][axis] for axis in contracted[0]]
    else:
        return params | {"shapes": shapes}
    return params | {"sizes": sorted(size for size in gone if size != 1)}


def _same_step(a: _Step, b: _Step) -> bool:
    return (
        (a.name, a.dtypes) == (b.name, b.dtypes)
        and len(a.operands) == len(b.operands)
        and all(map(_same_operand, a.operands, b.operands))
        and _same_params(a.params, b.params)
    )


def _same_operand(a, b) -> bool:
    if isinstance(a, _Number) and isinstance(b, _Number):
        return _same(a.value, b.value)
    return type(a) is type(b) and a == b


def _same(a, b) -> bool:
    if _checks.is_traced(a) or _checks.is_traced(b):
        return a is b
    if a is b:
        return True
    dtype = jnp.result_type(a)
    if dtype != jnp.result_type(b) or np.shape(a) != np.shape(b):
        return False
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False  # random keys
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _same_params(a, b) -> bool:
    """Of two equations of one primitive; False, too, where it cannot be told."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_params(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same_params, a, b))
    if isinstance(a, core.Jaxpr | core.ClosedJaxpr):
        return type(a) is type(b) and _same_inner(a, b)
    return a is b or (type(a) is type(b) and bool(a == b))


def _same_inner(a: Any, b: Any) -> bool:
    consts = getattr(a, "consts", []), getattr(b, "consts", [])
    return (
        str(a) == str(b)
        and len(consts[0]) == len(consts[1])
        and all(map(_same, *consts))
    )


def _called(eqn):
    """The jaxpr that an equation calls."""
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    closed = isinstance(inner, core.ClosedJaxpr)
    return inner if closed else core.ClosedJaxpr(inner, ())


def _kind(shape: tuple[int, ...], axis: int | None = None, constant=()) -> Kind:
    ones = {place for place, size in enumerate(shape) if size == 1}
    return Kind(axis, frozenset((ones | set(constant)) - {axis}))


def _of_jaxpr(programs: list, kinds: list[Kind]) -> list[Kind]:
    """The kinds of the outputs of a function's programs for several shapes."""
    jaxpr = programs[0].jaxpr
    if len({len(program.jaxpr.eqns) for program in programs}) > 1:
        raise _MixesError
    known = {var: _kind(var.aval.shape) for var in jaxpr.constvars}
    known |= dict(zip(jaxpr.invars, kinds, strict=True))

    def of(atom):
        return _kind(()) if isinstance(atom, core.Literal) else known[atom]

    for eqns in zip(*(program.jaxpr.eqns for program in programs), strict=True):
        results = _of_equations(eqns, [of(atom) for atom in eqns[0].invars])
        known |= dict(zip(eqns[0].outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _of_equations(eqns, kinds: list[Kind]) -> list[Kind]:
    """The kinds of an equation's results, from the equation for several shapes."""
    eqn, *others = eqns
    name = eqn.primitive.name
    if any(other.primitive.name != name for other in others):
        raise _MixesError
    shapes = [_shapes(x.invars) for x in eqns]
    results = [_shapes(x.outvars) for x in eqns]
    if name in _CALLS:
        return _of_jaxpr([_called(x) for x in eqns], kinds)
    found = [
        _of_equation(x, kinds, *both)
        for x, *both in zip(eqns, shapes, results, strict=True)
    ]
    if any(own != found[0] for own in found):
        raise _MixesError
    if name in _ELEMENTWISE or name == "broadcast_in_dim":
        return found[0]
    # What else has a size, such as an axis that is summed over, must have one size.
    own = [{**x.params, "new_sizes": None} for x in eqns]
    sizes = [
        _sizes_beside(kinds, shape) + _sizes_beside(found[0], result)
        for shape, result in zip(shapes, results, strict=True)
    ]
    if any(size != sizes[0] for size in sizes):
        raise _MixesError
    if not all(_same_params(own[0], params) for params in own):
        raise _MixesError
    return found[0]


def _shapes(atoms) -> list[tuple[int, ...]]:
    return [tuple(atom.aval.shape) for atom in atoms]


def _sizes_beside(kinds: list[Kind], shapes) -> list[tuple[int, ...]]:
    """The shapes without the components' axes."""
    return [
        tuple(size for place, size in enumerate(shape) if place != kind.axis)
        for kind, shape in zip(kinds, shapes, strict=True)
    ]


def _of_equation(eqn, kinds: list[Kind], shapes, results) -> list[Kind]:
    name = eqn.primitive.name
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
