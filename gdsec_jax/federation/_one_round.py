"""A round: from the gradients to the direction, and the next state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax._devices import check_share, num_devices
from gdsec_jax.federation import _clock, _controller, _counts, _layout
from gdsec_jax.federation._attendance import (
    Attendance,
    Offers,
    Said,
    attendance,
    delays,
    norms_of,
    of_usual_norm,
)
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._round import (
    Common,
    Federation,
    Round,
    Workers,
    compress,
    sound,
)


@_trees.state
class FederationState(NamedTuple):
    """State of `federate`."""

    clock: _clock.ClockState  # what all parties know: theta^{k-1}, k, the random key
    workers: optax.OptState  # the pipeline's state, each leaf [M, ...]
    server: optax.OptState  # of its step
    sent: _counts.RoundCounts  # in the last round
    norms: jax.Array | tuple[()]  # [M], of the last gradients, if they are judged
    control: Any = ()  # `ControlState`, if xi has a controller


def one_round(
    federation: Federation,
    state: FederationState,
    gradients: Any,
    common: Common,
    said: Said,
) -> tuple[Any, FederationState]:
    """The direction, and the next state; the clock is this round's already."""
    num_workers, server = federation.num_workers, federation.server
    spread = federation.spread
    _check_gradients(federation, gradients, common.previous, said)
    tick, layout = common.tick, state.sent.uploads.layout
    asked = server.asks and server.asks(tick.round_key, tick.number)
    attends = spread.mine(attendance(num_workers, said, asked))
    workers = Workers(
        gradients=gradients,
        states=state.workers,
        index=spread.mine(_clock.indices(num_workers)),
        computes=attends.computes,
        keys=spread.mine(tick.keys),
        weights=spread.mine(federation.weights),
        delay=spread.mine(delays(said.delay, num_workers, server.max_delay)),
    )
    norms: Any = state.norms
    if server.max_norm_ratio is not None:
        usual, norms = of_usual_norm(
            spread.everyones(norms_of(workers.weighted())),
            norms,
            spread.everyones(attends.computes),
            server.max_norm_ratio,
        )
        workers = workers._replace(computes=workers.computes & spread.mine(usual))
    # An offer takes a gradient, granted or not, and the grant waits for all.
    computed, awaited = attends.computes, attends.computes & attends.sends
    if said.grant is not None:
        attends = _granted(federation, common, workers, attends, said, layout)
        workers = workers._replace(computes=workers.computes & attends.computes)
    # What the pipelines need not know they are not told: nothing is computed then.
    if not said.complete:
        workers = workers._replace(sends=attends.sends, arrives=attends.arrives)
    # That a round follows the norms of changes is said, too: XLA then need not keep
    # the previous parameters for them.
    always = (tick.number >= 0) | (tick.past_norms[0] >= 0)
    now = Round(common, workers, state.server, always)
    made = _layout.run(federation, layout, now)
    answers = made.said
    participants = answers.present & attends.sends
    sent = answers.uploads.entries.any(axis=-1)
    counts = _counts.RoundCounts(
        answers.uploads,
        participants=participants,
        awaited=awaited,
        computed=computed,
        dropped=attends.computes & (~answers.present | answers.overflowed),
        lost=participants & sent & ~attends.arrives,
    )
    return made.direction, state._replace(
        clock=state.clock._replace(previous_params=made.previous),
        workers=spread.own(answers.states),
        server=made.server,
        sent=spread.own(counts),
        norms=norms,
        control=_controller.end(state.control, made.direction),
    )


def _check_gradients(federation: Federation, gradients, params, said: Said) -> None:
    """Of all workers, or computed in batches where nothing looks at all of them."""
    check_share(federation.num_workers, num_devices())
    if not isinstance(gradients, WorkerBatches):
        lead = (federation.num_workers // federation.spread.shards,)
        _checks.same_shapes("gradients", gradients, params, leading=lead)
        return
    server = federation.server
    for name, looks in (
        ("a robust server", not server.batches),
        ("max_norm_ratio", server.max_norm_ratio is not None),
        ("grant", said.grant is not None),
        ("a mesh of devices", bool(federation.spread.axes)),
    ):
        if looks:
            raise ValueError(
                "gradients are WorkerBatches, expected those of all workers at once, "
                f"which {name} looks at."
            )


def _granted(
    federation: Federation,
    common: Common,
    workers: Workers,
    attends: Attendance,
    said: Said,
    layout,
) -> Attendance:
    """Who attends once the offers were judged."""
    offering = workers._replace(computes=workers.computes & attends.sends)
    offering = sound(federation, offering)
    made = compress(federation, common, offering)
    uploads = _counts.uploads_of(layout, made, workers.gradients, common.previous)
    norms = norms_of(made.messages)
    bits = jnp.asarray(uploads.bits()).astype(norms.dtype)
    spread = federation.spread
    offers = spread.everyones(Offers(jnp.square(norms), bits, norms))
    granted = said.grant(offers)  # pyright: ignore
    granted = _checks.mask("grant's mask", granted, federation.num_workers)
    return attends.only(spread.mine(granted), said.absent)
