"""One round of a run: gradients, update, error, and what is kept of it."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._broadcast import last_broadcast
from gdsec_jax.federation._counts import last_round
from gdsec_jax.federation._train import WorkerLosses, coming_steps, telling
from gdsec_jax.problems import Problem
from gdsec_jax.problems._problem import check_problem
from gdsec_jax.simulation import _spent
from gdsec_jax.simulation._records import Observe, Record, Round, observed
from gdsec_jax.uplink import Uplink, _uplink

RUNNING, TARGET, DIVERGED = 0, 1, 2


class Run(NamedTuple):
    """What the loop carries from round to round."""

    params: Any
    state: Any
    rounds: jax.Array  # int32 [], done so far
    outcome: jax.Array  # int32 []
    spent: Any = ()  # `Spent`, of noise, or ()


@dataclasses.dataclass(frozen=True)
class Stop:
    """When a run ends before its last round.

    Attributes:
      target_error: after the first evaluation with at most this error; not below the
        problem's `resolution`. None: never.
      divergence_factor: after the first evaluation with an error that is not finite, or
        more than this many times the initial one, if that is above what rounding
        leaves.

    Raises:
      ValueError: divergence_factor is no finite number above 0, target_error none.

    Examples:
      >>> import gdsec_jax
      >>> gdsec_jax.Stop(target_error=1e-6)
      Stop(target_error=1e-06, divergence_factor=1000000.0)
    """

    target_error: float | None = None
    divergence_factor: float = 1e6

    def __post_init__(self):
        _checks.positive("divergence_factor", self.divergence_factor)
        target, kinds = self.target_error, Real | jax.Array | np.ndarray
        number = isinstance(target, kinds) and not isinstance(target, bool)
        if target is not None and not (number and np.ndim(target) == 0):
            raise ValueError(f"target_error is {target!r}, expected a number or None.")
        numbers = {"divergence_factor": self.divergence_factor}
        numbers |= {} if target is None else {"target_error": target}
        for name, number in numbers.items():  # of Python, whatever it was given as
            object.__setattr__(self, name, float(number))


class Limits(NamedTuple):
    """Where a run ends. Traced, so that other values compile nothing anew."""

    rounds: Any
    target_error: Any
    diverged_error: Any


class Inputs(NamedTuple):
    """What rounds are computed from. Traced, but the uplink's functions."""

    problem: Problem  # of `for_loop`
    limits: Limits
    uplink: Uplink  # of a sweep only the channel that all settings have
    key: Any  # None while each setting of a sweep has its own, of its seed
    values: Mapping[str, Any] = {}  # of parameters; of a sweep's settings [S, ...]


class Options(NamedTuple):
    """How rounds are run and recorded. Static: other values compile anew."""

    eval_every: int
    observe: Observe | None = None
    worker_batch: int | None = None


def options(eval_every: Any, observe: Any, worker_batch: Any = None) -> Options:
    """Options, once they are checked."""
    _checks.function("observe", observe)
    if worker_batch is not None:
        worker_batch = _checks.integer("worker_batch", worker_batch, 1, 2**31 - 1)
    every = _checks.integer("eval_every", eval_every, 1, 2**31 - 1)
    return Options(every, observe, worker_batch)


def checked(
    problem: Problem, stop: Stop | None, uplink: Uplink | None
) -> tuple[Stop, Uplink]:
    """When a run stops and what it is sent over, once these are of their kinds."""
    check_problem(problem)
    _checks.instance("uplink", uplink, Uplink, "an Uplink")
    _checks.instance("stop", stop, Stop, "a Stop")
    stop, uplink = stop or Stop(), uplink or Uplink()
    uplink.check(problem.num_workers)
    return stop, uplink


def start(optimizer: optax.GradientTransformation, params: Any) -> Run:
    """Before the first round."""
    state = optimizer.init(params)
    return Run(
        params=params,
        state=state,
        rounds=jnp.zeros((), jnp.int32),
        outcome=jnp.full((), RUNNING, jnp.int32),
        spent=_spent.nothing(state),
    )


def one_round(
    optimizer: optax.GradientTransformation,
    options: Options,
    inputs: Inputs,
    number: jax.Array,
    run: Run,
) -> tuple[Run, Record]:
    """Gradients, update, error; `number` counts rounds from 0."""
    problem, limits, uplink, key, _ = inputs
    minibatch_key = _uplink.stream(key, _uplink.MINIBATCH, number)
    gradients: Any
    trained = coming_steps(run.state)
    _spent.check(problem, trained is not None)
    if trained is not None:
        data, size = problem.worker_data, options.worker_batch
        gradients = WorkerLosses(problem.own_loss, data, minibatch_key, size)
    elif options.worker_batch is None:
        gradients = problem.gradients(run.params, minibatch_key)
    else:
        of_some = functools.partial(problem.gradients_of, run.params, minibatch_key)
        gradients = WorkerBatches(of_some, problem.worker_data, options.worker_batch)
    uplink.check_delays(run.state)
    steps = jnp.int32(1) if trained is None else trained
    drawn = uplink.draw(key, number, problem.num_workers, steps)

    def told():
        _spent.tells(problem)
        value_fn = functools.partial(
            problem.objective, worker_batch=options.worker_batch
        )
        slope = jax.grad(problem.worker_objective)
        grad = problem.over_workers(slope, run.params, options.worker_batch)
        return {"value": value_fn(run.params), "grad": grad, "value_fn": value_fn}

    update = telling(optax.with_extra_args_support(optimizer).update, told)
    updates, state = update(gradients, run.state, run.params, **drawn.arguments())
    params = optax.apply_updates(run.params, updates)
    measured, outcome = _evaluated(problem, options, limits, number + 1, params)
    at_once = options.worker_batch is None and trained is None
    whole = gradients if at_once else None
    now = Round(number, run.params, whole, run.state, updates, params, state)
    sent = last_round(state)
    spent = _spent.spent(run.spent, state, sent)
    record = Record(
        error=measured.error,
        sent=sent,
        broadcast=last_broadcast(state),
        observed=observed(options.observe, now),
        metrics=measured.metrics,
        conditions=drawn.conditions,
        steps=steps,
        spent=spent,
    )
    return Run(params, state, number + 1, outcome, spent), record


def _evaluated(problem, options: Options, limits: Limits, rounds, params):
    """What is measured after so many rounds, 0 if nothing is; and the outcome."""
    measured_at = functools.partial(problem.measured, worker_batch=options.worker_batch)
    if options.eval_every == 1:
        evaluated, measured = True, measured_at(params)
    else:
        evaluated = evaluates(rounds, options.eval_every, limits.rounds)
        shapes = jax.eval_shape(measured_at, params)
        measured = jax.lax.cond(
            evaluated, measured_at, lambda _: optax.tree.zeros_like(shapes), params
        )
    error = measured.error
    reached = evaluated & (error <= limits.target_error)
    bounded = jnp.isfinite(error) & (error <= limits.diverged_error)
    diverged = evaluated & ~bounded
    outcome = jnp.where(diverged, DIVERGED, jnp.where(reached, TARGET, RUNNING))
    return measured, outcome.astype(jnp.int32)


def unknown_as_nan(record: Any, numbers: np.ndarray, eval_every: int, num_rounds: int):
    """A record on the host, [K, ...] of so many rounds, where nothing was measured."""
    evaluated = evaluates(numbers, eval_every, num_rounds)

    def one(x):
        shown = evaluated.reshape(-1, *[1] * (x.ndim - 1))
        return np.where(shown, x, x.dtype.type(np.nan))

    measured = record.error, record.metrics
    error, metrics = measured if evaluated.all() else jax.tree.map(one, measured)
    return record._replace(error=error, metrics=metrics)


def evaluates(rounds, eval_every: int, num_rounds):
    """Whether the error is evaluated after so many rounds."""
    return (rounds % eval_every == 0) | (rounds == num_rounds)


def for_loop(problem: Problem) -> Problem:
    """What the loop needs of a problem; the rest would be copied, or compiled anew."""
    unused = ("init_params", "solution", "regularization", "smoothness", "optimum_gap")
    unused += ("rounding", "strong_convexity")
    unused += ("worker_smoothness", "coordinate_smoothness")
    return dataclasses.replace(problem, name="", note="", **dict.fromkeys(unused))


_error = jax.jit(Problem.error, static_argnames="worker_batch")


def initial_error(problem: Problem, worker_batch: int | None = None) -> float:
    """The error before the first round; a ValueError if it is not finite."""
    error = float(_error(for_loop(problem), problem.init_params, worker_batch))
    if not math.isfinite(error):
        raise ValueError(
            f"{problem.error_name} is {error} at the initial params of "
            f"{problem.name}, expected a finite number."
        )
    return error


def limits(problem: Problem, num_rounds: Any, stop: Stop, error: float) -> Limits:
    """The limits of a run that starts at this error, once they are checked."""
    num_rounds = _checks.integer("num_rounds", num_rounds, 1, 2**31 - 1)
    target = stop.target_error
    if target is not None and not target >= problem.resolution:
        raise ValueError(
            f"target_error is {target!r}, expected at least what can be "
            f"told from 0 of the {problem.error_name}, {problem.resolution:.2g}."
        )
    measurable = error > max(problem.resolution, 0.0)
    factor = float(stop.divergence_factor)
    return Limits(
        rounds=num_rounds,
        target_error=-math.inf if target is None else float(target),
        diverged_error=factor * error if measurable else math.inf,
    )


def key_for(problem: Problem, key: Any, uplink: Uplink) -> jax.Array:
    """The key of a run; a ValueError if there is none, and the run draws."""
    if key is None and (problem.draw is not None or uplink.draws):
        raise ValueError("key is None, expected an int or a random key to draw with.")
    return _trees.as_key(0 if key is None else key)
