"""Many runs at once: a grid of settings, vmapped over the loop of one run."""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil
import xarray as xr

from gdsec_jax import _checks, _environment, _files, _grid, _loop, _trees
from gdsec_jax._check_optimizer import check
from gdsec_jax.problems import Problem


def sweep(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    grid: Mapping[str | tuple[str, ...], Any],
    num_rounds: int,
    *,
    static: Collection[str] = (),
    key: Any = None,
    eval_every: int = 1,
    target_error: float | None = None,
    divergence_factor: float = 1e6,
    participation: Callable[..., jax.Array] | None = None,
    memory_limit: int | None = None,
    path: str | os.PathLike | None = None,
    log: Callable[..., None] | None = None,
    progress: bool | None = None,
    attributes: dict[str, Any] | None = None,
) -> xr.Dataset:
    """Run every setting of a grid, as many side by side as fit into memory.

    Settings that differ in traced parameters alone run in one compiled loop, which
    turns their matrix-vector products into matrix-matrix ones; each is the run that
    `simulate` would do, to rounding. A setting that diverges, or reaches the target,
    ends there; the others go on.

    Args:
      problem: of `gdsec_jax.problems`, or a function of grid parameters that makes one:
        of the number of workers or the split, say. Those are static.
      make_optimizer: from the grid's parameters, by name, to the optax chain; also
        handed `problem`, if it has a parameter of that name.
      grid: from a parameter's name to its values; the result has a dimension for each.
        Several names, as a tuple, change together: their values are tuples, and the
        dimension's name is theirs joined by "_". Floats, and arrays or trees of floats,
        are traced; all else is static and compiles a loop for each value. The parameter
        `seed` takes the place of `key` as well; it is traced.
      num_rounds: K.
      static: names of parameters that are static though they are floats: k as a
        fraction, say.
      key: as in `simulate`; all settings draw the same minibatches.
      eval_every, target_error, divergence_factor: as in `simulate`.
      participation: as in `simulate`, and handed the grid's parameters that it names.
      memory_limit: bytes that may be used at once, by default half of what is free. The
        settings are split into batches that fit, by what the compiler says they need.
      path: of a NetCDF file for the result. Each batch is kept beside it when it is
        done: the same sweep, after it was killed, goes on there, and once it is done
        reads the file. Another computation, data or settings start afresh.
      log: as in `simulate`; also handed `setting`, the setting's parameters.
      progress: whether to show a bar; by default on a terminal.
      attributes: kept in the result: config and the like, of what JSON can hold.

    Returns:
      A dataset with the grid's dimensions and `eval_round`, and in it `objective_error`
      (NaN behind a setting's end), the running totals over workers and rounds
      `total_bits`, `total_entries`, `total_broadcast_bits`,
      `total_gradient_evaluations`, `total_participants`, `total_dropped` and those of
      further formats `total_bits_NAME`; and of each setting `outcome`, `rounds` and
      `initial_error`.
      Its attribute `attributes` is JSON: yours, versions, hardware, seconds, batches.

    Raises:
      ValueError: a setting is out of range, nothing takes a parameter, one setting
        alone does not fit into memory_limit, and as `simulate`.

    Examples:
      >>> import numpy as np, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import problems
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> problem = problems.ridge(x, x @ np.array([1.0, 2.0, 3.0]), num_workers=4)
      >>> def optimizer(xi, beta):
      ...     step = optax.sgd(1 / problem.smoothness)
      ...     return optax.chain(gdsec_jax.gdsec(4, xi, beta), step)
      >>> result = gdsec_jax.sweep(
      ...     problem, optimizer, {"xi": [0.0, 1.0, 4.0], "beta": [0.01, 0.1]}, 50)
      >>> dict(result.objective_error.sizes)
      {'xi': 3, 'beta': 2, 'eval_round': 50}
      >>> bits = result.total_bits.isel(eval_round=-1).sel(beta=0.1)
      >>> bool((bits.sel(xi=4.0) < bits.sel(xi=0.0)).item())
      True
    """
    axes = _grid.axes_of(grid)
    return run_settings(
        problem,
        make_optimizer,
        axes,
        list(_grid.settings_of(axes)),
        _grid.static_names(axes, static),
        num_rounds,
        key=key,
        eval_every=eval_every,
        target_error=target_error,
        divergence_factor=divergence_factor,
        participation=participation,
        memory_limit=memory_limit,
        path=path,
        log=log,
        progress=progress,
        attributes=attributes,
    )


def run_settings(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    axes: Sequence[_grid.Axis],
    settings: list[_grid.Setting],
    static: Collection[str],
    num_rounds: int,
    *,
    key: Any = None,
    eval_every: int = 1,
    target_error: float | None = None,
    divergence_factor: float = 1e6,
    participation: Callable[..., jax.Array] | None = None,
    memory_limit: int | None = None,
    path: str | os.PathLike | None = None,
    log: Callable[..., None] | None = None,
    progress: bool | None = None,
    attributes: dict[str, Any] | None = None,
) -> xr.Dataset:
    """`sweep` over listed settings, in the order of the axes that label them."""
    common = _Common(num_rounds, eval_every, target_error, divergence_factor, key)
    for name in settings[0]:
        makers = [make_optimizer, participation, problem if callable(problem) else None]
        if name != _grid.SEED and not any(m and _grid.takes(m, name) for m in makers):
            raise ValueError(
                f"grid has the parameter {name!r}, but neither make_optimizer nor a "
                "function that makes the problem or the participation takes it."
            )
    own_attributes = _files.plain("attributes", dict(attributes or {}))
    fixed = set(static)
    fixed |= {n for n in settings[0] if callable(problem) and _grid.takes(problem, n)}
    plans = [
        _plan(group, problem, make_optimizer, participation, common)
        for group in _grid.groups_of(settings, fixed)
    ]
    # All settings are checked before the first loop is compiled.
    plans = [_fit(plan, memory_limit) for plan in plans]
    mark = _whole_mark(axes, plans)
    store = None if path is None else Path(path)
    if store is not None and (done := _read(store, mark)) is not None:
        return done
    begin = time.perf_counter()
    parts = _run_plans(plans, store, log, progress)
    flat: Any = xr.concat(
        parts, "setting", join="exact", combine_attrs="drop_conflicts"
    )
    order = np.argsort([p for plan in plans for p in plan.group.positions])
    result = _unflatten(flat.isel(setting=order), axes)
    first = plans[0].problem
    result.attrs = {
        "fingerprint": mark,
        "attributes": json.dumps(
            own_attributes
            | {
                "problem": first.name,
                "error_name": first.error_name,
                "resolution": max(plan.problem.resolution for plan in plans),
                "num_rounds": num_rounds,
                "batches": [plan.sizes for plan in plans],
                "bytes": [plan.needed for plan in plans],
                "seconds": time.perf_counter() - begin,
                "versions": _environment.versions(),
            }
        ),
    }
    if store is not None:
        _write(result, store)
        shutil.rmtree(_parts(store), ignore_errors=True)
    return result


def _run_plans(plans: "list[_Plan]", store: Path | None, log, progress):
    """Batch after batch, from its file where it has one."""
    batches = [(plan, number) for plan in plans for number in range(len(plan.sizes))]
    total = sum(sum(plan.sizes) * int(plan.limits.rounds) for plan in plans)
    parts = []
    with _environment.progress_bar(progress) as bar:
        task = bar.add_task("", total=total)
        for plan, number in batches:
            text = (
                f"batch {len(parts) + 1} of {len(batches)}: {plan.sizes[number]} "
                f"settings, {plan.needed / 2**20:,.0f} MiB"
            )
            bar.update(task, description=text)
            mark = plan.marks[number]
            kept = None if store is None else _parts(store) / f"{mark}.nc"
            part = None if kept is None else _read(kept, mark)
            if part is None:
                advance = functools.partial(bar.advance, task)
                part = _run_batch(plan, number, advance, log)
                if kept is not None:
                    _write(part.assign_attrs(fingerprint=mark), kept)
            else:
                bar.advance(task, plan.sizes[number] * int(plan.limits.rounds))
            parts.append(part)
    return parts


class _Common(NamedTuple):
    """What all settings share."""

    num_rounds: int
    eval_every: int
    target_error: float | None
    divergence_factor: float
    key: Any


@dataclasses.dataclass(frozen=True)
class _Maker:
    """A function with its static arguments; equal for equal ones: compiled once."""

    function: Callable
    identity: Any  # of the arguments
    static: _grid.Setting = dataclasses.field(compare=False)

    def __call__(self, *arguments, values: Mapping[str, Any]):
        given = self.static | dict(values)
        return self.function(*arguments, **_grid.those_it_takes(self.function, given))


def _maker(function: Callable, static: _grid.Setting) -> _Maker:
    return _Maker(function, _grid.identity(static), static)


class _Program(NamedTuple):
    """What the loop is compiled for."""

    make: _Maker
    participates: _Maker | None
    eval_every: int
    own_keys: bool


class _Plan(NamedTuple):
    """How the settings of a group are run."""

    group: _grid.Group
    problem: Problem
    program: _Program
    limits: _loop.Limits
    key: jax.Array | None  # None: each setting has its own, of its seed
    initial_error: float
    size: int  # settings at once
    sizes: list[int]  # of the batches
    needed: int  # bytes, for `size` settings
    marks: list[str]  # of what each batch computes


class _Inputs(NamedTuple):
    """Of the compiled loop, in the order of its arguments; settings come first."""

    limits: _loop.Limits
    values: dict[str, Any]
    key: jax.Array
    run: _loop.Run
    buffers: _loop.Record


def _plan(group, problem, make_optimizer, participation, common: _Common) -> _Plan:
    """The checked plan of a group, all settings in one batch."""
    static, key = group.static, common.key
    handed = dict(static)
    if not isinstance(problem, Problem):
        own = _grid.those_it_takes(problem, static)
        named = inspect.signature(make_optimizer).parameters
        handed = {n: v for n, v in static.items() if n in named or n not in own}
        problem = problem(**own)
    if "problem" in inspect.signature(make_optimizer).parameters:
        handed |= {"problem": problem}
    make = _maker(make_optimizer, handed)
    for setting in group.traced:  # their values are checked here: traced, they are not
        optimizer = make(values=setting)
    check(optimizer, problem.init_params, problem.num_workers)
    seeded = _grid.SEED in group.traced[0]
    for setting in group.traced if seeded else ():
        _checks.integer(_grid.SEED, setting[_grid.SEED], 0, 2**31 - 1)
    if seeded and key is not None:
        raise ValueError(
            "key is given beside the grid's seed, expected one of the two."
        )
    key = None if seeded else _loop.key_for(problem, key, participation)
    error = _loop.initial_error(problem)
    return _Plan(
        group=group,
        problem=problem,
        program=_Program(
            make,
            participation and _maker(participation, group.static),
            _checks.integer("eval_every", common.eval_every, 1, 2**31 - 1),
            seeded,
        ),
        limits=_loop.limits(
            problem,
            common.num_rounds,
            common.target_error,
            common.divergence_factor,
            error,
        ),
        key=key,
        initial_error=error,
        size=len(group.traced),
        sizes=[],
        needed=0,
        marks=[],
    )


def _fit(plan: _Plan, limit: int | None) -> _Plan:
    """The plan with batches that fit into memory."""
    limit = _free_memory() // 2 if limit is None else limit
    _checks.integer("memory_limit", limit, 1)
    arrays = jax.tree.leaves(_loop.for_loop(plan.problem))
    shared = sum(jnp.asarray(array).nbytes for array in arrays)
    while True:
        lowered = _lower(plan)
        needed = _memory(lowered.compile())
        if needed <= limit:
            return _batched(plan._replace(needed=needed), lowered.as_text())
        if plan.size == 1:
            raise ValueError(
                f"memory_limit is {limit:,} bytes, expected at least {needed:,}, what "
                f"one setting of {plan.problem.name} needs."
            )
        each = max(1, (needed - shared) // plan.size)
        fits = int((limit - shared) // each)
        plan = plan._replace(size=max(1, min(fits, plan.size - 1)))


def _batched(plan: _Plan, program: str) -> _Plan:
    count = len(plan.group.traced)
    starts = range(0, count, plan.size)
    return plan._replace(
        sizes=[min(plan.size, count - start) for start in starts],
        marks=[_mark(plan, start, program) for start in starts],
    )


def _free_memory() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return psutil.virtual_memory().available


def _memory(compiled) -> int:
    """Bytes that a compiled program holds at its peak, as its compiler says."""
    analysis = compiled.memory_analysis()
    if analysis is None:  # a backend that does not say
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def _inputs(plan: _Plan, settings: list[_grid.Setting]) -> _Inputs:
    """What the loop starts with, for the settings of one batch."""
    params = plan.problem.init_params
    dtype = _trees.widest(*map(jnp.result_type, jax.tree.leaves(params)))
    values = _grid.stack(settings, dtype)
    own, key = plan.program.own_keys, plan.key
    if key is None:
        key = jax.vmap(_trees.as_key)(values[_grid.SEED])
    run = _start(plan.program.make, params, values, len(settings))
    one = _one_round(
        _loop.for_loop(plan.problem), plan.program, plan.limits, run.rounds[0]
    )
    axes = (0, 0 if own else None, 0)
    _, record = jax.eval_shape(jax.vmap(one, axes), values, key, run)
    records = len(settings) * plan.problem.num_workers
    capacity = max(1, min(_loop.MOST_ROUNDS, _loop.MOST_RECORDS // records))
    capacity = min(capacity, max(_loop.FIRST_CHUNK, int(plan.limits.rounds)))
    buffers = _loop.buffers_like(record, capacity)
    return _Inputs(plan.limits, values, key, run, buffers)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _start(make: _Maker, params, values, size: int) -> _loop.Run:
    def one(values):
        return _loop.start(make(values=values), params)

    return jax.vmap(one, axis_size=size)(values)


def _one_round(problem: Problem, program: _Program, limits, number):
    """A setting's round, from its values, key and run."""

    def one(values, key, run):
        active = program.participates and functools.partial(
            program.participates, values=values
        )
        options = _loop.Options(program.eval_every, active, norms=False)
        optimizer = program.make(values=values)
        return _loop.one_round(problem, optimizer, options, limits, key, number, run)

    return one


@functools.partial(
    jax.jit, static_argnames=("program",), donate_argnames=("run", "buffers")
)
def _sweep_chunk(problem, program, limits, values, key, run, buffers, number, length):
    """At most `length` rounds of all settings, from round `number` on."""

    def goes_on(carry):
        i, run, _ = carry
        return (i < length) & (run.outcome == _loop.RUNNING).any()

    def body(carry):
        i, run, buffers = carry
        one = _one_round(problem, program, limits, number + i)
        axes = (0, 0 if program.own_keys else None, 0)
        new, record = jax.vmap(one, axes)(values, key, run)
        buffers = jax.tree.map(lambda all, one: all.at[i].set(one), buffers, record)
        return i + 1, _hold(run, new), buffers

    return jax.lax.while_loop(goes_on, body, (0, run, buffers))


def _hold(run: _loop.Run, new: _loop.Run) -> _loop.Run:
    """A setting that has ended stays there; what it computes on is not looked at."""
    ended = run.outcome != _loop.RUNNING

    def keep(old, new):
        return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - 1)), old, new)

    return _loop.Run(
        params=jax.tree.map(keep, run.params, new.params),
        state=new.state,
        rounds=keep(run.rounds, jnp.broadcast_to(new.rounds, run.rounds.shape)),
        outcome=keep(run.outcome, new.outcome),
    )


def _lower(plan: _Plan):
    shapes = jax.eval_shape(lambda: _inputs(plan, plan.group.traced[: plan.size]))
    return _sweep_chunk.lower(
        _loop.for_loop(plan.problem),
        plan.program,
        *shapes,
        *(jax.ShapeDtypeStruct((), jnp.int32),) * 2,
    )


def _run_batch(plan: _Plan, number: int, advance, log) -> xr.Dataset:
    """The settings of one batch, flat, to their end."""
    first = number * plan.size
    settings = plan.group.traced[first : first + plan.size]
    count = len(settings)
    # A last batch of fewer runs in the same loop.
    settings = settings + settings[-1:] * (plan.size - count)
    limits, values, key, run, buffers = _inputs(plan, settings)
    problem, rounds = _loop.for_loop(plan.problem), int(limits.rounds)
    capacity = buffers.error.shape[0]
    chunks, done, length = [], 0, min(_loop.FIRST_CHUNK, capacity)
    shown = 0
    while True:
        begin = time.perf_counter()
        length = min(length, rounds - done)
        i, run, buffers = _sweep_chunk(
            problem, plan.program, limits, values, key, run, buffers,
            np.int32(done), np.int32(length),
        )  # fmt: skip
        i = int(i)
        ended = np.asarray(run.rounds)
        chunk = _loop.columns(plan.problem, jax.tree.map(_loop.first(i), buffers))
        chunks.append(_until(chunk, ended, done))
        if log is not None:
            _log(log, chunks[-1], plan, first, count, ended, done)
        done += i
        advance(count * done - shown)
        shown = count * done
        if done == rounds or not (np.asarray(run.outcome) == _loop.RUNNING).any():
            break
        if len(chunks) > 1:
            length = _loop.next_length(length, time.perf_counter() - begin, capacity)
    advance(count * rounds - shown)
    columns = jax.tree.map(lambda *x: np.concatenate(x)[:, :count].T, *chunks)
    return _dataset(plan, columns, run, count)


def _until(chunk, ended, done: int):
    """The columns [K, S] of a chunk, without what a setting computed behind its end."""
    number = done + np.arange(1, chunk["bits"].shape[0] + 1)
    running = number[:, None] <= ended
    return {
        name: np.where(running, x, np.nan if x.dtype.kind == "f" else 0)
        for name, x in chunk.items()
    }


def _log(log, chunk, plan: _Plan, first: int, count: int, ended, done: int) -> None:
    for s in range(count):
        rounds = min(int(ended[s]) - done, chunk["bits"].shape[0])
        if rounds > 0:
            columns = {name: x[:rounds, s] for name, x in chunk.items()}
            number = np.arange(done + 1, done + rounds + 1)
            setting = plan.group.static | plan.group.traced[first + s]
            log({"round": number} | columns, setting=setting)


def _dataset(plan: _Plan, columns, run: _loop.Run, count: int) -> xr.Dataset:
    """Columns [S, K] of a batch as labelled running totals at the evaluations."""
    num_rounds = int(plan.limits.rounds)
    rounds = np.arange(1, num_rounds + 1)
    rounds = rounds[_loop.evaluates(rounds, plan.program.eval_every, num_rounds)]

    def at_evaluations(name, x):
        # Where all settings ended early the last rounds are missing.
        x = x if name == "objective_error" else np.cumsum(x, axis=1)
        place = np.minimum(rounds, x.shape[1]) - 1
        x = x[:, place]
        late = rounds > columns["bits"].shape[1]
        return np.where(late, np.nan, x) if name == "objective_error" else x

    names = {n: n if n == "objective_error" else f"total_{n}" for n in columns}
    outcomes = [_loop.OUTCOMES[int(o)] for o in np.asarray(run.outcome)[:count]]
    dims = ("setting", "eval_round")
    return xr.Dataset(
        {names[n]: (dims, at_evaluations(n, x)) for n, x in columns.items()}
        | {
            "outcome": ("setting", np.array(outcomes, dtype="U9")),
            "rounds": ("setting", np.asarray(run.rounds)[:count].astype(np.int64)),
            "initial_error": ("setting", np.full(count, plan.initial_error)),
        },
        coords={"eval_round": rounds},
    )


def _unflatten(flat: xr.Dataset, axes: Sequence[_grid.Axis]) -> xr.Dataset:
    """The settings' one dimension as those of the grid."""
    dims = [axis.dimension for axis in axes]
    shape = [len(axis.rows) for axis in axes]
    variables = {
        name: (
            (*dims, *variable.dims[1:]),
            variable.values.reshape((*shape, *variable.shape[1:])),
        )
        for name, variable in flat.data_vars.items()
    }
    labels: dict[str, Any] = {"eval_round": flat["eval_round"].values}
    for axis in axes:
        labels |= axis.coordinates()
    return xr.Dataset(variables, coords=labels)


def _parts(store: Path) -> Path:
    """The folder of the batches that are done while others are not."""
    return store.with_name(f".{store.stem}.parts")


def _read(path: Path, mark: str) -> xr.Dataset | None:
    """The file's dataset, if it is the one with this mark."""
    try:
        loaded = xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError):
        return None
    return loaded if loaded.attrs.get("fingerprint") == mark else None


def _write(dataset: xr.Dataset, path: Path) -> None:
    with _files.whole(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")


def _mark(plan: _Plan, start: int, program: str) -> str:
    """What a batch computes: its program, and all that is handed to it."""
    settings = plan.group.traced[start : start + plan.size]
    inputs = _inputs(plan, settings)
    digest = hashlib.sha256(program.encode())
    digest.update(json.dumps(_environment.versions()).encode())
    # The wire formats: what is counted is the same, what it costs is not.
    digest.update(repr(jax.tree.structure(inputs.buffers)).encode())
    data = (_loop.for_loop(plan.problem), inputs._replace(buffers=None))
    for leaf in jax.tree.leaves(data):
        digest.update(_grid.bytes_of(leaf))
    return digest.hexdigest()


def _whole_mark(axes: Sequence[_grid.Axis], plans: Sequence[_Plan]) -> str:
    """What a sweep computes, and how it is labelled."""
    labels = [(n, x.tolist()) for a in axes for n, (_, x) in a.coordinates().items()]
    text = json.dumps([[a.names for a in axes], labels, [p.marks for p in plans]])
    return hashlib.sha256(text.encode()).hexdigest()
