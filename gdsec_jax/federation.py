"""Lift a worker's pipeline over all workers, aggregate, keep the server's memory."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

from gdsec_jax import _checks, _trees
from gdsec_jax._last_round import RoundCounts
from gdsec_jax.wire import Format, Uploads, count, flush, layout_of

NUM_PAST_CHANGES = 10
Reduction = Literal["sum", "mean"]
OnNonfinite = Literal["drop", "propagate"]
OnStandstill = Literal["send", "hold"]


class FederationState(NamedTuple):
    """State of `federate`."""

    previous_params: optax.Params  # theta^{k-1}
    held_change: (
        optax.Params | tuple[()]
    )  # last non-zero theta^k - theta^{k-1}, if held
    past_changes: jax.Array  # float [10]: squared norms of the last changes, last first
    round: jax.Array  # int32 []: k - 1
    workers: optax.OptState  # the pipeline's state, each leaf [M, ...]
    server: optax.OptState
    key_data: jax.Array | tuple[()]  # of the random key, if there is one
    sent: RoundCounts  # in the last round


def federate(
    worker: optax.GradientTransformation,
    num_workers: int,
    *,
    server: optax.GradientTransformation | None = None,
    reduction: Reduction = "sum",
    weights=None,
    wire: str | Format = "coo",
    key=None,
    on_nonfinite: OnNonfinite = "drop",
    on_standstill: OnStandstill = "send",
) -> aggregating.Aggregator:
    r"""Run one worker's pipeline for every worker, and aggregate their messages.

    .. math:: u_m = \text{worker}(g_m), \quad \text{update} = \text{server}(\sum_m u_m)

    In the sum convention f is the sum of the f_m, in the mean convention an M-th of it.
    A mean always divides by M, whoever takes part.

    The pipeline is handed, as extra arguments of its update: `params_change`
    (theta^k - theta^{k-1}; None without params), `past_changes` (the squared norms of
    the last 10 of these, latest first, zero-padded), `round` (int32, the first is 0),
    `active` (bool, whether this worker takes part), `like` (a tree with the dtypes that
    messages travel in: the parameters'), and with a key `key` (its own for each worker
    and round) and `round_key` (common to all workers). What else the caller passes to
    update goes to every worker. The server is handed the same, but for `key`, with
    `active` (bool [M]), `messages` ([M, *param]) and `workers` (the pipelines' states
    before the round).

    Args:
      worker: a transformation for one worker, from its gradient to its message.
      num_workers: M, a Python int.
      server: a transformation of the aggregated message, `server_memory` say.
      reduction: "sum" or "mean".
      weights: [M], the weight of each f_m: f = sum of w_m f_m, or in the mean
        convention (sum of w_m f_m) / (sum of w_m). They scale the gradients before the
        pipeline sees them, so that all that holds of f_m holds of w_m f_m.
      wire: the bit format that `last_round` reports: a name of `wire.FORMATS` or a
        `wire.Format`.
      key: an int or a random key, for pipelines that draw; may be traced.
      on_nonfinite: "drop" leaves a worker out for the round if its gradient has an
        entry that is not finite, or its message, or its new state in float16: message
        0, its state unchanged. "propagate" sends it.
      on_standstill: params_change where theta did not move at all: "send" leaves it at
        0, "hold" keeps the last that was not 0.

    Returns:
      An `optax.experimental.aggregating.Aggregator`: update takes gradients with leaves
      [M, *param], and returns leaves [*param] in the parameter's dtype. An extra
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
    _checks.one_of("on_standstill", on_standstill, ("send", "hold"))
    weights = _weights(weights, num_workers, reduction)
    worker = optax.with_extra_args_support(worker)
    server = optax.with_extra_args_support(server or optax.identity())
    random_key = None if key is None else _trees.as_key(key)

    def init(params):
        _checks.floating(params)
        # A copy, or donating params and state would give one buffer away twice.
        previous = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return FederationState(
            previous_params=previous,
            held_change=optax.tree.zeros_like(previous)
            if on_standstill == "hold"
            else (),
            past_changes=jnp.zeros(NUM_PAST_CHANGES, _norm_dtype(params)),
            round=jnp.zeros((), jnp.int32),
            workers=_repeat(worker.init(params), num_workers),
            server=server.init(params),
            key_data=() if random_key is None else jax.random.key_data(random_key),
            sent=_nothing_sent(params, wire, num_workers),
        )

    def update(updates, state, params=None, *, active=None, **extra_args):
        previous = state.previous_params
        _checks.same_shapes("gradients", updates, previous, leading=(num_workers,))
        change, past_changes, held_change = _change(
            params, state, on_standstill == "hold"
        )
        key_data, round_keys, worker_keys = _split(
            state.key_data, random_key, num_workers
        )
        shared = extra_args | round_keys
        shared |= {
            "params_change": change,
            "past_changes": past_changes,
            "round": state.round,
            "like": previous,
        }
        gradients = _scale(updates, weights)
        chosen = _as_mask(active, num_workers)
        present = chosen
        if on_nonfinite == "drop":
            present &= _all_finite(gradients, num_workers)

        def run_worker(gradient, worker_state, own):
            return worker.update(gradient, worker_state, params, **(shared | own))

        own = worker_keys | {"active": present}
        messages, workers = jax.vmap(run_worker)(gradients, state.workers, own)
        messages = flush(_trees.cast_like(messages, previous))
        if on_nonfinite == "drop":  # a narrow dtype may overflow
            narrow = [x for x in jax.tree.leaves(workers) if x.dtype == jnp.float16]
            present &= _all_finite((messages, narrow), num_workers)
        messages = _where(present, messages, optax.tree.zeros_like(messages))
        layout = state.sent.uploads.layout
        uploads = jax.vmap(lambda message: count(message, layout))(messages)

        aggregate = _trees.over_workers(messages, reduction)
        shared |= {"active": present, "messages": messages, "workers": state.workers}
        aggregate, server_state = server.update(
            aggregate, state.server, params, **shared
        )
        return _trees.cast_like(aggregate, previous), FederationState(
            previous_params=previous if params is None else params,
            held_change=held_change,
            past_changes=past_changes,
            round=jnp.asarray(optax.safe_increment(state.round)),
            workers=_where(present, workers, state.workers),
            server=server_state,
            key_data=key_data,
            sent=RoundCounts(uploads, present, chosen & ~present),
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


def _scale(gradients, weights):
    if weights is None:
        return gradients
    return jax.tree.map(lambda g: _along(weights.astype(g.dtype), g) * g, gradients)


def _along(per_worker, leaf):
    """An [M] array shaped to broadcast over the axes behind a leaf's first."""
    return per_worker.reshape(per_worker.shape + (1,) * (leaf.ndim - 1))


def _where(present, new, old):
    return jax.tree.map(lambda x, y: jnp.where(_along(present, x), x, y), new, old)


def _repeat(state, num_workers: int):
    return jax.tree.map(
        lambda x: jnp.tile(x, (num_workers,) + (1,) * jnp.ndim(x)), state
    )


def _as_mask(active, num_workers: int) -> jax.Array:
    if active is None:
        return jnp.ones(num_workers, bool)
    active = jnp.asarray(active)
    if active.shape != (num_workers,) or active.dtype != bool:
        raise ValueError(
            f"active is {active.dtype}{list(active.shape)}, expected "
            f"bool[{num_workers}]."
        )
    return active


def _all_finite(gradients, num_workers: int) -> jax.Array:
    finite = jnp.ones(num_workers, bool)
    for leaf in jax.tree.leaves(gradients):
        finite &= jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
    return finite


def _change(params, state: FederationState, hold: bool):
    """theta^k - theta^{k-1}, the squared norms of the last ones, the change to hold."""
    if params is None:
        return None, state.past_changes, state.held_change
    _checks.same_shapes("params", params, state.previous_params)
    change = jax.tree.map(jnp.subtract, params, state.previous_params)
    norm, moved = jnp.zeros((), state.past_changes.dtype), jnp.zeros((), bool)
    for leaf in jax.tree.leaves(change):
        norm += jnp.square(leaf.astype(norm.dtype)).sum()
        moved |= (leaf != 0).any()
    past = jnp.roll(state.past_changes, 1).at[0].set(norm)
    if not hold:
        return change, past, ()
    change = optax.tree.where(moved, change, state.held_change)
    return change, past, change


def _norm_dtype(params):
    return _trees.widest(jnp.float32, *map(jnp.result_type, jax.tree.leaves(params)))


def _nothing_sent(params, wire: str | Format, num_workers: int) -> RoundCounts:
    layout = layout_of(params, wire)
    uploads = Uploads(
        entries=jnp.zeros((num_workers, len(layout.widths)), jnp.int32),
        runs=jnp.zeros(num_workers, jnp.uint32),
        layout=layout,
    )
    return RoundCounts(
        uploads, jnp.zeros(num_workers, bool), jnp.zeros(num_workers, bool)
    )


def _split(key_data, random_key, num_workers: int):
    """The next key's data, the round's common key and each worker's own, by name."""
    if random_key is None:
        return (), {}, {}
    impl = jax.random.key_impl(random_key)
    key = jax.random.wrap_key_data(key_data, impl=impl)
    key, common, others = jax.random.split(key, 3)
    own = jax.vmap(jax.random.fold_in, (None, 0))(others, jnp.arange(num_workers))
    return jax.random.key_data(key), {"round_key": common}, {"key": own}
