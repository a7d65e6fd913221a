"""Many runs at once: a grid of settings, vmapped over the loop of one run."""

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

from gdsec_jax import _environment, _files
from gdsec_jax._sweep import _grid
from gdsec_jax._sweep._batch import Plan, run_batch
from gdsec_jax._sweep._plan import Common, fit, plan_of
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
    common = Common(num_rounds, eval_every, target_error, divergence_factor, key)
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
        plan_of(group, problem, make_optimizer, participation, common)
        for group in _grid.groups_of(settings, fixed)
    ]
    # All settings are checked before the first loop is compiled.
    plans = [fit(plan, memory_limit) for plan in plans]
    mark = _whole_mark(axes, plans)
    store = None if path is None else Path(path)
    if store is not None:
        _files.folder(store.parent)  # tried before the work, not after it
    if store is not None and (done := _read(store, mark)) is not None:
        return done
    begin = time.perf_counter()
    parts = _run_plans(plans, store, log, progress)
    flat: Any = xr.concat(
        parts, "setting", join="exact", combine_attrs="drop_conflicts"
    )
    order = np.argsort([p for plan in plans for p in plan.group.positions])
    result = unflatten(flat.isel(setting=order), axes)
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


def _run_plans(plans: "list[Plan]", store: Path | None, log, progress):
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
                part = run_batch(plan, number, advance, log)
                if kept is not None:
                    _write(part.assign_attrs(fingerprint=mark), kept)
            else:
                bar.advance(task, plan.sizes[number] * int(plan.limits.rounds))
            parts.append(part)
    return parts


def unflatten(flat: xr.Dataset, axes: Sequence[_grid.Axis]) -> xr.Dataset:
    """A flat dataset whose dimension `setting` becomes those of the grid."""
    dims = [axis.dimension for axis in axes]
    shape = [len(axis.rows) for axis in axes]
    variables = {
        name: (
            (*dims, *variable.dims[1:]),
            variable.values.reshape((*shape, *variable.shape[1:])),
        )
        for name, variable in flat.data_vars.items()
    }
    labels: dict[Any, Any] = {
        name: label
        for name, label in flat.coords.items()
        if "setting" not in label.dims
    }
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


def _whole_mark(axes: Sequence[_grid.Axis], plans: Sequence[Plan]) -> str:
    """What a sweep computes, and how it is labelled."""
    labels = [(n, x.tolist()) for a in axes for n, (_, x) in a.coordinates().items()]
    text = json.dumps([[a.names for a in axes], labels, [p.marks for p in plans]])
    return hashlib.sha256(text.encode()).hexdigest()
