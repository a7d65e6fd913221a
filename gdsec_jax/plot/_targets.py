"""What a target costs: runs, and settings of sweeps, in rounds and bits."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from gdsec_jax import _checks
from gdsec_jax.plot import _look, _runs
from gdsec_jax.simulation._costs import cost_to, resolution_of
from gdsec_jax.simulation._history import History

if TYPE_CHECKING:
    import matplotlib.axes
    import xarray as xr

    from gdsec_jax.plot._runs import Runs

_BINS = 60  # of rounds, in a map of a run


def frontier(
    runs: "Runs",
    target: float,
    *,
    methods: Mapping[str, str] | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """What each run, and each setting of a sweep, pays to a target: rounds and bits.

    A line joins the settings of a method that no other one of it beats in both. Who
    does not reach the target has no point, which the legend says.

    Args:
      runs: to be drawn.
      target: an error, relative to each run's initial one.
      methods, ax: as in `convergence`; what it raises, too.

    Returns:
      The axes.

    Examples:
      >>> import matplotlib; matplotlib.use("agg")  # no window
      >>> import numpy as np, optax
      >>> from gdsec_jax import gdsec, plot, problems, sweep
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> swept = sweep(
      ...     problem, lambda xi: optax.chain(gdsec(2, xi), optax.sgd(2.0)),
      ...     {"xi": [0.0, 0.1, 1.0]}, 60)
      >>> axes = plot.frontier({"GD-SEC": swept}, 1e-2)
      >>> axes.get_xlabel(), axes.get_ylabel()
      ('rounds to 0.01 of the initial error', 'uploaded bits to it')
    """
    axes, found = _look.axes_of(ax), _points(runs, target, methods)
    lines = []
    for label, (line, rounds, bits) in found.items():
        there = np.isfinite(rounds) & (bits > 0)
        missing = len(there) - np.count_nonzero(there)
        if missing:
            whole = len(there) == 1
            label += " (never)" if whole else f" ({missing} of {len(there)} never)"
        lines.append(_look.dots(line) | {"label": label})
    for line, (_, rounds, bits) in zip(_look.named(lines), found.values(), strict=True):
        there = np.flatnonzero(np.isfinite(rounds) & (bits > 0))
        axes.plot(rounds[there], bits[there], **{"markersize": 5} | line)
        best = there[np.lexsort((bits[there], rounds[there]))]
        least = np.minimum.accumulate(bits[best])
        best = best[np.append(True, least[1:] < least[:-1])] if best.size else best
        axes.plot(rounds[best], bits[best], color=line["color"], lw=1, zorder=1)
    _look.logarithmic_costs(axes, "xy")
    axes.set_xlabel(f"rounds to {target:g} of the initial error")
    axes.set_ylabel("uploaded bits to it")
    return _look.finished(axes, len(lines))


def costs(
    runs: "Runs",
    target: float,
    *,
    what: Literal["bits", "rounds"] = "bits",
    methods: Mapping[str, str] | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """What each method needs to a target, sorted: a dot a method, the least on top.

    Of a sweep the dot is its cheapest setting. Who never gets there stands below, in
    grey, without a dot.

    Args:
      runs, target, methods, ax: as in `frontier`; what it raises, too.
      what: is counted: bits uploaded by all workers, or rounds.

    Returns:
      The axes.

    Examples:
      >>> import matplotlib; matplotlib.use("agg")  # no window
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, gdsec, plot, problems, simulate
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> runs = {
      ...     label: simulate(problem, optax.chain(method, optax.sgd(1.0)), 60)
      ...     for label, method in {"GD": gd(2), "mine": gdsec(2, xi=0.1)}.items()}
      >>> axes = plot.costs(runs, 1e-2)
      >>> [label.get_text() for label in axes.get_yticklabels()]
      ['mine', 'GD']
    """
    _checks.one_of("what", what, ("bits", "rounds"))
    axes, rows = _look.axes_of(ax), []
    for label, (line, rounds, bits) in _points(runs, target, methods).items():
        best = np.min(bits if what == "bits" else rounds)
        rows.append((best, label, _look.dots(line)))
    rows.sort(key=lambda row: row[0])
    labels = [f"{row[1]}{'' if np.isfinite(row[0]) else ' (never)'}" for row in rows]
    for place, (value, _, line) in enumerate(rows):
        axes.plot([value], [place], **line | {"markersize": 7})
    axes.set_yticks(range(len(rows)), labels)
    for text, (value, *_) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_color("black" if np.isfinite(value) else "0.5")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _look.logarithmic_costs(axes, "x")
    name = "uploaded bits, all workers," if what == "bits" else "rounds"
    axes.set_xlabel(f"{name} to {target:g} of the initial error")
    axes.grid(axis="x", alpha=0.25)
    return axes


def heatmap(
    run: "History | xr.Dataset",
    target: float | None = None,
    *,
    what: Literal["bits", "rounds"] = "bits",
    along: str | None = None,
    up: str | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """A sweep as a map over two of its axes; or a run, over rounds and workers.

    Of a sweep each field is what a setting needs to the target, the least one starred,
    and hatched where it is never reached. Over further axes of the grid the cheapest
    setting counts. Of a run each field is the share of its entries that a worker sends.

    Args:
      run: a sweep's dataset, or a `History`.
      target: of a sweep, an error relative to each setting's initial one.
      what: of a sweep, what is counted: bits uploaded by all workers, or rounds.
      along, up: of a sweep, its axes that are drawn; by default the first ones.
      ax: where to draw; by default on new axes. A scale of colours stands beside it.

    Returns:
      The axes.

    Raises:
      ValueError: a sweep comes without a target, or has no such axis.

    Examples:
      >>> import matplotlib; matplotlib.use("agg")  # no window
      >>> import numpy as np, optax
      >>> from gdsec_jax import gdsec, plot, problems, sweep
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> def optimizer(xi, beta):
      ...     return optax.chain(gdsec(2, xi, beta), optax.sgd(1.0))
      >>> grid = {"xi": [0.0, 0.1, 1.0], "beta": [0.01, 0.1]}
      >>> axes = plot.heatmap(sweep(problem, optimizer, grid, 60), 1e-2)
      >>> axes.get_xlabel(), axes.get_ylabel()
      ('xi', 'beta')
    """
    import matplotlib.colors

    _checks.one_of("what", what, ("bits", "rounds"))
    run = _runs.as_run(run)
    axes = _look.axes_of(ax)
    if isinstance(run, History):
        entries = sum(np.size(leaf) for leaf in jax.tree.leaves(run.params))
        parts = np.array_split(np.arange(run.num_rounds), min(_BINS, run.num_rounds))
        share = np.stack([run.entries[part].mean(axis=0) for part in parts]) / entries
        edges = [part[0] for part in parts] + [run.num_rounds]
        rows = np.arange(run.entries.shape[1] + 1) - 0.5
        image = axes.pcolormesh(edges, rows, 100 * share.T, vmin=0)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="rounds", ylabel="worker")
        axes.figure.colorbar(image, ax=axes, label="% of the entries that are sent")
        return axes
    if target is None:
        raise ValueError(
            "target is None, expected an error relative to the initial one: a sweep's "
            "map is of what its settings need to it."
        )
    _checks.positive("target", target)
    needed = cost_to(run, _error_of(run, target))[what]
    dims = [str(dim) for dim in needed.dims]
    for name, dim in (("along", along), ("up", up)):
        if dim is not None:
            _checks.one_of(name, dim, tuple(dims))
    if along is not None and along == up:
        raise ValueError(f"along and up are both {up!r}, expected two axes.")
    left = [dim for dim in dims if dim not in (along, up)]
    along = along or (left.pop(0) if left else None)
    up = up or (left.pop(0) if left else None)
    if along is None or up is None:
        raise ValueError(
            f"run has the axes {', '.join(dims) or 'none'}, expected two for a map: "
            "plot.frontier draws sweeps over one."
        )
    values = needed.min(left).transpose(up, along).values
    there = np.isfinite(values) & (values > 0)
    axes.patch.set(facecolor="w", hatch="////", edgecolor="0.75")  # in grey print, too
    low, high = (values[there].min(), values[there].max()) if there.any() else (1, 10)
    norm = matplotlib.colors.LogNorm(low, max(high, 1.01 * low))
    shown = np.where(there, values, np.nan)
    image = axes.pcolormesh(shown, norm=norm, cmap="viridis_r")
    if there.any():
        place = np.unravel_index(np.nanargmin(shown), shown.shape)
        axes.plot(place[1] + 0.5, place[0] + 0.5, "*", color="w", mec="k", ms=14)
    for axis, name in ((axes.xaxis, along), (axes.yaxis, up)):
        # Of names that change together the dataset has a coordinate each.
        own = [str(x) for x in run.coords if run[x].dims == (name,) and x != name]
        rows = zip(*(run[x].values for x in own or [name]), strict=True)
        words = [", ".join(map(_runs.word, row)) for row in rows]
        axis.set_ticks(np.arange(len(words)) + 0.5, words)
        axis.set_label_text(", ".join(own or [name]))
        if axis is axes.xaxis and sum(map(len, words)) > 40:
            axes.tick_params(axis="x", rotation=90)
    name = "uploaded bits" if what == "bits" else "rounds"
    axes.figure.colorbar(image, ax=axes, label=f"{name} to {target:g} (hatched: never)")
    return axes


def _error_of(run: "xr.Dataset", target: float) -> "xr.DataArray":
    """The error that a target is of each setting, where it can be told from 0."""
    return (target * run["initial_error"]).clip(min=resolution_of(run))


def _points(
    runs: "Runs", target: float, methods: Mapping[str, str] | None
) -> dict[str, tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """By label: its look, and rounds and bits to the target of each of its settings."""
    _checks.positive("target", target)
    found, points = _runs.by_label(runs), {}
    for label, line in _look.line_styles(_runs.methods_of(found, methods)).items():
        run = found[label]
        if isinstance(run, History):
            cost = run.cost_to(target * run.initial_error)
            rounds, bits = (cost.rounds, cost.bits) if cost else (np.inf, np.inf)
        else:
            cost = cost_to(run, _error_of(run, target))
            rounds, bits = cost["rounds"].values, cost["bits"].values
        points[label] = (line, *(np.ravel(x).astype(float) for x in (rounds, bits)))
    return points
