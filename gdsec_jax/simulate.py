"""The round loop of a distributed run, compiled once."""

import dataclasses
import functools
import importlib.metadata
import math
import platform
import sys
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
import rich.progress

from gdsec_jax import _checks, _files, _trees
from gdsec_jax._check_optimizer import check
from gdsec_jax._last_round import LastRound, last_round
from gdsec_jax.history import History, Outcome
from gdsec_jax.problems import Problem

_OUTCOMES: tuple[Outcome, ...] = ("completed", "target", "diverged")
_RUNNING, _TARGET, _DIVERGED = 0, 1, 2
_MINIBATCH = 0  # its stream of the key
_CHUNK_SECONDS = 0.25  # between two looks at the progress bar
_MOST_ROUNDS = 2**14  # that are kept on the device between two looks
_MOST_RECORDS = 2**22  # the same, of workers and rounds


class _Run(NamedTuple):
    """What the loop carries from round to round."""

    params: Any
    state: Any
    rounds: jax.Array  # int32 [], done so far
    outcome: jax.Array  # int32 []


class _Record(NamedTuple):
    """What a round leaves behind; in the loop's buffers rounds are the first axis."""

    error: jax.Array  # NaN where it was not evaluated
    sent: LastRound


class _Settings(NamedTuple):
    """What else a run is given. Traced, so that other values compile nothing anew."""

    rounds: Any  # of the whole run
    target_error: Any
    diverged_error: Any
    key: jax.Array


def simulate(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    num_rounds: int,
    *,
    key: Any = None,
    eval_every: int = 1,
    target_error: float | None = None,
    divergence_factor: float = 1e6,
    progress: bool | None = None,
    attributes: dict[str, Any] | None = None,
) -> History:
    """Run a distributed optimisation, round by round, in one compiled loop.

    In a round every worker computes the gradient of its f_m at the common parameters,
    the optimizer turns them into an update, and what was sent is recorded, exactly.

    The loop is compiled once for a problem's shapes and an optimizer; the same pair
    runs again without compiling, whatever num_rounds and the limits are.

    Args:
      problem: of `gdsec_jax.problems`, M workers.
      optimizer: an optax chain with an algorithm of this package in it, for M workers.
      num_rounds: K.
      key: an int or a random key, for a problem that draws (`problems.minibatch`). An
        algorithm that draws has a key of its own.
      eval_every: the error is evaluated after every so many rounds, and after the last.
        An evaluation costs up to half of what a round does.
      target_error: stop after the first evaluation with at most this error; not below
        the problem's `resolution`.
      divergence_factor: stop after the first evaluation with an error that is not
        finite or more than this many times the initial one, if that is above what
        rounding leaves.
      progress: whether to show a bar; by default on a terminal.
      attributes: kept in the history, and saved with it: config, seed and the like, of
        what JSON can hold.

    Returns:
      A `History` of the rounds that were run: `.outcome` says why it ended there.

    Raises:
      ValueError: the optimizer cannot take the problem's gradients (see `check`), the
        error is not finite at the start, or an argument is out of range.

    Warns:
      RuntimeWarning: the run diverged, or workers were dropped for gradients or
        messages that were not finite.

    Examples:
      >>> import numpy as np, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import problems
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> problem = problems.ridge(x, x @ np.array([1.0, 2.0, 3.0]), num_workers=4)
      >>> optimizer = optax.chain(
      ...     gdsec_jax.gdsec(4, xi=1.0), optax.sgd(1 / problem.smoothness))
      >>> history = gdsec_jax.simulate(problem, optimizer, 50)
      >>> bool(history.objective_error[-1] < 1e-4 * history.initial_error)
      True
      >>> history.bits.shape
      (50, 4)
    """
    num_rounds = _checks.integer("num_rounds", num_rounds, 1, 2**31 - 1)
    eval_every = _checks.integer("eval_every", eval_every, 1, 2**31 - 1)
    divergence_factor = _checks.positive("divergence_factor", divergence_factor)
    if target_error is not None and not target_error >= problem.resolution:
        raise ValueError(
            f"target_error is {target_error!r}, expected at least what rounding leaves "
            f"of the {problem.error_name}, {problem.resolution:.2g}."
        )
    if problem.draw is not None and key is None:
        raise ValueError("key is None, expected an int or a random key to draw with.")
    own_attributes = _files.plain("attributes", dict(attributes or {}))
    key = _trees.as_key(0 if key is None else key)
    check(optimizer, problem.init_params, problem.num_workers)
    initial_error = float(
        jax.jit(Problem.error)(_for_loop(problem), problem.init_params)
    )
    if not math.isfinite(initial_error):
        raise ValueError(
            f"{problem.error_name} is {initial_error} at the initial params of "
            f"{problem.name}, expected a finite number."
        )
    settings = _Settings(
        rounds=num_rounds,
        target_error=-math.inf if target_error is None else target_error,
        diverged_error=(
            divergence_factor * initial_error
            if initial_error > max(problem.resolution, 0.0)
            else math.inf
        ),
        key=key,
    )
    start = time.perf_counter()
    run, records = _run_all(
        problem, optimizer, num_rounds, eval_every, settings, progress
    )
    seconds = time.perf_counter() - start
    sent, errors = records.sent, records.error
    rounds = np.arange(1, errors.size + 1)
    evaluated = _evaluates(rounds, eval_every, num_rounds)
    dense_bits = sum(part.uploads.layout.whole_bits for part in sent.parts)
    formats = [part.uploads.layout.format for part in sent.parts]
    further = [  # that every part can answer
        name
        for name in formats[0].also
        if all(name in (form.name, *form.also) for form in formats)
    ]
    history = History(
        initial_error=initial_error,
        eval_rounds=rounds[evaluated],
        objective_error=errors[evaluated].astype(np.float64),
        entries=sent.entries.astype(np.int64),
        bits=sent.bits,
        format_bits={name: sent.bits_in(name).sum(axis=1) for name in further},
        broadcast_bits=np.full(errors.size, dense_bits, np.int64),
        participants=sent.participants,
        dropped=sent.dropped.astype(np.int64),
        params=run.params,
        outcome=_OUTCOMES[int(run.outcome)],
        attributes={"problem": problem.name}
        | own_attributes
        | {
            "error_name": problem.error_name,
            "resolution": problem.resolution,
            "wire": [part.uploads.layout.format._asdict() for part in sent.parts],
            "seconds": seconds,
            "versions": versions(),
        },
    )
    if history.outcome == "diverged" or history.dropped.any():
        warnings.warn(history.summary(), RuntimeWarning, stacklevel=2)
    return history


def versions() -> dict[str, str]:
    """What a result depends on beside its config: versions and hardware."""
    packages = ("gdsec-jax", "jax", "jaxlib", "optax", "numpy")
    device = jax.devices()[0]
    return {name: importlib.metadata.version(name) for name in packages} | {
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.platform} {device.device_kind}",
        "x64": str(jax.config.jax_enable_x64),  # pyright: ignore
    }


def _run_all(problem, optimizer, num_rounds, eval_every, settings, progress):
    """Chunk after chunk until the run ends; the records of its rounds, on the host."""
    loop_problem = _for_loop(problem)
    # A copy: the loop is given its buffers for good, and the problem keeps its own.
    params = jax.tree.map(lambda p: jnp.array(p, copy=True), problem.init_params)
    run = _Run(
        params=params,
        state=jax.jit(optimizer.init)(params),
        rounds=jnp.zeros((), jnp.int32),
        outcome=jnp.zeros((), jnp.int32),
    )
    one_round = functools.partial(_round, loop_problem, optimizer, eval_every, settings)
    _, record = jax.eval_shape(one_round, run)
    # Not shaped by num_rounds: any number runs in one compiled loop.
    capacity = max(1, min(_MOST_ROUNDS, _MOST_RECORDS // problem.num_workers))
    buffers = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), record)
    chunks, length = [], min(16, capacity)
    with _progress_bar(progress) as bar:
        task = bar.add_task(problem.name, total=num_rounds)
        while True:
            begin, before = time.perf_counter(), int(run.rounds)
            run, buffers = _run_chunk(
                loop_problem, optimizer, eval_every, settings, run, buffers, length
            )
            rounds = int(run.rounds)
            chunks.append(jax.tree.map(_first(rounds - before), buffers))
            bar.update(task, completed=rounds)
            if rounds == num_rounds or int(run.outcome) != _RUNNING:
                break
            if len(chunks) > 1:  # the first chunk's time is mostly the compiler's
                pace = _CHUNK_SECONDS / (time.perf_counter() - begin)
                length = int(np.clip(length * pace, 1, capacity))
    return run, jax.tree.map(lambda *x: np.concatenate(x), *chunks)


@functools.partial(
    jax.jit,
    static_argnames=("optimizer", "eval_every"),
    donate_argnames=("run", "buffers"),
)
def _run_chunk(problem, optimizer, eval_every, settings, run, buffers, length):
    """At most `length` rounds, fewer if the run ends; their records come first."""

    def goes_on(carry):
        i, run, _ = carry
        ended = (run.outcome != _RUNNING) | (run.rounds >= settings.rounds)
        return (i < length) & ~ended

    def body(carry):
        i, run, buffers = carry
        run, record = _round(problem, optimizer, eval_every, settings, run)
        buffers = jax.tree.map(lambda all, one: all.at[i].set(one), buffers, record)
        return i + 1, run, buffers

    _, run, buffers = jax.lax.while_loop(goes_on, body, (0, run, buffers))
    return run, buffers


def _round(problem, optimizer, eval_every, settings, run: _Run) -> tuple[_Run, _Record]:
    # One stream a purpose: what is drawn later for another changes no minibatch.
    minibatch_key = jax.random.fold_in(settings.key, _MINIBATCH)
    round_key = jax.random.fold_in(minibatch_key, run.rounds)
    gradients = problem.gradients(run.params, round_key)
    optimizer = optax.with_extra_args_support(optimizer)
    updates, state = optimizer.update(gradients, run.state, run.params)
    params = optax.apply_updates(run.params, updates)
    rounds = run.rounds + 1
    if eval_every == 1:
        evaluated, error = True, problem.error(params)
    else:
        evaluated = _evaluates(rounds, eval_every, settings.rounds)
        unknown = functools.partial(jnp.full_like, fill_value=jnp.nan)
        shape = jax.eval_shape(problem.error, params)
        error = jax.lax.cond(evaluated, problem.error, lambda _: unknown(shape), params)
    reached = evaluated & (error <= settings.target_error)
    bounded = jnp.isfinite(error) & (error <= settings.diverged_error)
    diverged = evaluated & ~bounded
    outcome = jnp.where(diverged, _DIVERGED, jnp.where(reached, _TARGET, _RUNNING))
    run = _Run(params, state, rounds, outcome.astype(jnp.int32))
    return run, _Record(error, last_round(state))


def _evaluates(rounds, eval_every, num_rounds):
    return (rounds % eval_every == 0) | (rounds == num_rounds)


def _first(rounds: int):
    """The records of a chunk that the next one will not overwrite."""
    return lambda buffer: np.array(np.asarray(buffer)[:rounds])


def _for_loop(problem: Problem) -> Problem:
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


def _progress_bar(progress: bool | None) -> rich.progress.Progress:
    show = sys.stderr.isatty() if progress is None else progress
    return rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=rich.console.Console(stderr=True),
        disable=not show,
    )
