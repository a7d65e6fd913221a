"""One round of a run, and what the loops of `simulate` and `sweep` have in common."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._broadcast import LastBroadcast, last_broadcast
from gdsec_jax.federation._counts import LastRound, last_round
from gdsec_jax.problems import Problem
from gdsec_jax.simulation._history import METRIC, Outcome
from gdsec_jax.simulation._norms import norms_of
from gdsec_jax.uplink import Uplink, _uplink

OUTCOMES: tuple[Outcome, ...] = ("completed", "target", "diverged")
RUNNING, TARGET, DIVERGED = 0, 1, 2
CHUNK_SECONDS = 0.25  # between two looks at the progress bar
FIRST_CHUNK = 16  # rounds; the later ones take as long as a look is apart
MOST_ROUNDS = 2**14  # that are kept on the device between two looks
MOST_RECORDS = 2**22  # the same, of workers and rounds


class Run(NamedTuple):
    """What the loop carries from round to round."""

    params: Any
    state: Any
    rounds: jax.Array  # int32 [], done so far
    outcome: jax.Array  # int32 []


class Record(NamedTuple):
    """What a round leaves behind; in the loop's buffers rounds are the first axis."""

    error: jax.Array  # NaN where it was not evaluated
    sent: LastRound
    broadcast: LastBroadcast
    norms: dict[str, jax.Array]  # empty, or by name
    metrics: dict[str, jax.Array]  # the problem's, NaN where it was not evaluated
    conditions: Any  # of the channel, or () without one


class Limits(NamedTuple):
    """Where a run ends. Traced, so that other values compile nothing anew."""

    rounds: Any
    target_error: Any
    diverged_error: Any


class Given(NamedTuple):
    """What a run is given. Traced, as limits are."""

    limits: Limits
    uplink: Uplink
    key: jax.Array


class Options(NamedTuple):
    """How rounds are run and recorded. Static: other values compile anew."""

    eval_every: int
    norms: bool
    worker_batch: int | None = None
    mesh: jax.sharding.Mesh | None = None


def start(optimizer: optax.GradientTransformation, params: Any) -> Run:
    """Before the first round."""
    return Run(
        params=params,
        state=optimizer.init(params),
        rounds=jnp.zeros((), jnp.int32),
        outcome=jnp.full((), RUNNING, jnp.int32),
    )


def one_round(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    options: Options,
    given: Given,
    number: jax.Array,
    run: Run,
) -> tuple[Run, Record]:
    """Gradients, update, error; `number` counts rounds from 0."""
    limits, uplink, key = given
    minibatch_key = _uplink.stream(key, _uplink.MINIBATCH, number)
    gradients: Any
    if options.worker_batch is None:
        gradients = problem.gradients(run.params, minibatch_key)
    else:
        of_some = functools.partial(problem.gradients_of, run.params, minibatch_key)
        gradients = WorkerBatches(of_some, problem.worker_data, options.worker_batch)
    uplink.check_delays(run.state)
    drawn = uplink.draw(key, number, problem.num_workers, problem.num_local_steps)
    update = optax.with_extra_args_support(optimizer).update
    updates, state = update(gradients, run.state, run.params, **drawn.arguments())
    params = optax.apply_updates(run.params, updates)
    rounds = number + 1
    measured_at = functools.partial(problem.measured, worker_batch=options.worker_batch)
    if options.eval_every == 1:
        evaluated, measured = True, measured_at(params)
    else:
        evaluated = evaluates(rounds, options.eval_every, limits.rounds)
        unknown = functools.partial(jnp.full_like, fill_value=jnp.nan)
        shapes = jax.eval_shape(measured_at, params)
        measured = jax.lax.cond(
            evaluated, measured_at, lambda _: jax.tree.map(unknown, shapes), params
        )
    error = measured.error
    reached = evaluated & (error <= limits.target_error)
    bounded = jnp.isfinite(error) & (error <= limits.diverged_error)
    diverged = evaluated & ~bounded
    outcome = jnp.where(diverged, DIVERGED, jnp.where(reached, TARGET, RUNNING))
    norms = {}
    if options.norms:
        norms = norms_of(gradients, state)
    record = Record(
        error,
        last_round(state),
        last_broadcast(state),
        norms,
        measured.metrics,
        drawn.conditions,
    )
    return Run(params, state, rounds, outcome.astype(jnp.int32)), record


def evaluates(rounds, eval_every: int, num_rounds):
    """Whether the error is evaluated after so many rounds."""
    return (rounds % eval_every == 0) | (rounds == num_rounds)


def for_loop(problem: Problem) -> Problem:
    """What the loop needs of a problem; the rest would be copied, or compiled anew."""
    return dataclasses.replace(
        problem,
        name="",
        init_params=None,
        solution=None,
        smoothness=None,
        worker_smoothness=None,
        coordinate_smoothness=None,
        regularization=None,
    )


def initial_error(problem: Problem, worker_batch: int | None = None) -> float:
    """The error before the first round.

    Raises:
      ValueError: it is not finite.
    """
    error_of = jax.jit(Problem.error, static_argnames="worker_batch")
    error = float(
        error_of(for_loop(problem), problem.init_params, worker_batch=worker_batch)
    )
    if not math.isfinite(error):
        raise ValueError(
            f"{problem.error_name} is {error} at the initial params of "
            f"{problem.name}, expected a finite number."
        )
    return error


def limits(
    problem: Problem,
    num_rounds: int,
    target_error: float | None,
    divergence_factor: float,
    error: float,
) -> Limits:
    """Checked limits of a run that starts at this error.

    Raises:
      ValueError: one of them is out of range.
    """
    num_rounds = _checks.integer("num_rounds", num_rounds, 1, 2**31 - 1)
    divergence_factor = _checks.positive("divergence_factor", divergence_factor)
    if target_error is not None and not target_error >= problem.resolution:
        raise ValueError(
            f"target_error is {target_error!r}, expected at least what rounding leaves "
            f"of the {problem.error_name}, {problem.resolution:.2g}."
        )
    measurable = error > max(problem.resolution, 0.0)
    return Limits(
        rounds=num_rounds,
        target_error=-math.inf if target_error is None else float(target_error),
        diverged_error=divergence_factor * error if measurable else math.inf,
    )


def key_for(problem: Problem, key: Any, uplink_draws: bool) -> jax.Array:
    """The key of a run.

    Raises:
      ValueError: there is none, and the run draws.
    """
    draws = problem.draw is not None or uplink_draws
    if draws and key is None:
        raise ValueError("key is None, expected an int or a random key to draw with.")
    return _trees.as_key(0 if key is None else key)


def broadcast_bits(records: Record) -> np.ndarray:
    """int64, what the server sends each round: all of theta, or what a piece says."""
    bits = records.broadcast.bits
    if bits is not None:
        return bits
    parts = records.sent.parts
    dense = sum(part.uploads.layout.whole_bits for part in parts)
    return np.full(records.error.shape, dense, np.int64)


def further_formats(sent: LastRound) -> list[str]:
    """The formats and conventions that were counted beside an algorithm's own."""
    formats = [part.uploads.layout.format for part in sent.parts]
    return [  # that every part can answer
        name
        for name in formats[0].also
        if all(name in (form.name, *form.also) for form in formats)
    ]


def evaluations(problem: Problem, sent: LastRound) -> np.ndarray:
    """int64, sample gradients that were computed, summed over the workers."""
    computed = np.asarray(sent.computed)
    return (computed * problem.evaluations).sum(-1, dtype=np.int64)


def first(rounds: int):
    """The records of a chunk that the next one will not overwrite."""
    return lambda buffer: np.array(np.asarray(buffer)[:rounds])


def joined(chunks: list[Any]) -> Any:
    """The records of consecutive chunks as those of one."""
    return jax.tree.map(lambda *x: np.concatenate(x), *chunks)


def buffers_like(record: Any, capacity: int) -> Any:
    """Zeros for so many rounds' records. Not shaped by num_rounds: one loop for all."""
    return jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), record)


def next_length(length: int, seconds: float, capacity: int) -> int:
    """How many rounds the next chunk should have, if this one took so long."""
    return int(np.clip(length * CHUNK_SECONDS / seconds, 1, capacity))


def columns(
    problem: Problem,
    records: Record,
    uplink: Uplink,
) -> dict[str, Any]:
    """What rounds left behind, by column, summed over the workers."""
    sent: Any = records.sent
    costs = uplink.costs(records.conditions, sent)
    link = {} if costs is None else costs._asdict()
    link.pop("worker_time_s", None)
    return (
        {
            "objective_error": records.error.astype(np.float64),
            "bits": sent.bits.sum(axis=-1),
            "entries": sent.entries.sum(axis=-1, dtype=np.int64),
            "broadcast_bits": broadcast_bits(records),
            "gradient_evaluations": evaluations(problem, sent),
            "participants": sent.participants.sum(axis=-1),
            "dropped": sent.dropped.astype(np.int64),
            "lost": sent.lost.sum(axis=-1),
        }
        | link
        | {f"bits_{x}": sent.bits_in(x).sum(axis=-1) for x in further_formats(sent)}
        | {name: norm.astype(np.float64) for name, norm in records.norms.items()}
        | {f"{METRIC}{x}": y.astype(np.float64) for x, y in records.metrics.items()}
    )
