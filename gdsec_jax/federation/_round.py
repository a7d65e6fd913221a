"""The two halves of a round: what the workers answer, and the server's step.

Plain functions of values. The workers' half may be handed all workers or a batch of
them; where components go their own ways, both may be handed a block of components.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _trees
from gdsec_jax._devices import BY_DEVICE, DEVICE_AXIS, num_devices, unless_on_tpu
from gdsec_jax.federation import _exchange
from gdsec_jax.federation._clock import Tick
from gdsec_jax.federation._finite import all_finite, is_narrow
from gdsec_jax.federation._spread import Spread
from gdsec_jax.server import Server
from gdsec_jax.wire import flush
from gdsec_jax.wire._uploads import nonzeros_of
from gdsec_jax.worker import WORKER_AXIS, Piece
from gdsec_jax.worker._memories import rested
from gdsec_jax.worker._noise import still_counted
from gdsec_jax.worker._piece import Measured, Part

_HERE = "workers of a shard"  # the axis of those that one device of a mesh has


class Federation(NamedTuple):
    """What `federate` was given; the same in every round."""

    worker: Piece
    server: Server
    num_workers: int
    weights: jax.Array | None  # [M], of the f_m
    reduction: str  # "sum", "mean" by M, or "senders", the mean of who is heard
    drops: bool  # whether workers whose numbers are not finite are left out
    spread: Spread = Spread()  # over the devices of a mesh

    @property
    def component_wise(self) -> bool:
        """Whether every component goes its own way."""
        return self.worker.component_wise and self.server.component_wise

    @property
    def in_blocks(self) -> bool:
        """Whether a round may be taken block by block of components."""
        return self.component_wise and not self.spread.axes

    @property
    def measures(self) -> bool:
        """Whether the pieces go block by block once all components were measured."""
        measures = self.worker.measure is not None and self.server.adds_entries
        return measures and not self.spread.axes


class Common(NamedTuple):
    """What all parties know in a round."""

    params: Any  # theta^k: leaves [*param], or None
    previous: Any  # theta^{k-1}
    change: Any  # theta^k - theta^{k-1} as it is held; None: it is not
    tick: Tick
    xi: Any  # float [], of the controller, or None
    extra: dict[str, Any]  # further arguments of the caller's, for the pieces

    def arguments(self) -> dict[str, Any]:
        """The extra arguments of the pieces that all of them are handed."""
        change = self.change
        if change is None and self.params is not None:
            change = jax.tree.map(jnp.subtract, self.params, self.previous)
        known = self.tick.arguments(change, self.previous)
        return self.extra | known | _given({"xi": self.xi})


class Workers(NamedTuple):
    """The workers of a round, or a batch of them: what each one has."""

    gradients: Any  # leaves [M, *param]
    states: Any  # of the pipeline, leaves [M, ...]
    index: jax.Array  # int32 [M], their numbers
    computes: jax.Array  # bool [M], who takes part; the state of the others is frozen
    keys: jax.Array | None = None  # [M], random keys
    weights: jax.Array | None = None  # [M], of the f_m
    sends: jax.Array | None = None  # bool [M], of those; None: all
    arrives: jax.Array | None = None  # bool [M], whose message does; None: all
    delay: jax.Array | None = None  # int32 [M], by how many rounds it is late
    measured: Measured | None = None  # leaves [M, ...], of all components

    def weighted(self) -> Any:
        """The gradients of w_m f_m."""
        weights = self.weights
        if weights is None:
            return self.gradients
        return jax.tree.map(
            lambda g: _trees.along(weights.astype(g.dtype), g) * g, self.gradients
        )

    def senders(self, present: jax.Array) -> jax.Array:
        """Of those who take part, who may send, bool [M]."""
        return present if self.sends is None else present & self.sends

    def own(self) -> dict[str, Any]:
        """The extra arguments of each worker's pieces, leaves [M, ...]."""
        return _given(
            {
                "worker_index": self.index,
                "active": self.computes,
                "key": self.keys,
                "delivered": self.arrives,
                "delay": self.delay,
                "measured": self.measured,
            }
        )


class Round(NamedTuple):
    """The values of a round; they may be traced."""

    common: Common
    workers: Workers
    server: Any  # state of the server's step
    always: jax.Array  # bool [], true: see `_parts.in_parts`


class Answers(NamedTuple):
    """What the workers' half of a round leaves behind."""

    messages: Any  # leaves [M, *param], as they travel; () once they are counted
    states: Any  # the pipelines' next ones
    present: Any  # bool [M], who takes part after all
    overflowed: Any  # bool [M], who lost entries that are not finite
    shared: Any = None  # of the states, by all workers: see `Piece.shared`
    nonzeros: Any = None  # of the messages, int32 [M] of each leaf, if they are counted
    total: Any = ()  # what the server combined of the messages, leaves [*param]
    uploads: Any = ()  # what they cost, `Uploads`

    def counted(self, uploads: Any) -> "Answers":
        """Without the messages, which need not be kept any longer."""
        return self._replace(messages=(), nonzeros=None, uploads=uploads)


class Outcome(NamedTuple):
    """What a round leaves behind."""

    direction: Any  # leaves [*param], in the parameters' dtype
    previous: Any  # theta^{k-1} of the next round
    server: Any  # state of the server's step
    said: Answers


def respond(
    federation: Federation, common: Common, workers: Workers, *, alone: bool = False
) -> Answers:
    """The workers' half of a round: of all `sound` ones, or a batch if `alone`."""
    made = compress(federation, common, workers, alone=alone)
    messages = only(made.messages, workers.sends)
    nonzeros = made.nonzeros
    if nonzeros is not None and workers.sends is not None:
        nonzeros = [jnp.where(workers.sends, n, 0) for n in nonzeros]
    arrived = only(messages, workers.arrives)
    server, summands = federation.server, arrived
    if server.prepare is not None:
        summands = jax.vmap(server.prepare)(arrived, workers.states)
    if federation.spread.shards > 1 and server.exchanges:
        total = _exchange.total(federation, arrived, made, common.previous)
    else:
        total = federation.spread.summed(server.combine(summands, workers.delay))
    return made._replace(messages=messages, nonzeros=nonzeros, total=total, shared=None)


def compress(
    federation: Federation, common: Common, workers: Workers, *, alone: bool = False
) -> Answers:
    """What each worker would send, if it may; its arguments are those of `respond`."""
    messages, states = _pipelines(federation, common, workers, alone)
    shared = None
    if federation.spread.axes and federation.worker.shared is not None:
        shared = federation.worker.shared(jax.tree.map(lambda x: x[0], states))
    if not federation.worker.travels:
        messages = flush(_trees.cast_like(messages, common.previous))
    if federation.drops and federation.component_wise:
        return _finite_entries(federation.worker, common, workers, messages, states)
    present, measured = workers.computes, workers.measured is not None
    if federation.drops and not measured:  # those whose messages are not finite
        narrow = [x for x in jax.tree.leaves(states) if is_narrow(x, messages)]
        # Cut into pieces, what was computed would take XLA one more array of its size.
        present = present & all_finite((messages, narrow), in_pieces=False)
    capacity = None if measured else federation.server.capacity
    if capacity is not None and jax.tree.leaves(messages):
        entries = jnp.stack(jax.vmap(nonzeros_of)(messages)).sum(0)
        present = present & (entries <= capacity)
    # Late messages arrive, and are acknowledged, while a worker rests.
    before = jax.vmap(rested, axis_size=present.size)(workers.states)
    if federation.worker.noise is not None:  # of a message that is dropped, too
        noised = _trees.where(workers.computes, states, before)
        before = still_counted(before, noised)
    states = _trees.where(present, states, before)
    lost = jnp.zeros_like(present)
    sent = only(messages, present)
    nonzeros = _nonzeros(messages, present, sent)
    return Answers(sent, states, present, lost, shared, nonzeros)


def step(federation: Federation, now: Round, said: Answers) -> Outcome:
    """The server's half of a round, after the workers' answers."""
    common, total = now.common, said.total
    senders, spread = now.workers.senders(said.present), federation.spread
    divisor = _divisor(federation, now.workers, senders)
    if divisor is not None:
        total = jax.tree.map(lambda x: x / jnp.asarray(divisor, x.dtype), total)
    arguments = common.arguments() | {"active": spread.everyones(senders)}
    arguments |= {"worker_axes": spread.axes} if spread.axes else {}
    direction, state = federation.server.step.update(
        total, now.server, common.params, **arguments
    )
    previous = common.previous if common.params is None else common.params
    direction = _trees.cast_like(direction, common.previous)
    return Outcome(direction, previous, state, said._replace(total=()))


def _divisor(federation: Federation, workers: Workers, senders: jax.Array) -> Any:
    """What a sum over the workers is divided by; None: nothing."""
    if federation.reduction != "senders":
        return federation.num_workers if federation.reduction == "mean" else None
    heard = senders if workers.arrives is None else senders & workers.arrives
    return jnp.maximum(federation.spread.everyones(heard).sum(), 1)


def sound(federation: Federation, workers: Workers) -> Workers:
    """The workers; those whose gradients are not finite do not compute."""
    if not federation.drops:
        return workers
    finite = all_finite(workers.weighted())
    return workers._replace(computes=workers.computes & finite)


def measured(
    federation: Federation, workers: Workers, parts: list[tuple[Common, Workers]]
) -> Workers:
    """The workers with what they measured of all parts of the components.

    Those do not compute who are not finite there, or whose messages would not be.
    """
    commons, own = zip(*parts, strict=True)

    def one(gradients, states, own):
        told = [known.arguments() | own for known in commons]
        params = [known.params for known in commons]
        each = zip(gradients, states, params, told, strict=True)
        return federation.worker.measure([Part(*part) for part in each])  # pyright: ignore

    gradients, states = [x.weighted() for x in own], [x.states for x in own]
    found: Measured = jax.vmap(one)(gradients, states, workers.own())
    workers = workers._replace(measured=found)
    if not federation.drops:
        return workers
    return workers._replace(computes=workers.computes & found.finite)


def only(messages: Any, chosen: jax.Array | None) -> Any:
    """The messages of the chosen workers, bool [M], 0 of the others; None: of all."""
    if chosen is None:
        return messages
    return _trees.where(chosen, messages, optax.tree.zeros_like(messages))


def _nonzeros(messages: Any, chosen: jax.Array, sent: Any) -> list[jax.Array]:
    """Of what the chosen workers, bool [M], have sent: int32 [M] of each leaf."""

    def of_sent(messages, chosen, sent):
        return jax.vmap(nonzeros_of)(sent)

    def of_messages(messages, chosen, sent):
        # Before it is known who is chosen, in a pass over them that is made anyway.
        return [jnp.where(chosen, n, 0) for n in jax.vmap(nonzeros_of)(messages)]

    return unless_on_tpu(messages, chosen, sent, tpu=of_messages, default=of_sent)


def owners(init: Any, state: Any, params: Any, other: int = -1) -> Any:
    """For each leaf of a state the number of the parameter that it is shaped like."""
    leaves, structure = jax.tree.flatten(params)
    numbers = jax.tree.unflatten(structure, range(len(leaves)))

    def owner(leaf, number):
        shape = jnp.shape(leaves[number])
        return number if leaf.shape[leaf.ndim - len(shape) :] == shape else other

    return optax.tree.map_params(
        init,
        owner,
        state,
        numbers,
        transform_non_params=lambda x: jax.tree.map(lambda _: other, x),
    )


def _pipelines(federation: Federation, common: Common, workers: Workers, alone: bool):
    """Messages and next states of all pipelines, or of some that are `alone`.

    With a mesh in effect every device does its own workers', and nothing moves, where
    the pipeline is known not to sum over all of them.
    """
    worker, known = federation.worker, common.arguments()
    known |= {"num_workers": federation.num_workers}
    axes = federation.spread.axes
    if axes:
        several = workers.index.shape[0] > 1
        known |= {"worker_axes": (_HERE, *axes) if several else axes}

    def one(gradient, state, own):
        return worker.update(gradient, state, common.params, **(known | own))

    each = (workers.weighted(), workers.states, workers.own())
    if axes:
        # Not by its usual name: a sum over that would be of this shard's workers alone.
        return jax.vmap(one, axis_name=_HERE)(*each)
    run = jax.vmap(one) if alone else jax.vmap(one, axis_name=WORKER_AXIS)
    if num_devices() > 1 and worker.sums_over_workers is False:
        run = jax.shard_map(
            jax.vmap(one),
            in_specs=BY_DEVICE,
            out_specs=BY_DEVICE,
            axis_names={DEVICE_AXIS},
            check_vma=False,
        )
    return run(*each)


def _finite_entries(
    worker: Piece, common: Common, workers: Workers, messages, states
) -> Answers:
    """Where an entry, or what is kept of it, is not finite: nothing sent, nothing kept.

    What a component-wise pipeline does with the other entries does not depend on it.
    """
    leaves, structure = jax.tree.flatten(messages)
    present, before = workers.computes, workers.states
    good = [jnp.isfinite(leaf) for leaf in leaves]
    owner, narrow = owners(worker.init, states, common.previous), set()

    def narrowed(number, new, old):  # a state may be infinite on purpose
        if number >= 0 and is_narrow(new, messages):
            fine = jnp.isfinite(new) | ~jnp.isfinite(old)
            behind_m = tuple(range(1, 1 + new.ndim - good[number].ndim))
            good[number] &= fine.all(axis=behind_m)
            narrow.add(number)

    jax.tree.map(narrowed, owner, states, before)

    lost = ~all_finite(leaves)
    for number in narrow:  # all_finite is several times faster than "all"
        lost |= ~good[number].reshape(lost.shape[0], -1).all(axis=1)
    finite = [jnp.where(fine, x, 0) for fine, x in zip(good, leaves, strict=True)]
    good = [fine & _trees.along(present, fine) for fine in good]

    def kept(number, new, old):
        if number < 0:
            return _trees.where(present, new, old)
        mask = good[number]  # [M, *param]; the state may have axes in between
        between = (1,) * (new.ndim - mask.ndim)
        mask = mask.reshape(mask.shape[0], *between, *mask.shape[1:])
        return jnp.where(mask, new, old)

    sent = [
        jnp.where(fine, leaf, jnp.zeros_like(leaf))
        for fine, leaf in zip(good, leaves, strict=True)
    ]
    messages = jax.tree.unflatten(structure, sent)
    states = jax.tree.map(kept, owner, states, before)
    nonzeros = _nonzeros(finite, present, sent)
    return Answers(messages, states, present, lost & present, None, nonzeros)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
