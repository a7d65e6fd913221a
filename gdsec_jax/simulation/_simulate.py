"""One run, round by round, in a loop that is compiled once."""

import functools
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks
from gdsec_jax._devices import mesh_of
from gdsec_jax.federation._check import check
from gdsec_jax.files import _environment, _whole
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _checkpoint, _loop, _mesh, _norms
from gdsec_jax.simulation._checkpoint import Saved
from gdsec_jax.simulation._history import History
from gdsec_jax.simulation._identity import fingerprint
from gdsec_jax.simulation._spellings import with_old_spellings
from gdsec_jax.uplink import Uplink

Log = Callable[[dict[str, Any]], None]


@with_old_spellings
def simulate(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    num_rounds: int,
    *,
    key: Any = None,
    eval_every: int = 1,
    target_error: float | None = None,
    divergence_factor: float = 1e6,
    uplink: Uplink | None = None,
    norms: bool = False,
    worker_batch: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    log: Log | None = None,
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
      key: an int or a random key, for a problem that draws (`problems.minibatch`), for
        participation and for the channel, each with a stream of its own. An algorithm
        that draws has a key of its own.
      eval_every: the error is evaluated after every so many rounds, and after the last.
        An evaluation costs up to half of what a round does.
      target_error: stop after the first evaluation with at most this error; not below
        the problem's `resolution`.
      divergence_factor: stop after the first evaluation with an error that is not
        finite or more than this many times the initial one, if that is above what
        rounding leaves.
      uplink: what stands between the workers and the server: who takes part, who may
        send, and the channel that loses and delays messages. By default all take part,
        and every message arrives.
      norms: whether to keep the norms of the gradient and of the memories, too.
      worker_batch: workers whose gradients are computed, and sent, at a time; by
        default all. Less memory: the gradients of one group are kept instead of all M.
        Not for pipelines that sum over all workers, behind optax.partition, nor with
        norms, a grant, an aggregation or a max_norm_ratio, which look at all workers.
      mesh: whose devices, all of its axes together, have the same number of workers
        each: their data and memories. The compiler adds the sums over devices. Results
        differ by rounding. `worker_batch` then is that of each device.
      checkpoint: a folder of this run alone, made if it is not there. Called again, the
        run goes on from what was saved last: to the same result, bit for bit, on the
        same devices, if they repeat themselves as CPUs do; on others, or with another
        `worker_batch`, it differs by rounding. A run that was finished is read, or goes
        on to a larger num_rounds.
      checkpoint_every: rounds; the run is saved after each multiple, and at its end.
      log: called a few times a second with the rounds since the last call, by column;
        `gdsec_jax.logs` has some. Told, too, of the rounds that a checkpoint holds.
      progress: whether to show a bar; by default on a terminal.
      attributes: kept in the history, and saved with it: config, seed and the like, of
        what JSON can hold.

    Returns:
      A `History` of the rounds that were run: `.outcome` says why it ended there.

    Raises:
      ValueError: the optimizer cannot take the problem's gradients (see `check`), the
        error is not finite at the start, an argument is out of range, or the folder of
        checkpoints is another run's.

    Warns:
      RuntimeWarning: the run diverged, or workers were dropped for gradients or
        messages that were not finite or excessive; a checkpoint is damaged, and the
        one before it is used.

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
    uplink = Uplink() if uplink is None else uplink
    if not isinstance(uplink, Uplink):
        raise ValueError(f"uplink is {uplink!r}, expected an Uplink or None.")
    options = _loop.Options(
        _checks.integer("eval_every", eval_every, 1, 2**31 - 1),
        norms,
        _worker_batch(worker_batch, norms),
        None if mesh is None else mesh_of(mesh, problem.num_workers),
    )
    uplink.check(problem.num_workers)
    _checks.log(log)
    every = _checkpoint.every_of(checkpoint, checkpoint_every)
    own_attributes = _whole.plain("attributes", dict(attributes or {}))
    key = _loop.key_for(problem, key, uplink.draws)
    check(optimizer, problem.init_params, problem.num_workers, worker_batch)
    placed = _mesh.place_problem(problem, options.mesh)
    initial_error = _loop.initial_error(placed, options.worker_batch)
    limits = _loop.limits(
        problem, num_rounds, target_error, divergence_factor, initial_error
    )
    given = _loop.Given(limits, uplink, key)
    store = None
    if every is not None:
        factor = float(divergence_factor)
        about = fingerprint(problem, optimizer, options, given, factor)
        store = _checkpoint.Store.at(checkpoint, every, about)
    problem = placed
    with _mesh.in_effect(options.mesh):
        run, records, seconds = _run_all(
            problem, optimizer, options, given, store, log, progress
        )
    rounds = np.arange(1, records.error.size + 1)
    evaluated = _loop.evaluates(rounds, eval_every, num_rounds)
    sent: Any = records.sent
    columns = _loop.columns(problem, records, uplink)
    costs = uplink.costs(records.conditions, sent)
    history = History(
        initial_error=initial_error,
        eval_rounds=rounds[evaluated],
        objective_error=columns["objective_error"][evaluated],
        entries=sent.entries.astype(np.int64),
        bits=sent.bits,
        format_bits={
            name: sent.bits_in(name).sum(axis=1) for name in _loop.further_formats(sent)
        },
        broadcast_bits=columns["broadcast_bits"],
        gradient_evaluations=columns["gradient_evaluations"],
        participants=sent.participants,
        dropped=columns["dropped"],
        lost=columns["lost"],
        time_s=columns.get("time_s"),
        energy_j=columns.get("energy_j"),
        worker_time_s=None if costs is None else costs.worker_time_s,
        params=run.params,
        outcome=_loop.OUTCOMES[int(run.outcome)],
        attributes={"problem": problem.name}
        | own_attributes
        | {
            "error_name": problem.error_name,
            "resolution": problem.resolution,
            "wire": [part.uploads.layout.format._asdict() for part in sent.parts],
            "seconds": seconds,
            "versions": _environment.everything(),
        },
        norms={name: columns[name] for name in records.norms},
        metrics={
            name: columns[f"{_loop.METRIC}{name}"][evaluated]
            for name in records.metrics
        },
    )
    if history.outcome == "diverged" or history.dropped.any():
        warnings.warn(history.summary(), RuntimeWarning, stacklevel=2)
    return history


def _worker_batch(worker_batch: int | None, norms: bool) -> int | None:
    if worker_batch is None:
        return None
    if norms:
        raise ValueError(
            "norms is True, expected False with worker_batch: the gradients of all "
            "workers are never there at once."
        )
    return _checks.integer("worker_batch", worker_batch, 1, 2**31 - 1)


def _run_all(problem, optimizer, options, given, store, log, progress) -> Saved:
    """Chunk after chunk until the run ends; the records of its rounds, on the host."""
    start, num_rounds = time.perf_counter(), given.limits.rounds
    loop_problem = _loop.for_loop(problem)
    # A copy: the loop is given its buffers for good, and the problem keeps its own.
    params = jax.tree.map(lambda p: jnp.array(p, copy=True), problem.init_params)
    run = _start(optimizer, params, options.mesh)
    one_round = functools.partial(
        _loop.one_round, loop_problem, optimizer, options, given, run.rounds
    )
    record = jax.eval_shape(one_round, run)[1]
    capacity = max(1, min(_loop.MOST_ROUNDS, _loop.MOST_RECORDS // problem.num_workers))
    buffers = _loop.buffers_like(record, capacity)
    none = jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), record)
    before = Saved(run, none, 0.0)
    if store is not None:
        before = store.newest(before, options.eval_every, num_rounds)
    run, rounds = before.run, int(before.run.rounds)
    chunks, kept, length = [before.records], 1, min(_loop.FIRST_CHUNK, capacity)
    tell = functools.partial(_tell, log, problem, options, given.uplink)
    with _environment.progress_bar(progress) as bar:
        task = bar.add_task(problem.name, total=num_rounds, completed=rounds)
        if rounds:
            tell(before.records, rounds)
        while rounds < num_rounds and int(run.outcome) == _loop.RUNNING:
            begin, done = time.perf_counter(), rounds
            if store is not None:
                length = min(length, store.until_save(done))
            run, buffers = _run_chunk(
                loop_problem, optimizer, options, given, run, buffers, length
            )
            rounds = int(run.rounds)
            records = _mesh.on_host(buffers, options.mesh)
            chunks.append(jax.tree.map(_loop.first(rounds - done), records))
            tell(chunks[-1], rounds)
            bar.update(task, completed=rounds)
            now = time.perf_counter()
            ended = rounds == num_rounds or int(run.outcome) != _loop.RUNNING
            if store is not None and (ended or rounds % store.every == 0):
                seconds = before.seconds + now - start
                store.save(Saved(run, _loop.joined(chunks[kept:]), seconds))
                kept = len(chunks)
            if len(chunks) > 2:  # the first chunk's time is mostly the compiler's
                length = _loop.next_length(length, now - begin, capacity)
                length = _mesh.agreed(length, options.mesh)
    seconds = before.seconds + time.perf_counter() - start
    return Saved(run, _loop.joined(chunks), seconds)


def _tell(log, problem, options, uplink, records, rounds: int) -> None:
    """Tell the log of the last of so many rounds."""
    if log is None:
        return
    columns = _loop.columns(problem, records, uplink)
    numbers = np.arange(rounds - records.error.size, rounds) + 1
    # The same columns whatever memories an algorithm keeps.
    names = _norms.NAMES if options.norms else ()
    unknown = {name: np.full(numbers.size, np.nan) for name in names}
    log({"round": numbers} | unknown | columns)


@functools.partial(jax.jit, static_argnames=("optimizer", "mesh"))
def _start(optimizer, params, mesh):
    return _mesh.constrain(_loop.start(optimizer, params), mesh)


@functools.partial(
    jax.jit,
    static_argnames=("optimizer", "options"),
    donate_argnames=("run", "buffers"),
)
def _run_chunk(problem, optimizer, options, given, run, buffers, length):
    """At most `length` rounds, fewer if the run ends; their records come first."""

    def goes_on(carry):
        i, run, _ = carry
        ended = (run.outcome != _loop.RUNNING) | (run.rounds >= given.limits.rounds)
        return (i < length) & ~ended

    def body(carry):
        i, run, buffers = carry
        run, record = _loop.one_round(
            problem, optimizer, options, given, run.rounds, run
        )
        buffers = jax.tree.map(lambda all, one: all.at[i].set(one), buffers, record)
        return i + 1, *spread(run, buffers)

    def spread(run, buffers):
        mesh = options.mesh
        return _mesh.constrain(run, mesh), _mesh.constrain(buffers, mesh, axis=1)

    run, buffers = spread(run, buffers)
    _, run, buffers = jax.lax.while_loop(goes_on, body, (0, run, buffers))
    return run, buffers
