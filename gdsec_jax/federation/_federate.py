"""Lift a worker's pipeline over all workers, aggregate, keep the server's memory."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

from gdsec_jax import _checks, _trees
from gdsec_jax._devices import check_share, num_devices
from gdsec_jax.federation import _controller, _counting, _layout, _outliers
from gdsec_jax.federation._attendance import (
    Absent,
    Grant,
    Offers,
    Rule,
    attendance,
    delays,
    energies,
)
from gdsec_jax.federation._batches import Grouped
from gdsec_jax.federation._clock import RoundsState
from gdsec_jax.federation._clock import rounds as make_rounds
from gdsec_jax.federation._controller import Controller
from gdsec_jax.federation._counts import RoundCounts
from gdsec_jax.federation._round import Columns, Steps
from gdsec_jax.server import _sum, late_messages
from gdsec_jax.server._server import Aggregation, total_by
from gdsec_jax.wire import Format, as_format, flush, nonzeros_of

# Among what is each worker's own, and no arguments of its pipeline.
_WEIGHT, _SENDS, _DELAY = "weight", "sends", "delay"
_DELIVERED = "delivered"  # this one is an argument
_NO_ARGUMENTS = (_WEIGHT, _SENDS, _DELAY)
Reduction = Literal["sum", "mean"]
OnNonfinite = Literal["drop", "propagate"]
OnStandstill = Literal["send", "hold"]


class FederationState(NamedTuple):
    """State of `federate`."""

    rounds: RoundsState  # what all parties know: theta^{k-1}, k, the random key
    workers: optax.OptState  # the pipeline's state, each leaf [M, ...]
    server: optax.OptState
    sent: RoundCounts  # in the last round
    norms: jax.Array | tuple[()]  # [M], of the last gradients, if they are judged
    control: Any = ()  # `ControlState`, if xi has a controller


def federate(
    worker: optax.GradientTransformation,
    num_workers: int,
    *,
    server: optax.GradientTransformation | None = None,
    summand: Callable[[Any, Any], Any] | None = None,
    reduction: Reduction = "sum",
    aggregation: Aggregation | None = None,
    capacity: int | None = None,
    max_delay: int | None = None,
    max_norm_ratio=None,
    weights=None,
    wire: str | Format = "coo",
    key=None,
    participation: Rule | None = None,
    on_nonfinite: OnNonfinite = "drop",
    on_standstill: OnStandstill = "send",
    controller: Controller | None = None,
) -> aggregating.Aggregator:
    r"""Run one worker's pipeline for every worker, and aggregate their messages.

    .. math:: u_m = \text{worker}(g_m), \quad \text{update} = \text{server}(\sum_m u_m)

    In the sum convention f is the sum of the f_m, in the mean convention an M-th of it.
    A mean always divides by M, whoever takes part.

    The pipeline is handed, as extra arguments of its update: `params_change`
    (theta^k - theta^{k-1}; None without params), `past_changes` (the squared norms of
    the last 10 of these, latest first, zero-padded), `round` (int32, the first is 0),
    `worker_index` (int32, this worker's number), `active` (bool, whether this worker
    takes part), `like` (a tree with the dtypes that messages travel in: the
    parameters'), and with a key `key` (its own for each worker and round) and
    `round_key` (common to all workers), and where messages may be missing `delivered`
    (bool, whether this worker's arrives). What else the caller passes to update goes to
    every worker. Sums over all workers are `jax.lax.psum(x, worker.WORKER_AXIS)`. The
    server is handed the same, but for `key` and `worker_index`, with `active`
    (bool [M]).

    Under jit on CPUs and TPUs, gradients of 16 MiB or more are taken in blocks of
    components if in the pipeline every component goes its own way, as in GD-SEC's, and
    those of many workers on CPUs in groups of workers; in place if the state is
    donated. What is computed is the same, but for rounding, and for messages that are
    not finite though their gradients are: see `on_nonfinite`. `Grouped` gradients,
    which are computed a group at a time, are taken so, too.

    With an axis `DEVICE_AXIS` of the mesh that `jax.set_mesh` has set, each of its
    devices compresses the messages of its own workers, and what the server adds up is
    summed over devices; `simulate(mesh=)` sets it.

    A piece whose message is not written as plain floats, non-zeros alone, says so by a
    `wire.Packing` or a `wire.Whole` in its state.

    Args:
      worker: a transformation for one worker, from its gradient to its message.
      num_workers: M, a Python int.
      server: a transformation of what is summed over the workers, `server_memory` say.
      summand: (message, the pipeline's state before the round) of one worker to what is
        summed over the workers, `gradient_estimate` say; by default the message. Of
        workers that are absent the message is 0.
      reduction: "sum" or "mean".
      aggregation: from what is summed, leaves [M, *param], to [*param], instead of the
        sum: a rule of `robust` say. Nothing is conserved then.
      capacity: what is summed over devices is gathered from all of them as buffers of
        so many entries a worker, indices and values, instead of all D. A message with
        more non-zeros leaves its worker out for the round, as one that is not finite,
        so that nothing is lost: let `worker.top_k(capacity)` be the last compressor
        inside its memories. Not with `summand`.
      max_delay: at least 1, the rounds that a message may come late, by update's
        `delay`. What is under way waits in the server's state, as many sums as the
        rounds. Not with `summand`: the server knows what has come.
      max_norm_ratio: a worker is left out for the round, as one whose gradient is not
        finite, if the norm of its gradient is more than so many times the running
        median: that over all workers of the last norm that is known of each, which
        grows at most tenfold a round. 100 is usual where the f_m are of one kind. May
        be traced.
      weights: [M], the weight of each f_m: f = sum of w_m f_m, or in the mean
        convention (sum of w_m f_m) / (sum of w_m). They scale the gradients before the
        pipeline sees them, so that all that holds of f_m holds of w_m f_m.
      wire: the bit format that `last_round` reports: a name of `wire.FORMATS` or a
        `wire.Format`.
      key: an int or a random key, for pipelines that draw; may be traced.
      participation: from the round's common key and its number to bool [M], the workers
        of a round; the state of the others is frozen. Needs a key.
      on_nonfinite: "drop" leaves a worker out for the round if its gradient has an
        entry that is not finite, or its message, or its new state in float16: message
        0, its state unchanged. In blocks a message of another dtype that overflows
        loses those entries alone, and their memories stay. "propagate" sends it.
      on_standstill: params_change where theta did not move at all: "send" leaves it at
        0, "hold" keeps the last that was not 0.
      controller: chooses, before each round, what the pipeline is handed as one more
        extra argument, `xi`.

    Returns:
      An `optax.experimental.aggregating.Aggregator`: update takes gradients with leaves
      [M, *param], or `Grouped` ones, and returns leaves [*param] in the parameter's
      dtype. Its extra arguments say what befalls the workers of a round: `active`, bool
      [M], who takes part, if `participation` draws it, too; `absent`, what those do
      that are not active, "hold" (their state is frozen) or "accumulate" (they compute,
      and their memories act as if all were censored);
      `grant`, from `Offers` to bool [M], who of those that take part may send, once it
      is known what they would; `delivered`, bool [M], whose message arrives: one that
      does not was sent and is counted, and its worker's memories act as if all was
      censored; `delay`, int32 [M], by how many rounds a message is late.

    Raises:
      ValueError: num_workers is no positive int; an option is unknown; weights, active,
        or a gradient has another shape than expected, or gradients are Grouped where
        all are needed at once; params have 2^31 entries or more,
        or are not real floating-point numbers.

    Examples:
      Half of the workers' entries, by a pipeline of one's own:

      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> piece = optax.stateless(lambda g, _: jnp.where(jnp.abs(g) > 1, g, 0))
      >>> optimizer = optax.chain(gdsec_jax.federate(piece, 2), optax.sgd(1.0))
      >>> params = jnp.zeros(2)
      >>> grads = jnp.array([[3.0, 0.5], [2.0, 4.0]])
      >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
      >>> updates, gdsec_jax.last_round(state).entries
      (Array([-5., -4.], dtype=float32), Array([1, 2], dtype=int32))
    """
    _checks.number_of_workers(num_workers)
    _checks.one_of("reduction", reduction, ("sum", "mean"))
    _checks.one_of("on_nonfinite", on_nonfinite, ("drop", "propagate"))
    _checks.function("aggregation", aggregation)
    _checks.function("participation", participation)
    if participation is not None and key is None:
        raise ValueError("key is None, expected an int or a random key to draw with.")
    total_of = total_by(summand, aggregation, capacity, max_delay)
    if max_norm_ratio is not None:
        _checks.number_in_range("max_norm_ratio", max_norm_ratio, 1.0, _checks.LARGEST)
    wire = as_format(wire)
    weights = _weights(weights, num_workers, reduction)
    worker = optax.with_extra_args_support(worker)
    server = server or optax.identity()
    if max_delay:
        server = optax.chain(late_messages(max_delay), server)
    server = optax.with_extra_args_support(server)
    rounds = make_rounds(num_workers, key=key, on_standstill=on_standstill)

    def init(params):
        known = rounds.init(params)
        one_worker = worker.init(params)
        return FederationState(
            rounds=known,
            workers=_trees.repeat(one_worker, num_workers),
            server=server.init(params),
            sent=_counting.nothing_sent(params, one_worker, wire, num_workers),
            norms=()
            if max_norm_ratio is None
            else _outliers.nothing_known(num_workers),
            control=_controller.init(controller, params),
        )

    def update(
        updates,
        state,
        params=None,
        *,
        active=None,
        absent: Absent = "hold",
        grant: Grant | None = None,
        delivered=None,
        delay=None,
        **extra_args,
    ):
        like = state.rounds.previous_params
        grouped = isinstance(updates, Grouped)
        if not grouped:
            _checks.same_shapes("gradients", updates, like, leading=(num_workers,))
        for name, value in (
            ("aggregation", aggregation),
            ("max_norm_ratio", max_norm_ratio),
            ("grant", grant),
        ):
            if grouped and value is not None:
                raise ValueError(
                    "gradients are Grouped, expected those of all workers at once, "
                    f"which {name} looks at."
                )
        check_share(num_workers, num_devices())
        common, own, known = rounds.begin(state.rounds, params)
        change = common.pop("params_change")
        control, chosen_xi = _controller.begin(
            controller, state.control, common, state.sent
        )
        shared = extra_args | common | chosen_xi
        attends = attendance(num_workers, active, absent, delivered)
        if participation is not None:
            drawn = participation(common["round_key"], common["round"])
            drawn = _checks.mask("participation's mask", drawn, num_workers)
            attends = attends.only(drawn, "hold")
        # What the pipelines need not know they are not told: nothing is computed then.
        complete = grant is None and delivered is None and absent == "hold"

        def known_to_all(columns):
            change = columns.change
            if change is None and columns.params is not None:
                change = jax.tree.map(jnp.subtract, columns.params, columns.previous)
            return shared | {"params_change": change, "like": columns.previous}

        def work(columns, active, alone=False):
            def run_worker(gradient, worker_state, own):
                extra = known_to_all(columns) | own
                return worker.update(gradient, worker_state, columns.params, **extra)

            own = {
                name: x for name, x in columns.own.items() if name not in _NO_ARGUMENTS
            }
            each = (_weighted(columns), columns.workers, own | {"active": active})
            messages, workers = _layout.for_workers(run_worker, each, alone)
            return flush(_trees.cast_like(messages, columns.previous)), workers

        def sound(columns, messages, workers):
            good = jnp.ones((), bool)
            if on_nonfinite == "drop":
                # Gradients, messages, and what overflows easily.
                narrow = [x for x in jax.tree.leaves(workers) if x.dtype == jnp.float16]
                good &= _all_finite((_weighted(columns), messages, narrow))
            if capacity is not None and jax.tree.leaves(messages):
                good &= _sum.nonzeros(messages) <= capacity
            return good

        def gather(columns, messages, workers, present):
            own = columns.own
            silence = optax.tree.zeros_like(messages)
            sends = present & own.get(_SENDS, True)
            messages = _trees.where(sends, messages, silence)
            arrived = messages
            if _DELIVERED in own:
                arrived = _trees.where(own[_DELIVERED], messages, silence)
            summands = arrived
            if summand is not None:
                summands = jax.vmap(summand)(arrived, columns.workers)
            total = total_of(summands, own.get(_DELAY))
            return messages, total, _trees.where(present, workers, columns.workers)

        def serve(columns, total, present):
            if reduction == "mean":
                total = jax.tree.map(lambda x: x / num_workers, total)
            present = present & columns.own.get(_SENDS, True)
            extra = known_to_all(columns) | {"active": present}
            aggregate, server_state = server.update(
                total, columns.server, columns.params, **extra
            )
            return _trees.cast_like(aggregate, columns.previous), server_state

        layout = state.sent.uploads.layout
        steps = Steps(
            init=lambda params: init(params)[1:3],  # of workers and server
            work=work,
            sound=sound if on_nonfinite == "drop" or capacity is not None else None,
            gather=gather,
            serve=serve,
            count=jax.vmap(nonzeros_of),
            tally=functools.partial(_counting.uploads_of, layout),
        )
        columns = Columns(
            gradients=updates,
            params=params,
            change=change if on_standstill == "hold" else None,
            previous=like,
            workers=state.workers,
            server=state.server,
            own=own if weights is None else own | {_WEIGHT: weights},
        )
        chosen, norms = attends.computes, ()
        if max_norm_ratio is not None:
            usual, norms = _outliers.within(
                _weighted(columns), state.norms, chosen, max_norm_ratio
            )
            chosen = chosen & usual
        # An offer takes a gradient, granted or not, and the grant waits for all.
        computes, awaited = attends.computes, attends.computes & attends.sends
        if grant is not None:
            granted = grant(_offers(columns, chosen & attends.sends, steps))
            granted = _checks.mask("grant's mask", granted, num_workers)
            attends = attends.only(granted, absent)
            chosen = chosen & attends.computes
        if not complete:
            own = {_SENDS: attends.sends, _DELIVERED: attends.arrives}
            columns = columns._replace(own=columns.own | own)
        late = delays(delay, num_workers, max_delay)
        if late is not None:
            columns = columns._replace(own=columns.own | {_DELAY: late})
        # That a round follows the norms of changes is said, too: XLA then need not keep
        # the previous parameters for them.
        always = (state.rounds.number >= 0) | (known.past_changes[0] >= 0)
        sends_other = _counting.sends_other(state.workers)
        whole = aggregation is not None
        present, results, uploads = _layout.run(
            columns,
            chosen,
            steps,
            always,
            keep_messages=bool(layout.run_coded),
            may_cut=not (sends_other or whole or max_delay or capacity is not None),
            may_group=not whole,
        )
        participants = present & attends.sends
        sent = uploads.entries.any(axis=-1)
        return results.aggregate, FederationState(
            rounds=known._replace(previous_params=results.previous),
            workers=results.workers,
            server=results.server,
            sent=RoundCounts(
                uploads,
                participants=participants,
                awaited=awaited,
                computed=computes,
                dropped=attends.computes & ~present,
                lost=participants & sent & ~attends.arrives,
            ),
            norms=norms,
            control=_controller.end(control, results.aggregate),
        )

    # optax's type of a state knows no registered dataclasses, such as our counts.
    return aggregating.Aggregator(init, update)  # pyright: ignore


def _weights(weights, num_workers: int, reduction: Reduction):
    """Factors of the gradients, or None: w_m, for a mean scaled to average 1."""
    if weights is None:
        return None
    if not isinstance(weights, jax.Array):
        weights = np.asarray(weights)
    if weights.shape != (num_workers,):
        raise ValueError(
            f"weights has shape {weights.shape}, expected ({num_workers},)."
        )
    _checks.in_range("weights", weights, 0.0, _checks.LARGEST)
    if not _checks.is_traced(weights) and not np.any(weights):
        raise ValueError("weights is 0 for every worker, expected one above 0.")
    weights = jnp.asarray(weights)
    return weights / weights.mean() if reduction == "mean" else weights


def _weighted(columns: Columns):
    """The gradients of w_m f_m."""
    weights = columns.own.get(_WEIGHT)
    if weights is None:
        return columns.gradients
    return jax.tree.map(
        lambda g: _trees.along(weights.astype(g.dtype), g) * g, columns.gradients
    )


def _offers(columns: Columns, chosen: jax.Array, steps: Steps) -> Offers:
    """What these workers would send; what the others would is worth nothing."""
    messages, workers = steps.work(columns, chosen)
    if steps.sound is not None:
        chosen = chosen & steps.sound(columns, messages, workers)
    messages = _trees.where(chosen, messages, optax.tree.zeros_like(messages))
    uploads = steps.tally(steps.count(messages), messages, workers, columns)
    energy = energies(messages)
    return Offers(energy, jnp.asarray(uploads.bits()).astype(energy.dtype))


def _all_finite(tree) -> jax.Array:
    """bool [M], of leaves [M, ...]."""
    finite = True
    for leaf in jax.tree.leaves(tree):
        # 0 x is 0, or NaN where x is not finite. XLA's CPU backend computes a product
        # with a vector several times faster than "all".
        rows = leaf.reshape(leaf.shape[0], -1)
        finite &= rows @ jnp.zeros(rows.shape[1], rows.dtype) == 0
    return jnp.asarray(finite)
