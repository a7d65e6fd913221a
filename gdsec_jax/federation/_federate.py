"""An algorithm from a worker's pipeline and a server: options to init and update."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from optax.experimental import aggregating

from gdsec_jax import _checks, _trees
from gdsec_jax.federation import _check, _clock, _controller, _counts, _private, _spread
from gdsec_jax.federation._attendance import Absent, Said, no_norms
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._finite import OnNonfinite
from gdsec_jax.federation._halves import Federated, Parts
from gdsec_jax.federation._one_round import FederationState, one_round
from gdsec_jax.federation._round import Common, Federation
from gdsec_jax.federation._specs import state_specs
from gdsec_jax.federation._train import WorkerLosses
from gdsec_jax.server._old import old_options
from gdsec_jax.server._server import Server, as_server
from gdsec_jax.server._two_shot import by_parts
from gdsec_jax.wire import Format
from gdsec_jax.wire._formats import as_format
from gdsec_jax.worker import Piece

Reduction = Literal["sum", "mean", "senders"]
OnStandstill = Literal["send", "hold"]


@old_options
def federate(
    worker: optax.GradientTransformation,
    num_workers: int,
    *,
    server: Server | optax.GradientTransformation | None = None,
    reduction: Reduction = "sum",
    weights=None,
    wire: str | Format = "coo",
    key=None,
    noise: Piece | None = None,
    on_nonfinite: OnNonfinite = "drop",
    on_standstill: OnStandstill = "send",
    controller: _controller.Controller | None = None,
    axis: _spread.Axis | None = None,
    within: _spread.Axis | None = None,
) -> aggregating.Aggregator:
    r"""Run one worker's pipeline for every worker, and aggregate their messages.

    .. math:: u_m = \text{worker}(g_m), \quad \text{update} = \text{server}(\sum_m u_m)

    Its state is a `FederationState`. The pieces are handed, as extra arguments:
    `params_change` (theta^k - theta^{k-1}; None without params), `past_norms` (the
    norms of the last 10 of these, latest first, zero-padded), `past_changes` (their
    squares, which in float32 overflow beyond 1e19 and vanish below 1e-19), `round`
    (int32, the first is 0), `worker_index` (int32), `active` (bool, whether this worker
    computes), `like` (a tree with the dtypes that messages travel in: the parameters'),
    with a key `key` (its own for each worker and round) and `round_key` (common to
    all), and where messages may be missing `delivered` (bool, whether this worker's
    arrives) and where they may be late `delay` (int32, by how many rounds); and
    whatever else the caller passes to update. Sums over all workers are
    `jax.lax.psum(x, worker.WORKER_AXIS)`; a piece says so, see `worker.Piece`. The
    server's step is handed the same, but for `key` and `worker_index`, with `active`
    (bool [M], who took part and could send).

    Under jit, gradients of 16 MiB or more are taken in blocks of components on CPUs and
    TPUs, where the pieces are component-wise (at most 16 arrays, on one device), and in
    batches on CPUs where there are many workers; in place if the state is donated. What
    is computed is the same, but for rounding.

    Where the workers lie on the devices of a mesh, each device compresses the messages
    of its own workers, and what travels between them is what was compressed: codes, or
    the non-zeros with their places, in as many words as a message can need; factors of
    matrices; whole vectors where a method sends these. Every device has the same update
    then, bit for bit. The axis is named, or read from the gradients' sharding where
    that says it; a server that sums h_m + u_m sums whole vectors, so that a method with
    a memory h has `server.running()` where an axis is named. Inside a `jax.shard_map`
    of the axis, gradients are the device's own, leaves [*param], and the state has one
    worker; see `state_specs`. Update under jax.jit: what a call by itself computes over
    several devices is compiled in every call.

    Args:
      worker: a transformation for one worker, from its gradient to its message. A piece
        whose message is not written as plain floats, non-zeros alone, says so by a
        `wire.Packing` or a `wire.Whole` in its state.
      num_workers: M, a Python int.
      server: one of `gdsec_jax.server`, or a transformation of the messages' sum, such
        as `server_memory`; by default the sum.
      reduction: "sum", or "mean", which divides by M, whoever takes part (or "senders",
        by how many of them are heard in the round): then f is an
        M-th of the sum of the f_m.
      weights: [M], the weight of each f_m: f = sum of w_m f_m, or in the mean
        convention (sum of w_m f_m) / (sum of w_m). They scale the gradients before the
        pipeline sees them, so that all that holds of f_m holds of w_m f_m.
      wire: the bit format that `last_round` reports: a name of `wire.FORMATS` or a
        `wire.Format`.
      key: an int or a random key, for pieces that draw; may be traced.
      noise: what is added to each worker's gradient before anything else is done to it,
        `worker.gaussian_noise`, so that all that follows is made of a private one.
      on_nonfinite: "drop" leaves a worker out for the round if its gradient has an
        entry that is not finite, or its message, or its new state in a narrower dtype:
        message 0, its state unchanged. Where pieces and server are component-wise, such
        entries of a message alone are left out, with what is kept of them; the worker
        counts as dropped all the same. "propagate" sends it.
      on_standstill: params_change where theta did not move at all: "send" leaves it at
        0, "hold" keeps the last that was not 0.
      controller: chooses, before each round, what the pieces are handed as one more
        extra argument, `xi`.
      axis: the name of the mesh axis that the workers lie on, or a tuple of names; None
        to read it from the gradients. Without a mesh all is computed on one device.
      within: the axes that the devices of one worker lie on, a host's say: over these
        gradients are summed (in the mean convention averaged), uncompressed, where a
        `shard_map` has not reduced them yet; each device exchanges its part of the
        worker's message along `axis`, and the parts are joined along these (sums in two
        shots, `power_sgd`'s factors and common draws travel whole on each device). M is
        the number of workers, of hosts say.

    Returns:
      An `optax.experimental.aggregating.Aggregator`: update takes gradients with leaves
      [M, *param], or `WorkerBatches`, and returns leaves [*param] in the parameter's
      dtype. Its extra arguments say what befalls the workers of a round: `active`, bool
      [M], who takes part; `absent`, what the others do,
      "hold" (their state is frozen) or "accumulate" (they compute, and their memories
      act as if all were censored); `grant`, from `Offers` to bool [M], who of those
      that take part may send, once it is known what they would; `delivered`, bool [M],
      whose message arrives: one that does not was sent and is counted, and its worker's
      memories act as if all was censored; `delay`, int32 [M], by how many rounds a
      message is late.

    Raises:
      ValueError: num_workers is no positive int; an option is unknown; weights, active,
        or a gradient has another shape than expected, or gradients are WorkerBatches
        where all are needed at once; params have 2^31 entries or more, or are not real
        floating-point numbers; an axis is in no mesh, its devices are no divisor of
        num_workers, or messages of any number of entries are to travel along it; there
        is noise, and something sees the gradient before it is added, or no key.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> piece = optax.stateless(lambda g, _: jnp.where(jnp.abs(g) > 1, g, 0))
      >>> optimizer = optax.chain(gdsec_jax.federate(piece, 2), optax.sgd(1.0))
      >>> params, grads = jnp.zeros(2), jnp.array([[3.0, 0.5], [2.0, 4.0]])
      >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
      >>> updates, gdsec_jax.last_round(state).entries
      (Array([-5., -4.], dtype=float32), Array([1, 2], dtype=int32))
    """
    _checks.number_of_workers(num_workers)
    _checks.one_of("reduction", reduction, get_args(Reduction))
    _checks.one_of("on_nonfinite", on_nonfinite, get_args(OnNonfinite))
    _checks.one_of("on_standstill", on_standstill, ("send", "hold"))
    wire = as_format(wire)
    weights = weights_of(weights, num_workers, reduction != "sum")
    random_key = None if key is None else _trees.as_key(key)
    server = as_server(server)
    if server.asks is not None and key is None:
        raise ValueError("key is None, expected an int or a random key to draw with.")
    drops, mean = on_nonfinite == "drop", reduction != "sum"
    pipeline = _private.with_noise(noise, worker)
    _private.fits(pipeline, server, weights, key)
    federation = Federation(pipeline, server, num_workers, weights, reduction, drops)
    lies = _spread.lies_on(axis, within)
    if lies.axes:
        _check.exchanges(federation)

    def init(params):
        _check.fits(federation, params)
        clock = _clock.start(params, random_key, on_standstill)
        one_worker = pipeline.init(params)
        _private.first(pipeline, worker, one_worker, params)
        judged = federation.server.max_norm_ratio is not None
        here = lies if _spread.bound(lies) else _spread.Spread()
        own = 1 if here.axes else num_workers
        return FederationState(
            clock=clock,
            workers=here.own(_trees.repeat(one_worker, own)),
            server=by_parts(here.mine, federation.server.step.init(params)),
            sent=here.own(_counts.nothing_sent(params, one_worker, wire, own)),
            norms=no_norms(num_workers) if judged else (),
            control=_controller.init(controller, params),
        )

    def update(
        updates,
        state,
        params=None,
        *,
        active=None,
        absent: Absent = "hold",
        grant=None,
        delivered=None,
        delay=None,
        **extra_args,
    ):
        if isinstance(updates, WorkerLosses):
            raise ValueError(
                "gradients is WorkerLosses, expected leaves [M, *param]: "
                "gdsec_jax.local stands in front and makes these of it."
            )
        if _check.receive(updates):
            return optax.tree.zeros_like(state.clock.previous_params), state
        _private.nothing_granted(pipeline, grant)
        batched = isinstance(updates, WorkerBatches)
        where = () if batched else updates
        spread, mesh = _spread.place_of(lies, where, num_workers)
        own = spread.axes and mesh is None  # inside a shard_map
        _check.adds_up(federation._replace(spread=spread), spread.shards_of(mesh))
        if not lies.axes and spread.shards_of(mesh) > 1:
            _check.named(federation, spread.axes)

        def run(others, state, updates, params, arrays):
            said, extra_args, key, weights = _trees.joined(arrays, others)
            here = federation._replace(spread=spread, weights=weights)
            tick, clock = _clock.tick(state.clock, params, key, num_workers)
            control, xi = _controller.begin(
                controller, state.control, tick, state.sent, here.spread
            )
            held = tick.change if on_standstill == "hold" else None
            previous = state.clock.previous_params
            common = Common(params, previous, held, tick, xi, extra_args)
            state = state._replace(clock=clock, control=control)
            return one_round(here, state, updates, common, said)

        said = Said(active, absent, grant, delivered, delay)
        # The key and the weights may be traced, and lie anywhere.
        given = said, extra_args, random_key, weights
        arrays, others = _spread.parted(given)
        if own:  # this shard's only worker
            updates = spread.over_hosts(updates, mean)
        values = (state, updates, params, arrays)
        if mesh is None:
            return run(others, *values)
        known = state.clock.previous_params
        _checks.same_shapes("gradients", updates, known, leading=(num_workers,))
        specs = (state_specs(state, spread.axes), P(spread.axes), P(), P())
        return _spread.over_mesh(
            mesh, spread, functools.partial(run, others), specs, values
        )

    parts = Parts(
        federation, wire, random_key, on_standstill, controlled=controller is not None
    )
    return Federated(init, update, parts)


def weights_of(weights, num_workers: int, mean: bool) -> jax.Array | None:
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
    return weights / weights.mean() if mean else weights
