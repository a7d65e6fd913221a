"""A round of GD-SEC in one pass over the memory, by a compiled kernel; of top-j in two.

Where the pipeline is declared to be censoring in memories (`worker.Piece.censored`),
the kernel computes the workers' half, in place. Where it sends the largest entries,
another pass finds their thresholds first. The pieces define it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _native
from gdsec_jax._devices import num_devices
from gdsec_jax.federation._counts import uploads_of
from gdsec_jax.federation._round import Answers, Federation, Outcome, Round, step
from gdsec_jax.wire._uploads import Layout
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState
from gdsec_jax.worker._select import rank_of_sum


class Numbers(NamedTuple):
    """What the pieces are made of."""

    xi: Any  # a tree of scalars, like the parameters
    beta: Any  # a scalar; 0 without a memory h


class Memories(NamedTuple):
    """Of the pipeline's state; trees like the parameters, or None."""

    known: Any  # h
    error: Any  # e


def numbers_of(federation: Federation, counting: Layout, now: Round) -> Numbers | None:
    """What the kernel needs to know of the pieces; None if it cannot do the round."""
    censored, common = federation.worker.censored, now.common
    if censored is None or not _native.used():
        return None
    if not (federation.component_wise or _sends_the_largest(federation, now)):
        return None
    if counting.run_coded or federation.spread.axes or num_devices() > 1:
        return None
    if common.params is None:
        return None
    beta = 0.0 if censored.beta is None else censored.beta
    xi: Any = 0.0  # for the largest, which are told by their rank
    if censored.xi is not None:
        xi = censored.xi(common.arguments())
    if xi is None or jnp.ndim(beta):
        return None
    try:
        xi = jax.tree.broadcast(xi, common.previous)
    except ValueError:  # the pieces say what is wrong with it
        return None
    if any(jnp.ndim(x) for x in jax.tree.leaves(xi)):
        return None
    memories = _memories(now.workers.states)
    for leaf, *states in _by_leaf(common.previous, now.workers.gradients, *memories):
        narrow = _native.STATES.get(leaf.dtype.name, ())
        gradient, *states = (x.dtype.name for x in states if x is not None)
        if gradient != leaf.dtype.name or not set(states) <= set(narrow):
            return None
        if len(set(states)) != 1:
            return None
    return Numbers(xi, beta)


def in_one_pass(
    federation: Federation, counting: Layout, now: Round, numbers: Numbers
) -> Outcome:
    """The round; `numbers` are of the pieces."""
    common, workers = now.common, now.workers
    memories = _memories(workers.states)
    gradients = workers.weighted()
    # What reads the previous parameters, which the kernel replaces, comes first.
    computes = workers.computes & now.always
    k = federation.worker.censored.k  # pyright: ignore
    if federation.drops and k is None:
        for leaf in jax.tree.leaves(gradients):
            computes &= _native.all_finite(leaf.reshape(leaf.shape[0], -1))
    everyone = jnp.ones_like(computes)
    sends = everyone if workers.sends is None else workers.sends
    arrives = everyone if workers.arrives is None else workers.arrives
    estimates = federation.server.prepare is not None

    params, previous = common.params, common.previous
    if common.change is not None:  # held; against zeros it stays what it is
        params, previous = common.change, jax.tree.map(jnp.zeros_like, common.change)

    rows = len(computes)
    key, last = jnp.zeros((rows, 0), jnp.uint32), jnp.zeros((rows, 0), jnp.int32)
    if k is not None:
        (gradient,), (error,) = map(jax.tree.leaves, (gradients, memories.error))
        number = _checks.number_of(k, error[0].size)
        rank = jax.vmap(functools.partial(rank_of_sum, k=number))
        key, last, largest = rank(gradient.reshape(rows, -1), error.reshape(rows, -1))
        computes &= jnp.isfinite(jax.lax.bitcast_convert_type(largest, error.dtype))

    def one(gradient, known, error, xi, params, previous):
        nothing = jnp.zeros((rows, 0), (error if known is None else known).dtype)
        made = _native.update(
            _native.Round(
                gradient.reshape(rows, -1),
                nothing if known is None else known.reshape(rows, -1),
                nothing if error is None else error.reshape(rows, -1),
                params.ravel(),
                previous.ravel(),
                jnp.asarray(xi, params.dtype),
                jnp.asarray(numbers.beta, params.dtype),
                computes,
                sends,
                arrives,
                key,
                last,
            ),
            estimates=estimates,
            drops=federation.drops and k is None,
        )
        return made._replace(
            known=None if known is None else made.known.reshape(known.shape),
            error=None if error is None else made.error.reshape(error.shape),
            previous=made.previous.reshape(params.shape),
            total=made.total.reshape(params.shape),
        )

    structure = jax.tree.structure(common.previous)
    columns = _by_leaf(gradients, *memories, numbers.xi, params, previous)
    made = [one(*column) for column in columns]
    overflowed = jnp.zeros_like(computes)
    for leaf in made:
        overflowed |= leaf.lost

    def tree_of(name):
        return jax.tree.unflatten(structure, [getattr(leaf, name) for leaf in made])

    said = Answers(
        messages=(),
        states=_with(workers.states, Memories(tree_of("known"), tree_of("error"))),
        present=computes,
        overflowed=overflowed,
        nonzeros=[leaf.entries for leaf in made],
        total=tree_of("total"),
    )
    uploads = uploads_of(counting, said, gradients, common.previous)
    outcome = step(federation, now, said.counted(uploads))
    if common.change is None:
        outcome = outcome._replace(previous=tree_of("previous"))
    return outcome


def _sends_the_largest(federation: Federation, now: Round) -> bool:
    """Whether each worker sends the k largest entries of one vector and a memory e."""
    censored, memories = federation.worker.censored, _memories(now.workers.states)
    if censored is None or censored.k is None or memories.known is not None:
        return False
    params = jax.tree.leaves(now.common.previous)
    leaves = [*params, *jax.tree.leaves((now.workers.gradients, memories.error))]
    one = len(params) == 1 and len(leaves) == 3 and params[0].size > 0
    alike = len({leaf.dtype for leaf in leaves}) == 1  # then what is finite stays so
    return one and alike and federation.drops and federation.server.component_wise


def _memories(states: Any) -> Memories:
    """h and e of a pipeline's state."""
    known = error = None
    if isinstance(states, GradientDifferenceState):
        known, states = states.memory, states.compressor
    if isinstance(states, ErrorFeedbackState):
        error = states.error
    return Memories(known, error)


def _with(states: Any, memories: Memories) -> Any:
    """The state with other memories."""
    if isinstance(states, GradientDifferenceState):
        inner = _with(states.compressor, memories)
        return GradientDifferenceState(memories.known, inner)
    if isinstance(states, ErrorFeedbackState):
        return states._replace(error=memories.error)
    return states


def _by_leaf(like: Any, *trees: Any) -> list[tuple]:
    """The leaves of trees side by side; None for those of a tree that is None."""
    first = jax.tree.leaves(like)
    rest = [
        [None] * len(first) if tree is None else jax.tree.leaves(tree) for tree in trees
    ]
    return list(zip(first, *rest, strict=True))
