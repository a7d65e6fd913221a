"""Lift a worker's pipeline over all workers, aggregate, keep the server's memory."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

from gdsec_jax import _checks, _collective, _control, _round, _trees
from gdsec_jax._control import Controller
from gdsec_jax._devices import check_share, num_devices
from gdsec_jax._groups import Grouped
from gdsec_jax._last_round import RoundCounts
from gdsec_jax._rounds import RoundsState
from gdsec_jax._rounds import rounds as make_rounds
from gdsec_jax._steps import Columns, Steps
from gdsec_jax.wire import (
    Format,
    as_format,
    count,
    flush,
    layout_of,
    nonzeros_of,
    packing_of,
    tally,
    whole_of,
)

_WEIGHT = "weight"  # among what is each worker's own; no argument of its pipeline
Reduction = Literal["sum", "mean"]
OnNonfinite = Literal["drop", "propagate"]
OnStandstill = Literal["send", "hold"]


class FederationState(NamedTuple):
    """State of `federate`."""

    rounds: RoundsState  # what all parties know: theta^{k-1}, k, the random key
    workers: optax.OptState  # the pipeline's state, each leaf [M, ...]
    server: optax.OptState
    sent: RoundCounts  # in the last round
    control: Any = ()  # `ControlState`, if xi has a controller


def federate(
    worker: optax.GradientTransformation,
    num_workers: int,
    *,
    server: optax.GradientTransformation | None = None,
    summand: Callable[[Any, Any], Any] | None = None,
    reduction: Reduction = "sum",
    capacity: int | None = None,
    weights=None,
    wire: str | Format = "coo",
    key=None,
    participation: Callable[[jax.Array], jax.Array] | None = None,
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
    `round_key` (common to all workers). What else the caller passes to update goes to
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
      capacity: what is summed over devices is gathered from all of them as buffers of
        so many entries a worker, indices and values, instead of all D. A message with
        more non-zeros leaves its worker out for the round, as one that is not finite,
        so that nothing is lost: let `worker.top_k(capacity)` be the last compressor
        inside its memories. Not with `summand`.
      weights: [M], the weight of each f_m: f = sum of w_m f_m, or in the mean
        convention (sum of w_m f_m) / (sum of w_m). They scale the gradients before the
        pipeline sees them, so that all that holds of f_m holds of w_m f_m.
      wire: the bit format that `last_round` reports: a name of `wire.FORMATS` or a
        `wire.Format`.
      key: an int or a random key, for pipelines that draw; may be traced.
      participation: from the round's common key to bool [M], the workers of a round;
        the others are as if not `active`. Needs a key.
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
      dtype. An extra
      argument `active`, bool [M], names the workers of the round; of the others nothing
      is sent, and their state is frozen.

    Raises:
      ValueError: num_workers is no positive int; an option is unknown; weights, active,
        or a gradient has another shape than expected; params have 2^31 entries or more,
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
    if participation is not None and key is None:
        raise ValueError("key is None, expected an int or a random key to draw with.")
    if capacity is not None:
        _checks.integer("capacity", capacity, 1, 2**31 - 1)
        if summand is not None:
            raise ValueError(
                "summand is given beside capacity, expected None: messages alone are "
                "sparse. Use server_memory."
            )
    wire = as_format(wire)
    weights = _weights(weights, num_workers, reduction)
    worker = optax.with_extra_args_support(worker)
    server = optax.with_extra_args_support(server or optax.identity())
    rounds = make_rounds(num_workers, key=key, on_standstill=on_standstill)

    def init(params):
        known = rounds.init(params)
        one_worker = worker.init(params)
        return FederationState(
            rounds=known,
            workers=_repeat(one_worker, num_workers),
            server=server.init(params),
            sent=_nothing_sent(params, one_worker, wire, num_workers),
            control=_control.init(controller, params),
        )

    def update(updates, state, params=None, *, active=None, **extra_args):
        like = state.rounds.previous_params
        if not isinstance(updates, Grouped):
            _checks.same_shapes("gradients", updates, like, leading=(num_workers,))
        check_share(num_workers, num_devices())
        common, own, known = rounds.begin(state.rounds, params)
        change = common.pop("params_change")
        control, chosen_xi = _control.begin(
            controller, state.control, common, state.sent
        )
        shared = extra_args | common | chosen_xi
        if active is None:
            active = jnp.ones(num_workers, bool)
        chosen = _checks.mask("active", active, num_workers)
        if participation is not None:
            drawn = participation(common["round_key"])
            chosen &= _checks.mask("participation's mask", drawn, num_workers)

        def known_to_all(columns):
            change = columns.change
            if change is None and columns.params is not None:
                change = jax.tree.map(jnp.subtract, columns.params, columns.previous)
            return shared | {"params_change": change, "like": columns.previous}

        def work(columns, active, alone=False):
            def run_worker(gradient, worker_state, own):
                extra = known_to_all(columns) | own
                return worker.update(gradient, worker_state, columns.params, **extra)

            own = {name: x for name, x in columns.own.items() if name != _WEIGHT}
            each = (_weighted(columns), columns.workers, own | {"active": active})
            messages, workers = _round.for_workers(run_worker, each, alone)
            return flush(_trees.cast_like(messages, columns.previous)), workers

        def sound(columns, messages, workers):
            good = jnp.ones((), bool)
            if on_nonfinite == "drop":
                # Gradients, messages, and what overflows easily.
                narrow = [x for x in jax.tree.leaves(workers) if x.dtype == jnp.float16]
                good &= _all_finite((_weighted(columns), messages, narrow))
            if capacity is not None and jax.tree.leaves(messages):
                good &= _collective.nonzeros(messages) <= capacity
            return good

        def gather(columns, messages, workers, present):
            messages = _where(present, messages, optax.tree.zeros_like(messages))
            summands = messages
            if summand is not None:
                summands = jax.vmap(summand)(messages, columns.workers)
            if capacity is None:
                total = _trees.over_workers(summands)
            else:
                total = _collective.sparse_sum(summands, capacity)
            return messages, total, _where(present, workers, columns.workers)

        def serve(columns, total, present):
            if reduction == "mean":
                total = jax.tree.map(lambda x: x / num_workers, total)
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
            tally=functools.partial(_tally, layout),
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
        # That a round follows the norms of changes is said, too: XLA then need not keep
        # the previous parameters for them.
        always = (state.rounds.number >= 0) | (known.past_changes[0] >= 0)
        sends_other = _sends_other(state.workers)
        present, results, uploads = _round.run(
            columns,
            chosen,
            steps,
            always,
            keep_messages=bool(layout.run_coded),
            may_cut=not sends_other and capacity is None,
        )
        return results.aggregate, FederationState(
            rounds=known._replace(previous_params=results.previous),
            workers=results.workers,
            server=results.server,
            sent=RoundCounts(uploads, present, chosen & ~present),
            control=_control.end(control, results.aggregate),
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
        lambda g: _along(weights.astype(g.dtype), g) * g, columns.gradients
    )


def _along(per_worker, leaf):
    """An [M] array shaped to broadcast over the axes behind a leaf's first."""
    return per_worker.reshape(per_worker.shape + (1,) * (leaf.ndim - 1))


def _where(present, new, old):
    return jax.tree.map(lambda x, y: jnp.where(_along(present, x), x, y), new, old)


def _repeat(state, num_workers: int):
    return jax.tree.map(
        lambda x: jnp.tile(x, (num_workers,) + (1,) * jnp.ndim(x)), state
    )


def _all_finite(tree) -> jax.Array:
    """bool [M], of leaves [M, ...]."""
    finite = True
    for leaf in jax.tree.leaves(tree):
        # 0 x is 0, or NaN where x is not finite. XLA's CPU backend computes a product
        # with a vector several times faster than "all".
        rows = leaf.reshape(leaf.shape[0], -1)
        finite &= rows @ jnp.zeros(rows.shape[1], rows.dtype) == 0
    return jnp.asarray(finite)


def _nothing_sent(params, worker_state, wire, num_workers: int) -> RoundCounts:
    packing = packing_of(worker_state)
    code, payload = (None, None) if packing is None else (packing.code, packing.payload)
    layout = layout_of(params, wire, code, payload)
    silence = optax.tree.zeros_like(params if payload is None else payload)
    nobody = jnp.zeros(num_workers, bool)
    return RoundCounts(
        _repeat(count(silence, layout), num_workers), nobody, nobody.copy()
    )


def _tally(layout, nonzeros, messages, workers, columns: Columns):
    """Count what travels of each worker's message, as its pieces have it."""
    if _sends_other(workers):
        packing: Any = packing_of(workers)
        silent = ~_some(messages)
        messages = _where(
            ~silent, packing.payload, optax.tree.zeros_like(packing.payload)
        )
        nonzeros = jax.vmap(nonzeros_of)(messages)
    elif not layout.run_coded:  # shapes and dtypes do
        messages = _trees.cast_like(columns.gradients, columns.previous)
    one = lambda n, message, whole: tally(n, message, layout, whole)  # noqa: E731
    whole = whole_of(workers)
    axes = (0, 0, None if whole is False else 0)
    return jax.vmap(one, axes)(nonzeros, messages, whole)


def _sends_other(workers) -> bool:
    """Whether something else travels in the messages' stead."""
    packing = packing_of(workers)
    return packing is not None and packing.payload is not None


def _some(messages) -> jax.Array:
    """bool [M], of leaves [M, ...]."""
    some = False
    for leaf in jax.tree.leaves(messages):
        some |= (leaf != 0).any(axis=tuple(range(1, leaf.ndim)))
    return jnp.asarray(some)
