"""A round in two halves, for a server and workers in processes of their own.

What `one_round` does at once for all workers, cut where the messages travel: the same
functions on one worker, and on what the server decoded. Of a worker's memory h_m the
server keeps its own copy, made of the messages alone (`Server.apart`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from gdsec_jax import _checks, _trees
from gdsec_jax.federation import _clock
from gdsec_jax.federation._round import Common, Federation, Workers, compress, sound
from gdsec_jax.server._server import IDENTITY
from gdsec_jax.wire import Format, packing_of
from gdsec_jax.worker import GradientDifferenceState
from gdsec_jax.worker._noise import adds_nothing
from gdsec_jax.worker._piece import as_piece


class Parts(NamedTuple):
    """What `federate` made an aggregator of."""

    federation: Federation
    wire: Format
    key: jax.Array | None
    on_standstill: str
    controlled: bool  # whether xi has a controller


class Federated(aggregating.Aggregator):
    """An aggregator that says what it is made of."""

    parts: Parts
    name: str = "federate"  # of the method

    def __new__(cls, init, update, parts: Parts):
        self = super().__new__(cls, init, update)
        self.parts = parts
        return self


def parts_of(algorithm: Any) -> Parts:
    """What an algorithm is made of, if its halves can be apart.

    Raises:
      ValueError: they cannot.
    """
    if not isinstance(algorithm, Federated):
        raise ValueError(
            f"algorithm is {_checks.shown(algorithm)}, expected one of gdsec_jax whose "
            "workers send one compressed gradient a round, such as gdsec_jax.gdsec(M, "
            "xi), or gdsec_jax.federate(piece, M); not scaffold and its kin, nor "
            "optax.chain and inject_hyperparams around one."
        )
    parts, server = algorithm.parts, algorithm.parts.federation.server
    name = algorithm.name
    if parts.controlled:
        raise ValueError(f"xi of {name} is a Controller, expected a number.")
    if server.max_norm_ratio is not None or server.parts or server.max_delay:
        raise ValueError(
            f"the server of {name} is late, two_shot, or judges norms, expected "
            "server.total(), running() or sparse(capacity)."
        )
    if not server.batches:
        raise ValueError(
            f"the server of {name} combines messages by a rule that is no sum, "
            "robust(rule) say, expected server.total(), running() or sparse(capacity): "
            "a message that its sender does not remember is taken back out of a sum."
        )
    if parts.federation.reduction == "senders":
        raise ValueError(
            f"the reduction of {name} is 'senders', expected 'sum' or 'mean': a "
            "message that its sender does not remember is taken back in another "
            "round, of another number of senders."
        )
    if server.prepare is not None and server.apart is None:
        raise ValueError(
            f"the server of {name} prepares messages by what workers keep, expected "
            "gdsec_jax.algorithms.difference_memory(compressor, M, beta)."
        )
    if not adds_nothing(parts.federation.worker):
        raise ValueError(
            f"{name} adds noise, expected none: workers draw with a key that the "
            "server knows, which could take the noise away again."
        )
    if parts.federation.worker.sums_over_workers:
        raise ValueError(
            f"{name} sums over the workers within a round, expected a method whose "
            "workers are apart: top_j in the place of power_sgd, say."
        )
    return parts


class WorkerAnswer(NamedTuple):
    """What one worker makes of its gradient."""

    message: Any  # leaves [*param]
    heard: Any  # the pipeline's state if the message arrives
    lost: Any  # and if it does not: as if all had been censored
    present: jax.Array  # bool [], whether it takes part: else its state is as it was
    dropped: jax.Array  # bool [], whether it does not, or lost entries: not finite
    clock: _clock.ClockState  # what all parties know after the round


class WorkerHalf(NamedTuple):
    """Pure functions of one worker."""

    init: Callable[[Any], Any]
    update: Callable[..., WorkerAnswer]


def worker_half(algorithm: Any) -> WorkerHalf:
    """The workers' half of a round, of one of them.

    Its `update(index, gradient, state, clock, params, fresh)` takes the worker's
    number, what all parties know before the round, a `ClockState`, and whether the
    state has just begun: then the parameters count as not having moved, so that nothing
    is censored.
    """
    parts = parts_of(algorithm)
    federation = parts.federation

    def init(params):
        state = federation.worker.init(params)
        packing = packing_of(state)
        if packing is not None and packing.payload is not None:
            raise ValueError(
                f"{algorithm.name} sends factors in the place of its message, expected "
                "a method whose message travels itself: top_j, say."
            )
        memories = _trees.of_type(state, GradientDifferenceState)
        if memories and federation.server.apart is None:
            raise ValueError(
                f"{algorithm.name} has a gradient_difference of which its server knows "
                "nothing, expected gdsec_jax.algorithms.difference_memory(compressor, "
                "M, beta)."
            )
        return state

    def update(index, gradient, state, clock, params, fresh) -> WorkerAnswer:
        still = clock._replace(
            previous_params=optax.tree.where(fresh, params, clock.previous_params)
        )
        common, tick = _common(parts, still, params)
        alone = jax.tree.map(lambda x: jnp.asarray(x)[None], (gradient, state))
        weights = federation.weights
        workers = Workers(
            *alone,
            index=jnp.asarray(index, jnp.int32)[None],
            computes=jnp.ones(1, bool),
            keys=None if tick.keys is None else tick.keys[index][None],
            weights=None if weights is None else weights[index][None],
        )
        workers = sound(federation, workers)
        heard = compress(federation, common, workers)
        unheard = workers._replace(arrives=jnp.zeros(1, bool))
        lost = compress(federation, common, unheard)
        made = heard.messages, heard.states, lost.states
        message, if_heard, if_lost = jax.tree.map(lambda x: x[0], made)
        present, lacks = heard.present[0], heard.overflowed[0]
        _, after = _clock.tick(clock, params, parts.key, federation.num_workers)
        return WorkerAnswer(
            message, if_heard, if_lost, present, ~present | lacks, after
        )

    return WorkerHalf(init, update)


class Settled(NamedTuple):
    """What is settled of a message that was heard before, bool each; else it waits."""

    commit: Any  # it is part of what is known of the worker
    undo: Any  # the worker does not remember it: it is taken back
    forget: Any  # the worker began anew, and nothing is known of it


class ServerSide(NamedTuple):
    """State of a server that is apart from its workers."""

    clock: _clock.ClockState  # before the round that comes
    known: tuple[Any, ...]  # of each worker, without its last message
    step: Any  # of the server's step


class ServerHalf(NamedTuple):
    """Pure functions of the server."""

    init: Callable[[Any], ServerSide]
    nothing: Callable[[Any], Any]  # from parameters to the sum over no worker
    add: Callable[..., tuple[Any, Any]]
    step: Callable[..., tuple[Any, ServerSide]]
    asks: Callable[[ServerSide], Any]  # bool [M], whom it asks in the coming round


def server_half(algorithm: Any) -> ServerHalf:
    """The server's half of a round.

    Workers are added up one by one, so that there is room for one message at a time:
    `add(total, message, pending, settled, known, params)` takes the sum so far, a
    worker's message of this round and the one heard before that waits, 0 if there is
    none, and what is known of it; and returns the sum, and what is known then. Of the
    sum `step(total, heard, state, params)`, with heard bool [M], makes the direction
    [*param].
    """
    parts = parts_of(algorithm)
    federation, num_workers = parts.federation, parts.federation.num_workers
    server = federation.server
    memory = as_piece(server.apart or IDENTITY)
    # The sum of what is kept apart stands for a running memory.
    step = server.step if server.estimates or server.apart is None else IDENTITY

    def init(params) -> ServerSide:
        return ServerSide(
            _clock.start(params, parts.key, parts.on_standstill),
            (memory.init(params),) * num_workers,
            step.init(params),
        )

    def asks(state: ServerSide) -> Any:
        everyone = jnp.ones(num_workers, bool)
        if server.asks is None:
            return everyone
        tick, _ = _clock.tick(state.clock, None, parts.key, num_workers)
        return everyone & server.asks(tick.round_key, tick.number)

    def alone(summand):
        return server.combine(jax.tree.map(lambda x: x[None], summand), None)

    def nothing(params):
        def one(params):
            return alone(memory.update(params, memory.init(params), params)[0])

        return optax.tree.zeros_like(jax.eval_shape(one, params))

    def add(total, message, pending, settled: Settled, known, params):
        _, after = memory.update(pending, known, params)
        fresh = optax.tree.zeros_like(known)
        kept = optax.tree.where(settled.commit, after, known)
        kept = optax.tree.where(settled.forget, fresh, kept)
        waits = ~(settled.commit | settled.undo | settled.forget)
        summand, _ = memory.update(
            message, optax.tree.where(waits, after, kept), params
        )
        none = optax.tree.zeros_like(pending)
        back = optax.tree.where(settled.undo, pending, none)
        wrong, _ = memory.update(back, fresh, params)
        total = optax.tree.sub(optax.tree.add(total, alone(summand)), alone(wrong))
        return total, kept

    def advance(total, heard, state: ServerSide, params):
        if federation.reduction == "mean":
            total = jax.tree.map(lambda x: x / jnp.asarray(num_workers, x.dtype), total)
        common, _ = _common(parts, state.clock, params)
        arguments = common.arguments() | {"active": heard}
        direction, own = step.update(total, state.step, params, **arguments)
        _, clock = _clock.tick(state.clock, params, parts.key, num_workers)
        direction = _trees.cast_like(direction, params)
        return direction, state._replace(clock=clock, step=own)

    return ServerHalf(init, nothing, add, advance, asks)


def _common(parts: Parts, clock: _clock.ClockState, params: Any):
    """What all parties know in a round, and its tick."""
    tick, _ = _clock.tick(clock, params, parts.key, parts.federation.num_workers)
    held = tick.change if parts.on_standstill == "hold" else None
    return Common(params, clock.previous_params, held, tick, None, {}), tick
