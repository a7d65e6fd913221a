"""One run, round by round, in a loop that is compiled once."""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks
from gdsec_jax._devices import mesh_of
from gdsec_jax.files import _environment, _whole
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _buffers, _chunks, _mesh, _records, _run
from gdsec_jax.simulation._checkpoint import Checkpoints, Saved, Store
from gdsec_jax.simulation._history import History, outcome_of
from gdsec_jax.simulation._records import Observe
from gdsec_jax.simulation._run import Stop
from gdsec_jax.simulation._spellings import with_old_spellings
from gdsec_jax.uplink import Uplink


@with_old_spellings
def simulate(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    num_rounds: int,
    *,
    key: Any = None,
    eval_every: int = 1,
    stop: Stop | None = None,
    uplink: Uplink | None = None,
    observe: Observe | None = None,
    worker_batch: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: Checkpoints | None = None,
    log: Callable[..., None] | None = None,
    progress: bool | str | None = None,
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
      stop: a target error, and what counts as divergence, either of which ends the run.
      uplink: what stands between the workers and the server: who takes part, who may
        send, and the channel that loses and delays messages. By default all take part,
        and every message arrives.
      observe: a function of each round, a `Round`, that returns arrays by name, the
        same in every round: `gdsec_jax.norms`, say. They are kept in the history. A
        function that is defined once is compiled once.
      worker_batch: workers whose gradients are computed, and sent, at a time; by
        default all. Less memory: the gradients of one batch are kept instead of all M.
        Not for pipelines that sum over all workers, behind optax.partition, nor with
        `norms`, a grant, a robust server or max_norm_ratio, which look at all workers.
      mesh: whose devices, all of its axes together, have the same number of workers
        each: their data and memories. The compiler adds the sums over devices. Results
        differ by rounding. `worker_batch` then is that of each device.
      checkpoint: a folder of this run alone, and how often it is saved. Called again,
        the run goes on from what was saved last: to the same result, bit for bit, on
        the same devices, if they repeat themselves as CPUs do; on others, or with
        another `worker_batch`, it differs by rounding. A run that was finished is read,
        or goes on to a larger num_rounds.
      log: called a few times a second with the rounds since the last call, by column;
        `gdsec_jax.logs` has some. Told, too, of the rounds that a checkpoint holds.
      progress: whether to show a bar; by default on a terminal, as with words that
        stand before it.
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
    made = optimizer
    if not isinstance(made, _chunks.Made):
        _checks.optimizer(optimizer)
        made = _chunks.Made(_chunks.Given(optimizer), {})
    stop, uplink = _run.checked(problem, stop, uplink)
    _checks.instance("attributes", attributes, Mapping, "a dict")
    expected = "gdsec_jax.Checkpoints(path, every)"
    _checks.instance("checkpoint", checkpoint, Checkpoints, expected)
    _checks.log(log)
    own_attributes = _whole.plain("attributes", dict(attributes or {}))
    mesh = None if mesh is None else mesh_of(mesh, problem.num_workers)
    options = _run.options(eval_every, observe, worker_batch)
    program = _chunks.OneRun(made.make, options, mesh, packs=mesh is None)
    key = _run.key_for(problem, key, uplink)
    placed = _mesh.place_problem(problem, mesh)
    initial_error = _run.initial_error(placed, options.worker_batch)
    limits = _run.limits(problem, num_rounds, stop, initial_error)
    inputs = _run.Inputs(_run.for_loop(placed), limits, uplink, key, made.values)
    store = None
    if checkpoint is not None:  # a run is the same whatever its devices
        own = inputs._replace(problem=_run.for_loop(problem))
        about = _chunks.fingerprint(problem, program, own, stop)
        store = Store.at(checkpoint, about)

    def tell(records: _records.Record, done: int) -> None:
        """Tell the log of the last of so many rounds."""
        if log is not None:
            numbers = np.arange(done - records.error.size, done) + 1
            columns = _records.columns(_records.Rounds.of(records, placed, uplink))
            log(_records.log_columns(columns, numbers, observe))

    # Pieces can see that they run on several devices.
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        saved = _run_all(problem, program, inputs, store, tell, progress)
    records, numbers = saved.records, np.arange(1, saved.records.error.size + 1)
    evaluated = _run.evaluates(numbers, eval_every, num_rounds)
    errors = np.append(initial_error, records.error[evaluated])
    wires = [part.uploads.layout.format for part in records.sent.parts]
    history = History(
        initial_error=initial_error,
        eval_rounds=numbers[evaluated],
        params=saved.run.params,
        outcome=outcome_of(
            saved.run.outcome, errors[-1], initial_error, problem.resolution
        ),
        attributes={"problem": problem.name}
        | own_attributes
        | {
            "error_name": problem.error_name,
            "resolution": problem.resolution,
            "optimum_gap": problem.optimum_gap,
            "optimum_note": problem.note,
            "wire": [wire._asdict() for wire in wires],
            "seconds": saved.seconds,
            "versions": _environment.everything(),
        }
        | _about(problem),
        **_records.arrays(_records.Rounds.of(records, placed, uplink), evaluated),
    )
    if history.outcome == "diverged" or history.dropped.any():
        warnings.warn(history.summary(), RuntimeWarning, stacklevel=3)
    return history


def _about(problem: Problem) -> dict[str, Any]:
    """How a private problem bounds what a sample is worth, in what JSON can hold."""
    if problem.private is None:
        return {}
    known = dataclasses.asdict(problem.private).items()
    return {"private": {name: str(x) if x == np.inf else x for name, x in known}}


def _run_all(
    problem: Problem,
    program: _chunks.OneRun,
    inputs: _run.Inputs,
    store: Store | None,
    tell: Callable[[_records.Record, int], None],
    progress: bool | str | None,
) -> Saved:
    """Chunk after chunk until the run ends; the records of its rounds, on the host."""
    start, num_rounds = time.perf_counter(), inputs.limits.rounds
    # A copy: the loop is given its buffers for good, and the problem keeps its own.
    params = jax.tree.map(lambda p: jnp.array(p, copy=True), problem.init_params)
    capacity = _chunks.capacity_for(problem.num_workers)
    run, buffers = _chunks.begin(program, inputs, params, capacity)
    saved = Saved(run, _buffers.no_rounds(buffers), 0.0)
    if store is not None:
        saved = store.newest(saved, program.options.eval_every, num_rounds)
    run, before, done = saved.run, saved.seconds, int(saved.run.rounds)
    if store is not None and store.on_resume is not None and done:
        store.on_resume(done)
    chunks, kept = [saved.records], 1
    every = num_rounds if store is None else store.every
    with _environment.progress_bar(progress) as bar:
        words = progress if isinstance(progress, str) else problem.name
        words += f", from round {done}" if done else ""
        task = bar.add_task(words, total=num_rounds, completed=done)
        if done:
            tell(saved.records, done)
        for chunk in _chunks.run_chunks(
            program, inputs, run, buffers, done=done, every=every
        ):
            run, done = chunk.run, int(chunk.numbers[-1])
            chunks.append(chunk.record)
            tell(chunk.record, done)
            bar.update(task, completed=done)
            ended = done == num_rounds or int(run.outcome) != _run.RUNNING
            if store is not None and (ended or done % every == 0):
                seconds = before + time.perf_counter() - start
                store.save(Saved(run, _records.joined(chunks[kept:]), seconds))
                kept = len(chunks)
    seconds = before + time.perf_counter() - start
    return Saved(run, _records.joined(chunks), seconds)
