"""A round in blocks of components, where each component goes its own way.

The halves of a round are written for all components at once. If the pieces declare that
they work on every component by itself, the same functions may run on one block after
the other.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _trees
from gdsec_jax._devices import TPU_IS_KNOWN
from gdsec_jax.federation import _parts
from gdsec_jax.federation._counts import uploads_of
from gdsec_jax.federation._finite import LONGEST, piece_of
from gdsec_jax.federation._round import (
    Answers,
    Common,
    Federation,
    Outcome,
    Round,
    Workers,
    measured,
    owners,
    respond,
    sound,
    step,
)
from gdsec_jax.wire._packing import whole_of
from gdsec_jax.wire._uploads import Layout
from gdsec_jax.worker._vectors import MOST_LEAVES, Place

# Parts of the components that are measured together: while the codes of one are made
# anew on the chip, those of the other wait. Their lengths are multiples of a tile's.
MEASURED_IN, TILE = 2, 1024
_NONE = -1


class Arrays(NamedTuple):
    """The arrays of a round that have an entry for each component, or their like."""

    gradients: Any  # leaves [M, *param]
    params: Any  # leaves [*param], or None
    change: Any  # the same
    previous: Any  # leaves [*param]
    states: Any  # of the pipelines, leaves [M, ...]
    server: Any  # the state of the server's step


class Plan(NamedTuple):
    """How to cut the arrays of a round."""

    owner: Arrays  # of each leaf the number of the parameter that it is like, or _NONE
    as_vectors: Arrays  # shapes and dtypes, each parameter being a vector
    numbers: dict[str, int]  # of blocks, by platform


class Counted(NamedTuple):
    """What adds up over the blocks."""

    nonzeros: Any  # of each worker's message, by leaf
    overflowed: jax.Array  # int32 [M], blocks in which entries were lost


def arrays_of(now: Round) -> Arrays:
    """The arrays of a round."""
    common, workers = now.common, now.workers
    known = common.params, common.change, common.previous
    return Arrays(workers.gradients, *known, workers.states, now.server)


def plan(federation: Federation, now: Round) -> Plan | None:
    """How to take a round in blocks; None if that cannot be, or does not pay."""
    arrays = arrays_of(now)
    params = jax.tree.leaves(arrays.previous)
    measures = not federation.component_wise
    may = may_measure(federation, now) if measures else federation.in_blocks
    if not may or len(params) > MOST_LEAVES:
        return None
    structure = jax.tree.structure(arrays.previous)
    numbers = jax.tree.unflatten(structure, range(len(params)))

    def of_params(tree):
        return None if tree is None else numbers

    owner = Arrays(
        gradients=numbers,
        params=of_params(arrays.params),
        change=of_params(arrays.change),
        previous=numbers,
        states=owners(federation.worker.init, arrays.states, arrays.previous, _NONE),
        server=owners(federation.server.step.init, now.server, arrays.previous, _NONE),
    )

    def as_vector(number, x):
        if number == _NONE:
            return jax.ShapeDtypeStruct(x.shape, x.dtype)
        like = params[number]
        lead = x.shape[: x.ndim - like.ndim]
        return jax.ShapeDtypeStruct((*lead, like.size), x.dtype)

    as_vectors = jax.tree.map(as_vector, owner, arrays)
    own = _cut(owner, as_vectors)
    cut, kept = jax.tree.leaves(own), jax.tree.leaves((own.states, own.server))
    # A TPU lays matrices out anew to make vectors of them, and one pass more over the
    # gradients alone costs it less than to cut them.
    platforms = [x for x in _parts.PART_BYTES if x != "tpu"]
    if kept and all(leaf.ndim < 2 for leaf in params):
        platforms.append("tpu")
    if measures:
        platforms = [x for x in platforms if x == "tpu"]
    if not platforms:
        return None
    numbers_of_blocks = {x: _parts.number_of_parts(cut, x) for x in platforms}
    return Plan(owner, as_vectors, numbers_of_blocks)


def may_measure(federation: Federation, now: Round) -> bool:
    """Whether the components, once they are measured, go their own ways: on TPUs."""
    params, workers = jax.tree.leaves(now.common.previous), now.workers
    if not federation.measures or not TPU_IS_KNOWN:
        return False
    if len(params) > MOST_LEAVES or not all(leaf.size for leaf in params):
        return False
    # Of one dtype: then no message overflows in what keeps it.
    kinds = {x.dtype for x in jax.tree.leaves((now.common.previous, workers.gradients))}
    owner = owners(federation.worker.init, workers.states, now.common.previous, _NONE)
    kinds |= {x.dtype for x in jax.tree.leaves(_cut(owner, workers.states))}
    if kinds not in ({jnp.dtype("float32")}, {jnp.dtype("float64")}):
        return False
    if federation.server.capacity is None:
        return True
    # A message has as many entries as the server takes, unless it may be whole.
    limited = federation.worker.most_entries is not None
    return limited and whole_of(workers.states) is False


def measured_at_once(federation: Federation, now: Round) -> Round:
    """A round whose components are measured, and not cut."""
    lengths = tuple(leaf.size for leaf in jax.tree.leaves(now.common.previous))
    place = Place((jnp.int32(0),) * len(lengths), lengths)
    common = now.common._replace(extra=now.common.extra | {"place": place})
    # The barrier keeps what is made of the gradients from being kept until it is needed
    # again: to make it twice moves less.
    gradients, states = now.workers.gradients, now.workers.states
    gradients, states = jax.lax.optimization_barrier((gradients, states))
    here = now.workers._replace(gradients=gradients, states=states)
    workers = measured(federation, now.workers, [(common, here)])
    return now._replace(common=common, workers=workers)


def in_blocks(
    federation: Federation, now: Round, counting: Layout, plan: Plan, platform: str
) -> Outcome:
    """A round, block by block; messages are kept where they are counted whole."""
    on_tpu = platform == "tpu"
    if on_tpu:
        now, plan = _with_change(now, plan)
    arrays, always = arrays_of(now), now.always
    flat = jax.tree.map(lambda x, like: x.reshape(like.shape), arrays, plan.as_vectors)
    own, others = _cut(plan.owner, flat), _rest(plan.owner, flat)
    lengths = tuple(x.size for x in jax.tree.leaves(own.previous))
    number = plan.numbers[platform]

    def at(cut: Arrays, workers: Workers, starts) -> tuple[Common, Workers, Any]:
        """What the halves of a round are handed of some of the components."""
        here, extra = _trees.joined(cut, others), now.common.extra
        if not federation.component_wise:
            extra = extra | {"place": Place(starts, lengths)}
        common = now.common._replace(
            params=here.params, change=here.change, previous=here.previous, extra=extra
        )
        known = workers._replace(gradients=here.gradients, states=here.states)
        return common, known, here.server

    workers = now.workers
    if not federation.component_wise:
        workers = _measured(federation, workers, own, lengths, at)
    elif on_tpu:
        # A pass over all is one kernel, and what is carried along is copied at times.
        workers = sound(federation, workers)
    else:
        workers = _all_sound(federation, now, own, number)
    params = now.common.params
    apart = on_tpu and params is not None  # theta^{k-1} is replaced at once, at the end

    def moved_of(arrays: Arrays) -> Outcome:
        """What a round replaces, block by block, is like these arrays."""
        messages = arrays.gradients if counting.run_coded else ()
        said = Answers(messages, arrays.states, (), ())
        previous = None if apart else arrays.previous
        return Outcome(arrays.previous, previous, arrays.server, said)

    owner, shapes = moved_of(plan.owner), moved_of(arrays)
    messages = jax.tree.map(
        lambda g, p: jnp.zeros(g.shape, p.dtype), own.gradients, own.previous
    )
    moving = moved_of(own._replace(gradients=messages))
    moving = moving._replace(direction=jax.tree.map(jnp.zeros_like, own.previous))
    fixed = own._replace(states=None, server=None)
    if not apart:
        fixed = fixed._replace(previous=None)

    def block(moving: Outcome, fixed: Arrays, starts) -> tuple[Outcome, Counted]:
        here = fixed._replace(states=moving.said.states, server=moving.server)
        if not apart:
            here = here._replace(previous=moving.previous)
        common, own, server = at(here, workers, starts)
        said = respond(federation, common, own)
        part = now._replace(common=common, workers=own, server=server)
        made = step(federation, part, said)
        counted = Counted(said.nonzeros, said.overflowed.astype(jnp.int32))
        messages = said.messages if counting.run_coded else ()
        made = made._replace(said=Answers(messages, said.states, (), ()))
        return made._replace(previous=None) if apart else made, counted

    def one(moving, fixed, starts):
        moved, counted = block(moving, fixed, starts)
        return _cut(owner, moved), counted

    first, of_first = jax.tree.map(lambda x: x[..., :1], (moving, fixed))
    starts = (jnp.int32(0),) * len(lengths)
    silence = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(one, first, of_first, starts)[1],
    )
    moved, counted = _parts.in_parts(
        one, number, moving, fixed, silence, always, platform=platform, lengths=lengths
    )
    # What is like no parameter depends on no component: any of them will do.
    rest, _ = block(first, of_first, starts)
    whole = _trees.joined(moved, _rest(owner, rest))
    whole = jax.tree.map(lambda x, like: x.reshape(like.shape), whole, shapes)
    present, overflowed = workers.computes, counted.overflowed > 0
    said = whole.said._replace(present=present, overflowed=overflowed)
    said = said._replace(nonzeros=counted.nonzeros)
    uploads = uploads_of(counting, said, arrays.gradients, arrays.previous)
    whole = whole._replace(said=said.counted(uploads))
    return whole._replace(previous=params) if apart else whole


def _with_change(now: Round, plan: Plan) -> tuple[Round, Plan]:
    """With theta^k - theta^{k-1} made once, which a TPU keeps on the chip."""
    params, previous, change = now.common.params, now.common.previous, now.common.change
    if params is None or change is not None:
        return now, plan
    common = now.common._replace(change=jax.tree.map(jnp.subtract, params, previous))
    owner = plan.owner._replace(change=plan.owner.previous)
    shapes = plan.as_vectors._replace(change=plan.as_vectors.previous)
    return now._replace(common=common), plan._replace(owner=owner, as_vectors=shapes)


def _measured(
    federation: Federation, workers: Workers, own: Arrays, lengths, at
) -> Workers:
    """The workers with what they measured of all components."""

    def part(n):
        def cut(x):
            size = _length_of_part(x.shape[-1])
            return x[..., n * size : (n + 1) * size]

        starts = tuple(jnp.int32(n * _length_of_part(x)) for x in lengths)
        common, known, _ = at(jax.tree.map(cut, own), workers, starts)
        return common, known

    return measured(federation, workers, [part(n) for n in range(MEASURED_IN)])


def _length_of_part(length: int) -> int:
    """Components of the parts that are measured, all but the last one: whole tiles."""
    return math.ceil(length / MEASURED_IN / TILE) * TILE


def _all_sound(federation: Federation, now: Round, own: Arrays, number: int):
    """The workers; those whose gradients are not finite in a block do not compute."""
    workers = now.workers
    if not federation.drops:
        return workers
    lengths = {x.shape[-1] for x in jax.tree.leaves(own.gradients)}
    if workers.weights is None and all(piece_of(n) <= LONGEST for n in lengths):
        return sound(federation, workers)  # that makes no array of the gradients' size

    def unsound(_, gradients):
        each = sound(federation, workers._replace(gradients=gradients))
        return (), (workers.computes & ~each.computes).astype(jnp.int32)

    nobody = jnp.zeros(workers.index.shape, jnp.int32)
    _, bad = _parts.in_parts(unsound, number, (), own.gradients, nobody, now.always)
    return workers._replace(computes=workers.computes & (bad == 0))


def _cut(owner: Any, tree: Any) -> Any:
    """The leaves that have an entry for each component; None for the others."""
    return jax.tree.map(lambda number, x: None if number == _NONE else x, owner, tree)


def _rest(owner: Any, tree: Any) -> Any:
    """The other leaves; None for those that are cut."""
    return jax.tree.map(lambda number, x: x if number == _NONE else None, owner, tree)
