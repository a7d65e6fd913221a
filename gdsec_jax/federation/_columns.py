"""A round in blocks of components, where that is allowed.

The pieces of a round are written for all components at once. If each component goes its
own way, which is read from their jaxpr, the same pieces may run on one block of them
after the other.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax.federation import _blocks, _componentwise
from gdsec_jax.federation._round import Columns, Results, Steps

# With more of them it takes the compiler minutes.
MOST_LEAVES = 16
_NONE, _UNKNOWN = -1, -2


class Plan(NamedTuple):
    """How to take a round in blocks."""

    is_column: Columns  # of each leaf; the others are the same for all components
    as_vectors: Columns  # shapes and dtypes, each parameter being a vector
    owners: Any  # of each leaf of the workers' states: that of the message it is like
    numbers: dict[str, int]  # of blocks, by platform


class _Block(NamedTuple):
    """`Results`, and the messages they are made of."""

    aggregate: Any
    previous: Any
    workers: Any
    server: Any
    messages: Any  # leaves [M, *param], or none


def plan(columns: Columns, steps: Steps) -> Plan | None:
    """How to take a round in blocks, or None if that cannot be or does not pay."""
    if len(jax.tree.leaves(columns.previous)) > MOST_LEAVES:
        return None
    try:
        return _plan(columns, steps)
    except Exception:
        # A piece that asks for all of the parameters' shapes, or for a sum over the
        # workers. What else is wrong is said when all components are computed at once.
        return None


def _plan(columns: Columns, steps: Steps) -> Plan | None:
    sizes = [(lambda n, more=more: n + more) for more in (0, 1, 2)]
    exact, short, longer = (_template(columns, steps, size) for size in sizes)
    is_column = []
    for own, *shapes in zip(
        *map(jax.tree.leaves, (columns, exact, short, longer)), strict=True
    ):
        as_vector, a, b = (x.shape for x in shapes)
        is_column.append(a != b)
        lead = as_vector[:-1] if a != b else own.shape
        if a[:-1] != b[:-1] or own.shape[: len(lead)] != lead:
            return None
        if math.prod(as_vector) != own.size:
            return None
    marks = jax.tree.unflatten(jax.tree.structure(exact), is_column)
    owners = _owners(exact, marks)
    if owners is None:
        return None
    arrays = _columns_of(exact, is_column)
    numbers = {x: _blocks.number_of_blocks(arrays, x) for x in _blocks.BLOCK_BYTES}
    parts = [
        (lambda n, part=part, number=number: part(n, number))
        for number in sorted(set(numbers.values()))
        for part in (operator.floordiv, operator.mod)
    ]
    leaves = jax.tree.leaves(columns)
    num_workers = jax.tree.leaves(columns.gradients)[0].shape[0]

    def whole_round(*leaves):
        *leaves, present = leaves
        own = jax.tree.unflatten(jax.tree.structure(exact), leaves)
        messages, workers = steps.work(own, present)
        return jax.tree.leaves(_close(own, messages, workers, present, steps))

    def trace(columns):
        own = jax.tree.leaves(columns)
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in own]
        present = jax.ShapeDtypeStruct((num_workers,), bool)
        return jax.make_jaxpr(whole_round)(*shapes, present)

    def of_size(size):
        return trace(_template(columns, steps, size))

    # Along the components of vectors.
    first = trace(short)
    last = [
        len(x.shape) - 1 if column else None
        for x, column in zip(jax.tree.leaves(short), is_column, strict=True)
    ]
    results = _results_like(exact, is_column)
    outputs = [len(shape) - 1 if column else None for shape, column in results]
    analyse = _componentwise.component_axes
    if not _each_its_own(analyse([first], [*last, None]), outputs):
        return None  # most that is refused is so here
    # Of 0 and 1 array libraries make special cases: these are compared alone.
    programs = [first, *(of_size(lambda n, x=x: max(2, x(n))) for x in parts)]
    original, single = trace(columns), of_size(lambda n: 1)
    alike = [original, single, *(of_size(lambda n, x=x: max(1, x(n))) for x in parts)]
    if not _each_its_own(analyse(programs, [*last, None], alike), outputs):
        return None
    # Along each axis of parameters that have several.
    argument_leads = [x.ndim - 1 for x in jax.tree.leaves(exact)]
    result_leads = [len(shape) - 1 for shape, _ in results]
    arguments = [(x.shape, c) for x, c in zip(leaves, is_column, strict=True)]
    for axis in range(max(x.ndim for x in jax.tree.leaves(columns.previous))):
        axes, outputs = (
            [
                lead + axis if column and lead + axis < len(shape) else None
                for lead, (shape, column) in zip(leads, shapes, strict=True)
            ]
            for leads, shapes in (
                (argument_leads, arguments),
                (result_leads, _results_like(columns, is_column)),
            )
        )
        if not _each_its_own(analyse([original], [*axes, None]), outputs):
            return None
    return Plan(marks, exact, owners, numbers)


def _each_its_own(kinds, axes: list[int | None]) -> bool:
    """Whether each result has its components along its axis, or has none."""
    if kinds is None:
        return False
    return all(
        kind.axis == axis or (kind.axis is None and axis in kind.constant)
        for kind, axis in zip(kinds, axes, strict=True)
    )


def _owners(exact: Columns, is_column: Columns):
    """For each leaf of the workers' states, the message's leaf whose components it has.

    By its path, which ends in that of the parameter; _NONE where it does not matter.
    None instead of the tree where it is not known.
    """
    flatten = jax.tree_util.tree_flatten_with_path
    params = [(path, x.shape[-1]) for path, x in flatten(exact.previous)[0]]

    def owner(path, x, column):
        if not (column and jnp.issubdtype(x.dtype, jnp.floating)):
            return _NONE
        own = [
            (len(end), number)
            for number, (end, size) in enumerate(params)
            if path[len(path) - len(end) :] == end and x.shape[-1] == size
        ]
        return max(own)[1] if own else _UNKNOWN

    found = jax.tree_util.tree_map_with_path(owner, exact.workers, is_column.workers)
    return None if _UNKNOWN in jax.tree.leaves(found) else found


def in_blocks(
    columns: Columns,
    chosen: jax.Array,
    steps: Steps,
    plan: Plan,
    platform: str,
    always: jax.Array,
    keep_messages: bool,
) -> tuple[jax.Array, Results, Any]:
    """A round, block by block.

    Args:
      columns: of the round.
      chosen: bool [M], the workers that may take part.
      steps: of the round.
      plan: of `plan`.
      platform: for which it is compiled.
      always: as of `_blocks.in_blocks`.
      keep_messages: whether they are to be counted whole.

    Returns:
      The workers that do take part; the results; what was counted.
    """
    flat = jax.tree.map(lambda x, like: x.reshape(like.shape), columns, plan.as_vectors)
    own = jax.tree.map(_if, plan.is_column, flat)
    others = jax.tree.map(_unless, plan.is_column, flat)
    fixed = own._replace(previous=None, workers=None, server=None)
    aggregate = jax.tree.map(jnp.zeros_like, own.previous)
    moving = _Block(aggregate, own.previous, own.workers, own.server, ())

    def together(moving, fixed):
        own = fixed._replace(
            previous=moving.previous, workers=moving.workers, server=moving.server
        )
        return _joined(own, others)

    number = plan.numbers[platform]
    loop = functools.partial(_blocks.in_blocks, number=number, always=always)
    present = chosen
    if steps.sound is not None:
        narrow = any(x.dtype == jnp.float16 for x in jax.tree.leaves(columns))
        sound = steps.sound

        def probe(_, fixed):
            own = together(*fixed)
            made = steps.work(own, chosen) if narrow else ((), ())
            return (), (~sound(own, *made)).astype(jnp.int32)

        nobody = jnp.zeros(chosen.shape, jnp.int32)
        _, bad = loop(probe, moving=(), fixed=(moving, fixed), totals=nobody)
        present = chosen & (bad == 0)

    def whole(own):
        messages, workers = steps.work(own, present)
        if steps.sound is not None:
            # A worker whose message overflows cannot be left out any more: its state
            # has taken other blocks already. Such entries are, and their memories stay.
            good = list(map(jnp.isfinite, jax.tree.leaves(messages)))
            messages = jax.tree.map(_or_zero, messages)
            keep = functools.partial(_or_old, good)
            workers = jax.tree.map(keep, plan.owners, workers, own.workers)
        return _close(own, messages, workers, present, steps)

    def close(moving, fixed):
        results = whole(together(moving, fixed))
        kept = results.messages if keep_messages else ()
        workers, server = (
            jax.tree.map(_if, marks, state)
            for marks, state in zip(plan.is_column[4:6], results[2:4], strict=True)
        )
        new = results._replace(workers=workers, server=server, messages=kept)
        return new, steps.count(results.messages)

    if keep_messages:
        moving = moving._replace(
            messages=jax.tree.map(
                lambda g, p: jnp.zeros(g.shape, p.dtype), own.gradients, own.previous
            )
        )
    one = jax.tree.map(lambda x: x[..., :1], (moving, fixed))
    silence = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(close, *one)[1]
    )
    moved, nonzeros = loop(close, moving=moving, fixed=fixed, totals=silence)
    # What is no column depends on none: any of them will do.
    rest = whole(together(*one))
    workers, server = (
        _joined(mine, jax.tree.map(_unless, marks, state))
        for mine, marks, state in zip(
            moved[2:4], plan.is_column[4:6], rest[2:4], strict=True
        )
    )
    whole_shapes = _Block(
        columns.previous,
        columns.previous,
        columns.workers,
        columns.server,
        columns.gradients if keep_messages else (),
    )
    done = jax.tree.map(
        lambda x, y: x.reshape(y.shape),
        moved._replace(workers=workers, server=server),
        whole_shapes,
    )
    uploads = steps.tally(nonzeros, done.messages, done.workers, columns)
    return present, Results(*done[:4]), uploads


def _close(columns: Columns, messages, workers, present, steps: Steps) -> _Block:
    messages, total, workers = steps.gather(columns, messages, workers, present)
    aggregate, server = steps.serve(columns, total, present)
    previous = columns.previous if columns.params is None else columns.params
    return _Block(aggregate, previous, workers, server, messages)


def _or_zero(x):
    return jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))


def _or_old(good: list[jax.Array], owner: int, new, old):
    if owner == _NONE:
        return new
    mask = good[owner]
    between = (1,) * (new.ndim - mask.ndim)
    mask = mask.reshape(mask.shape[0], *between, *mask.shape[1:])
    return jnp.where(mask, new, old)


def _if(condition: bool, x):
    return x if condition else None


def _unless(condition: bool, x):
    return None if condition else x


def _joined(a, b):
    """The tree of two that have None where the other one has a leaf."""
    nothing = lambda x: x is None  # noqa: E731
    return jax.tree.map(lambda x, y: y if x is None else x, a, b, is_leaf=nothing)


def _template(columns: Columns, steps: Steps, size: Callable[[int], int]) -> Columns:
    """Shapes and dtypes of the columns of parameters that are vectors."""
    shape = jax.ShapeDtypeStruct
    vector = lambda x: shape((size(x.size),), x.dtype)  # noqa: E731
    previous = jax.tree.map(vector, columns.previous)
    workers, server = jax.eval_shape(steps.init, previous)
    return Columns(
        gradients=jax.tree.map(
            lambda g, p: shape((g.shape[0], *p.shape), g.dtype),
            columns.gradients,
            previous,
        ),
        params=jax.tree.map(vector, columns.params),
        change=jax.tree.map(vector, columns.change),
        previous=previous,
        workers=workers,
        server=server,
        own=columns.own,
    )


def _results_like(columns: Columns, is_column: list[bool]):
    """Shape of each leaf of the results, and whether it is a column."""
    of = jax.tree.unflatten(jax.tree.structure(columns), is_column)
    trees = (columns.previous, columns.previous, *columns[4:6], columns.gradients)
    kinds = (of.previous, of.previous, *of[4:6], of.gradients)
    return [
        (x.shape, column)
        for x, column in zip(*map(jax.tree.leaves, (trees, kinds)), strict=True)
    ]


def _columns_of(columns: Columns, is_column: list[bool]) -> list[Any]:
    leaves = jax.tree.leaves(columns)
    return [x for x, column in zip(leaves, is_column, strict=True) if column]
