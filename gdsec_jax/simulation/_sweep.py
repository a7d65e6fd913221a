"""Many runs at once: a grid of settings, vmapped over the loop of one run."""

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from gdsec_jax import _checks
from gdsec_jax._devices import mesh_of
from gdsec_jax.files import _environment, _whole
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _grid, _run
from gdsec_jax.simulation._plan import Common, Plan, fit, plan_of, run_batch
from gdsec_jax.simulation._records import Observe
from gdsec_jax.simulation._run import Stop
from gdsec_jax.simulation._spellings import with_old_spellings
from gdsec_jax.simulation._store import Store, SweepFile, check_path, marked
from gdsec_jax.uplink import Uplink

if TYPE_CHECKING:
    import xarray as xr


@with_old_spellings
def sweep(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    grid: Mapping[str | tuple[str, ...], Any] | _grid.Listed,
    num_rounds: int,
    *,
    key: Any = None,
    eval_every: int = 1,
    stop: Stop | None = None,
    uplink: Uplink | Callable[..., Uplink] | None = None,
    observe: Observe | None = None,
    mesh: jax.sharding.Mesh | None = None,
    memory_limit: int | None = None,
    path: str | os.PathLike | SweepFile | None = None,
    log: Callable[..., None] | None = None,
    progress: bool | str | None = None,
) -> "xr.Dataset":
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
        are traced; all else, and floats in `Static`, is static and compiles a loop for
        each value. The parameter `seed` takes the place of `key` as well; it is traced.
      num_rounds: K.
      key, eval_every, stop, observe: as in `simulate`; all settings draw the same
        minibatches.
      uplink: as in `simulate`, and its functions are handed the grid's parameters that
        they name; or a function of grid parameters that makes one.
      mesh: whose devices, all of its axes together, share the settings.
      memory_limit: bytes that may be used at once, by default half of what is free. The
        settings are split into batches that fit, by what the compiler says they need.
      path: of a NetCDF file for the result, or a `SweepFile` with words of your own.
        Each batch is kept beside it when it is done: the same sweep, after it was
        killed, goes on with the settings that are not, and once it is done reads the
        file. Another computation, data or settings start afresh.
      log, progress: as in `simulate`; a log is also handed `setting`, the setting's
        parameters.

    Returns:
      A dataset with the grid's dimensions and `eval_round`, and in it `objective_error`
      (NaN behind a setting's end), the running totals over workers and rounds
      `total_bits`, `total_entries`, `total_broadcast_bits`,
      `total_gradient_evaluations`, `total_participants`, `total_dropped`, `total_lost`,
      those of further formats `total_bits_NAME`, and with a channel `total_time_s` and
      `total_energy_j`; what `observe` returns, by its names; the problem's metrics as
      `metric_NAME`; and of each setting `outcome`, `rounds` and `initial_error`.
      Its attribute `attributes` is JSON: yours, the arguments, versions, hardware, the
      bytes that each group's batches need, and of the call that ended the sweep the
      seconds and the sizes of the batches that it ran.

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
    listed, common = asked(
        *(problem, make_optimizer, grid, num_rounds),
        **{"key": key, "eval_every": eval_every, "stop": stop},
        **{"uplink": uplink, "observe": observe, "mesh": mesh},
    )
    kept = path if isinstance(path, SweepFile) else SweepFile(path)
    _checks.log(log)
    check_path(kept.path)
    _checks.of_kind("attributes", kept.attributes, Mapping, "a dict")
    own_attributes = _whole.plain("attributes", dict(kept.attributes))
    groups = _grid.groups_of(listed, problem if callable(problem) else None)
    plans = [plan_of(group, problem, make_optimizer, common) for group in groups]
    if memory_limit is not None:
        _checks.integer("memory_limit", memory_limit, 1)
    about, store = _about(plans, listed.axes, common), None
    if kept.path is not None:
        plans = [marked(plan) for plan in plans]
        store = Store.at(Path(kept.path), listed.axes, plans)
        done = store.finished(own_attributes, {*about, "bytes", "batches", "seconds"})
        if done is not None:
            return done
    # All settings are checked before the first loop is compiled.
    plans = [fit(plan, memory_limit) for plan in plans]
    begin = time.perf_counter()
    flat, batches = _run_plans(plans, store, log, progress)
    result = unflatten(flat, listed.axes)
    about |= {"bytes": [plan.needed for plan in plans], "batches": batches}
    about |= {"seconds": time.perf_counter() - begin}
    result.attrs = {"attributes": json.dumps(own_attributes | about)}
    return result if store is None else store.finish(result)


def asked(
    problem: Any,
    make_optimizer: Callable,
    grid: Any,
    num_rounds: int,
    *,
    key: Any,
    eval_every: int,
    stop: Stop | None,
    uplink: Any,
    observe: Observe | None,
    mesh: jax.sharding.Mesh | None,
) -> tuple[_grid.Listed, Common]:
    """The settings of a sweep, and what they share, once they are checked."""
    listed = grid if isinstance(grid, _grid.Listed) else _grid.listed(grid)
    _checks.instance("stop", stop, Stop, "a Stop")
    common = Common(
        num_rounds,
        _run.options(eval_every, observe),
        stop or Stop(),
        key,
        Uplink() if uplink is None else uplink,
        None if mesh is None else mesh_of(mesh),
    )
    if not callable(make_optimizer):
        raise ValueError(
            f"make_optimizer is {make_optimizer!r}, expected a function of the grid's "
            "parameters that makes an optax chain."
        )
    _check_names(listed.settings[0], problem, make_optimizer, common.uplink)
    return listed, common


def _check_names(setting: _grid.Setting, problem, make_optimizer, uplink) -> None:
    """A ValueError if there is a parameter that no function takes."""
    functions = [make_optimizer, problem] if callable(problem) else [make_optimizer]
    for name in setting:
        taken = name == _grid.SEED or any(_grid.takes(f, name) for f in functions)
        if not taken and not _grid.UplinkOf(uplink).takes(name):
            raise ValueError(
                f"grid has the parameter {name!r}, but neither make_optimizer nor a "
                "function that makes the problem, the uplink or a part of it takes it."
            )


def _about(plans: Sequence[Plan], axes: Sequence[_grid.Axis], common: Common):
    """What a result says of its sweep, in what JSON can hold."""
    first, key = plans[0].problem, common.key
    return {
        "problem": first.name,
        "error_name": first.error_name,
        "resolution": max(plan.problem.resolution for plan in plans),
        "optimum_note": first.note,
        "num_rounds": common.num_rounds,
        "eval_every": common.options.eval_every,
        "target_error": common.stop.target_error,
        "divergence_factor": common.stop.divergence_factor,
        "key": key if isinstance(key, int) else repr(key),
        "values": {  # of axes that are labelled by positions
            axis.dimension: [repr(row) for row in axis.rows]
            for axis in axes
            if not axis.has_labels()
        },
        "versions": _environment.everything(),
    }


def _run_plans(plans: Sequence[Plan], store: Store | None, log, progress):
    """All settings, flat, in their order, and the sizes of the batches, by plan.

    Those that an earlier sweep has left in the store are taken from there.
    """
    import xarray as xr

    kept = {} if store is None else store.kept()
    parts, places, waiting = [], [], []  # of datasets, of their settings, of batches
    for plan in plans:
        done = [s for s, mark in enumerate(plan.marks) if mark in kept]
        parts += [kept[plan.marks[s]] for s in done]
        places += [plan.group.positions[s] for s in done]
        left, size = sorted({*range(plan.count)} - {*done}), plan.program.size
        waiting += [(plan, left[i : i + size]) for i in range(0, len(left), size)]
    total = sum(plan.count * plan.num_rounds for plan in plans)
    completed = total - sum(len(batch) * plan.num_rounds for plan, batch in waiting)
    with _environment.progress_bar(progress) as bar:
        task = bar.add_task("", total=total, completed=completed)
        for number, (plan, batch) in enumerate(waiting, 1):
            text = (
                f"batch {number} of {len(waiting)}: {len(batch)} settings, "
                f"{plan.needed / 2**20:,.0f} MiB"
            )
            words = f"{progress}, {text}" if isinstance(progress, str) else text
            bar.update(task, description=words)
            settings = [plan.group.traced[s] for s in batch]
            part = run_batch(plan, settings, functools.partial(bar.advance, task), log)
            if store is not None:
                store.keep(part, [plan.marks[s] for s in batch])
            parts.append(part)
            places += [plan.group.positions[s] for s in batch]
    flat: Any = xr.concat(parts, "setting", join="exact", combine_attrs="drop")
    sizes = [[len(batch) for of, batch in waiting if of is plan] for plan in plans]
    return flat.isel(setting=np.argsort(places)), sizes


def unflatten(flat: "xr.Dataset", axes: Sequence[_grid.Axis]) -> "xr.Dataset":
    """A flat dataset whose dimension `setting` becomes those of the grid."""
    import xarray as xr

    dims = [axis.dimension for axis in axes]
    shape = [len(axis.rows) for axis in axes]
    variables = {
        name: ((*dims, *x.dims[1:]), x.values.reshape((*shape, *x.shape[1:])))
        for name, x in flat.data_vars.items()
    }
    coords: dict[Any, Any] = {
        name: x for name, x in flat.coords.items() if "setting" not in x.dims
    }
    for axis in axes:
        coords |= axis.coordinates()
    return xr.Dataset(variables, coords=coords)
